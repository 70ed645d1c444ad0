//! The batch that a record lies in.

use std::sync::Arc;

use super::ViewError;
use super::topic_view::{Shared, Viewed};
use super::unpack::Unpacked;
use crate::model::Offset;
use crate::partition::{Read, ReadError};

/// What there is at an offset.
#[derive(Debug)]
pub(super) enum Located {
    /// This batch. The record may have gone from it.
    Batch(Arc<Unpacked>),
    /// Nothing below this.
    RemovedTo(Offset),
    /// What can't be read, below this.
    DamagedTo(Offset),
}

impl Shared {
    /// Finds the batch that an offset lies in: in memory, if somebody has read it lately.
    pub(super) async fn locate(
        &self,
        viewed: &Viewed,
        offset: Offset,
    ) -> Result<Located, ViewError> {
        let (id, unpacker) = (viewed.handle.id(), &self.reading.unpacker);
        if let Some(batch) = unpacker.kept(id, offset) {
            return Ok(Located::Batch(batch));
        }
        let batches = match viewed.handle.read(offset, offset.advanced(1), 1).await {
            Ok(Read::Batches(batches)) => batches,
            Ok(Read::Truncated { log_start_offset }) => {
                return Ok(Located::RemovedTo(log_start_offset));
            }
            Ok(Read::Quarantined { to }) => return Ok(Located::DamagedTo(to)),
            Err(ReadError::Deleted(_)) => return Err(ViewError::Deleted),
            Err(error) => return Err(error.into()),
        };
        let Some(batch) = batches.first() else {
            return Ok(Located::RemovedTo(offset.advanced(1)));
        };
        match unpacker.unpack(batch).await {
            Ok(opened) => Ok(Located::Batch(unpacker.keep(id, opened))),
            Err(error) => {
                tracing::error!("a batch of partition {id} is unreadable: {error}");
                Ok(Located::DamagedTo(batch.header.next_offset()))
            }
        }
    }
}
