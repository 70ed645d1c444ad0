//! How many journal files one pass takes.
//!
//! What a pass costs is mostly a matter of how many partitions it appends to, not of how
//! much: each has a file to be written, and a place on the disk to be found for it. So
//! where many partitions get a little each, a pass takes several files, and one that
//! would have few of them is better made later. Half of the files stay for the writer
//! while a pass is made.

use super::pass::MAX_SINGLE_FLUSHES;
use crate::storage::journal::ClosedContent;

/// A pass takes one more file while a partition gets less than this: bytes, on average.
const ENOUGH_PER_PARTITION: usize = if cfg!(test) { 8 << 10 } else { 64 << 10 };

/// The oldest closed files that the next pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    /// How many.
    pub(super) files: usize,
    /// Whether a pass over them costs little for what it does; if not, it is better to
    /// wait until more are closed.
    pub(super) is_worthwhile: bool,
}

impl Portion {
    /// Of files with such contents, oldest first, in a journal of up to `max_files`.
    pub(super) fn of(closed: &[ClosedContent], max_files: usize) -> Portion {
        let most = (max_files / 2).max(1);
        let mut bytes = 0;
        let mut partitions = 1;
        for (index, content) in closed.iter().take(most).enumerate() {
            bytes += content.bytes;
            partitions = partitions.max(content.partitions);
            if bytes / partitions >= ENOUGH_PER_PARTITION {
                return Portion {
                    files: index + 1,
                    is_worthwhile: true,
                };
            }
        }
        let files = closed.len().min(most);
        // One before the last that it could take: the writer is to have room for as long as
        // the pass takes.
        let gathered = files >= (most - 1).max(1);
        Portion {
            files,
            is_worthwhile: files > 0 && (gathered || partitions <= MAX_SINGLE_FLUSHES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many files with this in each.
    fn portion(count: usize, bytes: usize, partitions: usize) -> (usize, bool) {
        let content = ClosedContent { bytes, partitions };
        let portion = Portion::of(&vec![content; count], 16);
        (portion.files, portion.is_worthwhile)
    }

    #[test]
    fn a_pass_takes_so_many_files_that_each_partition_gets_enough() {
        assert_eq!(portion(3, 100 * ENOUGH_PER_PARTITION, 100), (1, true));
        assert_eq!(portion(3, 50 * ENOUGH_PER_PARTITION, 100), (2, true));
        assert_eq!(portion(12, ENOUGH_PER_PARTITION, 7), (7, true));
        assert_eq!(portion(12, ENOUGH_PER_PARTITION, 1_000), (8, true));
    }

    #[test]
    fn few_files_with_little_of_many_partitions_are_not_worth_a_pass() {
        let many = MAX_SINGLE_FLUSHES + 1;
        assert_eq!(portion(0, 0, 0), (0, false));
        assert_eq!(portion(1, 100, many), (1, false));
        assert_eq!(portion(6, 100, many), (6, false));
        assert_eq!(portion(7, 100, many), (7, true));
        assert_eq!(portion(15, 100, many), (8, true));
        assert_eq!(portion(1, 100, many - 1), (1, true));
    }

    #[test]
    fn a_journal_of_few_files_has_room_for_a_pass() {
        let content = ClosedContent {
            bytes: 100,
            partitions: 1_000,
        };
        for max_files in 1..=5 {
            let portion = Portion::of(&[content; 8], max_files);
            assert_eq!(portion.files, (max_files / 2).max(1));
            let first = Portion::of(&[content], max_files);
            assert!(first.is_worthwhile, "{max_files}");
        }
    }
}
