//! What tests share: brokers to talk to, and the words to do so.

mod binary;
mod broker;
mod wire;

pub use binary::{Binary, statecast};
pub use broker::TestBroker;
pub use wire::{batch, encode, error_info, record};
