//! Leases: keys that are put with one are removed when it ends, so that others see
//! who isn't there any more.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use statecast_proto::v1;
use statecast_proto::v1::keep_alive_response::Outcome;
use tokio::sync::watch;

use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::state::{LeaseId, service};
use crate::{Reason, backoff::Backoff};

/// So many times within its time to live a lease is kept alive: it lives on when two
/// in a row are late.
const PER_TTL: u32 = 3;

/// A lease that is kept alive, in the background, until the last clone of it is
/// dropped; from [`Client::grant_lease`]. It then ends within its time to live, and
/// with it the keys that were put with it; [`Lease::revoke`] ends it at once.
///
/// Over lost connections and restarts of the broker it is kept alive as well: a broker
/// that comes back gives each lease the whole time to live anew.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// # use statecast_client::{Cleanup, Client, TopicConfig};
/// # let client = Client::connect(&url).await?;
/// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
/// # client.admin().create_topic("services", Some(1), config).await?;
/// use std::time::Duration;
///
/// let lease = client.grant_lease(Duration::from_secs(10)).await?;
/// let services = client.state("services");
/// services.put("web/1", "10.0.0.1:80").lease(&lease).await?;
///
/// // Whoever watches sees it vanish: now, or 10 seconds after this process has died.
/// assert_eq!(lease.revoke().await?, 1);
/// assert_eq!(services.get("web/1").await?, None);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Lease {
    handle: Arc<Handle>,
}

struct Handle {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    status: watch::Receiver<Status>,
    task: tokio::task::AbortHandle,
}

#[derive(Debug)]
struct Status {
    alive_until: Instant,
    lost: Option<Error>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .field("ttl", &self.ttl)
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl From<&Lease> for LeaseId {
    fn from(lease: &Lease) -> Self {
        lease.id()
    }
}

impl Client {
    /// Makes a lease, and keeps it alive in the background. It ends after this time if
    /// it isn't: whole milliseconds, from 1 second to 1 day. Panics outside of a Tokio
    /// runtime, since it starts a task.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis());
        let ttl_ms = ttl_ms.map_err(|_| Error::invalid("a lease lives for a day at most"))?;
        let asked_at = clock::now();
        let request = v1::GrantLeaseRequest { ttl_ms };
        // If an answer is lost, so is a lease that nobody uses, and it ends by itself.
        let call = |channel, request| async move { service(channel).grant_lease(request).await };
        let granted = self.repeatedly(request, call).await?;
        if granted.lease_id == 0 || granted.ttl_ms == 0 {
            return Err(Error::protocol(format_args!("{granted:?} for a lease")));
        }
        let id = LeaseId::from_number(granted.lease_id);
        let ttl = Duration::from_millis(granted.ttl_ms);
        let (sender, status) = watch::channel(Status {
            alive_until: asked_at + ttl,
            lost: None,
        });
        let keeper = Keeper {
            client: self.clone(),
            id,
            ttl,
            status: sender,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        let handle = Handle {
            client: self.clone(),
            id,
            ttl,
            status,
            task,
        };
        Ok(Lease {
            handle: Arc::new(handle),
        })
    }

    /// Ends a lease at once, whoever made it. Returns how many keys were removed.
    pub async fn revoke_lease(&self, id: LeaseId) -> Result<u64, Error> {
        let request = v1::RevokeLeaseRequest {
            lease_id: id.number(),
        };
        let call = |channel, request| async move { service(channel).revoke_lease(request).await };
        Ok(self.repeatedly(request, call).await?.removed_keys)
    }
}

impl Lease {
    /// What names it.
    pub fn id(&self) -> LeaseId {
        self.handle.id
    }

    /// How long it lives when it isn't kept alive.
    pub fn ttl(&self) -> Duration {
        self.handle.ttl
    }

