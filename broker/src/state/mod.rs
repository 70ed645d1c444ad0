//! What is true now: the records of a compacted partition as a map from keys to
//! the latest record of each, and who wants to hear of which key.
//!
//! Pure and synchronous: records come in as bytes that somebody else has decoded,
//! and what is kept of each stays bytes. The log is the truth; all this can be
//! folded from it at any time.

mod checkpoint;
mod filter;
mod lease_record;
mod leases;
mod memory;
mod partition_view;
mod routes;

pub use checkpoint::{
    CheckpointFooter, CheckpointHeader, CheckpointReader, CheckpointWriter, Fingerprint, SavedEntry,
};
pub use filter::Filter;
pub use lease_record::{
    LeaseFold, UnreadableLease, lease_ended, lease_granted, lease_ids_reserved,
};
pub use leases::{LeaseError, Leases, Looked};
pub use memory::ViewMemory;
pub use partition_view::{Entry, LeaseId, PartitionView, Update, ViewFull};
pub use routes::{Routes, WatcherId};
