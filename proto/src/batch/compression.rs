//! Compressing the records of a batch, and the bounded way back.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use lz4_flex::block::{self, CompressTable};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

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
    /// All of them, in the order of their numbers.
    pub const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    /// The number of `statecast.v1.Compression`, and of the codec bits on disk.
    pub fn number(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd => 2,
        }
    }

    pub(super) fn from_number(number: u64) -> Result<Compression, BatchError> {
        Compression::ALL
            .into_iter()
            .find(|compression| u64::from(compression.number()) == number)
            .ok_or(BatchError::Malformed("the compression is unknown"))
    }

    /// `none`, `lz4` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// Compresses `bytes` into memory that is used again and again, and gives
    /// the result to `use_it`.
    pub(super) fn with_compressed<T>(self, bytes: &[u8], use_it: impl FnOnce(&[u8]) -> T) -> T {
        CODECS.with_borrow_mut(|codecs| match self {
            Compression::None => use_it(bytes),
            Compression::Lz4 => use_it(codecs.compress_lz4(bytes)),
            Compression::Zstd => use_it(codecs.compress_zstd(bytes)),
        })
    }

    /// Decompresses into `out`, which gets exactly `size` bytes or an error.
    pub(super) fn decompress(
        self,
        bytes: &[u8],
        size: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        let written = match self {
            Compression::None => {
                return Err(BatchError::Malformed("compressed without a codec"));
            }
            Compression::Lz4 => {
                out.resize(size, 0);
                block::decompress_into(bytes, out).ok()
            }
            Compression::Zstd => {
                out.clear();
                out.reserve_exact(size);
                CODECS.with_borrow_mut(|codecs| codecs.decompress_zstd(bytes, out))
            }
        };
        if written == Some(size) {
            Ok(())
        } else {
            Err(BatchError::Malformed(
                "it doesn't decompress to its stated size",
            ))
        }
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
        Compression::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
            .ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

thread_local! {
    /// The state of the codecs costs more to set up than a small batch to
    /// compress, and is too large to have one for each partition.
    static CODECS: RefCell<Codecs> = RefCell::default();
}

#[derive(Default)]
struct Codecs {
    lz4: CompressTable,
    zstd: Option<Compressor<'static>>,
    zstd_back: Option<Decompressor<'static>>,
    out: Vec<u8>,
}

impl Codecs {
    fn compress_lz4(&mut self, bytes: &[u8]) -> &[u8] {
        let bound = block::get_maximum_output_size(bytes.len());
        if self.out.len() < bound {
            self.out.resize(bound, 0);
        }
        let len = block::compress_into_with_table(bytes, &mut self.out, &mut self.lz4)
            .expect("the output has room for the worst case");
        &self.out[..len]
    }

    fn compress_zstd(&mut self, bytes: &[u8]) -> &[u8] {
        self.out.clear();
        self.out.reserve(zstd_safe::compress_bound(bytes.len()));
        self.zstd
            .get_or_insert_with(|| Compressor::new(ZSTD_LEVEL).expect("the level exists"))
            .compress_to_buffer(bytes, &mut self.out)
            .expect("the output has room for the worst case");
        &self.out
    }

    /// Decompresses one frame into the capacity of `out`; returns its size.
    fn decompress_zstd(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        // Others read just the first frame, and would miss records in a second.
        if zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
            return None;
        }
        self.zstd_back
            .get_or_insert_with(|| Decompressor::new().expect("there is memory for it"))
            .decompress_to_buffer(bytes, out)
            .ok()
    }
}
