//! The bytes of a segment's header and footer; numbers are little-endian.
//! `docs/format.md` documents them.

use super::state::SegmentState;
use crate::model::{Offset, PartitionId};

/// Bytes before the first batch.
pub const SEGMENT_HEADER_LEN: usize = 64;

/// Bytes behind the last batch of a sealed segment.
pub const FOOTER_LEN: usize = 64;

/// "SCS" and the format version, 1.
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"SCS\x01");

/// "SCF" and the format version, 1.
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"SCF\x01");

const MAGIC_AT: usize = 0;
const CRC_AT: usize = MAGIC_AT + 4;

// The header.
const PARTITION_AT: usize = CRC_AT + 4;
const HEADER_RESERVED_AT: usize = PARTITION_AT + 4;
const BASE_OFFSET_AT: usize = HEADER_RESERVED_AT + 4;
const CREATED_AT: usize = BASE_OFFSET_AT + 8;
const COMPACTED_TO_AT: usize = CREATED_AT + 8;
const SUPERSEDED_TO_AT: usize = COMPACTED_TO_AT + 8;
const TOMBSTONES_TO_AT: usize = SUPERSEDED_TO_AT + 8;
const HEADER_REST_AT: usize = TOMBSTONES_TO_AT + 8;

const _: () = assert!(HEADER_REST_AT <= SEGMENT_HEADER_LEN, "a header fits");

// The footer.
const STATE_AT: usize = CRC_AT + 4;

const _: () = assert!(
    STATE_AT + SegmentState::ENCODED_LEN == FOOTER_LEN,
    "a footer is full"
);

/// Whose segment it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The partition.
    pub partition: PartitionId,
    /// The offset that the segment is named by.
    pub base_offset: Offset,
    /// When it was begun: milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Compaction has dropped what was superseded by a record before this
    /// offset; 0 in a segment of the archiver's.
    pub compacted_to: Offset,
    /// What compaction has dropped from it.
    pub dropped: Dropped,
}

/// What compaction has dropped, and can't be told any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Every record that was dropped for a later one of its key, was for one before this
    /// offset. From here on, what is left says what all did.
    pub superseded_to: Offset,
    /// Every tombstone that was dropped, and not for a later record, lay before this
    /// offset.
    pub tombstones_to: Offset,
}

impl Dropped {
    /// What was dropped here or there.
    #[must_use]
    pub fn and(self, other: Dropped) -> Dropped {
        Dropped {
            superseded_to: self.superseded_to.max(other.superseded_to),
            tombstones_to: self.tombstones_to.max(other.tombstones_to),
        }
    }
}

impl SegmentHeader {
    /// The bytes before the first batch.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[PARTITION_AT..][..4].copy_from_slice(&self.partition.0.to_le_bytes());
        out[BASE_OFFSET_AT..][..8].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[CREATED_AT..][..8].copy_from_slice(&self.created_ms.to_le_bytes());
        out[COMPACTED_TO_AT..][..8].copy_from_slice(&self.compacted_to.0.to_le_bytes());
        let dropped = self.dropped;
        out[SUPERSEDED_TO_AT..][..8].copy_from_slice(&dropped.superseded_to.0.to_le_bytes());
        out[TOMBSTONES_TO_AT..][..8].copy_from_slice(&dropped.tombstones_to.0.to_le_bytes());
        seal(&mut out, HEADER_MAGIC);
        out
    }

    /// Reads a header; `None` when these bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] = bytes.first_chunk()?;
        check(bytes, HEADER_MAGIC)?;
        Some(SegmentHeader {
            partition: PartitionId(u32::from_le_bytes(*bytes[PARTITION_AT..].first_chunk()?)),
            base_offset: Offset(u64::from_le_bytes(*bytes[BASE_OFFSET_AT..].first_chunk()?)),
            created_ms: i64::from_le_bytes(*bytes[CREATED_AT..].first_chunk()?),
            compacted_to: offset(bytes, COMPACTED_TO_AT)?,
            dropped: Dropped {
                superseded_to: offset(bytes, SUPERSEDED_TO_AT)?,
                tombstones_to: offset(bytes, TOMBSTONES_TO_AT)?,
            },
        })
    }
}

/// The end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// What is before it.
    pub state: SegmentState,
}

impl Footer {
    /// The bytes behind the last batch.
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        out[STATE_AT..].copy_from_slice(&self.state.encode());
        seal(&mut out, FOOTER_MAGIC);
        out
    }

    /// Reads a footer; `None` when these bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Footer> {
        let bytes: &[u8; FOOTER_LEN] = bytes.first_chunk()?;
        check(bytes, FOOTER_MAGIC)?;
        Some(Footer {
            state: SegmentState::decode(bytes[STATE_AT..].first_chunk()?),
        })
    }
}

fn offset(bytes: &[u8; 64], at: usize) -> Option<Offset> {
    let bytes = bytes[at..].first_chunk()?;
    Some(Offset(u64::from_le_bytes(*bytes)))
}

fn seal(out: &mut [u8; 64], magic: u32) {
    out[MAGIC_AT..][..4].copy_from_slice(&magic.to_le_bytes());
    let crc = crc32fast::hash(&out[CRC_AT + 4..]);
    out[CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
}

fn check(bytes: &[u8; 64], magic: u32) -> Option<()> {
    let found = u32::from_le_bytes(*bytes[MAGIC_AT..].first_chunk()?);
    let crc = u32::from_le_bytes(*bytes[CRC_AT..].first_chunk()?);
    (found == magic && crc == crc32fast::hash(&bytes[CRC_AT + 4..])).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_footer_survive_encoding_and_notice_every_flipped_bit() {
        let header = SegmentHeader {
            partition: PartitionId(7),
            base_offset: Offset(8),
            created_ms: 9,
            compacted_to: Offset(10),
            dropped: Dropped {
                superseded_to: Offset(11),
                tombstones_to: Offset(12),
            },
        };
        let footer = Footer {
            state: SegmentState::empty(Offset(8), 9),
        };
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        for bit in 0..64 * 8 {
            let (mut bad_header, mut bad_footer) = (header.encode(), footer.encode());
            bad_header[bit / 8] ^= 1 << (bit % 8);
            bad_footer[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad_header), None, "bit {bit}");
            assert_eq!(Footer::decode(&bad_footer), None, "bit {bit}");
        }
    }
}
