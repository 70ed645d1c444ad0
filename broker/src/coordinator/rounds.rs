//! What a group has on its way into the log. What comes together goes together: a
//! round is written at once, and several rounds may be under way; they are settled
//! in their order.

use std::collections::{BTreeSet, VecDeque};

use super::beginnings::BeginInFlight;
use super::log::{LogError, LogWriter, Written, outcome};
use super::message::{CommitError, CommitRoom, Reply};
use super::offsets::Submitted;
use super::outboxes::Line;
use crate::group::{Generation, MemberId, TopicPartition};
use crate::limits;
use crate::model::NewRecord;

/// What is to be done once a round is durable, or has failed.
#[derive(Debug)]
pub(super) enum Then {
    /// A commit is answered.
    Commit(CommitInFlight),
    /// What depends on this generation is told.
    Generation(Generation),
    /// A member begins to read partitions, where the group is to go on if it doesn't
    /// commit anything.
    Begin(BeginInFlight),
    /// A reset is carried out, and answered.
    Reset {
        submitted: Vec<Submitted>,
        reply: Reply<()>,
    },
    /// What was committed for these is forgotten, and whoever asked for it is told.
    Forgotten {
        partitions: BTreeSet<TopicPartition>,
        reply: Reply<()>,
    },
    /// The group is gone, and whoever asked for it is told.
    Deleted(Option<Reply<()>>),
}

impl Then {
    fn submitted(&self) -> Vec<&Submitted> {
        match self {
            Then::Commit(commit) => commit.submitted.iter().map(|(_, offset)| offset).collect(),
            Then::Begin(begin) => begin.submitted.iter().collect(),
            Then::Reset { submitted, .. } => submitted.iter().collect(),
            Then::Generation(_) | Then::Forgotten { .. } | Then::Deleted(_) => Vec::new(),
        }
    }
}

/// A commit that waits for its answer.
#[derive(Debug)]
pub(super) struct CommitInFlight {
    /// Kept even when the member leaves: it is told what became of its commits.
    pub(super) line: Line,
    pub(super) member: MemberId,
    pub(super) id: u64,
    /// With the places of the positions in what the member sent.
    pub(super) submitted: Vec<(usize, Submitted)>,
    pub(super) refused: Vec<(usize, CommitError)>,
    pub(super) room: CommitRoom,
}

/// The rounds of a group.
#[derive(Debug)]
pub(super) struct Rounds {
    writer: LogWriter,
    /// What goes with the next round.
    records: Vec<NewRecord>,
    then: Vec<Then>,
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    /// Absent when there is nothing to wait for.
    written: Option<Written>,
    then: Vec<Then>,
}

impl Rounds {
    pub(super) fn new(writer: LogWriter) -> Rounds {
        Rounds {
            writer,
            records: Vec::new(),
            then: Vec::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// A record goes with the next round.
    pub(super) fn write(&mut self, record: NewRecord) {
        self.records.push(record);
    }

    /// Something is to be done once the next round is settled.
    pub(super) fn then(&mut self, then: Then) {
        self.then.push(then);
    }

    /// The offsets that are on their way, and not settled yet.
    pub(super) fn submitted(&self) -> impl Iterator<Item = &Submitted> {
        let sent = self.in_flight.iter().flat_map(|round| &round.then);
        sent.chain(&self.then).flat_map(Then::submitted)
    }

    /// Sends what has gathered, unless much is under way: then it gathers further.
    pub(super) fn send(&mut self) {
        if self.in_flight.len() < limits::GROUP_WRITES_IN_FLIGHT {
            self.send_all();
        }
    }

    /// Sends what has gathered.
    pub(super) fn send_all(&mut self) {
        if self.records.is_empty() && self.then.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.records);
        let written = (!records.is_empty()).then(|| self.writer.write(records));
        let then = std::mem::take(&mut self.then);
        self.in_flight.push_back(InFlight { written, then });
    }

    /// Waits until the oldest round is settled. May be given up at any time.
    pub(super) async fn settled(&mut self) -> (Vec<Then>, Result<(), LogError>) {
        let Some(oldest) = self.in_flight.front_mut() else {
            return std::future::pending().await;
        };
        let outcome = match &mut oldest.written {
            Some(written) => outcome(written).await,
            None => Ok(()),
        };
        let oldest = self.in_flight.pop_front();
        (oldest.expect("it was just looked at").then, outcome)
    }
}
