//! The task behind a consumer: one stream after the other. It says what the
//! member has to say and hears what the broker says, also while nobody asks for
//! records: a slow handler neither silences the member nor holds up those who
//! are to have its partitions. What arrives is bounded by the credit.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use statecast_proto::v1;
use statecast_proto::v1::ConsumeRequest;
use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::groups_client::GroupsClient;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::call::{Call, Farewell};
use super::member::Member;
use super::shared::Shared;
use crate::clock;
use crate::connection::MAX_MESSAGE;
use crate::error::Error;

/// Without a response for so long the connection counts as lost; the broker
/// has something to say every 3 seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// As good as never, for a timer that isn't set.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The member's life. Ends the member when the task ends before it: the runtime
/// shuts down, or the task panicked.
pub(super) struct Task(pub(super) Arc<Shared>);

impl Drop for Task {
    fn drop(&mut self) {
        let ended = Error::Connection("the consumer's task ended".into());
        self.0.tell(|member| member.end_with(Err(ended)));
    }
}

/// Keeps the member in the group until it goes, or can't be.
pub(super) async fn run(task: Task) {
    let outcome = live(&task.0).await;
    task.0.tell(|member| member.end_with(outcome));
}

async fn live(shared: &Shared) -> Result<(), Error> {
    let mut give_up_at = Some(clock::after(shared.client.settings().retry_for));
    let mut failures = 0_u32;
    let mut was_joined = false;
    loop {
        let mut session = Session {
            shared,
            farewell: Farewell::default(),
            was_joined: &mut was_joined,
            progressed: false,
        };
        let error = match session.run().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // To join again and fail again, after the first time, is no progress.
        if session.progressed {
            failures = 0;
            give_up_at = None;
        }
        shared.tell(|member| member.disconnected(&error));
        let backoff = shared.client.settings().backoff;
        let delay = backoff.delay(failures);
        let reconnect_for = shared.settings.reconnect_for;
        give_up_at = give_up_at.or_else(|| Some(clock::after(reconnect_for?)));
        let too_late = give_up_at.is_some_and(|time| clock::now() + delay > time);
        if !error.is_retryable() || too_late || shared.lock().is_leaving() {
            return Err(error);
        }
        tracing::debug!(group = %shared.settings.group, %error, "group stream lost, joining again");
        failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = leaving(shared) => return Err(error),
        }
    }
}

/// Ready when the member is to go.
async fn leaving(shared: &Shared) {
    while !shared.lock().is_leaving() {
        shared.speaks().await;
    }
}

struct Session<'a> {
    shared: &'a Shared,
    farewell: Farewell,
    was_joined: &'a mut bool,
    /// The broker has done more than let the member in.
    progressed: bool,
}

