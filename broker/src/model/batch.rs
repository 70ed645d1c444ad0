//! The header that the broker writes before each record batch, the same in the
//! journal and in segments. `docs/format.md` documents the bytes.

use bytes::Bytes;

use super::{KeyHash, Offset, Stamp, StoredStamp};

// Offsets of the fields within the header; numbers are little-endian.
const MAGIC_AT: usize = 0;
const HEADER_CRC_AT: usize = MAGIC_AT + 4;
const PAYLOAD_CRC_AT: usize = HEADER_CRC_AT + 4;
const PAYLOAD_LEN_AT: usize = PAYLOAD_CRC_AT + 4;
const BASE_OFFSET_AT: usize = PAYLOAD_LEN_AT + 4;
const RECORD_COUNT_AT: usize = BASE_OFFSET_AT + 8;
const OFFSET_SPAN_AT: usize = RECORD_COUNT_AT + 4;
const APPEND_TIME_AT: usize = OFFSET_SPAN_AT + 4;
const MAX_TIMESTAMP_AT: usize = APPEND_TIME_AT + 8;
const PRODUCER_ID_AT: usize = MAX_TIMESTAMP_AT + 8;
const BASE_SEQUENCE_AT: usize = PRODUCER_ID_AT + 8;
const LEADER_EPOCH_AT: usize = BASE_SEQUENCE_AT + 4;
const UNCOMPRESSED_LEN_AT: usize = LEADER_EPOCH_AT + 4;
const PRODUCER_EPOCH_AT: usize = UNCOMPRESSED_LEN_AT + 4;
const ATTRIBUTES_AT: usize = PRODUCER_EPOCH_AT + 2;

/// Size of an encoded header in bytes.
pub const HEADER_LEN: usize = ATTRIBUTES_AT + 2;

/// "SCB" and the format version, 1.
const MAGIC: u32 = u32::from_le_bytes(*b"SCB\x01");

/// What the broker knows of a batch without looking into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// CRC-32 of the payload.
    pub payload_crc: u32,
    /// Size of the payload in bytes.
    pub payload_len: u32,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Records in the payload; at least 1.
    pub record_count: u32,
    /// Offsets that the batch covers; larger than `record_count` once
    /// compaction has removed records from its middle.
    pub offset_span: u32,
    /// When the broker appended it: milliseconds since the Unix epoch.
    pub append_time_ms: i64,
    /// The latest time of its records: milliseconds since the Unix epoch.
    pub max_timestamp_ms: i64,
    /// Id of an idempotent producer; 0 for none. With its highest bit set, it is of
    /// a request that has a name.
    pub producer_id: u64,
    /// The producer's sequence number of the first record; of a request, more of
    /// its id.
    pub base_sequence: u32,
    /// Grows with each change of leader; 0 on a single node.
    pub leader_epoch: u32,
    /// Size of the records once decompressed: bytes.
    pub uncompressed_len: u32,
    /// Grows each time that a named producer starts anew.
    pub producer_epoch: u16,
    /// Bits 0–2: codec (0 none, 1 lz4, 2 zstd). Bit 3: control. Bit 4:
    /// transactional. The rest are 0.
    pub attributes: u16,
}

/// The most records of one batch, however well they compress.
pub const MAX_RECORDS_PER_BATCH: u32 = 65_536;

/// Why bytes are not a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("fewer than {HEADER_LEN} bytes")]
    Short,
    /// Not the magic number of format version 1.
    #[error("unknown magic number {0:#010x}")]
    Magic(u32),
    /// The header's checksum doesn't match.
    #[error("header checksum mismatch")]
    Checksum,
    /// The offsets don't fit into 64 bits.
    #[error("offsets beyond 64 bits")]
    Offsets,
}