    /// Until when it lives for certain, whatever becomes of the connection. Moves on
    /// while it is kept alive.
    pub fn alive_until(&self) -> Instant {
        self.handle.status.borrow().alive_until
    }

    /// Why it was lost, if it was: its keys are gone.
    pub fn is_lost(&self) -> Option<Error> {
        self.handle.status.borrow().lost.clone()
    }

    /// Waits until it is lost, and says why: the broker says that it is over, as when
    /// nothing was heard of this process for too long. While the broker can't be
    /// reached, that isn't known.
    pub async fn lost(&self) -> Error {
        let mut status = self.handle.status.clone();
        let lost = status.wait_for(|status| status.lost.is_some()).await;
        let lost = lost.ok().and_then(|status| status.lost.clone());
        // The task ends without having lost it only with the runtime.
        lost.unwrap_or(Error::Closed)
    }

    /// Ends it at once, for all clones. Returns how many keys were removed with it; none
    /// when it was over already.
    pub async fn revoke(self) -> Result<u64, Error> {
        match self.handle.client.revoke_lease(self.handle.id).await {
            Err(error) if is_over(&error) => Ok(0),
            revoked => revoked,
        }
    }
}

fn is_over(error: &Error) -> bool {
    matches!(
        error.reason(),
        Some(Reason::LeaseExpired | Reason::LeaseNotFound)
    )
}

/// Keeps a lease alive, with a call each time: who has thousands of leases would have
/// as many calls open otherwise, more than a connection can have.
struct Keeper {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    status: watch::Sender<Status>,
}

impl Keeper {
    async fn run(self) {
        // The grant has just done so.
        tokio::time::sleep(self.interval()).await;
        let mut failures = 0;
        loop {
            let pause = match self.keep().await {
                Ok(alive_until) => {
                    failures = 0;
                    let status = &self.status;
                    status.send_modify(|status| status.alive_until = alive_until);
                    self.interval()
                }
                // Whatever else is wrong, it may live.
                Err(error) if is_over(&error) => {
                    tracing::warn!(lease = %self.id, %error, "the lease is lost");
                    self.status.send_modify(|status| status.lost = Some(error));
                    return;
                }
                Err(error) => {
                    tracing::debug!(lease = %self.id, %error, "a lease wasn't kept alive, trying again");
                    let Backoff { first, max } = self.client.settings().backoff;
                    let max = max.min(self.interval() / 2);
                    let delay = Backoff { first, max }.delay(failures);
                    failures = failures.saturating_add(1);
                    delay
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn interval(&self) -> Duration {
        self.ttl / PER_TTL
    }

    /// Once. Returns until when it lives then, at the least.
    async fn keep(&self) -> Result<Instant, Error> {
        let request = v1::KeepAliveRequest {
            lease_id: self.id.number(),
        };
        let asked_at = clock::now();
        // What was asked is lost with its connection: over another one there is time for it.
        let limit = self.client.settings().request_timeout.min(self.interval());
        let answer = tokio::time::timeout(limit, self.ask(request)).await;
        let answer = answer.map_err(|_| Error::Timeout {
            waited: limit,
            last: "the broker said nothing of the lease".into(),
        })?;
        match answer?.and_then(|answer| answer.outcome) {
            None => Err(Error::Connection("the broker ended the call".into())),
            Some(Outcome::Error(error)) => Err(Error::from_batch_error(error)),
            Some(Outcome::TtlMs(_)) => Ok(asked_at + self.ttl),
        }
    }

    async fn ask(
        &self,
        request: v1::KeepAliveRequest,
    ) -> Result<Option<v1::KeepAliveResponse>, Error> {
        let mut service = service(self.client.produce_channel());
        let requests = tokio_stream::once(request);
        let answers = service.keep_alive(requests).await;
        let answers = answers.map_err(|status| Error::from_status(&status))?;
        let answer = answers.into_inner().message().await;
        answer.map_err(|status| Error::from_status(&status))
    }
}
