//! The records of a member: which partitions it has, what of them is to be sent
//! next, and how much it takes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use statecast_proto::v1::{self, consume_response::Event};
use tokio::time::Instant;

use super::credit::Credit;
use super::join::Terms;
use super::outgoing::{Begun, Place};
use super::progress::{Holding, Progress};
use super::start::Started;
use crate::broker::Broker;
use crate::group::{Generation, TopicPartition};
use crate::limits;
use crate::model::{Offset, TopicName};
use crate::partition::ReadError;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::memory::Held;
use crate::server::reading::{Allowance, Failed, Gap, Next, Reading, SlotId, Taken};

/// What a member reads.
pub(super) struct Delivery {
    call: Arc<Call>,
    reading: Reading,
    shares: HashMap<TopicPartition, Share>,
    by_slot: HashMap<SlotId, TopicPartition>,
    /// What it takes still.
    credit: Credit,
    progress: Progress,
    /// What it had when it stalled, and hasn't said since that it gives back, with
    /// the assignments that it was told of.
    unreturned: HashMap<TopicPartition, Generation>,
    /// Of a response.
    max_bytes: usize,
    /// Something was sent since it was said that everything was read.
    is_behind: bool,
    /// To be sent next.
    next: Option<Ready>,
}

/// A partition that a member has.
#[derive(Debug)]
struct Share {
    topic: TopicName,
    /// Absent once it is to be given back.
    reading: Option<(SlotId, Holding)>,
    /// Of the last assignment that was sent to the member; `ZERO` before that.
    told: Generation,
    /// In which it was decided that it is to be given back, if it is.
    asked: Option<Generation>,
}

/// Something that is ready to be sent, in the order in which it was read.
#[derive(Debug)]
enum Ready {
    Batches(Vec<Taken>, Option<Held>),
    Gap(SlotId, Event),
    CaughtUp(VecDeque<v1::GroupPosition>),
}

impl Delivery {
    pub(super) fn new(terms: &Terms, call: Arc<Call>) -> Delivery {
        Delivery {
            reading: Reading::new(call.memory.clone(), call.connection.clone()),
            call,
            shares: HashMap::new(),
            by_slot: HashMap::new(),
            credit: Credit::new(terms.capacity),
            progress: Progress::new(terms),
            unreturned: HashMap::new(),
            max_bytes: terms.max_bytes,
            is_behind: false,
            next: None,
        }
    }

    /// The member has a partition from now on; returns what it is told of it.
    pub(super) fn add(&mut self, started: Started) -> Result<Begun, Refusal> {
        let Started {
            partition,
            opened,
            committed,
            ..
        } = started;
        let begun = Begun {
            place: Place {
                topic: opened.topic.clone(),
                partition: opened.number,
            },
            offset: opened.position,
            committed,
            high_watermark: opened.partition.high_watermark(),
        };
        self.lose(partition);
        let topic = opened.topic.clone();
        let holding = Holding::from(opened.position);
        let slot = self.reading.add(opened)?;
        self.by_slot.insert(slot, partition);
        let share = Share {
            topic,
            reading: Some((slot, holding)),
            told: Generation::ZERO,
            asked: None,
        };
        self.shares.insert(partition, share);
        self.is_behind = true;
        Ok(begun)
    }

    /// The member is to give this partition back. Returns how it knows it, if it does.
    pub(super) fn revoke(
        &mut self,
        partition: TopicPartition,
        generation: Generation,
    ) -> Option<Place> {
        let name = self.end(partition)?;
        let share = self.shares.get_mut(&partition)?;
        share.asked = Some(generation);
        Some(name)
    }

    /// Nothing more of this partition is sent. Returns how the member knows it, if
    /// it does.
    fn end(&mut self, partition: TopicPartition) -> Option<Place> {
        let share = self.shares.get_mut(&partition)?;
        let name = Place {
            topic: share.topic.clone(),
            partition: partition.partition,
        };
        if let Some((slot, holding)) = share.reading.take() {
            self.progress.release(holding);
            self.stop(slot);
        }
        Some(name)
    }

