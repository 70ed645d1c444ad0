//! The codec against prost, against nonsense, and against its own limits.

// Helpers of tests may unwrap as tests do; clippy sees just the latter.
#![allow(clippy::unwrap_used)]

mod builder;
mod compressed;
mod hostile;
mod keys;
mod limits;
mod protobuf;
mod structured;
