//! The words every layer uses: ids, offsets, names, the record-batch header.

mod batch;
mod ids;
mod name;
mod record;
mod topic;

pub use batch::{BatchHeader, CheckedBatch, HEADER_LEN, HeaderError, MAX_RECORDS_PER_BATCH};
pub use ids::{Offset, PartitionId, TopicId};
pub use name::{NameError, check_name};
pub use record::{LogRecord, NewRecord};
pub use topic::{Cleanup, FlushLevel, TopicConfig, TopicConfigError, TopicName, TopicNameError};