    /// The member has this partition no longer. Returns how it knows it, if it does.
    pub(super) fn lose(&mut self, partition: TopicPartition) -> Option<Place> {
        let name = self.end(partition);
        self.shares.remove(&partition);
        name
    }

    /// The member is sent an assignment: it knows of it from now on.
    pub(super) fn tell(&mut self, broker: &Broker, assigned: &v1::Assigned) {
        for partition in &assigned.partitions {
            // A topic that has another name's place by now has no such share, or one
            // that is assigned later, and for which this is too old.
            let named = named(broker, &partition.topic, partition.partition);
            let share = named.and_then(|partition| self.shares.get_mut(&partition));
            if let Some(share) = share {
                share.told = Generation(assigned.generation);
            }
        }
    }

    /// Positions without a generation are of the assignments that the member knows
    /// of. Which those are is found out when the commit is heard: it may wait, and
    /// the member be told of others meanwhile.
    pub(super) fn stamp(&self, broker: &Broker, commit: &mut v1::Commit) {
        for position in &mut commit.positions {
            if position.generation.is_none() {
                let named = named(broker, &position.topic, position.partition);
                let share = named.and_then(|partition| self.shares.get(&partition));
                let told = share.map_or(Generation::ZERO, |share| share.told);
                position.generation = Some(told.0);
            }
        }
    }

    /// In which generation it was decided that the member is to give this partition
    /// back, if it is.
    pub(super) fn asked(&self, partition: TopicPartition) -> Option<Generation> {
        self.shares.get(&partition)?.asked
    }

    /// The member has nothing any more.
    pub(super) fn clear(&mut self) {
        let all: Vec<TopicPartition> = self.shares.keys().copied().collect();
        for partition in all {
            self.lose(partition);
        }
        self.next = None;
    }

    fn stop(&mut self, slot: SlotId) {
        self.by_slot.remove(&slot);
        self.reading.remove(slot);
        match &mut self.next {
            Some(Ready::Batches(batches, _)) => {
                batches.retain(|taken| taken.slot != slot);
                if batches.is_empty() {
                    self.next = None;
                }
            }
            Some(Ready::Gap(of, _)) if *of == slot => self.next = None,
            _ => {}
        }
    }

    /// The member takes more.
    pub(super) fn give(&mut self, credit: Allowance) {
        self.credit.give(credit);
        self.progress.take_back(credit);
    }

    /// A partition was committed up to an offset.
    pub(super) fn commit(&mut self, partition: TopicPartition, offset: Offset) {
        let share = self.shares.get_mut(&partition);
        if let Some((_, holding)) = share.and_then(|share| share.reading.as_mut()) {
            self.progress.commit(holding, offset);
        }
    }

    /// The member shows that it works; says whether it had stalled.
    pub(super) fn show_life(&mut self) -> bool {
        self.unreturned.clear();
        self.progress.show_life()
    }

