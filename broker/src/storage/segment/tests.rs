//! Segments on the simulated disk.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::model::{BatchHeader, CheckedBatch, HEADER_LEN, Offset, PartitionId};
use crate::storage::PARTITIONS_DIR;
use crate::storage::dir::Dir;
use crate::storage::dir::sim::SimDir;
use reader::SegmentReader;

const ID: PartitionId = PartitionId(7);
const BASE: Offset = Offset(100);

/// A segment under construction, and what should be in it.
struct Fixture {
    dir: SimDir,
    writer: Option<SegmentWriter>,
    written: Vec<(BatchHeader, Bytes)>,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = SimDir::new();
        dir.create_dir(Path::new(PARTITIONS_DIR)).unwrap();
        dir.create_dir(&partition_dir(ID)).unwrap();
        let writer = SegmentWriter::create(&dir, ID, BASE, 5).unwrap();
        dir.sync_all().unwrap();
        Fixture {
            dir,
            writer: Some(writer),
            written: Vec::new(),
        }
    }

    /// A segment with batches of 3 records, one for each time.
    fn with_batches(payload_len: usize, times: impl IntoIterator<Item = i64>) -> Fixture {
        let mut fixture = Fixture::new();
        for time in times {
            fixture.append(payload_len, time);
        }
        fixture
    }

    fn writer(&mut self) -> &mut SegmentWriter {
        self.writer.as_mut().expect("it is open")
    }

    fn state(&mut self) -> SegmentState {
        self.writer().state()
    }

    fn append(&mut self, payload_len: usize, time: i64) {
        let byte = u8::try_from(self.written.len() % 251).unwrap();
        let payload = Bytes::from(vec![byte; payload_len]);
        let checked = CheckedBatch {
            payload_crc: crc32fast::hash(&payload),
            payload: payload.clone(),
            record_count: 3,
            max_timestamp_ms: Some(time),
            all_timed: true,
            uncompressed_len: 1,
            attributes: 0,
            stamp: None,
            key_hashes: Vec::new(),
        };
        let header = checked.header(self.state().next_offset, 1);
        let bytes = [&header.encode()[..], &payload].concat();
        let dir = self.dir.clone();
        self.writer().take_room(bytes.len());
        self.writer().append(&dir, &bytes, &[header]).unwrap();
        self.written.push((header, payload));
    }

    fn end(&mut self) -> SegmentEnd {
        let SegmentState {
            len, next_offset, ..
        } = self.state();
        SegmentEnd { len, next_offset }
    }

    /// Cuts the power, and goes on where `state` says.
    fn crash_and_reopen(&mut self, seed: u64, state: SegmentState) {
        self.writer = None;
        self.dir = self.dir.crash(seed);
        self.writer = Some(
            SegmentWriter::open(&self.dir, ID, state, None)
                .unwrap()
                .unwrap(),
        );
    }

    /// As the archiver does from pass to pass, given what it knows of the segment.
    fn next_pass(&mut self, left: Option<GrowingSegment>) {
        let state = self.state();
        let writer = SegmentWriter::open(&self.dir, ID, state, left);
        self.writer = writer.unwrap();
    }

    fn index_file(&self) -> Vec<u8> {
        let index = self.dir.open(&index_path(ID, BASE)).unwrap();
        let mut found = vec![0; usize::try_from(index.len().unwrap()).unwrap()];
        index.read_at(&mut found, 0).unwrap();
        found
    }

    /// What the index should have.
    fn whole_index(&mut self) -> Vec<u8> {
        let len = self.state().len;
        let file = self.dir.open(&log_path(ID, BASE)).unwrap();
        let index = SegmentScan::complete_index(&file, Index::default(), len);
        index.unwrap().encode()
    }

    fn reader(&self) -> SegmentReader {
        SegmentReader::open(&self.dir, ID, BASE.into()).unwrap()
    }

    /// Each offset reads as the batch that covers it, and what follows.
    fn check_every_offset(&mut self, max_bytes: usize) {
        let end = self.end();
        let reader = self.reader();
        for (nth, (header, _)) in self.written.iter().enumerate() {
            for offset in header.base_offset.0..header.next_offset().0 {
                let found = batches(reader.read(Offset(offset), end, max_bytes).unwrap());
                assert_eq!(found[..], self.written[nth..nth + found.len()]);
                let bytes: usize = found.iter().map(|(header, _)| header.batch_len()).sum();
                assert!(found.len() == 1 || bytes <= max_bytes);
            }
        }
    }

    /// The first batch that is as young, by trying them all.
    fn expected_at_time(&self, time: i64) -> Option<Offset> {
        let mut batches = self.written.iter();
        batches
            .find(|(header, _)| header.max_timestamp_ms >= time)
            .map(|(header, _)| header.base_offset)
    }

    fn position_of(&self, nth: usize) -> u64 {
        let before: usize = self.written[..nth]
            .iter()
            .map(|(header, _)| header.batch_len())
            .sum();
        (SEGMENT_HEADER_LEN + before) as u64
    }
}

