//! The words every layer uses: ids, offsets, names, the record-batch header.

mod batch;
mod ids;
mod key_hash;
mod name;
mod producer;
mod record;
mod stamp;
mod topic;

pub use batch::{BatchHeader, CheckedBatch, HEADER_LEN, HeaderError, MAX_RECORDS_PER_BATCH};
pub use ids::{Offset, PartitionId, TopicId};
pub use key_hash::{KeyHash, KeyHasher};
pub use name::{NameError, check_name};
pub use producer::{ProducerName, ProducerNameError};
pub use record::{LogRecord, NewRecord};
pub use stamp::{ProducerFence, ProducerStamp, RequestStamp, Stamp, StoredStamp};
pub use topic::{Cleanup, FlushLevel, TopicConfig, TopicConfigError, TopicName, TopicNameError};
