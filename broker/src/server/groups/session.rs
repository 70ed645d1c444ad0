//! The task of one member: hears its requests, tells it what the group says, sends
//! it records.
//!
//! How a stream ends:
//!
//! | what happened | what the group is told | what the stream ends with |
//! |---|---|---|
//! | the member leaves | it left | `OK`, once its commits are answered |
//! | it half-closes, or its call was cancelled, which looks the same | it is disconnected, once its commits are answered | `OK` |
//! | it breaks the protocol | it left | the reason |
//! | its connection or its call is gone | it is disconnected: with a name it may come again | nobody hears it |
//! | the group sends it away, or can't go on | it did so | the reason |
//! | it doesn't take what it is told | it left | the reason |
//! | the broker stops | nothing | `STOPPING`, once its commits are answered |

mod giving_back;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use statecast_proto::v1::{self, consume_request::Request, consume_response::Event};
use tokio::sync::mpsc::Permit;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::Responses;
use super::commits::{Admitted, Commits};
use super::delivery::Delivery;
use super::join::{self, Terms, allowance};
use super::outgoing::{Outgoing, Said, unread};
use super::start::{self, Opening, Started, opened};
use crate::coordinator::{Member, MemberEvent};
use crate::group::Generation;
use crate::limits;
use crate::server::Context;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::group_admin::member_id;

/// Serves one stream to its end.
pub(super) async fn serve(
    context: Context,
    incoming: Streaming<v1::ConsumeRequest>,
    responses: Responses,
    address: String,
    call: Arc<Call>,
) {
    if let Err(status) = converse(context, incoming, &responses, address, call).await {
        // Nobody may be there to hear it.
        let _ = responses.send(Err(status)).await;
    }
}

async fn converse(
    context: Context,
    mut incoming: Streaming<v1::ConsumeRequest>,
    responses: &Responses,
    address: String,
    call: Arc<Call>,
) -> Result<(), Status> {
    let joined = tokio::select! {
        joined = join::join(&context, &mut incoming, address) => joined,
        () = responses.closed() => None,
    };
    match joined {
        Some(Ok((member, terms))) => {
            let session = Session::new(context, member, terms, call);
            session.run(incoming, responses).await
        }
        Some(Err(status)) => Err(status),
        None => Ok(()),
    }
}

struct Session {
    context: Context,
    member: Member,
    terms: Terms,
    delivery: Delivery,
    commits: Commits,
    outgoing: Outgoing,
    /// Partitions that were assigned, while it is found out where they begin.
    /// Nothing else that the group says is heard meanwhile: it may be about them.
    opening: Option<Opening>,
    /// How the stream ends, once all that the member waits for was said.
    end: Option<Result<(), Status>>,
    /// The group says nothing more.
    is_silent: bool,
    /// Its requests ended without a word.
    has_half_closed: bool,
    /// When to say that there is nothing to say.
    heartbeat_at: Instant,
    /// When to say for the member that it is alive, while it isn't heard.
    excuse_at: Instant,
}

/// What happens next.
enum Next<'a> {
    Request(Option<Result<v1::ConsumeRequest, Status>>),
    Said(Option<MemberEvent>),
    Opened(Generation, Result<Vec<Started>, Refusal>),
    Admitted(Admitted),
    /// The broker keeps the member waiting, and doesn't hear it meanwhile.
    Waiting,
    Worked(Result<(), Refusal>),
    /// The transport takes something, if there is something to send.
    Sendable(Permit<'a, Result<v1::ConsumeResponse, Status>>),
    Stalled,
    Silence,
    Draining,
    Gone,
}

impl Session {
    fn new(context: Context, member: Member, terms: Terms, call: Arc<Call>) -> Session {
        let mut outgoing = Outgoing::default();
        outgoing.push(Said::Event(Event::Joined(v1::Joined {
            member_id: member_id(member.id()),
            heartbeat_interval_ms: terms.session_timeout_ms / 3,
        })));
        Session {
            context,
            delivery: Delivery::new(&terms, call.clone()),
            member,
            commits: Commits::new(terms.group.clone(), call),
            terms,
            outgoing,
            opening: None,
            end: None,
            is_silent: false,
            has_half_closed: false,
            heartbeat_at: Instant::now() + limits::MEMBER_HEARTBEAT,
            excuse_at: Instant::now(),
        }
    }

