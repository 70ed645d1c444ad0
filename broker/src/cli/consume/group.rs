//! `statecast consume --group`: what is written is committed, and nothing else.

use std::pin::pin;
use std::time::Duration;

use statecast_client::{
    Client, CommitPosition, Consumer, GroupEvent, GroupMember, GroupStart, GroupState, Reason,
};

use super::printer::Printer;
use super::{Consume, is_gap};
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::output::{Ending, Stop};
use crate::cli::pipe::readers_gone;
use crate::cli::signals::stop_requested;

/// How often it is looked whether the group gives a partition to a consumer that has
/// none.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn consume(
    consume: &Consume,
    common: &Common,
    group: &str,
    start: GroupStart,
) -> Result<(), Failure> {
    let mut stop = pin!(stop_requested()?);
    let client = common.connect().await?;
    look_for_topics(consume, common, &client).await?;
    let mut consumer = client
        .consumer(group)
        .topics(&consume.topics)
        .client_name(concat!("statecast ", env!("CARGO_PKG_VERSION")))
        .start(start)
        .auto_commit(false);
    if let Some(name) = &consume.member_name {
        consumer = consumer.member_name(name);
    }
    let mut consumer = tokio::select! {
        consumer = consumer.open() => consumer?,
        () = &mut stop => return consume.interrupted(),
    };
    let mut printer = Printer::new(consume, common);
    let mut unwritten = Unwritten::default();
    let work = print_all(
        consume,
        common,
        &client,
        &mut consumer,
        &mut printer,
        &mut unwritten,
    );
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = stop => Err(Stop::Interrupted),
        () = readers_gone() => Err(Stop::BrokenPipe),
    };
    let outcome = outcome.in_order(|| unwritten.write(&mut printer, &consumer));
    // What was written before it came to this is committed in any case.
    let closed = consumer.close().await;
    match outcome {
        Err(Stop::BrokenPipe) | Ok(()) => printer.verdict()?,
        Err(Stop::Interrupted) => printer.verdict().and(consume.interrupted())?,
        Err(Stop::Failure(failure)) => return Err(failure),
    }
    let failed = |error| Failure::from(error).of("not all that was printed is committed");
    closed.map_err(failed)
}

/// A topic that doesn't exist may be made later, but whoever has mistyped it
/// would wait for ever.
async fn look_for_topics(
    consume: &Consume,
    common: &Common,
    client: &Client,
) -> Result<(), Failure> {
    for topic in consume.topics.iter().filter(|topic| !topic.contains('*')) {
        match client.admin().describe_topic(topic).await {
            Err(error) if error.reason() == Some(Reason::TopicNotFound) && !consume.until_end => {
                common.note(format_args!(
                    "there is no topic {topic} yet; waiting for it"
                ));
            }
            described => drop(described?),
        }
    }
    Ok(())
}

async fn print_all(
    consume: &Consume,
    common: &Common,
    client: &Client,
    consumer: &mut Consumer,
    printer: &mut Printer<'_>,
    unwritten: &mut Unwritten,
) -> Result<(), Stop> {
    while !printer.is_done() {
        let idles = consume.until_end && unwritten.is_empty() && consumer.assignment().is_empty();
        let event = tokio::select! {
            biased;
            event = consumer.next_event() => event,
            // Nothing is at hand: what was printed isn't kept back.
            () = std::future::ready(()), if !unwritten.is_empty() => {
                unwritten.write(printer, consumer)?;
                continue;
            }
            () = tokio::time::sleep(LOOK), if idles => match why_idle(client, consumer).await {
                None => continue,
                Some(why) => {
                    common.note(format_args!("nothing to read: {why}"));
                    return Ok(());
                }
            },
        };
        match event {
            None => return Ok(()),
            Some(Ok(GroupEvent::Batch(batch))) => {
                let offset = printer.print_batch(&batch)?;
                unwritten.add(CommitPosition {
                    offset,
                    ..CommitPosition::from(&batch)
                });
                if printer.is_full() {
                    unwritten.write(printer, consumer)?;
                }
            }
            Some(Ok(GroupEvent::CaughtUp)) => {
                unwritten.write(printer, consumer)?;
                if consume.until_end && !consumer.assignment().is_empty() {
                    return Ok(());
                }
            }
            Some(Ok(GroupEvent::CommitRefused { error, .. })) => {
                printer.warn(&format_args!("a commit was refused: {error}"));
            }
            // Others wait for what was printed of these.
            Some(Ok(_)) => unwritten.write(printer, consumer)?,
            Some(Err(error)) if is_gap(&error) => printer.missed(&error),
            Some(Err(error)) => {
                unwritten.write(printer, consumer)?;
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Why the consumer has no partition, once the group has come to rest without giving
/// it one: there is no end that it could wait for.
async fn why_idle(client: &Client, consumer: &Consumer) -> Option<String> {
    let id = consumer.member_id()?;
    let group = consumer.group();
    // What goes wrong in a connection is the consumer's to tell.
    let described = client.admin().describe_group(group).await.ok()?;
    // Whoever is away has partitions that may become free.
    let is_away = |member: &GroupMember| member.address.is_empty();
    let is_member = described.members.iter().any(|member| member.id == id);
    let is_stable = described.group.state == GroupState::Stable;
    if !is_member || !is_stable || described.members.iter().any(is_away) {
        return None;
    }
    let owners = described.partitions.iter();
    let mut owners = owners.filter_map(|partition| partition.member_id.as_deref());
    match owners.clone().any(|owner| owner == id) {
        true => None,
        false if owners.next().is_some() => {
            Some(format!("the others of group {group} have all partitions"))
        }
        false => Some("there is no topic to read".to_owned()),
    }
}

/// What was printed and perhaps not written yet.
#[derive(Default)]
struct Unwritten(Vec<CommitPosition>);

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, position: CommitPosition) {
        self.0.push(position);
    }

    /// Writes what was printed, and only then lets it be committed.
    fn write(&mut self, printer: &mut Printer<'_>, consumer: &Consumer) -> Result<(), Stop> {
        printer.flush()?;
        for position in self.0.drain(..) {
            match consumer.mark_processed(position) {
                // It went on to another member, which prints it once more.
                Err(error) if error.reason() == Some(Reason::StaleGeneration) => {}
                marked => marked?,
            }
        }
        Ok(())
    }
}