impl BatchHeader {
    /// One past the last offset that the batch covers.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.advanced(u64::from(self.offset_span))
    }

    /// Who sent the batch, as far as they said so.
    pub fn stamp(&self) -> Option<StoredStamp> {
        StoredStamp::of(self.producer_id, self.producer_epoch, self.base_sequence)
    }

    /// Size of header and payload in bytes.
    pub fn batch_len(&self) -> usize {
        HEADER_LEN + self.payload_len as usize
    }

    /// The bytes that every header begins with.
    pub fn magic() -> [u8; 4] {
        MAGIC.to_le_bytes()
    }

    /// The bytes of the header, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        put(&mut out, MAGIC_AT, &MAGIC.to_le_bytes());
        put(&mut out, PAYLOAD_CRC_AT, &self.payload_crc.to_le_bytes());
        put(&mut out, PAYLOAD_LEN_AT, &self.payload_len.to_le_bytes());
        put(&mut out, BASE_OFFSET_AT, &self.base_offset.0.to_le_bytes());
        put(&mut out, RECORD_COUNT_AT, &self.record_count.to_le_bytes());
        put(&mut out, OFFSET_SPAN_AT, &self.offset_span.to_le_bytes());
        put(&mut out, APPEND_TIME_AT, &self.append_time_ms.to_le_bytes());
        put(
            &mut out,
            MAX_TIMESTAMP_AT,
            &self.max_timestamp_ms.to_le_bytes(),
        );
        put(&mut out, PRODUCER_ID_AT, &self.producer_id.to_le_bytes());
        put(
            &mut out,
            BASE_SEQUENCE_AT,
            &self.base_sequence.to_le_bytes(),
        );
        put(&mut out, LEADER_EPOCH_AT, &self.leader_epoch.to_le_bytes());
        put(
            &mut out,
            UNCOMPRESSED_LEN_AT,
            &self.uncompressed_len.to_le_bytes(),
        );
        put(
            &mut out,
            PRODUCER_EPOCH_AT,
            &self.producer_epoch.to_le_bytes(),
        );
        put(&mut out, ATTRIBUTES_AT, &self.attributes.to_le_bytes());
        let crc = crc32fast::hash(&out[PAYLOAD_CRC_AT..]);
        put(&mut out, HEADER_CRC_AT, &crc.to_le_bytes());
        out
    }

    /// Reads a header from the front of `bytes` and verifies its checksum; not
    /// the payload's.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, HeaderError> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        let magic = u32::from_le_bytes(get(bytes, MAGIC_AT));
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        if u32::from_le_bytes(get(bytes, HEADER_CRC_AT))
            != crc32fast::hash(&bytes[PAYLOAD_CRC_AT..])
        {
            return Err(HeaderError::Checksum);
        }
        let header = BatchHeader::decode_verified(bytes);
        let BatchHeader {
            base_offset,
            offset_span,
            ..
        } = header;
        match base_offset.0.checked_add(u64::from(offset_span)) {
            Some(_) => Ok(header),
            None => Err(HeaderError::Offsets),
        }
    }

    /// Reads a header once more that [`BatchHeader::decode`] has verified.
    pub fn decode_verified(bytes: &[u8; HEADER_LEN]) -> BatchHeader {
        BatchHeader {
            payload_crc: u32::from_le_bytes(get(bytes, PAYLOAD_CRC_AT)),
            payload_len: u32::from_le_bytes(get(bytes, PAYLOAD_LEN_AT)),
            base_offset: Offset(u64::from_le_bytes(get(bytes, BASE_OFFSET_AT))),
            record_count: u32::from_le_bytes(get(bytes, RECORD_COUNT_AT)),
            offset_span: u32::from_le_bytes(get(bytes, OFFSET_SPAN_AT)),
            append_time_ms: i64::from_le_bytes(get(bytes, APPEND_TIME_AT)),
            max_timestamp_ms: i64::from_le_bytes(get(bytes, MAX_TIMESTAMP_AT)),
            producer_id: u64::from_le_bytes(get(bytes, PRODUCER_ID_AT)),
            base_sequence: u32::from_le_bytes(get(bytes, BASE_SEQUENCE_AT)),
            leader_epoch: u32::from_le_bytes(get(bytes, LEADER_EPOCH_AT)),
            uncompressed_len: u32::from_le_bytes(get(bytes, UNCOMPRESSED_LEN_AT)),
            producer_epoch: u16::from_le_bytes(get(bytes, PRODUCER_EPOCH_AT)),
            attributes: u16::from_le_bytes(get(bytes, ATTRIBUTES_AT)),
        }
    }

    /// Whether `payload` is the one that this header was written for.
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_len as usize && crc32fast::hash(payload) == self.payload_crc
    }
}

