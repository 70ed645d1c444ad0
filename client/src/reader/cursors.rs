//! Where a reader is in each of its partitions: what to ask for, what to hand
//! out, and where to go on after a lost connection. Pure.

use std::ops::Range;

use statecast_proto::v1;

use super::start::Start;

#[derive(Debug)]
pub(super) struct Cursors {
    /// In the order of their partitions.
    partitions: Vec<Cursor>,
    /// The start of all partitions, when none is named.
    start: Start,
    /// No partition is named: all are read.
    whole: bool,
    until_end: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    partition: u32,
    start: Start,
    /// The next offset to hand out, once the broker has said where that is.
    next: Option<u64>,
    /// Where to stop: the high watermark when the reader opened.
    end: Option<u64>,
}

impl Cursor {
    fn is_at_end(&self) -> bool {
        matches!((self.next, self.end), (Some(next), Some(end)) if next >= end)
    }
}

impl Cursors {
    /// Reads these partitions, or all when there is none.
    pub(super) fn new(partitions: &[(u32, Option<Start>)], start: Start, until_end: bool) -> Self {
        let cursor = |&(partition, own): &(u32, Option<Start>)| Cursor {
            partition,
            start: own.unwrap_or(start),
            next: None,
            end: None,
        };
        let mut partitions: Vec<_> = partitions.iter().map(cursor).collect();
        partitions.sort_by_key(|cursor| cursor.partition);
        Self {
            whole: partitions.is_empty(),
            partitions,
            start,
            until_end,
        }
    }

    /// What to ask the broker for: partitions that are read to their end are
    /// left out. Those that a topic which is read whole got meanwhile are read
    /// from their beginning.
    pub(super) fn request(&self, topic: &str, max_bytes: Option<u32>) -> v1::FetchRequest {
        let unfinished = self.partitions.iter().filter(|cursor| !cursor.is_at_end());
        let partitions = unfinished.map(|cursor| v1::PartitionStart {
            partition: cursor.partition,
            start: Some(cursor.next.map_or(cursor.start, Start::Offset).into_wire()),
        });
        let and_others = self.whole && !self.until_end && !self.partitions.is_empty();
        let start = match and_others {
            true => Start::Earliest,
            false => self.start,
        };
        v1::FetchRequest {
            topic: topic.to_owned(),
            partitions: partitions.collect(),
            start: Some(start.into_wire()),
            until_end: self.until_end,
            max_bytes,
            and_others,
        }
    }

    /// The broker says where it begins. After a lost connection that is where
    /// it was asked to; the end stays the one of the first time.
    pub(super) fn opened(&mut self, positions: &[v1::PartitionPosition]) {
        for position in positions {
            let until_end = self.until_end;
            let cursor = self.cursor(position.partition);
            cursor.next.get_or_insert(position.offset);
            if until_end {
                cursor.end.get_or_insert(position.high_watermark);
            }
        }
    }

    /// A batch of a partition arrived. The offsets of it that are to be handed
    /// out; empty when it was already.
    pub(super) fn take(&mut self, partition: u32, base: u64, next: u64) -> Range<u64> {
        let cursor = self.cursor(partition);
        let from = cursor.next.unwrap_or(base);
        let end = cursor.end.unwrap_or(u64::MAX);
        cursor.next = Some(from.max(next));
        from..next.min(end)
    }

    /// Reading goes on at this offset.
    pub(super) fn skip_to(&mut self, partition: u32, offset: u64) {
        let cursor = self.cursor(partition);
        cursor.next = Some(cursor.next.map_or(offset, |next| next.max(offset)));
    }

    /// The next offset of a partition, once known.
    pub(super) fn position(&self, partition: u32) -> Option<u64> {
        let index = self.find(partition).ok()?;
        self.partitions[index].next
    }

