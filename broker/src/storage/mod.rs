//! The log on disk: journal, segments, archiver, recovery. Synchronous; knows
//! nothing of networks, runtimes or metadata.

pub mod dir;
