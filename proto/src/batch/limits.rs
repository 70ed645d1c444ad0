//! The bounds of a record batch.

/// The bounds of a record batch and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records in a batch. Default: 65,536.
    pub max_records: u32,
    /// Headers of a record. Default: 64.
    pub max_headers: u32,
    /// Name of a header: bytes. Default: 256.
    pub max_header_name: usize,
    /// Key of a record: bytes. Default: 64 KiB.
    pub max_key: usize,
    /// An encoded record: bytes. Default: 8 MiB.
    pub max_record: usize,
    /// The records of a compressed batch, once decompressed: bytes. Default:
    /// 16 MiB.
    pub max_uncompressed: usize,
}

impl BatchLimits {
    /// The documented bounds.
    pub const DEFAULT: BatchLimits = BatchLimits {
        max_records: 65_536,
        max_headers: 64,
        max_header_name: 256,
        max_key: 64 << 10,
        max_record: 8 << 20,
        max_uncompressed: 16 << 20,
    };
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits::DEFAULT
    }
}