    /// The next offset of each partition, once known.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, u64)> {
        self.partitions
            .iter()
            .filter_map(|cursor| Some((cursor.partition, cursor.next?)))
    }

    /// Whether everything that was to be read was.
    pub(super) fn is_finished(&self) -> bool {
        self.until_end
            && !self.partitions.is_empty()
            && self.partitions.iter().all(Cursor::is_at_end)
    }

    fn cursor(&mut self, partition: u32) -> &mut Cursor {
        let index = match self.find(partition) {
            Ok(index) => index,
            Err(index) => {
                let cursor = Cursor {
                    partition,
                    start: self.start,
                    next: None,
                    end: None,
                };
                self.partitions.insert(index, cursor);
                index
            }
        };
        &mut self.partitions[index]
    }

    fn find(&self, partition: u32) -> Result<usize, usize> {
        self.partitions
            .binary_search_by_key(&partition, |cursor| cursor.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(partition: u32, offset: u64, high_watermark: u64) -> v1::PartitionPosition {
        v1::PartitionPosition {
            partition,
            offset,
            log_start_offset: 0,
            high_watermark,
        }
    }

    fn asked(cursors: &Cursors) -> Vec<(u32, Start)> {
        let request = cursors.request("t", None);
        let start = |p: &v1::PartitionStart| {
            let start = p.start.unwrap().position.unwrap();
            (p.partition, Start::from_wire(&start))
        };
        request.partitions.iter().map(start).collect()
    }

    #[test]
    fn all_partitions_are_asked_for_without_naming_them() {
        let cursors = Cursors::new(&[], Start::Latest, false);
        let request = cursors.request("t", Some(4096));
        assert!(request.partitions.is_empty());
        assert_eq!(request.start, Some(Start::Latest.into_wire()));
        assert_eq!(request.max_bytes, Some(4096));
    }

    #[test]
    fn resume_names_the_offset_behind_the_last_batch() {
        let mut cursors = Cursors::new(&[], Start::Time(99), false);
        cursors.opened(&[position(0, 5, 9), position(1, 3, 3)]);
        assert_eq!(cursors.take(0, 4, 8), 5..8);
        assert_eq!(
            asked(&cursors),
            [(0, Start::Offset(8)), (1, Start::Offset(3))]
        );
    }

    #[test]
    fn partitions_that_are_added_are_read_from_their_beginning() {
        let mut cursors = Cursors::new(&[], Start::Latest, false);
        assert!(!cursors.request("t", None).and_others);
        cursors.opened(&[position(0, 5, 9)]);
        let resumed = cursors.request("t", None);
        assert!(resumed.and_others);
        assert_eq!(resumed.start, Some(Start::Earliest.into_wire()));
        // While the connection lives, the broker says that there are more.
        cursors.opened(&[position(1, 0, 0)]);
        assert_eq!(
            asked(&cursors),
            [(0, Start::Offset(5)), (1, Start::Offset(0))]
        );
        let named = Cursors::new(&[(0, None)], Start::Latest, false);
        assert!(!named.request("t", None).and_others);
    }

    #[test]
    fn start_is_asked_for_again_when_the_first_attempt_never_opened() {
        let cursors = Cursors::new(
            &[(2, Some(Start::Latest)), (1, None)],
            Start::Earliest,
            false,
        );
        assert_eq!(asked(&cursors), [(1, Start::Earliest), (2, Start::Latest)]);
    }

    #[test]
    fn what_was_handed_out_is_not_handed_out_again() {
        let mut cursors = Cursors::new(&[], Start::Earliest, false);
        cursors.opened(&[position(0, 0, 9)]);
        assert_eq!(cursors.take(0, 0, 5), 0..5);
        assert!(cursors.take(0, 0, 5).is_empty());
        assert_eq!(cursors.take(0, 3, 7), 5..7);
    }

    #[test]
    fn end_stays_that_of_the_first_opening() {
        let mut cursors = Cursors::new(&[], Start::Earliest, true);
        cursors.opened(&[position(0, 0, 6), position(1, 4, 4)]);
        assert_eq!(cursors.take(0, 0, 5), 0..5);
        // The connection is lost; meanwhile records were appended.
        assert_eq!(asked(&cursors), [(0, Start::Offset(5))]);
        cursors.opened(&[position(0, 5, 20)]);
        assert!(!cursors.is_finished());
        assert_eq!(cursors.take(0, 5, 9), 5..6);
        assert!(cursors.is_finished());
    }

    #[test]
    fn skipping_never_goes_back() {
        let mut cursors = Cursors::new(&[], Start::Earliest, false);
        cursors.opened(&[position(0, 8, 9)]);
        cursors.skip_to(0, 3);
        assert_eq!(cursors.position(0), Some(8));
        cursors.skip_to(0, 12);
        assert_eq!(cursors.positions().collect::<Vec<_>>(), [(0, 12)]);
    }
}
