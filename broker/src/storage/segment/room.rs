//! Takes room on the disk ahead of a small segment.
//!
//! Where thousands of segments get a little each, one after the other, a file system
//! gives each piece the next free place: what belongs together lies scattered, each piece
//! needs its entry in the file's map, and each flush changes that map. With room taken
//! ahead a segment lies in few places. What is taken doubles, as the segment does, so it
//! is never more than the segment has, and stops at [`LARGE`]: what is written to larger
//! ones is large itself.

use std::ops::Range;

const PAGE: u64 = crate::storage::dir::PAGE as u64;

/// Segments of this size and above have no room taken ahead: bytes.
const LARGE: u64 = if cfg!(test) { 16 << 10 } else { 1 << 20 };

/// The room to take, if any, when a segment of `before` bytes is to grow to `after`.
pub(super) fn room_ahead(before: u64, after: u64) -> Option<Range<u64>> {
    let (had, wanted) = (room_for(before), room_for(after));
    (wanted > had.max(after)).then_some(had..wanted)
}

/// The room that was taken for a segment of `len` bytes: none for less than a page.
pub(super) fn room_for(len: u64) -> u64 {
    match len {
        LARGE.. => len,
        ..=PAGE => 0,
        _ => len.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_for_each_doubling_up_to_a_size() {
        assert_eq!(room_ahead(64, 4096), None);
        assert_eq!(room_ahead(64, 4097), Some(0..8192));
        assert_eq!(room_ahead(4096, 9000), Some(0..16384));
        assert_eq!(room_ahead(5000, 8192), None);
        assert_eq!(room_ahead(5000, 8193), Some(8192..16384));
        assert_eq!(room_ahead(5000, LARGE), None);
        assert_eq!(room_ahead(LARGE - 1, LARGE + 1), None);
        assert_eq!(room_ahead(LARGE, 10 * LARGE), None);
    }
}
