//! Which records may be processed side by side: those of different keys, and
//! those of one key one after the other. Pure.
//!
//! A record waits while another one of its key and share is being processed. Of
//! each share a [`Prefix`] says what may be committed.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::credit::Cost;
use super::prefix::Prefix;
use super::shares::ShareId;
use crate::reader::Record;

/// Records of one key follow each other; one without a key has a lane of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Lane {
    Key(ShareId, Bytes),
    Keyless(ShareId, u64),
}

/// A record that is being processed.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) record: Record,
    pub(super) ticket: Ticket,
}

/// What becomes of it is told with this.
#[derive(Debug)]
pub(super) struct Ticket {
    lane: Lane,
    share: ShareId,
    offset: u64,
    batch: u64,
}

impl Ticket {
    pub(super) fn share(&self) -> ShareId {
        self.share
    }
}

/// A batch of which not all is finished.
#[derive(Debug)]
struct OpenBatch {
    cost: Cost,
    unfinished: usize,
    /// More of its records may come.
    whole: bool,
}

#[derive(Debug)]
struct OpenShare {
    prefix: Prefix,
    running: usize,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// What waits in each lane in which something is being processed.
    queues: HashMap<Lane, VecDeque<(Record, u64)>>,
    waiting: usize,
    shares: HashMap<ShareId, OpenShare>,
    batches: HashMap<u64, OpenBatch>,
    last_batch: u64,
}

impl Lanes {
    /// How many records wait for others of their key.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next batch of a share begins.
    pub(super) fn open_batch(&mut self, cost: Cost) {
        self.last_batch += 1;
        let batch = OpenBatch {
            cost,
            unfinished: 0,
            whole: false,
        };
        self.batches.insert(self.last_batch, batch);
    }

    /// The current batch has no more records, up to the end of its offsets.
    /// Returns how far the share is. Said together with the last record, before
    /// anything can be dropped.
    pub(super) fn end_batch(&mut self, share: ShareId, end: u64) -> u64 {
        self.leave_rest();
        self.pass(share, end)
    }

    /// The rest of the current batch isn't begun.
    pub(super) fn leave_rest(&mut self) {
        if let Some(batch) = self.batches.get_mut(&self.last_batch) {
            batch.whole = true;
        }
    }

    /// There are no records before `end`. Returns how far the share is.
    pub(super) fn pass(&mut self, share: ShareId, end: u64) -> u64 {
        match self.shares.get_mut(&share) {
            None => end,
            Some(open) => {
                open.prefix.pass(end);
                open.prefix.position()
            }
        }
    }

    /// A record of the current batch. `None` when it has to wait.
    pub(super) fn add(&mut self, share: ShareId, record: Record) -> Option<Begun> {
        let offset = record.offset;
        let open = self.shares.entry(share).or_insert_with(|| OpenShare {
            prefix: Prefix::new(offset),
            running: 0,
        });
        open.prefix.begin(offset);
        let batch = self.last_batch;
        if let Some(open) = self.batches.get_mut(&batch) {
            open.unfinished += 1;
        }
        let lane = match &record.key {
            Some(key) => Lane::Key(share, key.clone()),
            None => Lane::Keyless(share, offset),
        };
        if let Some(waiting) = self.queues.get_mut(&lane) {
            waiting.push_back((record, batch));
            self.waiting += 1;
            return None;
        }
        open.running += 1;
        self.queues.insert(lane.clone(), VecDeque::new());
        Some(Begun {
            record,
            ticket: Ticket {
                lane,
                share,
                offset,
                batch,
            },
        })
    }

    /// A record was processed: how far its share is now, when that is further.
    pub(super) fn processed(&mut self, ticket: &Ticket) -> Option<u64> {
        let open = self.shares.get_mut(&ticket.share)?;
        let grew = open.prefix.finish(ticket.offset);
        grew.then(|| open.prefix.position())
    }

    /// A record isn't being processed any more, whether it was processed or
    /// not: begins the next one of its key.
    pub(super) fn next(&mut self, ticket: Ticket) -> Option<Begun> {
        self.leave_batch(ticket.batch);
        let waiting = self.queues.get_mut(&ticket.lane)?;
        if let Some((record, batch)) = waiting.pop_front() {
            self.waiting -= 1;
            let ticket = Ticket {
                offset: record.offset,
                batch,
                ..ticket
            };
            return Some(Begun { record, ticket });
        }
        self.queues.remove(&ticket.lane);
        if let Some(open) = self.shares.get_mut(&ticket.share) {
            open.running -= 1;
            if open.running == 0 {
                // The prefix is at its end; it begins anew with the next record.
                self.shares.remove(&ticket.share);
            }
        }
        None
    }

    /// Nothing of this share that waits is begun any more.
    pub(super) fn drop_waiting(&mut self, share: ShareId) {
        let mut dropped = Vec::new();
        for (lane, waiting) in &mut self.queues {
            let (Lane::Key(of, _) | Lane::Keyless(of, _)) = lane;
            if *of == share {
                dropped.extend(waiting.drain(..).map(|(_, batch)| batch));
            }
        }
        self.waiting -= dropped.len();
        for batch in dropped {
            self.leave_batch(batch);
        }
    }

    /// Nothing that waits is begun any more.
    pub(super) fn drop_all_waiting(&mut self) {
        let shares: Vec<ShareId> = self.shares.keys().copied().collect();
        for share in shares {
            self.drop_waiting(share);
        }
    }

    /// Whether a record of this share is being processed.
    pub(super) fn is_running(&self, share: ShareId) -> bool {
        self.shares.contains_key(&share)
    }

