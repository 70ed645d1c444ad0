//! The rules of a producer against a model of a broker, with everything in
//! between that can go wrong, at random: lost requests, answers and connections,
//! requests of lost connections that arrive late, refusals, records that are too
//! old, producers that are forgotten, or of which less is remembered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use statecast_proto::batch::EncodedBatch;
use statecast_proto::reason::Reason;
use statecast_proto::v1::batch_result::Outcome;
use statecast_proto::v1::{Appended, BatchError, BatchResult};

use super::batch::{Content, CutBatch, Request, WaitingBatch};
use super::builder::Naming;
use super::completion::Completion;
use super::flights::RefusedBatch;
use super::queue::{Pace, Queue, Step};
use super::sequences::{Identity, MAX_UNANSWERED, Sequences};
use super::verdict::Verdict;
use crate::error::Error;

const PARTITIONS: usize = 2;
const MAX_IN_FLIGHT: usize = 4;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Records are numbers here; a batch has some that follow each other.
#[derive(Debug, Default)]
struct Partition {
    log: Vec<u8>,
    producers: HashMap<u64, Sequence>,
    /// Batches that were appended with the number 0.
    firsts: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Sequence {
    epoch: u32,
    next: u32,
    /// Where batches with lower numbers were put is forgotten before its time.
    forgotten: u32,
    /// Number, content and offset of the last batches.
    known: VecDeque<(u32, Bytes, u64)>,
}

struct Broker {
    partitions: [Partition; PARTITIONS],
    last_id: u64,
    /// How many of a producer's batches a partition remembers.
    remembered: usize,
    /// Ids up to this one aren't known any more.
    forgotten: u64,
    /// What it says of a producer that a partition knows nothing of.
    unknown: Reason,
    /// The producer has a name, and this is the epoch that counts.
    epoch: Option<u32>,
    disk_full: bool,
    /// Refuses long batches for good, but not always.
    strict: bool,
}

impl Broker {
    /// `None` when it ends the stream instead.
    fn take(&mut self, request: &Request) -> Option<Vec<BatchResult>> {
        if request
            .iter()
            .any(|batch| ends_stream(&batch.encoded.payload))
        {
            return None;
        }
        let results = request.iter().map(|batch| BatchResult {
            outcome: Some(self.judge(batch)),
        });
        Some(results.collect())
    }

