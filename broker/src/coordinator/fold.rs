//! What the records of the groups partition fold to when the broker starts.
//!
//! Compaction keeps the last record of each key, so records of different keys come
//! in no order that means anything: an offset counts if, at the end, there is a
//! group of its name that was created when it says.

use std::collections::HashMap;

use super::offsets::Committed;
use super::record::{GroupRecord, StoredGroup, StoredOffset, offset_tombstone};
use crate::group::{GroupName, TopicPartition};
use crate::model::{LogRecord, NewRecord, Offset, TopicId};

/// Why the groups can't be known.
#[derive(Debug, thiserror::Error)]
#[error("the record of groups at offset {offset} can't be read: {cause}")]
pub struct FoldError {
    /// Where it lies.
    offset: Offset,
    /// What is wrong with it.
    cause: String,
}

/// The groups as far as their records were read.
#[derive(Debug, Default)]
pub struct Fold {
    groups: HashMap<Box<str>, Folded>,
}

#[derive(Debug, Default)]
struct Folded {
    group: Option<StoredGroup>,
    offsets: HashMap<TopicPartition, StoredOffset>,
}

/// A group that was there when the broker stopped.
#[derive(Debug)]
pub(super) struct LoadedGroup {
    pub(super) name: GroupName,
    pub(super) stored: StoredGroup,
    pub(super) offsets: HashMap<TopicPartition, Committed>,
}

impl Fold {
    /// Takes the next record.
    pub fn apply(&mut self, record: &LogRecord) -> Result<(), FoldError> {
        let decoded = GroupRecord::decode(record).map_err(|unreadable| FoldError {
            offset: record.offset,
            cause: unreadable.to_string(),
        })?;
        match decoded {
            GroupRecord::Group { name, stored } => {
                self.of(name).group = stored;
            }
            GroupRecord::Offset {
                group,
                partition,
                stored,
            } => {
                let offsets = &mut self.of(group).offsets;
                match stored {
                    Some(stored) => offsets.insert(partition, stored),
                    None => offsets.remove(&partition),
                };
            }
        }
        Ok(())
    }

    fn of(&mut self, group: &str) -> &mut Folded {
        if !self.groups.contains_key(group) {
            self.groups.insert(group.into(), Folded::default());
        }
        self.groups.get_mut(group).expect("it was just put there")
    }

    /// The groups that there are; and the records that say of everything else, what
    /// belongs to groups or topics that are gone, that it is gone too. With damage,
    /// nothing is known to be gone: then a group whose own record is missing goes
    /// on with what it committed.
    pub(super) fn finish(
        self,
        damaged: bool,
        topic_exists: impl Fn(TopicId) -> bool,
    ) -> (Vec<LoadedGroup>, Vec<NewRecord>) {
        let mut loaded = Vec::new();
        let mut leftovers = Vec::new();
        for (name, Folded { group, offsets }) in self.groups {
            let group = group.or_else(|| damaged.then(|| presumed(&offsets)).flatten());
            let counts = |partition: TopicPartition, stored: &StoredOffset| {
                group.is_some_and(|group| group.created_ms == stored.group_created_ms)
                    && topic_exists(partition.topic)
            };
            let mut good = HashMap::with_capacity(offsets.len());
            for (partition, stored) in &offsets {
                if counts(*partition, stored) {
                    let committed = Committed {
                        offset: Offset(stored.offset),
                        at_ms: stored.committed_ms,
                    };
                    good.insert(*partition, committed);
                } else if !damaged {
                    leftovers.push(offset_tombstone(&name, *partition));
                }
            }
            if let Some(stored) = group {
                loaded.push(LoadedGroup {
                    name: GroupName::try_from(&*name).expect("it was checked when it was read"),
                    stored,
                    offsets: good,
                });
            }
        }
        (loaded, leftovers)
    }
}

/// A group whose own record is lost, out of what it committed last.
fn presumed(offsets: &HashMap<TopicPartition, StoredOffset>) -> Option<StoredGroup> {
    let created_ms = offsets
        .values()
        .map(|stored| stored.group_created_ms)
        .max()?;
    Some(StoredGroup {
        created_ms,
        generation: 0,
        empty_since_ms: None,
        members: 0,
        next_partition: None,
    })
}
