//! The Statecast broker: a durable, partitioned log served over gRPC.

pub mod cli;
pub mod clock;
pub mod model;
pub mod partition;
pub mod storage;