    fn judge(&mut self, batch: &CutBatch) -> Outcome {
        let too_long = self.strict && batch.encoded.record_count == 3;
        if too_long || is_refused_for_good(&batch.encoded.payload) {
            return refuse(Reason::RecordTooLarge, None);
        }
        if self.disk_full {
            return refuse(Reason::DiskFull, None);
        }
        let number = batch.number.expect("all are numbered");
        let identity = number.identity;
        if identity.producer_id <= self.forgotten {
            return refuse(Reason::ProducerExpired, None);
        }
        if self.epoch.is_some_and(|epoch| identity.epoch < epoch) {
            return refuse(Reason::ProducerFenced, None);
        }
        let partition = &mut self.partitions[batch.partition as usize];
        let offset = partition.log.len() as u64;
        let sequence = match partition.producers.get_mut(&identity.producer_id) {
            Some(sequence) if sequence.epoch == identity.epoch => sequence,
            Some(_) if number.base > 0 => return refuse(Reason::SequenceGap, Some(0)),
            None if number.base > 0 => return refuse(self.unknown, Some(0)),
            Some(_) | None => {
                let begun = Sequence {
                    epoch: identity.epoch,
                    ..Sequence::default()
                };
                let sequence = partition.producers.entry(identity.producer_id);
                sequence.insert_entry(begun).into_mut()
            }
        };
        let known = sequence
            .known
            .iter()
            .find(|(base, ..)| *base == number.base);
        if let Some((_, content, base_offset)) = known {
            assert_eq!(
                content, &batch.encoded.payload,
                "a number stands for one batch"
            );
            return Outcome::Appended(Appended {
                base_offset: *base_offset,
                duplicate: true,
            });
        }
        if number.base < sequence.forgotten {
            return refuse(Reason::SequenceTooOld, None);
        }
        if number.base > sequence.next {
            return refuse(Reason::SequenceGap, Some(sequence.next));
        }
        assert_eq!(
            number.base, sequence.next,
            "too old, or two numbers for one batch"
        );
        sequence.next += batch.encoded.record_count;
        let content = batch.encoded.payload.clone();
        partition.log.extend(&content);
        if number.base == 0 {
            partition.firsts.push(content.clone());
        }
        sequence.known.push_back((number.base, content, offset));
        while sequence.known.len() > self.remembered {
            sequence.known.pop_front();
            if self.remembered < MAX_UNANSWERED {
                sequence.forgotten = sequence.known[0].0;
            }
        }
        Outcome::Appended(Appended {
            base_offset: offset,
            duplicate: false,
        })
    }
}

/// A refusal that isn't for now is one of every copy.
fn is_refused_for_good(content: &[u8]) -> bool {
    content[0].is_multiple_of(13)
}

/// A request with such a batch is one that the broker refuses as a whole.
fn ends_stream(content: &[u8]) -> bool {
    content[0] % 31 == 30
}

fn refuse(reason: Reason, expected: Option<u32>) -> Outcome {
    let expected = expected.map(|next| ("expected_sequence".to_owned(), next.to_string()));
    Outcome::Error(BatchError {
        code: reason.code(),
        reason: reason.as_str().to_owned(),
        metadata: expected.into_iter().collect(),
        ..BatchError::default()
    })
}

struct Sent {
    content: Bytes,
    completion: Arc<Completion>,
}

struct World {
    random: Random,
    /// The broker refuses a batch for good, and not when another copy arrives.
    fickle: bool,
    now: Instant,
    queue: Queue,
    session: u64,
    broker: Broker,
    /// On their way to the broker, and back.
    requests: VecDeque<Arc<Request>>,
    answers: VecDeque<Vec<BatchResult>>,
    /// Requests of connections that the producer knows to be lost.
    late: Vec<VecDeque<Arc<Request>>>,
    sent: [Vec<Sent>; PARTITIONS],
    records: u8,
}

impl World {
    fn new(seed: u64) -> Self {
        let pace = Pace {
            batch_bytes: 4,
            max_in_flight: MAX_IN_FLIGHT,
            linger: Duration::ZERO,
        };
        let reasons = [Reason::ProducerExpired, Reason::SequenceGap];
        let named = seed.is_multiple_of(7);
        let naming = match named {
            true => Naming::Named("n".into()),
            false => Naming::Anonymous,
        };
        let mut world = Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            fickle: seed.is_multiple_of(3),
            now: crate::clock::now() + 10 * DELIVERY_TIMEOUT,
            queue: Queue::new(pace, Sequences::new(&naming, MAX_IN_FLIGHT)),
            session: 0,
            broker: Broker {
                partitions: Default::default(),
                last_id: 0,
                remembered: MAX_UNANSWERED,
                forgotten: 0,
                unknown: reasons[usize::from(seed.is_multiple_of(2))],
                epoch: named.then_some(0),
                disk_full: false,
                strict: false,
            },
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            late: Vec::new(),
            sent: Default::default(),
            records: 0,
        };
        world.connect();
        world
    }

    /// As a session does when it begins.
    fn connect(&mut self) {
        self.session = self.queue.begin_session();
        if self.queue.identity_wanted().is_some() {
            let broker = &mut self.broker;
            match &mut broker.epoch {
                Some(epoch) if broker.forgotten < broker.last_id => *epoch += 1,
                _ => broker.last_id += 1,
            }
            let identity = Identity {
                producer_id: broker.last_id,
                epoch: broker.epoch.unwrap_or_default(),
            };
            self.queue.identify(Some(identity));
        }
    }