fn batches(read: SegmentRead) -> Vec<(BatchHeader, Bytes)> {
    match read {
        SegmentRead::Batches(batches) => batches,
        SegmentRead::Damaged { to } => panic!("damaged up to {to}"),
    }
}

fn damaged_to(read: SegmentRead) -> Offset {
    match read {
        SegmentRead::Damaged { to } => to,
        SegmentRead::Batches(batches) => panic!("read {} batches", batches.len()),
    }
}

/// Times that rise on the whole, with some that lie back.
fn uneven_times(count: i64) -> impl Iterator<Item = i64> {
    (0..count).map(|nth| nth * 10 - (nth % 7) * 25)
}

#[test]
fn every_offset_of_small_and_large_batches_is_read() {
    for payload_len in [0, 100, 3_000, 20_000, 70_000] {
        let mut fixture = Fixture::with_batches(payload_len, 0..40);
        fixture.check_every_offset(1);
        fixture.check_every_offset(10_000);
        fixture.check_every_offset(1 << 20);
    }
}

#[test]
fn batch_is_found_by_time_though_times_are_uneven() {
    for payload_len in [100, 5_000, 20_000] {
        let mut fixture = Fixture::with_batches(payload_len, uneven_times(200));
        let end = fixture.end();
        let reader = fixture.reader();
        for time in (-200..2_100).step_by(5).chain([i64::MIN, i64::MAX]) {
            assert_eq!(
                reader.offset_at_time(time, end).unwrap(),
                fixture.expected_at_time(time),
                "{time}"
            );
        }
    }
}

#[test]
fn nothing_behind_the_given_end_is_read() {
    let mut fixture = Fixture::with_batches(1_000, 0..20);
    let end = fixture.end();
    for time in 20..60 {
        fixture.append(1_000, time);
    }
    let reader = fixture.reader();
    let found = batches(reader.read(Offset(157), end, 1 << 20).unwrap());
    assert_eq!(found.last().unwrap().0.next_offset(), end.next_offset);
    assert_eq!(reader.offset_at_time(20, end).unwrap(), None);
}

#[test]
fn room_ahead_of_a_small_segment_is_used_and_given_back_when_it_is_sealed() {
    const CAPACITY: u64 = 1 << 20;
    let mut fixture = Fixture::new();
    let dir = fixture.dir.clone();
    dir.set_capacity(Some(CAPACITY));
    let taken = || CAPACITY - dir.available_bytes().unwrap();
    fixture.append(3000, 1);
    assert_eq!(taken(), fixture.state().len, "it fits in a page");
    fixture.append(3000, 1);
    assert_eq!(taken(), 8192);
    // The disk is full, but for what is taken.
    let others = dir.create(Path::new("others")).unwrap();
    let left = dir.available_bytes().unwrap();
    others.set_len(left).unwrap();
    fixture.append(1000, 1);
    assert_eq!(dir.available_bytes().unwrap(), 0);
    fixture.writer.take().unwrap().seal(&dir).unwrap();
    let len = |path: &Path| dir.open(path).unwrap().len().unwrap();
    assert!(len(&log_path(ID, BASE)) < 8192);
    assert_eq!(taken(), len(&log_path(ID, BASE)) + left);
}