impl Session<'_> {
    /// Runs until the stream is lost, or the member has gone in order.
    async fn run(&mut self) -> Result<(), Error> {
        let capacity = self.shared.lock().join();
        let join = Request::Join(self.shared.settings.join(capacity));
        // One at a time: each is made up when the transport has room for it.
        let (requests, outgoing) = mpsc::channel(1);
        let join = requests.try_send(request(join));
        join.expect("there is room for the first request");
        let responses = tokio::select! {
            opened = self.open(ReceiverStream::new(outgoing)) => opened?,
            () = leaving(self.shared) => {
                let why = "the consumer was closed while it had no connection";
                return Err(Error::Connection(why.into()));
            }
        };
        self.exchange(requests, responses).await
    }

    async fn open(
        &self,
        requests: ReceiverStream<ConsumeRequest>,
    ) -> Result<Streaming<v1::ConsumeResponse>, Error> {
        let call = Call::new(self.shared.channel.clone(), self.farewell.clone());
        let mut client = GroupsClient::new(call).max_decoding_message_size(MAX_MESSAGE);
        let limit = self.shared.client.settings().request_timeout;
        match tokio::time::timeout(limit, client.consume(requests)).await {
            Ok(Ok(opened)) => Ok(opened.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => Err(silence(limit)),
        }
    }

    async fn exchange(
        &mut self,
        requests: mpsc::Sender<ConsumeRequest>,
        mut responses: Streaming<v1::ConsumeResponse>,
    ) -> Result<(), Error> {
        let shared = self.shared;
        let mut requests = Some(requests);
        let mut ticks = tokio::time::interval(shared.settings.commit_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = Timer::new(LONG);
        let quiet = shared.settings.session_timeout.unwrap_or(SILENCE);
        let mut quiet = Timer::new(quiet.max(SILENCE));
        let mut farewell: Option<Timer> = None;
        loop {
            let (speaks, leaves) = {
                let mut member = shared.lock();
                (member.has_request(), member.is_leaving())
            };
            if farewell.is_none() && leaves {
                farewell = Some(Timer::new(shared.client.settings().request_timeout));
            }
            tokio::select! {
                biased;
                () = self.speak(&mut requests), if speaks && requests.is_some() => pulse.restart(),
                // However much arrives.
                _ = ticks.tick() => shared.lock().flush(),
                () = pulse.elapsed() => {
                    pulse.restart();
                    shared.lock().break_silence();
                }
                response = responses.message() => {
                    let response = match response {
                        Ok(Some(response)) => response,
                        Ok(None) => return shared.lock().farewell(),
                        // So may end the call of a member that pauses.
                        Err(_) if shared.lock().is_done() => return Ok(()),
                        Err(status) => return Err(Error::from_status(&status)),
                    };
                    quiet.restart();
                    if let Some(interval) = self.hear(response)? {
                        pulse = Timer::new(interval);
                    }
                }
                () = shared.speaks() => {}
                () = quiet.elapsed() => return Err(silence(quiet.time)),
                () = elapsed(&mut farewell) => {
                    let waited = shared.client.settings().request_timeout;
                    return shared.lock().farewell().map_err(|_| silence(waited));
                }
            }
        }
    }

    /// Says one thing, once the transport has room for it.
    async fn speak(&self, requests: &mut Option<mpsc::Sender<ConsumeRequest>>) {
        let Some(sender) = requests else {
            return pending().await;
        };
        // When nobody takes it any more, the responses tell why.
        let is_last = match sender.reserve().await {
            Err(_) => true,
            Ok(room) => {
                let mut member = self.shared.lock();
                if let Some(next) = member.next_request() {
                    if let Request::Leave(_) = next {
                        self.farewell.said();
                    }
                    room.send(request(next));
                }
                member.is_done()
            }
        };
        if is_last {
            *requests = None;
        }
    }

    /// Returns how often to say something, when that is what the broker says.
    fn hear(&mut self, response: v1::ConsumeResponse) -> Result<Option<Duration>, Error> {
        let Some(event) = response.event else {
            // Something newer than this library.
            return Ok(None);
        };
        let interval = match &event {
            Event::Joined(joined) => {
                self.progressed = !std::mem::replace(self.was_joined, true);
                Some(Duration::from_millis(
                    joined.heartbeat_interval_ms.max(1).into(),
                ))
            }
            _ => {
                self.progressed = true;
                None
            }
        };
        let now = clock::now();
        self.shared
            .tell(|member: &mut Member| member.hear(event, now))?;
        Ok(interval)
    }
}

fn request(request: Request) -> ConsumeRequest {
    ConsumeRequest {
        request: Some(request),
    }
}

fn silence(waited: Duration) -> Error {
    Error::Timeout {
        waited,
        last: "the broker said nothing".into(),
    }
}

/// A timer that begins anew.
struct Timer {
    time: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    fn new(time: Duration) -> Self {
        Self {
            time,
            sleep: Box::pin(tokio::time::sleep(time)),
        }
    }

    fn restart(&mut self) {
        let deadline = tokio::time::Instant::now() + self.time;
        self.sleep.as_mut().reset(deadline);
    }

    fn elapsed(&mut self) -> impl Future<Output = ()> {
        self.sleep.as_mut()
    }
}

/// Never, when the timer isn't set.
async fn elapsed(timer: &mut Option<Timer>) {
    match timer {
        Some(timer) => timer.elapsed().await,
        None => pending().await,
    }
}