    fn add(&mut self) {
        let partition = self.random.below(PARTITIONS);
        let count = 1 + u8::try_from(self.random.below(3)).unwrap();
        // Each record is of its own kind.
        let Some(end) = self.records.checked_add(count) else {
            return;
        };
        let content: Bytes = (self.records..end).collect::<Vec<_>>().into();
        self.records = end;
        let number = u32::try_from(partition).unwrap();
        let completion = Completion::new(number);
        let topic: Arc<str> = "t".into();
        self.sent[partition].push(Sent {
            content: content.clone(),
            completion: Arc::clone(&completion),
        });
        let slot = self.queue.slot(&topic, number);
        self.queue.add(WaitingBatch {
            topic,
            partition: number,
            slot,
            content: Content::Encoded(EncodedBatch {
                payload: content,
                record_count: count.into(),
                checksum: 0,
            }),
            completion,
            cost: 0,
            since: self.now,
        });
    }

    fn send(&mut self) {
        let sent = match self.queue.step(self.session, self.now, Waker::noop()) {
            Step::Send(request) => Some(request),
            Step::Cut(batches) => {
                let request = batches.into_iter().map(|batch| batch.cut().0).collect();
                self.queue.cut(self.session, request, Vec::new()).0
            }
            Step::At(_) | Step::Idle | Step::End => None,
        };
        self.requests.extend(sent);
    }

    fn arrive(&mut self) {
        let Some(request) = self.requests.front() else {
            return;
        };
        match self.broker.take(request) {
            Some(results) => {
                self.requests.pop_front();
                self.answers.push_back(results);
            }
            // What was answered before is heard first.
            None if self.answers.is_empty() => {
                self.fail_sent(false);
                self.requests.clear();
                self.connect();
            }
            None => {}
        }
    }

