//! The sparse index of a segment: now and then, where a batch begins. One file
//! serves both searches, by offset and by time, as both rise together.
//!
//! An index that is missing or wrong is made again from the segment, so it is
//! never waited for: a crash may leave any part of it. That is why each entry
//! has a checksum of its own. A wrong place would be noticed by who reads there,
//! but a wrong time would silently hide the batches before it.

use crate::model::{BatchHeader, Offset};

use super::format::SEGMENT_HEADER_LEN;

/// At most one entry for so many bytes of batches.
pub const INDEX_INTERVAL: u64 = 16 << 10;

// Offsets of the fields within an entry; numbers are little-endian.
const BASE_OFFSET_AT: usize = 0;
const POSITION_AT: usize = BASE_OFFSET_AT + 8;
const MAX_TIMESTAMP_BEFORE_AT: usize = POSITION_AT + 8;
const CRC_AT: usize = MAX_TIMESTAMP_BEFORE_AT + 8;

/// Size of an entry: bytes.
pub const ENTRY_LEN: usize = CRC_AT + 4;

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
    /// The bytes of the entry, with their checksum.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[BASE_OFFSET_AT..][..8].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[POSITION_AT..][..8].copy_from_slice(&self.position.to_le_bytes());
        out[MAX_TIMESTAMP_BEFORE_AT..][..8]
            .copy_from_slice(&self.max_timestamp_before_ms.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads an entry; `None` when it isn't what was written.
    pub fn decode(bytes: &[u8]) -> Option<IndexEntry> {
        let field = |at: usize| bytes.get(at..)?.first_chunk().copied();
        let crc = u32::from_le_bytes(*bytes.get(CRC_AT..)?.first_chunk()?);
        (crc == crc32fast::hash(&bytes[..CRC_AT])).then_some(IndexEntry {
            base_offset: Offset(u64::from_le_bytes(field(BASE_OFFSET_AT)?)),
            position: u64::from_le_bytes(field(POSITION_AT)?),
            max_timestamp_before_ms: i64::from_le_bytes(field(MAX_TIMESTAMP_BEFORE_AT)?),
        })
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
    /// `None` when one of them is damaged, or they are not in order. The last
    /// ones may be missing.
    pub fn decode(bytes: &[u8], len: u64) -> Option<Index> {
        let mut entries: Vec<IndexEntry> = Vec::new();
        let mut is_cut = false;
        for entry in bytes.chunks_exact(ENTRY_LEN).map(IndexEntry::decode) {
            match entry.filter(|entry| entry.position < len) {
                // What lies behind the last entry that counts may be anything:
                // it is being written, or was when a crash came.
                None => is_cut = true,
                Some(_) if is_cut => return None,
                Some(entry) => entries.push(entry),
            }
        }
        let rises = |pair: &[IndexEntry]| {
            pair[0].position < pair[1].position
                && pair[0].base_offset < pair[1].base_offset
                && pair[0].max_timestamp_before_ms <= pair[1].max_timestamp_before_ms
        };
        let index = Index { entries };
        index.entries.windows(2).all(rises).then_some(index)
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
        self.last().map(|entry| entry.position)
    }

    /// The last entry.
    pub fn last(&self) -> Option<&IndexEntry> {
        self.entries.last()
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