#[test]
fn reader_that_is_open_sees_the_segment_grow_and_sealed() {
    let mut fixture = Fixture::with_batches(1_000, 0..5);
    let reader = fixture.reader();
    let end = fixture.end();
    assert_eq!(batches(reader.read(BASE, end, 1 << 20).unwrap()).len(), 5);
    for time in 5..200 {
        fixture.append(1_000, time);
    }
    let end = fixture.end();
    fixture.writer.take().unwrap().seal(&fixture.dir).unwrap();
    assert_eq!(reader.sealed_len().unwrap(), end.len);
    let last = Offset(end.next_offset.0 - 1);
    let found = batches(reader.read(last, end, 1).unwrap());
    assert_eq!(found[0], fixture.written[199]);
    assert_eq!(
        reader.offset_at_time(150, end).unwrap(),
        Some(Offset(BASE.0 + 450))
    );
}

#[test]
fn lost_or_cut_index_changes_no_answer() {
    let mut fixture = Fixture::with_batches(4_000, uneven_times(60));
    let end = fixture.end();
    let path = index_path(ID, BASE);
    let index = fixture.dir.open(&path).unwrap();
    let entries = index.len().unwrap() / index::ENTRY_LEN as u64;
    assert!(entries >= 10, "{entries}");
    for keep in [entries - 1, 3, 1, 0] {
        index
            .set_len(keep * index::ENTRY_LEN as u64 - u64::from(keep > 0))
            .unwrap();
        fixture.check_every_offset(5_000);
    }
    fixture.dir.remove(&path).unwrap();
    fixture.check_every_offset(5_000);
    let found = fixture.reader().offset_at_time(300, end).unwrap();
    assert_eq!(found, fixture.expected_at_time(300));
}

#[test]
fn lost_index_of_a_growing_segment_is_made_again_once() {
    let mut fixture = Fixture::with_batches(1_000, 0..500);
    fixture.dir.remove(&index_path(ID, BASE)).unwrap();
    let reader = fixture.reader();
    let read_at_end = |fixture: &mut Fixture| {
        let before = fixture.dir.bytes_read();
        let end = fixture.end();
        let (last, payload) = fixture.written.last().unwrap();
        let found = batches(reader.read(last.base_offset, end, 1).unwrap());
        assert_eq!(found, [(*last, payload.clone())]);
        fixture.dir.bytes_read() - before
    };
    assert!(read_at_end(&mut fixture) > 500_000);
    for time in 500..600 {
        fixture.append(1_000, time);
    }
    let read = read_at_end(&mut fixture);
    assert!(read < 200_000, "{read} bytes for 100,000 that are new");
}

#[test]
fn no_flipped_bit_of_the_index_changes_an_answer() {
    let mut fixture = Fixture::with_batches(6_000, uneven_times(12));
    let end = fixture.end();
    let path = index_path(ID, BASE);
    let bits = fixture.dir.open(&path).unwrap().len().unwrap() * 8;
    assert!(bits > 0);
    for bit in 0..bits {
        fixture.dir.flip_bit(&path, bit);
        let reader = fixture.reader();
        for (header, payload) in &fixture.written {
            let found = batches(reader.read(header.base_offset, end, 1).unwrap());
            assert_eq!(found, [(*header, payload.clone())], "bit {bit}");
            let time = header.max_timestamp_ms;
            assert_eq!(
                reader.offset_at_time(time, end).unwrap(),
                fixture.expected_at_time(time),
                "bit {bit}"
            );
        }
        fixture.dir.flip_bit(&path, bit);
    }
}

