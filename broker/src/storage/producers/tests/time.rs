//! How long producers and requests are remembered.

use super::*;

#[test]
fn silent_producers_are_forgotten_after_a_day() {
    let mut log = Log::default();
    log.append(&stamp(1, 0, 0), 1).unwrap();
    log.now_ms = HOUR_MS;
    log.append(&stamp(2, 0, 0), 1).unwrap();
    assert!(log.table().expire(24 * HOUR_MS - 1));
    log.append(&stamp(1, 0, 1), 1).unwrap();
    assert!(log.table().expire(25 * HOUR_MS - 1));
    let gone = log.append(&stamp(2, 0, 1), 1);
    assert_eq!(gone, Ok(3), "it was silent for a day, less a millisecond");
    assert!(!log.table().expire(50 * HOUR_MS));
}

#[test]
fn time_in_which_the_broker_did_not_run_does_not_count() {
    let mut log = Log::default();
    log.append(&stamp(1, 0, 0), 1).unwrap();
    log.append(&request(1), 1).unwrap();
    assert_eq!(log.table().last_ms(), Some(0));
    let later = 100 * HOUR_MS;
    log.table().resume(later, later, 50);
    log.now_ms = later + 600_000;
    assert!(log.expire());
    let known = Ok(Admitted::Duplicate(Offset(1)));
    assert_eq!(log.admit(&request(1), 1), known);
    log.append(&stamp(1, 0, 1), 1).unwrap();
}

#[test]
fn a_clock_that_is_set_forward_makes_nobody_silent() {
    let mut log = Log::default();
    log.append(&stamp(1, 0, 0), 1).unwrap();
    log.append(&request(1), 1).unwrap();
    // One comes before the jump is noticed, and has its time behind it.
    log.now_ms = 50 * HOUR_MS;
    log.append(&stamp(2, 0, 0), 1).unwrap();
    log.table().shift(50 * HOUR_MS - 10, 50 * HOUR_MS);
    assert!(log.expire());
    assert_eq!(log.table().last_ms(), Some(50 * HOUR_MS));
    assert_eq!(
        log.admit(&request(1), 1),
        Ok(Admitted::Duplicate(Offset(1)))
    );
    assert_eq!(
        log.admit(&stamp(1, 0, 0), 1),
        Ok(Admitted::Duplicate(Offset(0)))
    );
    // It takes as long as ever from here on.
    assert!(log.table().expire(74 * HOUR_MS - 11));
    log.table().expire(74 * HOUR_MS - 10);
    assert_eq!(log.admit(&stamp(1, 0, 1), 1), Err(SequenceError::Expired));
    assert_eq!(
        log.admit(&stamp(2, 0, 0), 1),
        Ok(Admitted::Duplicate(Offset(2)))
    );
}

#[test]
fn after_a_start_nobody_is_forgotten_for_as_long_as_batches_are_sent_again() {
    let mut log = Log::default();
    log.append(&stamp(1, 0, 0), 1).unwrap();
    // The clock was set meanwhile, and all that tells so are the times in the log.
    log.now_ms = 100 * HOUR_MS;
    log.append(&stamp(2, 0, 0), 1).unwrap();
    log.table().resume(0, 100 * HOUR_MS, 50);
    log.now_ms = 101 * HOUR_MS - 1;
    assert!(log.expire());
    let known = Ok(Admitted::Duplicate(Offset(0)));
    assert_eq!(log.admit(&stamp(1, 0, 0), 1), known);
    log.now_ms = 101 * HOUR_MS;
    assert!(log.expire());
    assert_eq!(log.admit(&stamp(1, 0, 1), 1), Err(SequenceError::Expired));
}
