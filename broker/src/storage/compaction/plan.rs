//! What is worth to be compacted, and what becomes one segment. Pure.
//!
//! The *clean* part of a partition, its front, has one record of each key at
//! most: that is what passes make of it. What lies behind is *dirty*. A pass
//! notes the keys of the dirty part and goes through both.

use super::CompactionConfig;
use super::input::Sealed;
use crate::model::Offset;

/// Where the dirty part begins; `None` when there is none.
pub(super) fn dirty_from(segments: &[Sealed]) -> Option<Offset> {
    let first = segments.iter().find(|segment| !segment.is_clean())?;
    Some(first.compacted_to.max(first.name.base_offset))
}

/// Whether a pass pays.
pub(super) fn is_due(segments: &[Sealed], config: &CompactionConfig) -> bool {
    let bytes = |segments: &[Sealed]| segments.iter().map(|one| one.state.len).sum::<u64>();
    let clean = segments.iter().take_while(|one| one.is_clean()).count();
    let dirty = bytes(&segments[clean..]);
    let share = u128::from(bytes(segments)) * u128::from(config.min_dirty_percent);
    dirty > 0 && (u128::from(dirty) * 100 >= share || dirty >= config.max_dirty_bytes)
}

/// Whether a segment that has `len` bytes so far should take what is kept of the
/// next one. Of a clean one nearly all will be kept, of a dirty one nobody
/// knows: so a segment becomes at most half as large again as one should be.
pub(super) fn takes(len: u64, next: &Sealed, segment_bytes: u64) -> bool {
    match next.is_clean() {
        true => len + next.state.len <= segment_bytes,
        false => len < segment_bytes / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::segment::{Dropped, SegmentState};

    fn segment(base: u64, len: u64, compacted_to: u64) -> Sealed {
        let state = SegmentState {
            len,
            next_offset: Offset(base + 10),
            ..SegmentState::empty(Offset(base), 0)
        };
        Sealed {
            name: Offset(base).into(),
            state,
            compacted_to: Offset(compacted_to),
            dropped: Dropped::default(),
            behind_damage: false,
        }
    }

    const CONFIG: CompactionConfig = CompactionConfig {
        tombstone_grace_ms: 0,
        min_dirty_percent: 50,
        max_dirty_bytes: 1000,
    };

    #[test]
    fn dirty_part_begins_where_the_first_segment_was_not_compacted() {
        let clean = segment(0, 1, 10);
        assert_eq!(dirty_from(&[]), None);
        assert_eq!(dirty_from(&[clean]), None);
        assert_eq!(dirty_from(&[segment(0, 1, 0)]), Some(Offset(0)));
        let partly = [clean, segment(10, 1, 15), segment(20, 1, 30)];
        assert_eq!(dirty_from(&partly), Some(Offset(15)));
        let not_at_all = [clean, segment(10, 1, 0), segment(20, 1, 30)];
        assert_eq!(dirty_from(&not_at_all), Some(Offset(10)));
    }

    #[test]
    fn pass_pays_when_much_is_dirty() {
        let due = |clean: u64, dirty: u64| {
            is_due(&[segment(0, clean, 10), segment(10, dirty, 0)], &CONFIG)
        };
        assert!(!is_due(&[], &CONFIG));
        assert!(!is_due(&[segment(0, 5000, 10)], &CONFIG));
        assert!(is_due(&[segment(0, 64, 0)], &CONFIG));
        assert!(due(100, 100));
        assert!(!due(101, 99));
        assert!(!due(9000, 999));
        assert!(due(9000, 1000), "however little that is of all");
    }

    #[test]
    fn small_neighbours_become_one_segment_of_a_bounded_size() {
        let (clean, dirty) = (segment(10, 60, 20), segment(10, 100, 0));
        assert!(takes(40, &clean, 100));
        assert!(!takes(41, &clean, 100));
        assert!(takes(49, &dirty, 100));
        assert!(!takes(50, &dirty, 100));
    }
}
