//! Tests of the rules of refusals, expiry and order.

use std::time::Duration;

use super::super::batch::test_batch;
use super::super::sequences::{Identity, Slot};
use super::*;

fn batch(partition: u32, since: Instant) -> CutBatch {
    CutBatch {
        partition,
        since,
        ..test_batch(Slot::test(partition), 1)
    }
}

/// Without numbers.
fn off() -> Sequences {
    Sequences::test(None)
}

fn now() -> Instant {
    crate::clock::now()
}

/// Takes and encodes a request for these partitions, and sends it.
fn send(flights: &mut Flights, partitions: &[u32]) {
    send_with(flights, &mut off(), partitions);
}

fn send_with(flights: &mut Flights, sequences: &mut Sequences, partitions: &[u32]) {
    let since = now();
    flights.begin(Vec::new());
    let batches = partitions.iter().map(|partition| batch(*partition, since));
    assert!(flights.cut(batches.collect()));
    assert!(flights.send_last(sequences).is_some());
}

/// The awaited request is answered: these partitions are refused, the others
/// settled.
fn answer(flights: &mut Flights, refused: &[u32]) {
    let request = Arc::clone(flights.awaited().unwrap());
    let refused = request.iter().filter(|b| refused.contains(&b.partition));
    let refused = refused.map(|batch| RefusedBatch {
        batch: batch.clone(),
        error: Error::Closed,
    });
    flights.answered(refused.collect());
}

fn sent_next(flights: &mut Flights) -> Option<Vec<u32>> {
    if flights.next() != Next::Send {
        return None;
    }
    let request = flights.send(&mut off())?;
    Some(request.iter().map(|batch| batch.partition).collect())
}

#[test]
fn refused_requests_are_sent_again_one_by_one_and_in_order() {
    let mut flights = Flights::default();
    for partitions in [[0, 1], [2, 3], [4, 5]] {
        send(&mut flights, &partitions);
    }
    answer(&mut flights, &[1]);
    answer(&mut flights, &[]);
    assert!(flights.held_by().is_none(), "one isn't answered yet");
    flights.resume();
    assert_eq!(sent_next(&mut flights), None);
    answer(&mut flights, &[4, 5]);
    assert!(flights.held_by().is_some());
    flights.resume();
    assert_eq!(sent_next(&mut flights), Some(vec![1]));
    assert_eq!(sent_next(&mut flights), Some(vec![4, 5]));
    assert_eq!(flights.next(), Next::New);
}

#[test]
fn pause_ends_when_all_that_was_refused_is_overtaken() {
    let mut flights = Flights::default();
    send(&mut flights, &[0, 1]);
    send(&mut flights, &[0, 1]);
    answer(&mut flights, &[0, 1]);
    let later = Arc::clone(flights.awaited().unwrap());
    assert_eq!(flights.overtake(&later[0]).len(), 1);
    assert!(flights.is_paused());
    assert_eq!(flights.overtake(&later[1]).len(), 1);
    assert!(!flights.is_paused());
    answer(&mut flights, &[]);
    assert_eq!(flights.len(), 0);
    assert_eq!(flights.next(), Next::New);
}

#[test]
fn lost_connection_sends_everything_again_in_order() {
    let mut flights = Flights::default();
    for partition in 0..3 {
        send(&mut flights, &[partition]);
    }
    answer(&mut flights, &[0]);
    flights.send_again();
    for partition in 0..3 {
        assert_eq!(sent_next(&mut flights), Some(vec![partition]));
    }
}

#[test]
fn only_the_awaited_request_fails_with_what_ended_the_stream() {
    let mut flights = Flights::default();
    for partition in 0..3 {
        send(&mut flights, &[partition]);
    }
    answer(&mut flights, &[0]);
    let failed = flights.fail_awaited(&mut off());
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].partition, 1);
    flights.send_again();
    assert_eq!(sent_next(&mut flights), Some(vec![0]));
    assert_eq!(sent_next(&mut flights), Some(vec![2]));
}

#[test]
fn the_old_part_of_a_request_expires() {
    let mut flights = Flights::default();
    let (old, young) = (now(), now() + Duration::from_secs(10));
    flights.begin(Vec::new());
    let request = vec![batch(0, old), batch(1, old), batch(2, young)];
    assert!(flights.cut(request));
    let between = old + Duration::from_secs(5);
    let expired: Vec<_> = flights.expire(between).into_iter().collect();
    let partitions: Vec<_> = expired.iter().map(|(batch, _)| batch.partition).collect();
    assert_eq!(partitions, [0, 1]);
    assert_eq!(sent_next(&mut flights), Some(vec![2]));
    // On its way, it is no more taken back, but overdue.
    let late = young + Duration::from_secs(5);
    assert!(flights.expire(late).is_empty());
    assert!(flights.is_overdue(late) && !flights.is_overdue(between));
    answer(&mut flights, &[2]);
    let expired = flights.expire(late);
    assert!(
        matches!(expired[..], [(_, Some(Error::Closed))]),
        "{expired:?}"
    );
    assert_eq!(flights.len(), 0);
}

/// The states in their order, and the first partition of each request.
fn picture(flights: &Flights) -> Vec<(u8, u32)> {
    let rank = |flight: &Flight| match flight {
        Flight::Refused(_) => 0,
        Flight::Sent(_) => 1,
        Flight::Unsent(_) => 2,
        Flight::Cutting(_) => 3,
    };
    let number = |flight: &Flight| flight.batches().next().map(|(b, _)| b.partition);
    let flights = flights.flights.iter();
    flights
        .map(|flight| (rank(flight), number(flight).unwrap_or(u32::MAX)))
        .collect()
}

