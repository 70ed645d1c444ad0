//! What tests share: brokers to talk to, and the words to do so.

mod binary;
mod broker;
mod half_sent;
mod http;
mod member;
mod power;
mod verb;
mod wire;

pub use binary::{Binary, statecast, until_stopped};
pub use broker::TestBroker;
pub use half_sent::HalfSent;
pub use http::get;
pub use member::{Member, join, partition, position};
pub use power::PowerDisk;
pub use verb::{Done, Verb};
pub use wire::{ErrorInfo, batch, encode, error_info, record};