#[test]
fn damaged_batch_is_stepped_over_and_the_others_are_read() {
    let mut fixture = Fixture::with_batches(500, 0..30);
    let end = fixture.end();
    let tenth = fixture.position_of(10);
    let payload_bit = (tenth + HEADER_LEN as u64 + 17) * 8;
    for bit in [tenth * 8, (tenth + 16) * 8 + 3, payload_bit] {
        fixture.dir.flip_bit(&log_path(ID, BASE), bit);
        let reader = fixture.reader();
        let before = batches(reader.read(BASE, end, 1 << 20).unwrap());
        assert_eq!(before[..], fixture.written[..10]);
        for offset in 130..133 {
            let to = damaged_to(reader.read(Offset(offset), end, 1 << 20).unwrap());
            assert_eq!(to, Offset(133));
        }
        let mut next = Offset(133);
        let mut after = Vec::new();
        while next < end.next_offset {
            after.extend(batches(reader.read(next, end, 1 << 20).unwrap()));
            next = after.last().unwrap().0.next_offset();
        }
        assert_eq!(after[..], fixture.written[11..]);
        fixture.dir.flip_bit(&log_path(ID, BASE), bit);
    }
}

#[test]
fn damage_at_the_end_reaches_to_the_end() {
    let mut fixture = Fixture::with_batches(500, 0..5);
    let end = fixture.end();
    let last = fixture.position_of(4);
    fixture.dir.flip_bit(&log_path(ID, BASE), last * 8);
    let read = fixture.reader().read(Offset(113), end, 1).unwrap();
    assert_eq!(damaged_to(read), end.next_offset);
}

#[test]
fn interrupted_pass_leaves_no_trace_whatever_of_it_survived() {
    for seed in 0..60 {
        let mut fixture = Fixture::with_batches(2_000, 0..30);
        let state = fixture.state();
        fixture.dir.sync_all().unwrap();
        let checkpointed = fixture.written.len();
        for time in 30..60 {
            fixture.append(3_000, time);
        }
        fixture.crash_and_reopen(seed, state);
        fixture.written.truncate(checkpointed);
        let len = fixture
            .dir
            .open(&log_path(ID, BASE))
            .unwrap()
            .len()
            .unwrap();
        assert_eq!(len, state.len);
        for time in 30..50 {
            fixture.append(1_700, time);
        }
        fixture.check_every_offset(4_000);
    }
}

#[test]
fn index_that_a_crash_has_torn_is_mended_by_the_next_pass() {
    for seed in 0..60 {
        let mut fixture = Fixture::with_batches(900, uneven_times(500));
        let state = fixture.state();
        // As the archiver does: batches are flushed, the index is not.
        fixture.writer().flush().unwrap();
        fixture.dir.sync_dir(&partition_dir(ID)).unwrap();
        fixture.crash_and_reopen(seed, state);
        let expected = fixture.whole_index();
        assert_eq!(fixture.index_file(), expected, "seed {seed}");
        let end = fixture.end();
        for time in (0..5_000).step_by(61) {
            assert_eq!(
                fixture.reader().offset_at_time(time, end).unwrap(),
                fixture.expected_at_time(time)
            );
        }
    }
}

#[test]
fn index_is_the_same_wherever_passes_end_and_whatever_is_known_of_it() {
    for case in 0..6 {
        for per_pass in [1, 3, 7, 20, 60] {
            let mut fixture = Fixture::new();
            let mut stale = None;
            for (nth, time) in uneven_times(240).enumerate() {
                fixture.append(2_000, time);
                if nth % per_pass != per_pass - 1 {
                    continue;
                }
                let mut known = fixture.writer().take_growing();
                if nth / per_pass % 3 == 1 {
                    known.close();
                }
                let known = Some(known);
                let is_odd = nth / per_pass % 2 == 1;
                let known = match case {
                    // After a start.
                    1 if is_odd => None,
                    // After a pass that failed: the file may have anything.
                    2 if is_odd => std::mem::replace(&mut stale, known),
                    3 if is_odd && nth < 200 => {
                        remove_if_there(&fixture.dir, &index_path(ID, BASE)).unwrap();
                        known
                    }
                    4 if is_odd && fixture.dir.open(&index_path(ID, BASE)).is_ok() => {
                        let index = fixture.dir.open(&index_path(ID, BASE)).unwrap();
                        let len = index.len().unwrap();
                        index.write_all_at(&[7; 40], len).unwrap();
                        known
                    }
                    5 => None,
                    _ => known,
                };
                fixture.next_pass(known);
            }
            fixture.check_every_offset(4_000);
            let whole = fixture.whole_index();
            fixture.writer.take().unwrap().seal(&fixture.dir).unwrap();
            assert_eq!(fixture.index_file(), whole, "case {case}, {per_pass}");
        }
    }
}