/// Does one thing at random; request n is for partition n. Returns what was
/// settled.
fn do_something(flights: &mut Flights, random: u64, taken: &mut u32) -> Option<u32> {
    let is_cutting = matches!(flights.flights.back(), Some(Flight::Cutting(_)));
    let awaited = flights.awaited().map(|request| request[0].partition);
    match (random % 8, awaited) {
        (0 | 1, _) if flights.next() == Next::New => flights.begin(Vec::new()),
        (2 | 3, _) if is_cutting => {
            assert!(flights.cut(vec![batch(*taken, now())]));
            *taken += 1;
            let _ = flights.send_last(&mut off());
        }
        (4, _) => drop(sent_next(flights)),
        (5, Some(_)) => {
            answer(flights, &[]);
            return awaited;
        }
        (6, Some(partition)) => answer(flights, &[partition]),
        (7, _) if random & 0x38 == 0 => flights.send_again(),
        (7, _) => flights.resume(),
        _ => {}
    }
    None
}

#[test]
fn whatever_happens_requests_stay_in_order_and_none_is_lost() {
    for seed in 1..500_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut flights = Flights::default();
        let (mut taken, mut settled) = (0, Vec::new());
        for _ in 0..200 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            settled.extend(do_something(&mut flights, random >> 20, &mut taken));
            let picture = picture(&flights);
            assert!(picture.is_sorted_by_key(|(rank, _)| *rank), "{picture:?}");
            assert!(picture.is_sorted_by_key(|(_, n)| *n), "{picture:?}");
        }
        let left = picture(&flights).into_iter().map(|(_, number)| number);
        settled.extend(left.filter(|number| *number != u32::MAX));
        settled.sort_unstable();
        assert!(settled.into_iter().eq(0..taken), "seed {seed}");
    }
}

const IDENTITY: Identity = Identity {
    producer_id: 7,
    epoch: 0,
};

/// Sends a batch for each of these times, all for one partition, over a
/// connection that is lost.
fn lost(sequences: &mut Sequences, times: &[Instant]) -> Flights {
    let mut flights = Flights::default();
    for since in times {
        flights.begin(Vec::new());
        assert!(flights.cut(vec![batch(0, *since)]));
        assert!(flights.send_last(sequences).is_some());
    }
    flights.send_again();
    flights
}

/// The numbers of all batches; those of batches that were given up, negative.
fn numbers(flights: &Flights) -> Vec<Option<i64>> {
    let batches = flights.flights.iter().flat_map(Flight::batches);
    let number = |(batch, _): (&CutBatch, _)| {
        let base = batch.number.map(|number| i64::from(number.base) + 1);
        base.map(|base| if batch.given_up { -base } else { base })
    };
    batches.map(number).collect()
}

#[test]
fn what_is_given_up_is_sent_while_another_that_was_lost_depends_on_it() {
    let mut sequences = Sequences::test(Some(IDENTITY));
    let (old, young) = (now(), now() + Duration::from_secs(10));
    let mut flights = lost(&mut sequences, &[old, young]);
    let expired = flights.expire(old + Duration::from_secs(5));
    assert_eq!(expired.len(), 1);
    assert!(flights.expire(old + Duration::from_secs(5)).is_empty());
    assert!(flights.renumber(&mut sequences).is_empty());
    assert_eq!(numbers(&flights), [Some(-1), Some(2)]);
    assert_eq!(flights.completions().count(), 1, "one isn't settled");
    // Nobody waits for the first, so that no connection is late with it.
    assert!(flights.send(&mut sequences).is_some());
    assert!(!flights.is_overdue(young));
    flights.send_again();

    assert_eq!(flights.expire(young + Duration::from_secs(5)).len(), 1);
    assert!(flights.is_settled());
    assert!(flights.renumber(&mut sequences).is_empty());
    assert_eq!(flights.len(), 0);
    assert!(sequences.is_blocked(), "the next number isn't known");
}

#[test]
fn what_no_answer_tells_of_is_given_up_and_what_was_not_sent_goes_on() {
    let mut sequences = Sequences::test(Some(IDENTITY));
    let mut flights = lost(&mut sequences, &[now(), now(), now()]);
    assert!(flights.send(&mut sequences).is_some());
    assert_eq!(flights.fail_sent().len(), 1);
    assert!(flights.renumber(&mut sequences).is_empty());
    assert_eq!(numbers(&flights), [Some(-1), Some(2), Some(3)]);
    for _ in 0..3 {
        assert!(flights.send(&mut sequences).is_some());
    }
    assert_eq!(flights.fail_sent().len(), 2);
    assert!(flights.is_settled());
}

#[test]
fn batches_that_were_answered_are_numbered_anew_when_what_they_follow_is_dropped() {
    let mut sequences = Sequences::test(Some(IDENTITY));
    let old = now();
    let mut flights = lost(&mut sequences, &[old]);
    assert!(flights.send(&mut sequences).is_some());
    send_with(&mut flights, &mut sequences, &[0]);
    answer(&mut flights, &[0]);
    answer(&mut flights, &[0]);
    flights.expire(old + Duration::from_nanos(1));
    assert_eq!(numbers(&flights), [Some(-1), Some(2)]);
    assert!(flights.renumber(&mut sequences).is_empty());
    assert_eq!(numbers(&flights), [None]);
    assert!(sequences.is_blocked());
}
