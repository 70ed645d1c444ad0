//! The task behind a view: one watch after the other. It hears what the broker says
//! and keeps the map that readers see, and takes no more from the connection than it
//! has dealt with.

use std::sync::Arc;
use std::time::Duration;

use statecast_proto::v1;
use statecast_proto::v1::watch_response::Event;
use tonic::Streaming;
use tonic::transport::Channel;

use super::builder::{Callbacks, Watched};
use super::fold::Fold;
use super::shared::Shared;
use crate::client::Client;
use crate::clock;
use crate::error::Error;
use crate::state::service;

/// The view's life. Ends the view when the task ends before it: the runtime shuts
/// down, or a callback panicked.
pub(super) struct Task {
    pub(super) client: Client,
    pub(super) channel: Channel,
    pub(super) watched: Watched,
    pub(super) callbacks: Callbacks,
    pub(super) shared: Arc<Shared>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.end(Error::Closed);
    }
}

/// Keeps the view current until it can't be.
pub(super) async fn run(mut task: Task) {
    let error = task.live().await;
    tracing::debug!(topic = %task.watched.topic, %error, "the view has ended");
    task.shared.end(error);
}

impl Task {
    async fn live(&mut self) -> Error {
        let mut fold = Fold::default();
        let mut give_up_at = Some(clock::after(self.client.settings().retry_for));
        let mut failures = 0_u32;
        loop {
            let mut progressed = false;
            let error = match self.follow(&mut fold, &mut progressed).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            // To begin again and fail again is no progress.
            if progressed {
                failures = 0;
                give_up_at = None;
            }
            let at_once = fold.lost(&error);
            self.shared.report(&fold, 0);
            if at_once {
                tracing::info!(topic = %self.watched.topic, %error, "the view takes a snapshot anew");
                continue;
            }
            let delay = self.client.settings().backoff.delay(failures);
            let reconnect_for = self.watched.reconnect_for;
            give_up_at = give_up_at.or_else(|| Some(clock::after(reconnect_for?)));
            let too_late = give_up_at.is_some_and(|time| clock::now() + delay > time);
            if !error.is_retryable() || too_late {
                return error;
            }
            tracing::debug!(topic = %self.watched.topic, %error, "watch lost, opening another");
            failures = failures.saturating_add(1);
            tokio::time::sleep(delay).await;
        }
    }

    /// One watch, until it is lost.
    async fn follow(
        &mut self,
        fold: &mut Fold,
        progressed: &mut bool,
    ) -> Result<std::convert::Infallible, Error> {
        let request = self.watched.request(fold.start());
        let limit = self.client.settings().request_timeout;
        let mut responses = open(self.channel.clone(), request, limit).await?;
        loop {
            let response = responses.message().await;
            let response = response.map_err(|status| Error::from_status(&status))?;
            let response =
                response.ok_or_else(|| Error::Connection("the broker ended the watch".into()))?;
            // Else something newer than this library.
            if let Some(event) = response.event {
                *progressed |= !matches!(event, Event::Opened(_));
                self.hear(fold, event)?;
            }
        }
    }

    fn hear(&mut self, fold: &mut Fold, event: Event) -> Result<(), Error> {
        let was_synced = fold.is_synced();
        // Nobody else writes, so what is read here stays until the step is carried out.
        let step = fold.hear(&self.shared.map(), event)?;
        let changes = self.shared.carry_out(step);
        for change in &changes {
            self.callbacks.tell_change(change);
        }
        if fold.is_synced() && !was_synced {
            self.callbacks.tell_synced(fold.next_offsets());
        }
        self.shared.report(fold, changes.len());
        Ok(())
    }
}

async fn open(
    channel: Channel,
    request: v1::WatchRequest,
    limit: Duration,
) -> Result<Streaming<v1::WatchResponse>, Error> {
    let mut service = service(channel);
    match tokio::time::timeout(limit, service.watch(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::Timeout {
            waited: limit,
            last: "the broker didn't answer".into(),
        }),
    }
}
