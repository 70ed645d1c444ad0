//! Tests of the queue's rules; there is no clock and no connection in them.

use std::task::Waker;

use bytes::Bytes;
use statecast_proto::batch::EncodedBatch;

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
        content: Content::Encoded(encoded),
        completion: Completion::new(partition),
        cost: len,
        since: start(),
    }
}

fn cut(batches: Vec<WaitingBatch>) -> Arc<Request> {
    Arc::new(batches.into_iter().map(|batch| batch.cut().0).collect())
}

fn partitions(request: &Request) -> Vec<u32> {
    request.iter().map(|batch| batch.partition).collect()
}

/// What the outbox of the session sends next, if anything.
fn send(queue: &mut Queue, session: u64) -> Option<Vec<u32>> {
    match queue.step(session, start(), Waker::noop()) {
        Step::Send(request) => Some(partitions(&request)),
        Step::Cut(batches) => {
            let request = cut(batches);
            let sent = partitions(&request);
            let (still_on, _) = queue.cut(session, request, Vec::new());
            still_on.then_some(sent)
        }
        Step::At(_) | Step::Idle | Step::End => None,
    }
}

#[test]
fn small_batches_go_at_once_while_few_requests_are_on_their_way() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..6 {
        queue.add(batch(partition, 10));
        let sent = send(&mut queue, session);
        assert_eq!(sent.is_some(), partition < 4, "partition {partition}");
    }
    queue.answered().unwrap();
    assert_eq!(send(&mut queue, session), Some(vec![4, 5]));
}

#[test]
fn full_requests_go_until_too_many_are_on_their_way() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..8 {
        queue.add(batch(partition, 100));
    }
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut queue, session)).collect();
    assert_eq!(sent, [[0], [1], [2], [3], [4], [5]]);
    queue.answered().unwrap();
    assert_eq!(send(&mut queue, session), Some(vec![6]));
    assert_eq!(send(&mut queue, session), None);
}

#[test]
fn request_holds_no_more_than_its_worth_but_at_least_one_batch() {
    let mut queue = Queue::new(NO_LINGER);
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
    let pace = Pace {
        linger: Duration::from_secs(60),
        ..NO_LINGER
    };
    let mut queue = Queue::new(pace);
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
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    for partition in 0..3 {
        queue.add(batch(partition, 100));
        assert!(send(&mut queue, session).is_some());
    }
    queue.answered().unwrap();
    queue.add(batch(3, 100));
    let next = queue.begin_session();
    assert_eq!(send(&mut queue, session), None, "the old outbox is done");
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut queue, next)).collect();
    assert_eq!(sent, [[1], [2], [3]]);
}

#[test]
fn request_cut_while_the_connection_is_lost_keeps_its_place() {
    let mut queue = Queue::new(NO_LINGER);
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
    let (still_on, _) = queue.cut(session, cut(batches), Vec::new());
    assert!(!still_on);
    assert_eq!(send(&mut queue, next), Some(vec![0]));
    assert_eq!(send(&mut queue, next), Some(vec![1]));
}

#[test]
fn refused_batches_go_before_what_waits() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    let (refused, _) = queue.answered().unwrap();
    queue.pause();
    queue.add(batch(1, 100));
    assert_eq!(send(&mut queue, session), None);
    assert!(queue.is_answered());
    let refused = Arc::into_inner(refused).unwrap();
    queue.resume_with(refused);
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    assert_eq!(send(&mut queue, session), Some(vec![1]));
}

#[test]
fn giving_up_takes_what_is_too_old_and_leaves_the_rest() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 10));
    let before = start().checked_sub(Duration::from_secs(60)).unwrap();
    let (requests, batches) = queue.give_up(before, false);
    assert_eq!((requests.len(), batches.len()), (0, 0));
    let (requests, batches) = queue.give_up(before, true);
    assert_eq!((requests.len(), batches.len()), (1, 0));
    let (requests, batches) = queue.give_up(start() + Duration::from_secs(60), false);
    assert_eq!((requests.len(), batches.len()), (0, 1));
    assert!(queue.is_empty());
}

#[test]
fn closed_queue_ends_once_everything_was_sent() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 10));
    queue.close();
    assert_eq!(send(&mut queue, session), Some(vec![0]));
    assert!(matches!(
        queue.step(session, start(), Waker::noop()),
        Step::End
    ));
}

#[test]
fn batches_that_waited_for_room_get_their_timer_once_there_is_room() {
    let pace = Pace {
        linger: Duration::from_secs(60),
        ..NO_LINGER
    };
    let mut queue = Queue::new(pace);
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
    let (_, waker) = queue.answered().unwrap();
    assert!(waker.is_some(), "nobody would start the timer");
    let step = queue.step(session, start(), Waker::noop());
    assert!(matches!(step, Step::At(_)), "{step:?}");
    let (_, waker) = queue.answered().unwrap();
    assert!(waker.is_none(), "the timer runs");
}

#[test]
fn refused_batches_wait_for_a_request_that_is_being_cut() {
    let mut queue = Queue::new(NO_LINGER);
    let session = queue.begin_session();
    queue.add(batch(0, 100));
    assert!(send(&mut queue, session).is_some());
    queue.add(batch(1, 100));
    let Step::Cut(batches) = queue.step(session, start(), Waker::noop()) else {
        panic!("a full batch goes");
    };
    queue.answered().unwrap();
    queue.pause();
    assert!(!queue.is_answered());
    let (still_on, _) = queue.cut(session, cut(batches), Vec::new());
    assert!(still_on && !queue.is_answered());
    queue.answered().unwrap();
    assert!(queue.is_answered());
}
