//! A member is about to begin with partitions somewhere else than at their beginning.
//! That is committed before: whoever has them next begins there as well, though this one
//! may commit nothing, or get no records at all.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::log::LogError;
use super::message::CommitError;
use super::offsets::{Full, Submitted};
use super::rounds::Then;
use super::task::GroupTask;
use crate::group::{Generation, MemberId, TopicPartition};
use crate::model::Offset;

/// Which of the partitions are the member's still, once that is durable.
pub(super) type BeginReply = oneshot::Sender<Result<HashSet<TopicPartition>, CommitError>>;

/// Partitions that a member is about to begin with.
#[derive(Debug)]
pub(super) struct BeginInFlight {
    pub(super) submitted: Vec<Submitted>,
    reply: BeginReply,
}

impl GroupTask {
    /// Commits where partitions begin that were assigned in this generation: all that
    /// are the member's still, or none.
    pub(super) fn begin(
        &mut self,
        member: MemberId,
        generation: Generation,
        starts: Vec<(TopicPartition, Offset)>,
        reply: BeginReply,
    ) {
        let now_ms = self.shared.ticker.now_ms();
        let generation = Some(generation);
        let mut submitted = Vec::with_capacity(starts.len());
        for (partition, offset) in starts {
            let check = self
                .group
                .check_commit(member, partition, generation, now_ms);
            // It went on meanwhile: whoever has it now says where it begins.
            if check.is_err() {
                continue;
            }
            match self.submit_offset(partition, offset) {
                Ok(offset) => submitted.push(offset),
                Err(Full) => {
                    // Nothing was written: the room that was taken is free again.
                    for submitted in &submitted {
                        self.offsets.settle(submitted, false);
                    }
                    let _ = reply.send(Err(CommitError::TooManyOffsets));
                    return;
                }
            }
        }
        for submitted in &submitted {
            self.write_submitted(submitted);
        }
        let begin = BeginInFlight { submitted, reply };
        self.rounds.then(Then::Begin(begin));
    }

    pub(super) fn settle_begin(&mut self, begin: BeginInFlight, outcome: &Result<(), LogError>) {
        let mut partitions = HashSet::with_capacity(begin.submitted.len());
        for submitted in &begin.submitted {
            self.settle_offset(submitted, outcome);
            partitions.insert(submitted.partition);
        }
        let answer = match outcome {
            Ok(()) => Ok(partitions),
            Err(error) => Err(CommitError::Log(error.clone())),
        };
        // A member that has gone begins with nothing.
        let _ = begin.reply.send(answer);
    }
}
