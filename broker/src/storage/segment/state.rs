//! How far a segment has been filled.

use crate::model::{BatchHeader, Offset};

use super::format::SEGMENT_HEADER_LEN;

/// How far a segment has been filled. Part of every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentState {
    /// Offset that the segment is named by.
    pub base_offset: Offset,
    /// Header and batches: bytes.
    pub len: u64,
    /// One past the last offset in it.
    pub next_offset: Offset,
    /// The latest time of its records: milliseconds since the Unix epoch.
    pub max_timestamp_ms: i64,
    /// When it was begun: milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Batches in it.
    pub batch_count: u64,
    /// Records in it.
    pub record_count: u64,
}

/// What retention has to know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Header and batches: bytes.
    pub len: u64,
    /// The latest time of its records: milliseconds since the Unix epoch.
    pub max_timestamp_ms: i64,
}

impl SegmentExtent {
    /// Of a segment whose file is lost: retention may forget it.
    pub const OF_NOTHING: SegmentExtent = SegmentExtent {
        len: 0,
        max_timestamp_ms: i64::MIN,
    };
}

impl SegmentState {
    /// Size when encoded: bytes.
    pub const ENCODED_LEN: usize = 7 * 8;

    /// Of an empty segment.
    pub fn empty(base_offset: Offset, created_ms: i64) -> SegmentState {
        SegmentState {
            base_offset,
            len: SEGMENT_HEADER_LEN as u64,
            next_offset: base_offset,
            max_timestamp_ms: i64::MIN,
            created_ms,
            batch_count: 0,
            record_count: 0,
        }
    }

    /// The part of it that retention has to know.
    pub fn extent(&self) -> SegmentExtent {
        SegmentExtent {
            len: self.len,
            max_timestamp_ms: self.max_timestamp_ms,
        }
    }

    /// Counts a batch that was appended.
    pub fn add(&mut self, batch: &BatchHeader) {
        assert!(
            batch.base_offset >= self.next_offset,
            "batches are in the order of offsets"
        );
        self.len += batch.batch_len() as u64;
        self.next_offset = batch.next_offset();
        self.max_timestamp_ms = self.max_timestamp_ms.max(batch.max_timestamp_ms);
        self.batch_count += 1;
        self.record_count += u64::from(batch.record_count);
    }

    /// Its fields in order, 8 bytes each, little-endian.
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let fields = [
            self.base_offset.0,
            self.len,
            self.next_offset.0,
            self.max_timestamp_ms.cast_unsigned(),
            self.created_ms.cast_unsigned(),
            self.batch_count,
            self.record_count,
        ];
        let mut out = [0; Self::ENCODED_LEN];
        for (place, field) in out.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// What [`SegmentState::encode`] made.
    pub fn decode(bytes: &[u8; Self::ENCODED_LEN]) -> SegmentState {
        let field =
            |nth: usize| u64::from_le_bytes(*bytes[nth * 8..].first_chunk().expect("seven fields"));
        SegmentState {
            base_offset: Offset(field(0)),
            len: field(1),
            next_offset: Offset(field(2)),
            max_timestamp_ms: field(3).cast_signed(),
            created_ms: field(4).cast_signed(),
            batch_count: field(5),
            record_count: field(6),
        }
    }
}