    async fn run(
        mut self,
        mut incoming: Streaming<v1::ConsumeRequest>,
        responses: &Responses,
    ) -> Result<(), Status> {
        loop {
            if self.outgoing.is_overflowing() && self.end.is_none() {
                self.break_off(unread()).await;
            }
            let answered = self.commits.are_settled() || self.is_silent;
            if answered
                && self.outgoing.is_empty()
                && let Some(end) = self.end.take()
            {
                if self.has_half_closed {
                    self.member.disconnected().await;
                }
                return end;
            }
            match self.next(&mut incoming, responses).await {
                Next::Request(Some(Ok(request))) => self.hear(request).await,
                Next::Request(Some(Err(status))) => {
                    // It may be a message that is none; mostly nobody is there.
                    self.member.disconnected().await;
                    return Err(status);
                }
                Next::Request(None) => {
                    self.has_half_closed = true;
                    self.end_with(Ok(()));
                }
                Next::Said(Some(event)) => self.listen(event),
                Next::Said(None) => self.fall_silent(),
                Next::Opened(generation, opened) => self.open(generation, opened).await,
                Next::Admitted(commit) => self.commit(commit).await,
                Next::Waiting => self.excuse().await,
                Next::Worked(Ok(())) => {}
                Next::Worked(Err(refusal)) => self.break_off(refusal).await,
                Next::Sendable(permit) => self.send(permit),
                Next::Stalled => {
                    self.delivery.set_stalled();
                    self.member.stalled().await;
                }
                Next::Silence => {
                    let heartbeat = Event::Heartbeat(v1::Heartbeat {});
                    self.outgoing.push(Said::Event(heartbeat));
                }
                Next::Draining => self.end_with(Err(Refusal::stopping().into())),
                Next::Gone => {
                    self.member.disconnected().await;
                    return Ok(());
                }
            }
        }
    }

