//! The client against a broker that does what a test tells it to: refuses,
//! answers late, loses connections at the worst moment.

// A failed unwrap fails the test, which is what is wanted.
#![allow(clippy::unwrap_used)]

mod consumer;
mod consumer_by_key;
mod fake_broker;
mod fake_groups;
mod fake_producers;
mod fake_state;
mod idempotence;
mod producer;
mod reader;
mod state;
