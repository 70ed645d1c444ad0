//! A frame: one record batch in the journal, with what recovery needs to trust
//! it. `docs/format.md` documents the bytes.
//!
//! Why the fields are there:
//! - The checksum is seeded by the generation of the file and a salt, so what an
//!   earlier use of a recycled file left behind never reads as valid; and it covers the
//!   lsn, so a frame is valid in one place only.
//! - `flushed` proves, to a recovery that finds this frame, that everything
//!   before that lsn had been made durable: damage below it is damage, not a
//!   torn tail.
//! - `unit_remaining` counts the frames of the same atomic unit that follow.

use crate::model::{BatchHeader, HEADER_LEN, PartitionId};
use crate::storage::lsn::{Generation, Lsn};

// Offsets of the fields within the frame header; numbers are little-endian.
const CRC_AT: usize = 0;
const BODY_LEN_AT: usize = CRC_AT + 4;
const LSN_AT: usize = BODY_LEN_AT + 4;
const FLUSHED_AT: usize = LSN_AT + 8;
const PARTITION_AT: usize = FLUSHED_AT + 8;
const UNIT_REMAINING_AT: usize = PARTITION_AT + 4;
const RESERVED_AT: usize = UNIT_REMAINING_AT + 2;

/// Size of a frame header: bytes. The batch header and the payload follow.
pub const FRAME_HEADER_LEN: usize = RESERVED_AT + 2;

/// Frames begin at multiples of this many bytes.
pub const FRAME_ALIGN: usize = 8;

/// The part of a frame that its checksum covers directly; the payload has its
/// own checksum in the batch header.
pub const FRAME_PREFIX_LEN: usize = FRAME_HEADER_LEN + HEADER_LEN;

/// What the head of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies.
    pub lsn: Lsn,
    /// Everything before this was durable when the frame was written.
    pub flushed: Lsn,
    /// Whose batch it is.
    pub partition: PartitionId,
    /// Frames of the same unit that follow this one.
    pub unit_remaining: u16,
    /// The header of its batch.
    pub batch: BatchHeader,
}

/// Bytes that a frame with such a payload takes, padding included.
pub fn frame_len(payload_len: usize) -> usize {
    (FRAME_PREFIX_LEN + payload_len).next_multiple_of(FRAME_ALIGN)
}

/// The state from which the checksums of a file's frames start. `salt` is
/// random and new with each start of the broker: a generation whose header a
/// crash has lost is given out again, but its frames are not taken for ours.
pub fn seed(generation: Generation, salt: u32) -> u32 {
    crc32fast::hash(&(u64::from(salt) << 32 | u64::from(generation.0)).to_le_bytes())
}

impl Frame {
    /// The lsn that bytes name where a frame has it; nothing is verified.
    pub fn claimed_lsn(bytes: &[u8]) -> Option<Lsn> {
        let field = bytes.get(LSN_AT..)?.first_chunk()?;
        Some(Lsn(u64::from_le_bytes(*field)))
    }

    /// Bytes that the whole frame takes, padding included.
    pub fn len(&self) -> usize {
        frame_len(self.batch.payload_len as usize)
    }

    /// The head of the frame: frame header and batch header.
    pub fn encode(&self, seed: u32) -> [u8; FRAME_PREFIX_LEN] {
        let body_len = u32::try_from(self.batch.batch_len()).expect("a batch is at most 8 MiB");
        let mut out = [0; FRAME_PREFIX_LEN];
        put(&mut out, BODY_LEN_AT, &body_len.to_le_bytes());
        put(&mut out, LSN_AT, &self.lsn.0.to_le_bytes());
        put(&mut out, FLUSHED_AT, &self.flushed.0.to_le_bytes());
        put(&mut out, PARTITION_AT, &self.partition.0.to_le_bytes());
        put(
            &mut out,
            UNIT_REMAINING_AT,
            &self.unit_remaining.to_le_bytes(),
        );
        put(&mut out, FRAME_HEADER_LEN, &self.batch.encode());
        let crc = checksum(seed, &out[BODY_LEN_AT..]);
        put(&mut out, CRC_AT, &crc.to_le_bytes());
        out
    }