    /// When the member will have stalled.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        let has_everything = self.reading.is_caught_up() && self.next.is_none();
        self.progress.stalls_at(has_everything)
    }

    pub(super) fn set_stalled(&mut self) {
        self.progress.set_stalled();
        let told = self.shares.iter();
        self.unreturned = told.map(|(at, share)| (*at, share.told)).collect();
    }

    /// The member says that it no longer works on a partition; in answer to which
    /// generation's revoke, if it says so. One before the assignment of what it had is
    /// about something else.
    pub(super) fn let_go(&mut self, partition: TopicPartition, answers: Option<Generation>) {
        if let Entry::Occupied(unreturned) = self.unreturned.entry(partition)
            && answers.is_none_or(|generation| generation > *unreturned.get())
        {
            unreturned.remove();
        }
    }

    /// Whether the member had stalled, and has said of all that it had then that it
    /// no longer works on it. What is deleted meanwhile it can't name any more.
    pub(super) fn has_let_go(&mut self, broker: &Broker) -> bool {
        self.unreturned
            .retain(|partition, _| broker.topic_by_id(partition.topic).is_some());
        self.progress.has_stalled() && self.unreturned.is_empty()
    }

    /// Whether there is so much memory that records may be read before they can be
    /// sent.
    pub(super) fn may_work_ahead(&self) -> bool {
        self.call.memory.sending.is_plentiful()
    }

    /// Whether something is ready to be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.next.is_some()
    }

    /// Works until something is ready to be sent, or may be. May be given up at any
    /// time.
    pub(super) async fn work(&mut self) -> Result<(), Refusal> {
        if self.is_behind && self.reading.is_caught_up() && !self.reading.is_empty() {
            self.is_behind = false;
            self.next = Some(Ready::CaughtUp(self.positions()));
            return Ok(());
        }
        match self.reading.next(self.max_bytes, self.credit.left()).await {
            Ok(Next::News) => {}
            Ok(Next::Batches(batches, room)) => self.next = Some(Ready::Batches(batches, room)),
            Ok(Next::Gap(slot, gap)) => {
                let topic = self.topic(slot);
                let event = match gap {
                    Gap::Truncated(truncated) => Event::Truncated(v1::GroupTruncated {
                        topic,
                        truncated: Some(truncated),
                    }),
                    Gap::Quarantined(quarantined) => Event::Quarantined(v1::GroupQuarantined {
                        topic,
                        quarantined: Some(quarantined),
                    }),
                };
                self.next = Some(Ready::Gap(slot, event));
            }
            // The group will say that it is lost.
            Err(Failed {
                slot,
                error: ReadError::Deleted(_),
            }) => self.reading.remove(slot),
            Err(Failed { slot, error }) => {
                let opened = self.reading.get(slot).expect("it was read");
                return Err(opened.refusal(error));
            }
        }
        Ok(())
    }

    fn topic(&self, slot: SlotId) -> String {
        let opened = self.reading.get(slot);
        opened.expect("it is read").topic.to_string()
    }

    /// Those that were read since the member was caught up last.
    fn positions(&mut self) -> VecDeque<v1::GroupPosition> {
        let touched = self.reading.take_touched();
        let position = |slot| {
            let opened = self.reading.get(slot)?;
            Some(v1::GroupPosition {
                topic: opened.topic.to_string(),
                position: Some(opened.describe()),
            })
        };
        touched.into_iter().filter_map(position).collect()
    }

    /// What is ready; the member has it from now on.
    pub(super) fn take(&mut self) -> Option<Event> {
        match self.next.take()? {
            Ready::Batches(batches, room) => {
                self.is_behind = true;
                if let Some(room) = room {
                    self.call.send(room);
                }
                let batches = batches.into_iter().map(|taken| self.send(taken));
                let batches = batches.collect();
                Some(Event::Batches(v1::GroupBatches { batches }))
            }
            Ready::Gap(_, event) => {
                self.is_behind = true;
                Some(event)
            }
            Ready::CaughtUp(mut all) => {
                let count = all.len().min(limits::PARTITIONS_PER_EVENT);
                let positions = all.drain(..count).collect();
                if !all.is_empty() {
                    self.next = Some(Ready::CaughtUp(all));
                }
                Some(Event::CaughtUp(v1::GroupCaughtUp { positions }))
            }
        }
    }

    fn send(&mut self, taken: Taken) -> v1::GroupBatch {
        let Taken {
            slot,
            batch,
            records,
            ..
        } = taken;
        self.credit.spend(&batch);
        let size = Allowance {
            bytes: batch.batch.len() as u64,
            records: batch.next_offset - batch.base_offset,
        };
        let partition = self.by_slot[&slot];
        let share = self.shares.get_mut(&partition);
        let share = share.expect("what is not read any more is not sent");
        if let Some((_, holding)) = &mut share.reading {
            // The last record may lie further on, if compaction removed others: who
            // processed that one isn't to seem to hold something.
            let end = Offset(batch.base_offset).advanced(records.into());
            self.progress.send(holding, end, size);
        }
        v1::GroupBatch {
            topic: share.topic.to_string(),
            batch: Some(batch),
        }
    }
}

/// The partition that has this name now, if there is one.
fn named(broker: &Broker, topic: &str, partition: u32) -> Option<TopicPartition> {
    let topic = broker.topic(topic).ok()?.meta().id;
    Some(TopicPartition { topic, partition })
}