#[test]
fn state_is_recovered_from_the_file_alone() {
    let mut fixture = Fixture::with_batches(300, uneven_times(20));
    let state = fixture.state();
    assert_eq!(recover_state(&fixture.dir, ID, BASE.into()).unwrap(), state);
    fixture.writer.take().unwrap().seal(&fixture.dir).unwrap();
    assert_eq!(recover_state(&fixture.dir, ID, BASE.into()).unwrap(), state);
    // A footer that is damaged is not believed.
    fixture
        .dir
        .flip_bit(&log_path(ID, BASE), (state.len + 20) * 8);
    assert_eq!(recover_state(&fixture.dir, ID, BASE.into()).unwrap(), state);
}

#[test]
fn torn_tail_is_not_part_of_a_recovered_state() {
    let mut fixture = Fixture::with_batches(300, 0..20);
    let file = fixture.dir.open(&log_path(ID, BASE)).unwrap();
    file.set_len(fixture.position_of(19) + 100).unwrap();
    let state = recover_state(&fixture.dir, ID, BASE.into()).unwrap();
    assert_eq!(state.next_offset, Offset(BASE.0 + 57));
    assert_eq!(state.len, fixture.position_of(19));
    assert_eq!(state.batch_count, 19);
    fixture.writer = Some(
        SegmentWriter::open(&fixture.dir, ID, state, None)
            .unwrap()
            .unwrap(),
    );
    fixture.written.truncate(19);
    fixture.append(10, 99);
    fixture.check_every_offset(1 << 20);
}

#[test]
fn segments_are_listed_in_order_and_removed_with_their_index() {
    let fixture = Fixture::with_batches(20_000, 0..3);
    for base in [Offset(9), Offset(1_000_000_007)] {
        SegmentWriter::create(&fixture.dir, ID, base, 0).unwrap();
    }
    let expected = [Offset(9), BASE, Offset(1_000_000_007)].map(SegmentName::from);
    assert_eq!(list(&fixture.dir, ID).unwrap().segments(), expected);
    remove(&fixture.dir, ID, BASE).unwrap();
    remove(&fixture.dir, ID, BASE).unwrap();
    assert_eq!(list(&fixture.dir, ID).unwrap().segments().len(), 2);
    assert_eq!(fixture.dir.list(&partition_dir(ID)).unwrap().len(), 2);
    assert!(
        list(&fixture.dir, PartitionId(8))
            .unwrap()
            .segments()
            .is_empty()
    );
}

#[test]
fn cache_keeps_what_was_used_last_and_forgets_what_is_removed() {
    let mut fixture = Fixture::with_batches(10, 0..1);
    let end = fixture.end();
    let others = [Offset(200), Offset(300)];
    for base in others {
        SegmentWriter::create(&fixture.dir, ID, base, 0).unwrap();
    }
    let cache = SegmentCache::new(2);
    let open = |base: Offset| cache.open(&fixture.dir, ID, base.into());
    let first = open(BASE).unwrap();
    open(others[0]).unwrap();
    let again = open(BASE).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    open(others[1]).unwrap();
    let again = open(BASE).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "others[0] went instead");
    remove(&fixture.dir, ID, BASE).unwrap();
    // Whoever has it open reads on.
    assert_eq!(batches(first.read(BASE, end, 1).unwrap()).len(), 1);
    cache.forget(ID, BASE.into());
    assert!(open(BASE).is_err());
    cache.forget_partition(ID);
    assert!(open(others[0]).is_ok());
}
