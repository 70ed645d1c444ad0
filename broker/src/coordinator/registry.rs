//! The groups by name: the ways to their tasks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::message::Message;
use crate::group::GroupName;
use crate::limits;

/// Every group that there is. The lock is held for one look-up.
#[derive(Debug, Default)]
pub(super) struct Registry {
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    by_name: BTreeMap<GroupName, Entry>,
    last_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    mailbox: mpsc::Sender<Message>,
}

/// There are as many groups as there may be.
#[derive(Debug)]
pub(super) struct TooManyGroups;

impl Registry {
    pub(super) fn get(&self, name: &GroupName) -> Option<mpsc::Sender<Message>> {
        let groups = self.lock();
        groups.by_name.get(name).map(|entry| entry.mailbox.clone())
    }

    /// The group of this name, which begins if there is none: `begin` is given the
    /// id that it has here.
    pub(super) fn get_or_begin(
        &self,
        name: &GroupName,
        begin: impl FnOnce(u64) -> mpsc::Sender<Message>,
    ) -> Result<mpsc::Sender<Message>, TooManyGroups> {
        let mut groups = self.lock();
        if let Some(entry) = groups.by_name.get(name) {
            return Ok(entry.mailbox.clone());
        }
        if groups.by_name.len() >= limits::GROUPS {
            return Err(TooManyGroups);
        }
        groups.last_id += 1;
        let id = groups.last_id;
        let mailbox = begin(id);
        let entry = Entry {
            id,
            mailbox: mailbox.clone(),
        };
        groups.by_name.insert(name.clone(), entry);
        Ok(mailbox)
    }

    /// Takes a group out that has ended, unless another one has its name already.
    pub(super) fn remove(&self, name: &GroupName, id: u64) {
        let mut groups = self.lock();
        if groups.by_name.get(name).is_some_and(|entry| entry.id == id) {
            groups.by_name.remove(name);
        }
    }

    /// Groups whose names begin with `prefix` and lie behind `after`, in the order
    /// of their names: at most `count`, and whether there are more.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: &str,
        count: usize,
    ) -> (Vec<mpsc::Sender<Message>>, bool) {
        let groups = self.lock();
        let wanted = |name: &GroupName| name.as_str().starts_with(prefix) && name.as_str() > after;
        let mut found = groups.by_name.iter().filter(|(name, _)| wanted(name));
        let page = found
            .by_ref()
            .take(count)
            .map(|(_, entry)| entry.mailbox.clone());
        let page = page.collect();
        (page, found.next().is_some())
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_name.len()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