    /// The cost of the batches that are finished.
    pub(super) fn finished_batches(&mut self) -> Vec<Cost> {
        let finished = self
            .batches
            .extract_if(|_, batch| batch.whole && batch.unfinished == 0);
        finished.map(|(_, batch)| batch.cost).collect()
    }

    fn leave_batch(&mut self, batch: u64) {
        if let Some(open) = self.batches.get_mut(&batch) {
            open.unfinished -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::consumer::shares::Shares;
    use statecast_proto::v1;

    fn share(shares: &mut Shares) -> ShareId {
        shares
            .assign(&"t".into(), 1, &v1::AssignedPartition::default())
            .0
    }

    fn record(offset: u64, key: Option<&'static str>) -> Record {
        Record {
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: key.map(Bytes::from),
            value: None,
            headers: Vec::new(),
        }
    }

    fn cost() -> Cost {
        Cost {
            bytes: 100,
            records: 3,
        }
    }

    #[test]
    fn records_of_a_key_wait_for_each_other() {
        let share = share(&mut Shares::default());
        let mut lanes = Lanes::default();
        lanes.open_batch(cost());
        let first = lanes.add(share, record(0, Some("a"))).unwrap();
        assert!(lanes.add(share, record(1, Some("a"))).is_none());
        let other = lanes.add(share, record(2, Some("b"))).unwrap();
        assert_eq!(lanes.end_batch(share, 3), 0);
        assert_eq!(lanes.processed(&other.ticket), None);
        assert!(lanes.next(other.ticket).is_none());
        assert_eq!(lanes.processed(&first.ticket), Some(1));
        let second = lanes.next(first.ticket).unwrap();
        assert_eq!((second.record.offset, lanes.waiting()), (1, 0));
        assert!(lanes.finished_batches().is_empty());
        assert_eq!(lanes.processed(&second.ticket), Some(3));
        assert!(lanes.next(second.ticket).is_none());
        assert_eq!(lanes.finished_batches(), [cost()]);
        assert!(!lanes.is_running(share));
    }

    #[test]
    fn records_without_a_key_wait_for_nobody() {
        let share = share(&mut Shares::default());
        let mut lanes = Lanes::default();
        lanes.open_batch(cost());
        assert!(lanes.add(share, record(0, None)).is_some());
        assert!(lanes.add(share, record(1, None)).is_some());
    }

    #[test]
    fn same_key_of_another_partition_is_another_key() {
        let mut shares = Shares::default();
        let mut lanes = Lanes::default();
        lanes.open_batch(cost());
        for _ in 0..2 {
            let share = share(&mut shares);
            assert!(lanes.add(share, record(0, Some("a"))).is_some());
        }
    }

    #[test]
    fn what_waits_can_be_dropped_and_holds_the_prefix() {
        let share = share(&mut Shares::default());
        let mut lanes = Lanes::default();
        lanes.open_batch(cost());
        let first = lanes.add(share, record(0, Some("a"))).unwrap();
        assert!(lanes.add(share, record(1, Some("a"))).is_none());
        lanes.end_batch(share, 2);
        lanes.drop_waiting(share);
        assert_eq!(lanes.processed(&first.ticket), Some(1));
        assert!(lanes.next(first.ticket).is_none());
        assert!(!lanes.is_running(share));
        assert_eq!(lanes.finished_batches(), [cost()]);
    }

    proptest! {
        /// Whatever finishes first: records of a key are begun in their order and
        /// one at a time, the position never passes one that isn't finished, and
        /// at the end nothing is left.
        #[test]
        fn keys_are_in_order_and_nothing_unfinished_is_passed(
            keys in prop::collection::vec(0_usize..4, 1..80),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
            limit in 1_usize..6,
        ) {
            const NAMES: [&str; 4] = ["a", "b", "c", "d"];
            let share = share(&mut Shares::default());
            let mut lanes = Lanes::default();
            lanes.open_batch(cost());
            let mut picks = picks.into_iter().cycle();
            let mut incoming = keys.iter().enumerate();
            let mut running: Vec<Begun> = Vec::new();
            let mut begun = [const { Vec::new() }; 4];
            let mut finished = vec![false; keys.len()];
            let mut position = 0;
            loop {
                let next = match running.len() < limit {
                    true => incoming.next(),
                    false => None,
                };
                let started = if let Some((offset, key)) = next {
                    lanes.add(share, record(offset as u64, Some(NAMES[*key])))
                } else if running.is_empty() {
                    break;
                } else {
                    let done = running.swap_remove(picks.next().unwrap().index(running.len()));
                    finished[usize::try_from(done.record.offset).unwrap()] = true;
                    if let Some(further) = lanes.processed(&done.ticket) {
                        prop_assert!(further > position);
                        position = further;
                    }
                    lanes.next(done.ticket)
                };
                if let Some(started) = started {
                    let offset = usize::try_from(started.record.offset).unwrap();
                    let same = |other: &Begun| other.record.key == started.record.key;
                    prop_assert!(!running.iter().any(same), "one of a key at a time");
                    begun[keys[offset]].push(offset);
                    running.push(started);
                }
                let passed = usize::try_from(position).unwrap();
                prop_assert!(finished[..passed].iter().all(|finished| *finished));
            }
            prop_assert!(begun.iter().all(|offsets| offsets.is_sorted()));
            prop_assert!(finished.iter().all(|finished| *finished));
            prop_assert_eq!(lanes.end_batch(share, keys.len() as u64), keys.len() as u64);
            prop_assert_eq!(lanes.waiting(), 0);
            prop_assert_eq!(lanes.finished_batches().len(), 1);
        }
    }
}
