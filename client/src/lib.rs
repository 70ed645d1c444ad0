//! Rust client library of the Statecast message broker.
//!
//! [`Client`] is a broker as this process reaches it. From it come
//!
//! - [`Producer`], which sends records: batched, pipelined, in order, each once;
//! - [`Reader`], which reads a topic from any place on, as a
//!   [`Stream`](futures_util::Stream);
//! - [`Consumer`], which shares topics with the other members of its group, and
//!   commits what is processed;
//! - [`State`], which gets, scans and changes what is true in a compacted topic;
//! - [`StateView`], a local map of it that is kept current;
//! - [`Lease`], which lets keys vanish with whoever put them;
//! - [`Admin`], which creates and describes topics, and looks after groups.
//!
//! Connections are made when needed and made again when lost. Everything that
//! fails does so with [`Error`]; [`Error::reason`] is what the broker said.
//!
//! ```
//! use statecast_client::{Client, RecordRef, TopicConfig};
//! use tokio_stream::StreamExt;
//!
//! # statecast_example_broker::run(async |url| {
//! // The address may be "http://127.0.0.1:7420".
//! let client = Client::connect(&url).await?;
//! client.admin().create_topic("greetings", Some(4), TopicConfig::new()).await?;
//!
//! let producer = client.producer();
//! let delivery = producer.send("greetings", &RecordRef::of_value(b"hello")).await?;
//! delivery.await?; // acknowledged: it survives a power cut
//!
//! let mut reader = client.reader("greetings").until_end().open().await?;
//! while let Some(record) = reader.next().await {
//!     assert_eq!(record?.value.as_deref(), Some(&b"hello"[..]));
//! }
//! # Ok(()) });
//! ```

mod admin;
mod backoff;
mod client;
mod clock;
mod connection;
mod consumer;
mod error;
mod group;
mod lease;
mod producer;
mod reader;
mod state;
mod state_view;
mod topic;

pub use admin::{Admin, BrokerInfo};
pub use backoff::Backoff;
pub use client::{Client, ClientBuilder};
pub use consumer::{
    AssignedPartition, CommitPosition, Consumer, ConsumerBuilder, ConsumerHandle, GroupEvent,
    GroupStart, RevokeReason, TopicPartition,
};
pub use error::{Error, Refusal};
pub use group::{Group, GroupDescription, GroupMember, GroupPartition, GroupState};
pub use lease::Lease;
pub use producer::{Delivery, Producer, ProducerBuilder, RecordPosition};
pub use reader::{
    Batch, Event, Reader, ReaderBuilder, Record, RecordView, RecordViews, Records, Start,
};
pub use state::{
    AsOf, Changes, Delete, Entries, Entry, Expect, Get, KeyEvent, LeaseId, Put, PutAll, Scan,
    State, Update, Version, Write, Written,
};
pub use state_view::{Change, StateView, StateViewBuilder, Tombstone};
pub use statecast_proto::batch::{
    BatchBuilder, BatchError, Compression, EncodedBatch, Header, HeaderRef, HeaderViews, RecordRef,
};
pub use statecast_proto::partition_for_key;
pub use statecast_proto::reason::Reason;
pub use topic::{
    Cleanup, FlushLevel, PartitionDescription, PartitionOffsets, Retention, Topic, TopicConfig,
    TopicDescription,
};

/// The README's snippet, so that it compiles as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