    async fn next<'a>(
        &mut self,
        incoming: &mut Streaming<v1::ConsumeRequest>,
        responses: &'a Responses,
    ) -> Next<'a> {
        let lasts = self.end.is_none();
        let hears = lasts && self.commits.has_room() && self.outgoing.has_room();
        let listens = self.opening.is_none() && !self.is_silent;
        let takes = responses.capacity() > 0 || self.delivery.may_work_ahead();
        let works = lasts && takes && !self.delivery.is_ready();
        let sends = !self.outgoing.is_empty() || self.delivery.is_ready();
        let waits = lasts && !takes;
        let stalls_at = self.delivery.stalls_at();
        let awaits_room = self.commits.is_waiting();
        let keeps_waiting = self.commits.keep_waiting();
        let draining = &self.context.draining;
        tokio::select! {
            request = incoming.next(), if hears => Next::Request(request),
            said = self.member.event(), if listens => Next::Said(said),
            (generation, opened) = opened(&mut self.opening) => Next::Opened(generation, opened),
            commit = self.commits.admitted(), if awaits_room => Next::Admitted(commit),
            () = sleep_until(self.excuse_at), if keeps_waiting => Next::Waiting,
            worked = self.delivery.work(), if works => Next::Worked(worked),
            permit = responses.reserve(), if sends || waits => permit.map_or(Next::Gone, Next::Sendable),
            () = at(stalls_at), if lasts => Next::Stalled,
            () = sleep_until(self.heartbeat_at), if lasts && !sends => Next::Silence,
            () = draining.cancelled(), if lasts => Next::Draining,
            () = responses.closed() => Next::Gone,
        }
    }

    /// Something is sent: first what the group says, then records.
    fn send(&mut self, permit: Permit<'_, Result<v1::ConsumeResponse, Status>>) {
        let event = match self.outgoing.pop() {
            Some((event, commit)) => {
                if let Some(positions) = commit {
                    self.commits.sent(positions);
                }
                if let Event::Assigned(assigned) = &event {
                    self.delivery.tell(&self.context.broker, assigned);
                }
                Some(event)
            }
            None => self.delivery.take(),
        };
        if event.is_some() {
            self.heartbeat_at = Instant::now() + limits::MEMBER_HEARTBEAT;
            permit.send(Ok(v1::ConsumeResponse { event }));
        }
    }

    /// The member says something.
    async fn hear(&mut self, request: v1::ConsumeRequest) {
        match request.request {
            Some(Request::Join(_)) => {
                let refusal = Refusal::invalid("a member joins once, and this one has");
                self.break_off(refusal).await;
            }
            Some(Request::Commit(mut commit)) => {
                self.delivery.stamp(&self.context.broker, &mut commit);
                self.show_life().await;
                match self.commits.take(commit) {
                    Ok(Some(commit)) => self.commit(commit).await,
                    Ok(None) => self.excuse().await,
                    Err(refusal) => self.refuse(refusal).await,
                }
            }
            Some(Request::Revoked(revoked)) => self.give_back(&revoked).await,
            Some(Request::Heartbeat(_)) => self.member.heartbeat().await,
            Some(Request::Credit(credit)) => {
                self.delivery.give(allowance(credit));
                self.show_life().await;
                self.member.heartbeat().await;
            }
            Some(Request::Leave(_)) => self.leave().await,
            None => {
                let refusal = Refusal::invalid("this broker doesn't know that request");
                self.refuse(refusal).await;
            }
        }
    }

    /// The member is kept waiting, and isn't silent.
    async fn excuse(&mut self) {
        let interval = Duration::from_millis(u64::from(self.terms.session_timeout_ms / 3));
        self.excuse_at = Instant::now() + interval;
        self.member.heartbeat().await;
    }

    async fn commit(&mut self, commit: Admitted) {
        let commit = self.commits.begin(&self.context.broker, commit);
        self.member.commit(commit).await;
    }

    /// A request makes no sense, and nothing else is affected.
    async fn refuse(&mut self, refusal: Refusal) {
        let error = refusal.into_batch_error();
        self.outgoing.push(Said::Event(Event::Refused(error)));
        self.member.heartbeat().await;
    }

    async fn show_life(&mut self) {
        if self.delivery.show_life() {
            self.member.resumed().await;
        }
    }

    /// The group says something.
    fn listen(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Assigned {
                generation,
                partitions,
            } => {
                let broker = self.context.broker.clone();
                let starter = self.member.starter();
                let start = self.terms.start;
                let opening = start::start(broker, starter, generation, partitions, start);
                self.opening = Some((generation, Box::pin(opening)));
            }
            MemberEvent::Revoke {
                generation,
                partitions,
                deadline,
                reason,
            } => {
                let partitions = partitions.into_iter();
                let partitions: VecDeque<_> = partitions
                    .filter_map(|partition| self.delivery.revoke(partition, generation))
                    .collect();
                if !partitions.is_empty() {
                    self.outgoing.push(Said::Revoke {
                        generation,
                        partitions,
                        deadline,
                        reason,
                    });
                }
            }
            MemberEvent::Lost {
                generation,
                partitions,
                reason,
            } => {
                let partitions = partitions.into_iter();
                let partitions: VecDeque<_> = partitions
                    .filter_map(|partition| self.delivery.lose(partition))
                    .collect();
                if !partitions.is_empty() {
                    self.outgoing.push(Said::Lost {
                        generation,
                        partitions,
                        reason,
                    });
                }
            }
            MemberEvent::Committed(answer) => {
                let answered = self.commits.answer(answer);
                for (partition, offset) in answered.accepted {
                    self.delivery.commit(partition, offset);
                }
                self.outgoing.push(answered.said);
            }
            MemberEvent::Ended(reason) => {
                self.commits.forget_waiting();
                self.end_with(Err(Refusal::from(reason).into()));
            }
        }
    }

    /// The group says nothing more.
    fn fall_silent(&mut self) {
        self.is_silent = true;
        self.commits.forget_waiting();
        if self.end.is_none() {
            let refusal = match self.context.draining.is_cancelled() {
                true => Refusal::stopping(),
                false => unread(),
            };
            self.end_with(Err(refusal.into()));
        }
    }

    /// It is known where partitions that were assigned begin.
    async fn open(&mut self, generation: Generation, opened: Result<Vec<Started>, Refusal>) {
        let added = opened.and_then(|started| {
            let started = started.into_iter();
            started
                .map(|started| self.delivery.add(started))
                .collect::<Result<VecDeque<_>, Refusal>>()
        });
        match added {
            Ok(assigned) if assigned.is_empty() => {}
            Ok(assigned) => self.outgoing.push(Said::Assigned(generation, assigned)),
            Err(refusal) => self.break_off(refusal).await,
        }
    }

    /// The member goes.
    async fn leave(&mut self) {
        self.member.leave().await;
        self.end_with(Ok(()));
    }

    /// The member can't go on.
    async fn break_off(&mut self, refusal: Refusal) {
        self.member.leave().await;
        self.commits.forget_waiting();
        self.end_with(Err(refusal.into()));
    }

    /// Sends no more records, and ends once the commits are answered, also one that
    /// waits for room: it has been heard.
    fn end_with(&mut self, end: Result<(), Status>) {
        self.end.get_or_insert(end);
        self.opening = None;
        self.delivery.clear();
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
