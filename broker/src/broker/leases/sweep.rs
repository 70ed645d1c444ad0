//! The sweep: removes keys that outlived their lease.
//!
//! The end of a lease removes the keys that the views know of then. It can't when a view
//! is given up at that time; nor is there an end when the record of the lease is lost by
//! damage. So now and then all views are looked through for leases that are over.
//! Invariants:
//! - No key of a lease that lives, or may live, is removed. A key gets into a view only
//!   behind a put with a lease that was alive, and no id is given out twice; so a lease
//!   that a view has, and that isn't there when the registry is asked *after* the view,
//!   was granted and is over for ever. What is being granted counts as being there, and
//!   an id that wasn't given out yet isn't over.
//! - The registry has read all that can be read before the sweep begins. A lease whose
//!   record couldn't be read is over for its client as well, who is told so. It stays
//!   over though a later start may read the record again: before its keys go, a record
//!   that ends it is durable.
//! - A key is removed only in the version that ends with the lease, as at the end of one.
//!
//! A crash in between leaves keys, which the next sweep removes.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;

use super::{COMPLAINT_MS, LeaseRegistry};
use crate::broker::write::WriteError;
use crate::broker::{Broker, Shared, TopicState};
use crate::limits;
use crate::state::{LeaseId, lease_ended};
use crate::views::ViewError;

impl LeaseRegistry {
    /// Sweeps now and then, as long as there is the broker.
    pub(super) async fn sweep_always(self: Arc<Self>, broker: Weak<Shared>) {
        loop {
            tokio::time::sleep(limits::LEASE_SWEEP_EVERY).await;
            let Some(shared) = broker.upgrade() else {
                return;
            };
            self.sweep(&Broker { shared }).await;
        }
    }

    /// Removes the keys of all leases that are over, as far as the views know them now.
    /// Returns how many.
    pub(in crate::broker) async fn sweep(&self, broker: &Broker) -> u64 {
        let mut removed = 0;
        for topic in broker.shared.registry.all() {
            let Ok(state) = TopicState::of(topic) else {
                continue;
            };
            for partition in 0..state.view().partition_count() {
                removed += self.sweep_partition(broker, &state, partition).await;
                tokio::task::consume_budget().await;
            }
        }
        if removed > 0 {
            tracing::warn!("removed {removed} keys that had outlived their lease");
        }
        removed
    }

    /// Goes through the leases of a partition, some at a time. Returns how many keys it
    /// removed. What fails is left to the next sweep.
    async fn sweep_partition(&self, broker: &Broker, state: &TopicState, partition: u32) -> u64 {
        let (mut removed, mut after) = (0, None);
        loop {
            let most = limits::LEASES_SWEPT_AT_ONCE;
            let found = state.view().leases_behind(partition, after, most);
            let Some(&last) = found.last() else {
                return removed;
            };
            after = Some(last);
            match self.remove_ended(broker, state, partition, found).await {
                (count, Ok(())) => removed += count,
                (count, Err(error)) => {
                    if self.may_complain() {
                        let seconds = COMPLAINT_MS / 1000;
                        tracing::warn!(
                            "keys outlive their lease, and can't be removed yet: {error} \
                             (said once in {seconds} s)"
                        );
                    }
                    return removed + count;
                }
            }
        }
    }

    /// Removes the keys of those leases that are over.
    async fn remove_ended(
        &self,
        broker: &Broker,
        state: &TopicState,
        partition: u32,
        mut found: Vec<LeaseId>,
    ) -> (u64, Result<(), WriteError>) {
        {
            let leases = self.leases();
            found.retain(|&id| leases.is_over(id));
        }
        if found.is_empty() {
            return (0, Ok(()));
        }
        if let Err(error) = self.end_what_was_lost(&found).await {
            return (0, Err(error));
        }
        let (mut removed, mut failed) = (0, Ok(()));
        for some in found.chunks(limits::LEASE_SWEEP_WRITES_AT_ONCE) {
            let removing = some
                .iter()
                .map(|&id| self.remove_keys(broker, state, partition, id));
            for (count, outcome) in join_all(removing).await {
                removed += count;
                match outcome {
                    Ok(())
                    | Err(WriteError::View(ViewError::Deleted | ViewError::TooLarge { .. })) => {}
                    Err(error) => failed = Err(error),
                }
            }
            if failed.is_err() {
                break;
            }
        }
        (removed, failed)
    }

    /// Makes it durable that leases are over whose records may be lost only for now.
    async fn end_what_was_lost(&self, over: &[LeaseId]) -> Result<(), WriteError> {
        if !self.is_damaged {
            return Ok(());
        }
        let records: Vec<_> = over.iter().map(|&id| lease_ended(id)).collect();
        Ok(self.log.submit(&records).await?.await?)
    }
}
