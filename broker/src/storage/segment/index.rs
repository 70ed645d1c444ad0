//! The sparse index of a segment: now and then, where a batch begins. One file
//! serves both searches, by offset and by time, as both rise together.
//!
//! The index is a hint and nothing more: a place that it names is checked
//! before it is used, and an index that is missing or wrong is made again from
//! the segment. So it is never waited for and needs no checksum.

use crate::model::{BatchHeader, Offset};

use super::format::SEGMENT_HEADER_LEN;

/// At most one entry for so many bytes of batches.
pub const INDEX_INTERVAL: u64 = 16 << 10;

/// Size of an entry: bytes.
pub const ENTRY_LEN: usize = 24;

/// Where a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its base offset.
    pub base_offset: Offset,
    /// Its place in the segment's file: bytes.
    pub position: u64,
    /// The latest time of all records before it: milliseconds since the Unix
    /// epoch. Rises from entry to entry.
    pub max_timestamp_before_ms: i64,
}

impl IndexEntry {
    /// Three fields of 8 bytes, little-endian.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[..8].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.position.to_le_bytes());
        out[16..].copy_from_slice(&self.max_timestamp_before_ms.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> IndexEntry {
        let field = |at: usize| {
            *bytes[at..]
                .first_chunk()
                .expect("an entry has three fields")
        };
        IndexEntry {
            base_offset: Offset(u64::from_le_bytes(field(0))),
            position: u64::from_le_bytes(field(8)),
            max_timestamp_before_ms: i64::from_le_bytes(field(16)),
        }
    }
}

/// Whether the batch at `position` gets an entry, when the last one (if any)
/// names `last`.
pub fn is_due(position: u64, last: Option<u64>) -> bool {
    position >= last.unwrap_or(SEGMENT_HEADER_LEN as u64) + INDEX_INTERVAL
}

/// The entries of a segment, in order.
#[derive(Debug, Default, Clone)]
pub struct Index {
    entries: Vec<IndexEntry>,
}

impl Index {
    /// Reads the entries that lie within the first `len` bytes of the segment;
    /// `None` when they are not in order, or fewer than there should be.
    pub fn decode(bytes: &[u8], len: u64) -> Option<Index> {
        let all = bytes.chunks_exact(ENTRY_LEN).map(IndexEntry::decode);
        let entries: Vec<IndexEntry> = all.take_while(|entry| entry.position < len).collect();
        let rises = |pair: &[IndexEntry]| {
            pair[0].position < pair[1].position
                && pair[0].base_offset < pair[1].base_offset
                && pair[0].max_timestamp_before_ms <= pair[1].max_timestamp_before_ms
        };
        let index = Index { entries };
        let is_whole = index.entries.windows(2).all(rises) && !index.lacks_entries(len);
        is_whole.then_some(index)
    }

    /// Whether so many bytes lie behind the last entry that some must be missing.
    pub fn lacks_entries(&self, len: u64) -> bool {
        // A batch of the largest size may hold no place for an entry.
        let reach = INDEX_INTERVAL + (16 << 20);
        len > self.last_position().unwrap_or(SEGMENT_HEADER_LEN as u64) + reach
    }

    /// Takes the next batch of the segment into account.
    pub fn add(&mut self, batch: &BatchHeader, position: u64, max_timestamp_before_ms: i64) {
        if is_due(position, self.last_position()) {
            self.entries.push(IndexEntry {
                base_offset: batch.base_offset,
                position,
                max_timestamp_before_ms,
            });
        }
    }

    /// A position at or before the batch that covers `offset`.
    pub fn position_of(&self, offset: Offset) -> u64 {
        self.position_before(
            self.entries
                .partition_point(|entry| entry.base_offset <= offset),
        )
    }

    /// A position before which no record is as young as `timestamp_ms`.
    pub fn position_at_time(&self, timestamp_ms: i64) -> u64 {
        let older = |entry: &IndexEntry| entry.max_timestamp_before_ms < timestamp_ms;
        self.position_before(self.entries.partition_point(older))
    }

    fn position_before(&self, nth: usize) -> u64 {
        match nth.checked_sub(1).and_then(|nth| self.entries.get(nth)) {
            Some(entry) => entry.position,
            None => SEGMENT_HEADER_LEN as u64,
        }
    }

    /// The place that the last entry names.
    pub fn last_position(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.position)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of all entries.
    pub fn encode(&self) -> Vec<u8> {
        self.entries.iter().flat_map(IndexEntry::encode).collect()
    }
}
