//! Tests of the queue's rules; there is no clock and no connection in them.

use std::task::Waker;

use bytes::Bytes;
use statecast_proto::batch::EncodedBatch;
use statecast_proto::reason::Reason;

use super::super::batch::Content;
use super::*;

const NO_LINGER: Pace = Pace {
    batch_bytes: 100,
    max_in_flight: 6,
    linger: Duration::ZERO,
};

fn start() -> Instant {
    crate::clock::now()
}

fn batch(partition: u32, len: usize) -> WaitingBatch {
    let encoded = EncodedBatch {
        payload: Bytes::from(vec![0; len]),
        record_count: 1,
        checksum: 0,
    };
    WaitingBatch {
        topic: "t".into(),
        partition,
        slot: Slot::test(partition),
        content: Content::Encoded(encoded),
        completion: Completion::new(partition),
        cost: len,
        since: start(),
    }
}

fn cut(batches: Vec<WaitingBatch>) -> Request {
    batches.into_iter().map(|batch| batch.cut().0).collect()
}

fn queue(pace: Pace) -> Queue {
    Queue::new(pace, Sequences::test(None))
}

fn partitions(request: &Request) -> Vec<u32> {
    request.iter().map(|batch| batch.partition).collect()
}

/// What the outbox of the session sends next, if anything.
fn send(queue: &mut Queue, session: u64) -> Option<Vec<u32>> {
    match queue.step(session, start(), Waker::noop()) {
        Step::Send(request) => Some(partitions(&request)),
        Step::Cut(batches) => {
            let (sent, _) = queue.cut(session, cut(batches), Vec::new());
            sent.map(|request| partitions(&request))
        }
        Step::At(_) | Step::Idle | Step::End => None,
    }
}

fn lingering(linger: Duration) -> Pace {
    Pace {
        linger,
        ..NO_LINGER
    }
}

/// The awaited request is refused for now.
fn refuse(queue: &mut Queue) {
    let refused = queue.awaited().unwrap();
    let refused = refused.iter().map(|batch| RefusedBatch {
        batch: batch.clone(),
        error: Error::Closed,
    });
    let _ = queue.answered(refused.collect());
}

#[test]
fn small_batches_go_at_once_while_few_requests_are_on_their_way() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..6 {
        queue.add(batch(partition, 10));
        let sent = send(&mut queue, session);
        assert_eq!(sent.is_some(), partition < 4, "partition {partition}");
    }
    let _ = queue.answered(Vec::new());
    assert_eq!(send(&mut queue, session), Some(vec![4, 5]));
}

#[test]
fn full_requests_go_until_too_many_are_on_their_way() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..8 {
        queue.add(batch(partition, 100));
    }
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut queue, session)).collect();
    assert_eq!(sent, [[0], [1], [2], [3], [4], [5]]);
    let _ = queue.answered(Vec::new());
    assert_eq!(send(&mut queue, session), Some(vec![6]));
    assert_eq!(send(&mut queue, session), None);
}

#[test]
fn request_holds_no_more_than_its_worth_but_at_least_one_batch() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    for (partition, len) in [(0, 40), (1, 40), (2, 40), (3, 500)] {
        queue.add(batch(partition, len));
    }
    assert_eq!(send(&mut queue, session), Some(vec![0, 1]));
    assert_eq!(send(&mut queue, session), Some(vec![2]));
    assert_eq!(send(&mut queue, session), Some(vec![3]));
}

#[test]
fn lingering_batch_waits_for_its_time_for_company_or_for_flush() {
    let mut queue = queue(lingering(Duration::from_secs(60)));
    let session = queue.begin_session();
    let now = start();
    queue.add(batch(0, 10));
    assert!(matches!(
        queue.step(session, now, Waker::noop()),
        Step::At(_)
    ));
    let later = now + Duration::from_secs(61);
    let Step::Cut(batches) = queue.step(session, later, Waker::noop()) else {
        panic!("its time has come");
    };
    queue.cut(session, cut(batches), Vec::new());
    queue.add(batch(1, 100));
    assert_eq!(send(&mut queue, session), Some(vec![1]));
    queue.add(batch(2, 10));
    assert_eq!(send(&mut queue, session), None);
    assert_eq!(queue.flush().0.len(), 3);
    assert_eq!(send(&mut queue, session), Some(vec![2]));
}

#[test]
fn lost_connection_sends_what_was_not_answered_again_in_order() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..3 {
        queue.add(batch(partition, 100));
        assert!(send(&mut queue, session).is_some());
    }
    let _ = queue.answered(Vec::new());
    queue.add(batch(3, 100));
    let next = queue.begin_session();
    assert_eq!(send(&mut queue, session), None, "the old outbox is done");
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut queue, next)).collect();
    assert_eq!(sent, [[1], [2], [3]]);
}

#[test]
fn request_cut_while_the_connection_is_lost_keeps_its_place() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    let Step::Cut(batches) = queue.step(session, start(), Waker::noop()) else {
        panic!("a full batch goes");
    };
    let next = queue.begin_session();
    queue.add(batch(1, 100));
    // Batch 1 must not overtake the one that is being encoded.
    assert_eq!(send(&mut queue, next), None);
    assert_eq!(queue.flush().0.len(), 2);
    let (sent, _) = queue.cut(session, cut(batches), Vec::new());
    assert!(sent.is_none());
    assert_eq!(send(&mut queue, next), Some(vec![0]));
    assert_eq!(send(&mut queue, next), Some(vec![1]));
}

