//! The Statecast broker: a durable, partitioned log served over gRPC.

pub mod broker;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod group;
pub mod limits;
pub mod metadata;
pub mod model;
pub mod partition;
pub mod server;
pub mod state;
pub mod storage;
pub mod views;