fn put<const N: usize>(out: &mut [u8; HEADER_LEN], at: usize, field: &[u8; N]) {
    out[at..at + N].copy_from_slice(field);
}

fn get<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("every field lies within the header")
}

/// A batch that passed every check and may be appended. What only the append
/// knows (offset, time) is missing.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    /// The encoded `RecordBatch`.
    pub payload: Bytes,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
    /// Records in the payload; at least 1.
    pub record_count: u32,
    /// The latest time that a record carries: milliseconds since the Unix epoch. Absent
    /// when none carries one.
    pub max_timestamp_ms: Option<i64>,
    /// Whether every record carries a time. Those that don't have the append time.
    pub all_timed: bool,
    /// Size of the records once decompressed: bytes.
    pub uncompressed_len: u32,
    /// As in [`BatchHeader::attributes`].
    pub attributes: u16,
    /// Who sent it, so that it is not appended twice; `None` if they didn't say.
    pub stamp: Option<Stamp>,
    /// For each record that of its key, if its topic is compacted; empty otherwise.
    pub key_hashes: Vec<KeyHash>,
}

impl CheckedBatch {
    /// The header of this batch, appended at `base_offset`.
    pub fn header(&self, base_offset: Offset, append_time_ms: i64) -> BatchHeader {
        let stamp = self.stamp.as_ref().map(Stamp::fields);
        let (producer_id, producer_epoch, base_sequence) = stamp.unwrap_or_default();
        let max_timestamp_ms = match self.max_timestamp_ms {
            Some(latest) if self.all_timed => latest,
            Some(latest) => latest.max(append_time_ms),
            None => append_time_ms,
        };
        BatchHeader {
            payload_crc: self.payload_crc,
            payload_len: u32::try_from(self.payload.len()).expect("a checked batch is small"),
            base_offset,
            record_count: self.record_count,
            offset_span: self.record_count,
            append_time_ms,
            max_timestamp_ms,
            producer_id,
            base_sequence,
            leader_epoch: 0,
            uncompressed_len: self.uncompressed_len,
            producer_epoch,
            attributes: self.attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            payload_crc: crc32fast::hash(b"payload"),
            payload_len: 7,
            base_offset: Offset(42),
            record_count: 3,
            offset_span: 5,
            append_time_ms: 1_700_000_000_000,
            max_timestamp_ms: -1,
            producer_id: 9,
            base_sequence: 8,
            leader_epoch: 7,
            uncompressed_len: 6,
            producer_epoch: 5,
            attributes: 2,
        }
    }

    #[test]
    fn header_survives_encoding() {
        let header = header();
        assert_eq!(BatchHeader::decode(&header.encode()), Ok(header));
        assert_eq!(header.next_offset(), Offset(47));
        assert!(header.matches(b"payload"));
        assert!(!header.matches(b"paylaod"));
    }

    #[test]
    fn records_without_a_time_have_that_of_the_append_and_hide_no_later_one() {
        let latest = |max_timestamp_ms, all_timed| {
            let batch = CheckedBatch {
                payload: Bytes::new(),
                payload_crc: 0,
                record_count: 2,
                max_timestamp_ms,
                all_timed,
                uncompressed_len: 0,
                attributes: 0,
                stamp: None,
                key_hashes: Vec::new(),
            };
            batch.header(Offset(0), 1_000).max_timestamp_ms
        };
        assert_eq!(latest(None, false), 1_000);
        assert_eq!(latest(Some(5_000), true), 5_000);
        assert_eq!(latest(Some(5_000), false), 5_000);
        assert_eq!(latest(Some(-5), true), -5);
        assert_eq!(latest(Some(-5), false), 1_000);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