#[test]
fn refused_batches_go_before_what_waits() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    refuse(&mut queue);
    queue.add(batch(1, 100));
    assert_eq!(send(&mut queue, session), None);
    assert_eq!(queue.flush().0.len(), 2, "neither is settled");
    assert!(queue.held_by().is_some());
    assert!(queue.resume().waker.is_some(), "whoever sends is parked");
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    assert_eq!(send(&mut queue, session), Some(vec![1]));
}

#[test]
fn request_that_is_cut_while_others_are_refused_goes_behind_them() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 100));
    for resumed_first in [false, true] {
        let Step::Cut(batches) = queue.step(session, start(), Waker::noop()) else {
            panic!("a full batch goes");
        };
        refuse(&mut queue);
        if resumed_first {
            let _ = queue.resume();
        }
        let (sent, _) = queue.cut(session, cut(batches), Vec::new());
        assert!(sent.is_none());
        let _ = queue.resume();
        assert_eq!(send(&mut queue, session), Some(vec![0]));
        assert_eq!(send(&mut queue, session), Some(vec![1]));
        for _ in 0..2 {
            let _ = queue.answered(Vec::new());
        }
        queue.add(batch(0, 100));
        assert_eq!(send(&mut queue, session), Some(vec![0]));
        queue.add(batch(1, 100));
    }
}

#[test]
fn batches_that_waited_for_room_get_their_timer_once_there_is_room() {
    let mut queue = queue(lingering(Duration::from_secs(60)));
    let session = queue.begin_session();
    for partition in 0..4 {
        queue.add(batch(partition, 100));
        assert!(send(&mut queue, session).is_some());
    }
    for partition in 0..2 {
        queue.add(batch(partition, 10));
    }
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::Idle), "{step:?}");
    let waker = queue.answered(Vec::new());
    assert!(waker.is_some(), "nobody would start the timer");
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::At(_)), "{step:?}");
    let waker = queue.answered(Vec::new());
    assert!(waker.is_none(), "the timer runs");
}

#[test]
fn lingering_for_ever_lasts_until_flush() {
    let mut queue = queue(lingering(Duration::MAX));
    let session = queue.begin_session();
    queue.add(batch(0, 10));
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::Idle), "{step:?}");
    assert!(queue.flush().1.is_some());
    assert_eq!(send(&mut queue, session), Some(vec![0]));
}

#[test]
fn what_is_too_old_expires_unless_it_is_on_its_way() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 10));
    let long_ago = start().checked_sub(Duration::from_secs(60)).unwrap();
    let expired = queue.expire(long_ago);
    assert_eq!((expired.cut.len(), expired.waiting.len()), (0, 0));
    assert!(!queue.is_overdue(long_ago));
    let later = start() + Duration::from_secs(60);
    let expired = queue.expire(later);
    assert_eq!((expired.cut.len(), expired.waiting.len()), (0, 1));
    assert!(queue.is_overdue(later));
    queue.begin_session();
    let expired = queue.expire(later);
    assert_eq!((expired.cut.len(), expired.waiting.len()), (1, 0));
    assert!(queue.is_settled());
}

#[test]
fn lingering_batch_makes_no_connection_overdue() {
    let mut queue = queue(lingering(Duration::from_secs(60)));
    queue.begin_session();
    queue.add(batch(0, 10));
    assert!(!queue.is_overdue(start() + Duration::from_secs(60)));
}

#[test]
fn closed_queue_ends_once_everything_was_answered() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 10));
    queue.close();
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    refuse(&mut queue);
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::Idle), "{step:?}");
    assert!(queue.resume().waker.is_some());
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::Idle), "{step:?}");
    assert!(queue.answered(Vec::new()).is_some());
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::End), "{step:?}");
}

#[test]
fn abandoned_queue_gives_back_everything_and_takes_nothing() {
    let mut queue = queue(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 100));
    let Step::Cut(batches) = queue.step(session, start(), Waker::noop()) else {
        panic!("a full batch goes");
    };
    queue.add(batch(2, 100));
    assert_eq!(queue.abandon().len(), 3);
    assert!(queue.is_closed() && queue.is_settled());
    // Whoever encoded meanwhile comes too late.
    let (sent, _) = queue.cut(session, cut(batches), Vec::new());
    assert!(sent.is_none() && queue.is_settled());
}

#[test]
fn session_ends_before_anything_is_sent_without_an_identity() {
    let identity = Identity {
        producer_id: 7,
        epoch: 0,
    };
    let mut queue = Queue::new(NO_LINGER, Sequences::test(Some(identity)));
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 100));
    let refused = queue.awaited().unwrap();
    let refused = refused.iter().map(|batch| RefusedBatch {
        batch: batch.clone(),
        error: Error::refused_here(
            Reason::ProducerExpired,
            String::new(),
            std::collections::BTreeMap::new(),
        ),
    });
    let _ = queue.answered(refused.collect());
    assert!(queue.resume().ended, "the producer isn't known any more");
    assert!(queue.identity_wanted().is_some());
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::End), "{step:?}");

    let session = queue.begin_session();
    queue.identify(Some(Identity {
        producer_id: 8,
        epoch: 0,
    }));
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    assert_eq!(send(&mut queue, session), Some(vec![1]));
}

#[test]
fn partition_with_many_small_batches_leaves_some_for_the_next_request() {
    let identity = Identity {
        producer_id: 7,
        epoch: 0,
    };
    let mut queue = Queue::new(NO_LINGER, Sequences::test(Some(identity)));
    let session = queue.begin_session();
    for partition in [1, 0, 0, 0, 0, 0, 2] {
        queue.add(batch(partition, 1));
    }
    assert_eq!(send(&mut queue, session), Some(vec![1, 0, 0, 0, 0]));
    assert_eq!(send(&mut queue, session), Some(vec![0, 2]));
}
