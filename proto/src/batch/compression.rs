//! Compressing the records of a batch, and the bounded way back.

use std::fmt;
use std::str::FromStr;

use super::error::BatchError;

/// zstd's default level: near its best ratio per time for small records.
const ZSTD_LEVEL: i32 = 3;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all. The default.
    #[default]
    None,
    /// One LZ4 block: fast, modest ratio.
    Lz4,
    /// One Zstandard frame, level 3: slower, better ratio.
    Zstd,
}

/// Not the name of a compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression `{0}`: it is none, lz4 or zstd")]
pub struct UnknownCompression(String);

impl Compression {
    /// The number of `statecast.v1.Compression`, and of the codec bits on disk.
    pub fn number(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd => 2,
        }
    }

    pub(super) fn from_number(number: u64) -> Result<Compression, BatchError> {
        match number {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Lz4),
            2 => Ok(Compression::Zstd),
            _ => Err(BatchError::Malformed("the compression is unknown")),
        }
    }

    /// `none`, `lz4` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    pub(super) fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Compression::None => bytes.to_vec(),
            Compression::Lz4 => lz4_flex::block::compress(bytes),
            Compression::Zstd => {
                zstd::bulk::compress(bytes, ZSTD_LEVEL).expect("compressing in memory can't fail")
            }
        }
    }

    /// Decompresses into `out`, which gets exactly `size` bytes or an error.
    pub(super) fn decompress(
        self,
        bytes: &[u8],
        size: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        const WRONG: BatchError =
            BatchError::Malformed("it does not decompress to its stated size");
        out.clear();
        out.resize(size, 0);
        let written = match self {
            Compression::None => return Err(BatchError::Malformed("compressed without a codec")),
            Compression::Lz4 => lz4_flex::block::decompress_into(bytes, out).map_err(|_| WRONG)?,
            Compression::Zstd => {
                zstd::bulk::decompress_to_buffer(bytes, out.as_mut_slice()).map_err(|_| WRONG)?
            }
        };
        if written == size { Ok(()) } else { Err(WRONG) }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Compression, UnknownCompression> {
        [Compression::None, Compression::Lz4, Compression::Zstd]
            .into_iter()
            .find(|compression| compression.name() == name)
            .ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}
