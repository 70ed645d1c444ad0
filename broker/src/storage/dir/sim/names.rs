//! The simulated names: directories as they are and as the disk has them, and
//! the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::rng::SimRng;

/// Stands for an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

type Entries = BTreeMap<String, Node>;

#[derive(Debug, Default, Clone)]
struct Directory {
    current: Entries,
    durable: Entries,
}

/// A change of names that no flush has covered yet. A rename is one change: a
/// crash never leaves half of it.
#[derive(Debug, Clone)]
struct Change {
    unlink: Option<(u64, String)>,
    link: Option<(u64, String, Node)>,
}

impl Change {
    fn dirs(&self) -> impl Iterator<Item = u64> + '_ {
        let unlinked = self.unlink.iter().map(|(dir, _)| *dir);
        unlinked.chain(self.link.iter().map(|(dir, _, _)| *dir))
    }
}

const ROOT: u64 = 0;

#[derive(Debug)]
pub(super) struct Names {
    dirs: BTreeMap<u64, Directory>,
    next_dir: u64,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            dirs: BTreeMap::from([(ROOT, Directory::default())]),
            next_dir: ROOT + 1,
            pending: Vec::new(),
        }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        let (dir, name) = self.parent(path)?;
        match self.dirs[&dir].current.get(&name) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path, id: u64) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        if self.dirs[&dir].current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(None, Some((dir, name, Node::File(id))));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.file(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if let Some(Node::Dir(_)) = self.dirs[&to_dir].current.get(&to_name) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let from = self.parent(from)?;
        if from != (to_dir, to_name.clone()) {
            self.change(Some(from), Some((to_dir, to_name, Node::File(id))));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let from = self.parent(path)?;
        self.change(Some(from), None);
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        match self.dirs[&dir].current.get(&name) {
            Some(Node::Dir(_)) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                let id = self.next_dir;
                self.next_dir += 1;
                self.dirs.insert(id, Directory::default());
                self.change(None, Some((dir, name, Node::Dir(id))));
                Ok(())
            }
        }
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let id = match self.dir(path) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let from = self.parent(path)?;
        self.empty(id);
        self.change(Some(from), None);
        Ok(())
    }

    /// Removes what is in a directory name by name, as the system does: a
    /// crash may leave any of them.
    fn empty(&mut self, dir: u64) {
        let entries: Vec<_> = self.dirs[&dir].current.clone().into_iter().collect();
        for (name, node) in entries {
            if let Node::Dir(id) = node {
                self.empty(id);
            }
            self.change(Some((dir, name)), None);
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.dir(path) {
            Ok(id) => Ok(self.dirs[&id].current.keys().cloned().collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Flushes the names of one directory, and of those that earlier renames
    /// tie to it.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let mut tied = BTreeSet::from([self.dir(path)?]);
        let mut keep = Vec::new();
        let mut flush = Vec::new();
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if change.dirs().any(|dir| tied.contains(&dir)) {
                tied.extend(change.dirs());
                flush.push(change);
            } else {
                keep.push(change);
            }
        }
        self.pending = keep.into_iter().rev().collect();
        for change in flush.into_iter().rev() {
            self.flush(&change);
        }
        Ok(())
    }

    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.flush(&change);
        }
    }

    /// The names as a power cut leaves them: all, none, the first ones or any
    /// of the changes that were not flushed.
    pub(super) fn crashed(&self, rng: &mut SimRng) -> Names {
        let mut left = Names {
            dirs: self.dirs.clone(),
            next_dir: self.next_dir,
            pending: Vec::new(),
        };
        let ordered = rng.one_in(2);
        let first = rng.index(self.pending.len() + 1);
        for (at, change) in self.pending.iter().enumerate() {
            let survives = if ordered { at < first } else { rng.one_in(2) };
            if survives {
                left.flush(change);
            }
        }
        let reachable = left.reachable_dirs();
        left.dirs.retain(|id, _| reachable.contains(id));
        for dir in left.dirs.values_mut() {
            dir.current = dir.durable.clone();
        }
        left
    }

    fn reachable_dirs(&self) -> BTreeSet<u64> {
        let mut reachable = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            if reachable.insert(id) {
                open.extend(
                    self.dirs[&id]
                        .durable
                        .values()
                        .filter_map(|node| match node {
                            Node::Dir(id) => Some(*id),
                            Node::File(_) => None,
                        }),
                );
            }
        }
        reachable
    }

    /// Files that have a name now.
    pub(super) fn linked(&self) -> BTreeSet<u64> {
        let entries = self.dirs.values().flat_map(|dir| dir.current.values());
        entries.copied().filter_map(file_id).collect()
    }

    /// Whether a file has a name now.
    pub(super) fn is_linked(&self, id: u64) -> bool {
        let mut entries = self.dirs.values().flat_map(|dir| dir.current.values());
        entries.any(|&node| node == Node::File(id))
    }

    /// Files that have a name now, on the disk, or after some crash.
    pub(super) fn remembered(&self) -> BTreeSet<u64> {
        let durable = self.dirs.values().flat_map(|dir| dir.durable.values());
        let pending = self
            .pending
            .iter()
            .filter_map(|change| change.link.as_ref());
        let nodes = durable.chain(pending.map(|(_, _, node)| node));
        let mut ids: BTreeSet<u64> = nodes.copied().filter_map(file_id).collect();
        ids.extend(self.linked());
        ids
    }

    fn change(&mut self, unlink: Option<(u64, String)>, link: Option<(u64, String, Node)>) {
        let change = Change { unlink, link };
        self.apply(&change, |dir| &mut dir.current);
        self.pending.push(change);
    }

    fn flush(&mut self, change: &Change) {
        self.apply(change, |dir| &mut dir.durable);
    }

    fn apply(&mut self, change: &Change, entries: impl Fn(&mut Directory) -> &mut Entries) {
        if let Some((dir, name)) = &change.unlink {
            entries(self.directory(*dir)).remove(name);
        }
        if let Some((dir, name, node)) = &change.link {
            entries(self.directory(*dir)).insert(name.clone(), *node);
        }
    }

    fn directory(&mut self, id: u64) -> &mut Directory {
        self.dirs.get_mut(&id).expect("directories are never freed")
    }

    fn dir(&self, path: &Path) -> io::Result<u64> {
        let mut id = ROOT;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            id = match self.dirs[&id].current.get(name) {
                Some(Node::Dir(id)) => *id,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(id)
    }

    fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(parent)?, String::from(name)))
    }
}

fn file_id(node: Node) -> Option<u64> {
    match node {
        Node::File(id) => Some(id),
        Node::Dir(_) => None,
    }
}