    /// Reads the head of the frame that lies at `lsn`; `None` when there is no
    /// valid one. The payload is not looked at.
    pub fn decode(bytes: &[u8], lsn: Lsn, seed: u32) -> Option<Frame> {
        let head: &[u8; FRAME_PREFIX_LEN] = bytes.first_chunk()?;
        // The cheap test first: a search for frames asks at every place.
        if u64::from_le_bytes(get(head, LSN_AT)) != lsn.0
            || u32::from_le_bytes(get(head, CRC_AT)) != checksum(seed, &head[BODY_LEN_AT..])
        {
            return None;
        }
        let batch = BatchHeader::decode(&head[FRAME_HEADER_LEN..]).ok()?;
        if u32::from_le_bytes(get(head, BODY_LEN_AT)) as usize != batch.batch_len() {
            return None;
        }
        Some(Frame {
            lsn,
            flushed: Lsn(u64::from_le_bytes(get(head, FLUSHED_AT))),
            partition: PartitionId(u32::from_le_bytes(get(head, PARTITION_AT))),
            unit_remaining: u16::from_le_bytes(get(head, UNIT_REMAINING_AT)),
            batch,
        })
    }
}

/// The salt of a file of this generation in which this head of a frame is valid: it
/// follows from the checksum, which can be taken backwards. `None` if it is no head of a
/// frame. That a second frame is valid with it says that it is right.
pub fn salt_of(bytes: &[u8], generation: Generation) -> Option<u32> {
    let head: &[u8; FRAME_PREFIX_LEN] = bytes.first_chunk()?;
    let batch = BatchHeader::decode(&head[FRAME_HEADER_LEN..]).ok()?;
    if u32::from_le_bytes(get(head, BODY_LEN_AT)) as usize != batch.batch_len() {
        return None;
    }
    let end = u32::from_le_bytes(get(head, CRC_AT));
    let covered = head[BODY_LEN_AT..].iter().rev().copied();
    let seed = !covered.fold(!end, before_byte);
    // Four bytes count as if they were part of the state before them.
    let salt_and_state = [0; 4].into_iter().fold(!seed, before_byte);
    let of_generation = crc32fast::hash(&generation.0.to_le_bytes());
    Some(salt_and_state ^ !of_generation)
}

/// The state of a CRC-32 before a byte, told from the one behind it.
fn before_byte(behind: u32, byte: u8) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let before_bit = |state: u32, _| match state >> 31 {
        0 => state << 1,
        _ => (state ^ POLYNOMIAL) << 1 | 1,
    };
    (0..8).fold(behind, before_bit) ^ u32::from(byte)
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn put<const N: usize>(out: &mut [u8; FRAME_PREFIX_LEN], at: usize, field: &[u8; N]) {
    out[at..at + N].copy_from_slice(field);
}

fn get<const N: usize>(bytes: &[u8; FRAME_PREFIX_LEN], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("every field lies within the head")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{CheckedBatch, Offset};

    fn frame() -> Frame {
        let batch = CheckedBatch {
            payload: Bytes::from_static(b"0123456789"),
            payload_crc: crc32fast::hash(b"0123456789"),
            record_count: 2,
            max_timestamp_ms: Some(7),
            all_timed: true,
            uncompressed_len: 10,
            attributes: 0,
            stamp: None,
            key_hashes: Vec::new(),
        };
        Frame {
            lsn: Lsn::new(Generation(3), 4096),
            flushed: Lsn::new(Generation(2), 512),
            partition: PartitionId(77),
            unit_remaining: 1,
            batch: batch.header(Offset(5), 6),
        }
    }

    #[test]
    fn frame_survives_encoding() {
        let frame = frame();
        let bytes = frame.encode(seed(Generation(3), 7));
        assert_eq!(
            Frame::decode(&bytes, frame.lsn, seed(Generation(3), 7)),
            Some(frame)
        );
        assert_eq!(frame.len(), 120);
    }

    #[test]
    fn salt_follows_from_a_frame() {
        for (generation, salt) in [(3, 7), (3, u32::MAX), (1, 0), (1 << 30, 0x8123_4567)] {
            let generation = Generation(generation);
            let mut bytes = frame().encode(seed(generation, salt));
            assert_eq!(salt_of(&bytes, generation), Some(salt));
            assert_ne!(salt_of(&bytes, generation.next()), Some(salt));
            bytes[FRAME_HEADER_LEN + 20] ^= 1;
            assert_eq!(salt_of(&bytes, generation), None, "it is no batch");
        }
    }

    #[test]
    fn frame_of_another_generation_or_place_is_invalid() {
        let frame = frame();
        let bytes = frame.encode(seed(Generation(3), 7));
        assert_eq!(
            Frame::decode(&bytes, frame.lsn, seed(Generation(4), 7)),
            None
        );
        assert_eq!(
            Frame::decode(&bytes, frame.lsn, seed(Generation(3), 8)),
            None
        );
        let elsewhere = Lsn::new(Generation(3), 4104);
        assert_eq!(
            Frame::decode(&bytes, elsewhere, seed(Generation(3), 7)),
            None
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = frame();
        let good = frame.encode(seed(Generation(3), 7));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Frame::decode(&bad, frame.lsn, seed(Generation(3), 7)),
                None,
                "bit {bit}"
            );
        }
    }
}
