//! The header of a journal file. It links the file to the one before it, so
//! that recovery can walk from the newest file back, and knows where each ends.
//!
//! It is written twice, a sector each, so that one bad sector doesn't make a
//! whole file unreadable. It is not flushed on its own: the flush that makes
//! the first frames durable makes it durable too, and before that nothing of
//! the file was acknowledged.
//!
//! It is written again, as a whole, with a second copy that says more, when more is
//! durable ([`super::proof`]).

use super::frame::seed;
use crate::storage::lsn::{Generation, Lsn};

const MAGIC_AT: usize = 0;
const CRC_AT: usize = MAGIC_AT + 4;
const GENERATION_AT: usize = CRC_AT + 4;
const SALT_AT: usize = GENERATION_AT + 4;
const PREVIOUS_END_AT: usize = SALT_AT + 4;
const FLUSHED_AT: usize = PREVIOUS_END_AT + 8;
const ENCODED_LEN: usize = FLUSHED_AT + 8;

/// "SCJ" and the format version, 1.
const MAGIC: u32 = u32::from_le_bytes(*b"SCJ\x01");

/// Where the copies lie: bytes from the start of the file.
const COPIES_AT: [usize; 2] = [0, 2048];

/// Bytes before the first frame.
pub const FILE_HEADER_LEN: usize = 4096;

/// What the header of a journal file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Of this file.
    pub generation: Generation,
    /// Random, new with each start of the broker.
    pub salt: u32,
    /// One past the last frame before this file: the generation says which
    /// file that is in, and generations in between are void. [`Lsn::ZERO`] in
    /// the first file of a data directory.
    pub previous_end: Lsn,
    /// Everything before this was durable when the header was written.
    pub flushed: Lsn,
}

impl FileHeader {
    /// The state from which the checksums of this file's frames start.
    pub fn seed(&self) -> u32 {
        seed(self.generation, self.salt)
    }

    /// The bytes before the first frame.
    pub fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        self.encode_with(self)
    }

    /// The same with another second copy.
    pub(super) fn encode_with(&self, second: &FileHeader) -> [u8; FILE_HEADER_LEN] {
        let mut out = [0; FILE_HEADER_LEN];
        for (at, header) in COPIES_AT.into_iter().zip([self, second]) {
            out[at..at + ENCODED_LEN].copy_from_slice(&header.encode_copy());
        }
        out
    }

    /// The bytes of one copy.
    fn encode_copy(&self) -> [u8; ENCODED_LEN] {
        let mut copy = [0; ENCODED_LEN];
        copy[MAGIC_AT..][..4].copy_from_slice(&MAGIC.to_le_bytes());
        copy[GENERATION_AT..][..4].copy_from_slice(&self.generation.0.to_le_bytes());
        copy[SALT_AT..][..4].copy_from_slice(&self.salt.to_le_bytes());
        copy[PREVIOUS_END_AT..][..8].copy_from_slice(&self.previous_end.0.to_le_bytes());
        copy[FLUSHED_AT..][..8].copy_from_slice(&self.flushed.0.to_le_bytes());
        let crc = crc32fast::hash(&copy[GENERATION_AT..]);
        copy[CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
        copy
    }

    /// Reads the newest valid copy; `None` when there is none, as in a file
    /// that was preallocated but never used. A crash may leave the copies of
    /// two different uses; of the same one, the one that was written last counts.
    pub fn decode(bytes: &[u8]) -> Option<FileHeader> {
        COPIES_AT
            .iter()
            .filter_map(|&at| Self::decode_copy(bytes.get(at..)?))
            .max_by_key(|header| (header.generation, header.flushed))
    }

    fn decode_copy(bytes: &[u8]) -> Option<FileHeader> {
        let copy: &[u8; ENCODED_LEN] = bytes.first_chunk()?;
        let u32_at = |at: usize| copy[at..].first_chunk().copied().map(u32::from_le_bytes);
        let u64_at = |at: usize| copy[at..].first_chunk().copied().map(u64::from_le_bytes);
        if u32_at(MAGIC_AT)? != MAGIC || u32_at(CRC_AT)? != crc32fast::hash(&copy[GENERATION_AT..])
        {
            return None;
        }
        Some(FileHeader {
            generation: Generation(u32_at(GENERATION_AT)?),
            salt: u32_at(SALT_AT)?,
            previous_end: Lsn(u64_at(PREVIOUS_END_AT)?),
            flushed: Lsn(u64_at(FLUSHED_AT)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            generation: Generation(9),
            salt: 77,
            previous_end: Lsn::new(Generation(7), 5000),
            flushed: Lsn::new(Generation(7), 4096),
        }
    }

    #[test]
    fn one_copy_is_enough() {
        let mut bytes = header().encode();
        assert_eq!(FileHeader::decode(&bytes), Some(header()));
        bytes[..512].fill(0xff);
        assert_eq!(FileHeader::decode(&bytes), Some(header()));
        bytes[2048..2560].fill(0xff);
        assert_eq!(FileHeader::decode(&bytes), None);
    }

    #[test]
    fn newer_copy_wins_over_the_one_a_torn_write_left() {
        let mut bytes = header().encode();
        let newer = FileHeader {
            generation: Generation(12),
            ..header()
        };
        bytes[2048..2560].copy_from_slice(&newer.encode()[2048..2560]);
        assert_eq!(FileHeader::decode(&bytes), Some(newer));
    }

    #[test]
    fn copy_that_says_more_is_durable_wins_while_it_is_whole() {
        let later = FileHeader {
            flushed: Lsn::new(Generation(9), 8192),
            ..header()
        };
        let mut bytes = header().encode_with(&later);
        assert_eq!(FileHeader::decode(&bytes), Some(later));
        bytes[2050] ^= 1;
        assert_eq!(FileHeader::decode(&bytes), Some(header()));
    }
}
