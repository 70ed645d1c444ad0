//! Which segments may go. Pure: sizes, times and limits in, a count out.
//!
//! | sealed segment | limit by age | limit by size | goes? |
//! |---|---|---|---|
//! | youngest record is older than the limit | set | any | yes, if all older segments go, too |
//! | the partition without it is still larger than the limit | any | set | yes, oldest first |
//! | otherwise | | | no, and none behind it |
//!
//! The active segment goes, replaced by an empty one, only by age, and only
//! when all sealed ones went: so a topic that has become silent becomes empty.

use super::segment::SegmentExtent;

/// What a topic's configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Records older than this may go: milliseconds.
    pub(super) max_age_ms: Option<u64>,
    /// The partition may be this large: bytes.
    pub(super) max_bytes: Option<u64>,
}

/// What may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired {
    /// The number of sealed segments, oldest first.
    pub(super) sealed: usize,
    /// The records of the active segment, too.
    pub(super) active: bool,
}

/// Applies the table.
pub(super) fn expired(
    sealed: &[SegmentExtent],
    active: SegmentExtent,
    limits: Limits,
    now_ms: i64,
) -> Expired {
    let too_old = |segment: &SegmentExtent| {
        limits.max_age_ms.is_some_and(|max_age_ms| {
            let age = i128::from(now_ms) - i128::from(segment.max_timestamp_ms);
            age > i128::from(max_age_ms)
        })
    };
    let mut size: u64 = sealed.iter().map(|segment| segment.len).sum::<u64>() + active.len;
    let mut count = 0;
    for segment in sealed {
        let too_much = limits
            .max_bytes
            .is_some_and(|max| size - segment.len >= max);
        if !too_old(segment) && !too_much {
            break;
        }
        size -= segment.len;
        count += 1;
    }
    Expired {
        sealed: count,
        active: count == sealed.len() && too_old(&active),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn segment(len: u64, age_ms: i64) -> SegmentExtent {
        SegmentExtent {
            len,
            max_timestamp_ms: NOW - age_ms,
        }
    }

    fn by_age(max_age_ms: u64) -> Limits {
        Limits {
            max_age_ms: Some(max_age_ms),
            max_bytes: None,
        }
    }

    fn by_size(max_bytes: u64) -> Limits {
        Limits {
            max_age_ms: None,
            max_bytes: Some(max_bytes),
        }
    }

    #[test]
    fn old_segments_go_in_order_and_the_first_young_one_stops_it() {
        let sealed = [segment(10, 900), segment(10, 100), segment(10, 800)];
        let expired = expired(&sealed, segment(10, 0), by_age(500), NOW);
        assert_eq!(
            expired,
            Expired {
                sealed: 1,
                active: false
            }
        );
    }

    #[test]
    fn silent_topic_becomes_empty() {
        let sealed = [segment(10, 900)];
        assert_eq!(
            expired(&sealed, segment(10, 600), by_age(500), NOW),
            Expired {
                sealed: 1,
                active: true
            }
        );
        assert_eq!(
            expired(&sealed, segment(10, 600), by_size(1), NOW),
            Expired {
                sealed: 1,
                active: false
            }
        );
    }

    #[test]
    fn size_keeps_at_least_what_is_allowed() {
        let sealed = [segment(10, 0), segment(10, 0), segment(10, 0)];
        assert_eq!(expired(&sealed, segment(5, 0), by_size(20), NOW).sealed, 1);
        assert_eq!(expired(&sealed, segment(5, 0), by_size(25), NOW).sealed, 1);
        assert_eq!(expired(&sealed, segment(5, 0), by_size(26), NOW).sealed, 0);
        assert_eq!(expired(&sealed, segment(5, 0), by_size(0), NOW).sealed, 3);
    }

    #[test]
    fn records_from_the_future_stay() {
        let sealed = [segment(10, -5000)];
        assert_eq!(expired(&sealed, segment(1, 0), by_age(0), NOW).sealed, 0);
    }
}
