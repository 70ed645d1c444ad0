//! How much a reader takes.

use statecast_proto::v1;

/// How much is wanted. While either is used up, nothing is handed out; a batch that
/// is larger than what is left still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Allowance {
    pub(in crate::server) bytes: u64,
    /// Counted as offsets that a batch covers.
    pub(in crate::server) records: u64,
}

impl Allowance {
    /// As much as there is.
    pub(in crate::server) const UNLIMITED: Allowance = Allowance {
        bytes: u64::MAX,
        records: u64::MAX,
    };

    pub(in crate::server) fn is_used_up(self) -> bool {
        self.bytes == 0 || self.records == 0
    }

    /// A batch is handed out.
    pub(in crate::server) fn spend(&mut self, batch: &v1::FetchedBatch) {
        if *self != Allowance::UNLIMITED {
            self.bytes = self.bytes.saturating_sub(batch.batch.len() as u64);
            let records = batch.next_offset - batch.base_offset;
            self.records = self.records.saturating_sub(records);
        }
    }
}