    fn arrive_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let which = self.random.below(self.late.len());
        match self.late[which].pop_front() {
            Some(request) if self.broker.take(&request).is_some() => {}
            Some(_) => self.late[which].clear(),
            None => drop(self.late.swap_remove(which)),
        }
    }

    /// As a session does with an answer.
    fn answer(&mut self) {
        let Some(results) = self.answers.pop_front() else {
            return;
        };
        let request = self.queue.awaited().expect("it was sent");
        let mut again = Vec::new();
        for (batch, result) in request.iter().zip(results) {
            match Verdict::of(batch, result) {
                Verdict::Appended(_) if batch.given_up => {}
                Verdict::Appended(offset) => batch.completion.settle(Ok(offset)),
                Verdict::Again(error) => again.push(RefusedBatch {
                    batch: batch.clone(),
                    error,
                }),
                Verdict::Failed(error) => {
                    self.queue.refused(batch);
                    if !batch.given_up {
                        batch.completion.settle(Err(error));
                    }
                }
                Verdict::Fenced(error) => panic!("{error}"),
            }
        }
        let _ = self.queue.answered(again);
    }

    fn resume(&mut self) {
        if self.queue.held_by().is_none() {
            return;
        }
        self.expire();
        let resumed = self.queue.resume();
        for (batch, error) in resumed.failed {
            batch.completion.settle(Err(error));
        }
        if resumed.ended {
            assert!(self.requests.is_empty() && self.answers.is_empty());
            self.connect();
        }
    }

    fn expire(&mut self) {
        let before = self.now.checked_sub(DELIVERY_TIMEOUT).unwrap();
        let expired = self.queue.expire(before);
        for completion in expired.completions() {
            completion.settle(Err(Error::Closed));
        }
    }

    fn lose_connection(&mut self) {
        let mut on_their_way = std::mem::take(&mut self.requests);
        self.answers.clear();
        on_their_way.truncate(self.random.below(MAX_IN_FLIGHT + 1));
        self.late.push(on_their_way);
        self.connect();
    }

    fn fail_sent(&mut self, all: bool) {
        for batch in self.queue.fail_sent(all) {
            batch.completion.settle(Err(Error::Closed));
        }
    }

    /// Producers are forgotten after so long that nothing arrives late any more. A
    /// first batch would be taken for a new one when it is sent again.
    fn forget(&mut self) {
        let sent = self.sent.iter().flatten();
        let mut unsettled = sent.filter(|sent| {
            let outcome = sent.completion.delivery(0).now();
            // Of what was given up, some is sent again.
            matches!(outcome, None | Some(Err(Error::Closed)))
        });
        let partitions = self.broker.partitions.iter();
        let firsts: Vec<_> = partitions.flat_map(|p| &p.firsts).collect();
        let may_be_sent_again = match self.broker.unknown {
            Reason::ProducerExpired => unsettled.any(|sent| firsts.contains(&&sent.content)),
            _ => unsettled.next().is_some(),
        };
        if may_be_sent_again {
            return;
        }
        self.late.clear();
        if self.random.chance(50) {
            self.broker.forgotten = self.broker.last_id;
        }
        for partition in &mut self.broker.partitions {
            partition.producers.clear();
        }
    }

    fn do_something(&mut self) {
        match self.random.below(100) {
            0..20 => self.add(),
            20..40 => self.send(),
            40..60 => self.arrive(),
            60..80 => self.answer(),
            80..87 => self.resume(),
            87..89 => self.lose_connection(),
            89 => self.arrive_late(),
            90 => {
                let less = self.random.chance(50);
                self.broker.remembered = if less { 1 } else { MAX_UNANSWERED };
            }
            91 => self.broker.disk_full = self.random.chance(30),
            92 | 93 => self.broker.strict = self.fickle && self.random.chance(50),
            94..97 => {
                self.now += DELIVERY_TIMEOUT / 4;
                self.expire();
            }
            97 => {
                // The stream ended with what makes no sense.
                self.fail_sent(true);
                self.lose_connection();
            }
            _ => self.forget(),
        }
    }

    /// Nothing goes wrong any more.
    fn finish(&mut self) {
        self.broker.disk_full = false;
        for _ in 0..10_000 {
            if self.queue.is_settled() {
                return;
            }
            self.send();
            self.arrive();
            self.answer();
            self.resume();
        }
        panic!("it doesn't come to an end");
    }

    fn check(&self) {
        for (partition, sent) in self.broker.partitions.iter().zip(&self.sent) {
            let mut end = 0;
            for Sent {
                content,
                completion,
            } in sent
            {
                let places = partition.log.windows(content.len());
                let places = places
                    .enumerate()
                    .filter(|(_, place)| *place == &content[..]);
                let places: Vec<_> = places.map(|(place, _)| place as u64).collect();
                match completion.delivery(0).now().expect("all are settled") {
                    Ok(position) if self.fickle => {
                        let known = position.offset.or(places.first().copied());
                        let known = known.expect("it is there, at least");
                        assert!(places.contains(&known), "there, at least");
                    }
                    Ok(position) => {
                        let &[offset] = &places[..] else {
                            panic!("once, not {places:?}");
                        };
                        assert_eq!(position.offset.unwrap_or(offset), offset, "as told");
                        assert!(offset >= end, "in order");
                        end = offset + content.len() as u64;
                    }
                    Err(_) if self.fickle => {}
                    Err(error) if error.reason() == Some(Reason::RecordTooLarge) => {
                        assert!(places.is_empty(), "refused");
                    }
                    Err(_) => assert!(places.len() <= 1, "once, if at all"),
                }
            }
        }
    }
}

#[test]
fn whatever_is_lost_records_are_there_once_and_in_order() {
    let (mut delivered, mut placeless) = (0, 0);
    for seed in 1..2000 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.do_something();
        }
        world.finish();
        world.check();
        let sent = world.sent.iter().flatten();
        let fates = sent.filter_map(|sent| sent.completion.delivery(0).now()?.ok());
        for position in fates {
            delivered += 1;
            placeless += u32::from(position.offset.is_none());
        }
    }
    assert!(delivered > 20_000, "{delivered}: most are");
    assert!(placeless > 100, "{placeless}: some, nobody knows where");
}
