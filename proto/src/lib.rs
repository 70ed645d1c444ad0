//! The `statecast.v1` protocol: generated types, and what broker and client
//! share to speak it.

pub mod batch;
pub mod codec;
pub mod reason;

mod partitioner;

pub use partitioner::partition_for_key;

/// The generated messages, clients and servers of `statecast.v1`. Fields that
/// hold a `RecordBatch` are `Bytes` here: the encoded batch, untouched.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("statecast.v1");
}

/// The encoded `FileDescriptorSet` of `statecast.v1`, with structured records.
pub const DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/statecast_v1_descriptor.bin"));

/// The checksum of a batch: CRC-32 (IEEE) of its bytes.
pub fn checksum(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}
