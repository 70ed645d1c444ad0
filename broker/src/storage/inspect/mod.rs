//! Verifies a data directory, or one file of it, offline. Changes nothing.
//!
//! What counts as damage is what recovery and readers would call so: a torn
//! tail of the journal, a segment's bytes behind what the checkpoint says, and
//! files that an interrupted pass left behind are the normal traces of a crash.

mod journal;
mod report;
mod segment;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use report::{Damage, FileKind, InspectedFile, Inspection};

use super::PARTITIONS_DIR;
use super::checkpoint::{self, Checkpoint, CheckpointEntry, Loaded};
use super::dir::Dir;
use super::identity::{self, Identity, IdentityError};
use super::journal::JOURNAL_DIR;
use super::lsn::Generation;
use super::open::entries_of_segments;
use super::producers::{self, Snapshot};
use super::segment as segments;
use super::segment::SegmentName;
use crate::model::PartitionId;
use segment::{Inspected, Role};

/// Journal files of a directory that doesn't say how large they are.
const JOURNAL_FILE_BYTES: u32 = 64 << 20;

/// Verifies a whole data directory.
pub fn inspect_dir(dir: &Arc<dyn Dir>) -> io::Result<Inspection> {
    let mut inspection = Inspection::default();
    let (file, identity) = inspect_identity(dir.as_ref())?;
    inspection.files.push(file);
    let (file, checkpoint) = inspect_checkpoint(dir.as_ref())?;
    inspection.files.push(file);

    inspection
        .files
        .extend(inspect_producers(dir.as_ref(), checkpoint.as_ref())?);
    let archived = checkpoint.as_ref().map(|checkpoint| checkpoint.archived);
    let entries = match &checkpoint {
        Some(checkpoint) => checkpoint.partitions.clone(),
        None => entries_of_segments(dir.as_ref())?,
    };
    let file_bytes = identity.map_or(JOURNAL_FILE_BYTES, |identity| identity.journal_file_bytes);
    inspection
        .files
        .extend(journal::inspect(dir, file_bytes, archived, &entries)?);
    for name in dir.list(Path::new(PARTITIONS_DIR))? {
        if let Ok(id) = name.parse() {
            let partition = Partition {
                dir: dir.as_ref(),
                id: PartitionId(id),
                entry: entry_of(&entries, PartitionId(id)),
                checkpoint_is_lost: checkpoint.is_none(),
            };
            partition.inspect(&mut inspection.files)?;
        }
    }
    Ok(inspection)
}

/// Verifies one file: a segment, an index (with its segment), a journal file,
/// the checkpoint, the producers or the identity. `path` is relative to the data directory if
/// it lies in one; what the checkpoint says of it then counts.
pub fn inspect_file(dir: &dyn Dir, path: &Path) -> io::Result<Inspection> {
    let file = match path.file_name().and_then(|name| name.to_str()) {
        Some(identity::FILE) => inspect_identity(dir)?.0,
        Some(checkpoint::FILE) => inspect_checkpoint(dir)?.0,
        Some(producers::FILE) => {
            let checkpoint = inspect_checkpoint(dir)?.1;
            match inspect_producers(dir, checkpoint.as_ref())? {
                Some(file) => file,
                None => file_at_root(dir, producers::FILE, FileKind::Producers)?,
            }
        }
        _ => {
            if let Some((id, name)) = segments::parse_path(path) {
                let files = inspect_segment_alone(dir, id, name)?;
                return Ok(Inspection { files });
            }
            match journal::inspect_alone(dir, path)? {
                Some(file) => file,
                None => unreadable(dir, path)?,
            }
        }
    };
    Ok(Inspection { files: vec![file] })
}

fn inspect_segment_alone(
    dir: &dyn Dir,
    id: PartitionId,
    name: SegmentName,
) -> io::Result<Vec<InspectedFile>> {
    let checkpoint = match Checkpoint::load(dir)? {
        Loaded::Checkpoint(checkpoint) => Some(checkpoint),
        Loaded::Missing | Loaded::Damaged => None,
    };
    let partition = Partition {
        dir,
        id,
        entry: checkpoint
            .as_ref()
            .and_then(|checkpoint| entry_of(&checkpoint.partitions, id)),
        checkpoint_is_lost: checkpoint.is_none(),
    };
    let current = segments::list(dir, id)?.current();
    match partition.role(&current, name) {
        Some(role) => Ok(segment::inspect(dir, id, name, role, None)?.files),
        None => Ok(vec![unused(dir, id, &segments::log_path(id, name))?]),
    }
}

/// A spare journal file has no header, and no other file is of ours. Which of the
/// two it is, only the directory tells.
fn unreadable(dir: &dyn Dir, path: &Path) -> io::Result<InspectedFile> {
    let len = dir.open(path)?.len()?;
    let kind = match path.starts_with(JOURNAL_DIR) {
        true => FileKind::SpareJournal,
        false => FileKind::Unknown,
    };
    let mut file = InspectedFile::new(path.display().to_string(), kind, len);
    file.damage.push(Damage::Unreadable);
    Ok(file)
}

fn entry_of(entries: &[CheckpointEntry], id: PartitionId) -> Option<CheckpointEntry> {
    entries.iter().copied().find(|entry| entry.partition == id)
}

/// A partition's directory, and what the checkpoint says of it.
struct Partition<'a> {
    dir: &'a dyn Dir,
    id: PartitionId,
    entry: Option<CheckpointEntry>,
    checkpoint_is_lost: bool,
}

impl Partition<'_> {
    fn inspect(&self, files: &mut Vec<InspectedFile>) -> io::Result<()> {
        let listing = segments::list(self.dir, self.id)?;
        let current = listing.current();
        let mut follows = None;
        for &name in listing.segments() {
            let Some(role) = self.role(&current, name) else {
                let path = segments::log_path(self.id, name);
                files.push(unused(self.dir, self.id, &path)?);
                continue;
            };
            let found = segment::inspect(self.dir, self.id, name, role, follows)?;
            let Inspected {
                files: of_segment,
                next_offset,
            } = found;
            files.extend(of_segment);
            follows = Some(next_offset);
        }
        if let Some(missing) = self.missing(&current) {
            files.push(missing);
        }
        for path in listing.unfinished() {
            files.push(unused(self.dir, self.id, &path)?);
        }
        Ok(())
    }

    /// What a segment is; `None` when nothing refers to it.
    fn role(&self, current: &[SegmentName], name: SegmentName) -> Option<Role> {
        let index = current.binary_search(&name).ok()?;
        let after = current.get(index + 1).map(|name| name.base_offset);
        if self.checkpoint_is_lost {
            let is_last = after.is_none() && name.compacted.is_none();
            return Some(if is_last { Role::Last } else { Role::Sealed });
        }
        let active = self.entry?.active?;
        if name == active.base_offset.into() {
            return Some(Role::Active(active));
        }
        // Retention removes the oldest ones after the checkpoint says so.
        let is_removed = after.is_some_and(|next| next <= self.entry.map_or(next, |e| e.log_start));
        (name.base_offset < active.base_offset && !is_removed).then_some(Role::Sealed)
    }

    /// The active segment, when it is gone.
    fn missing(&self, current: &[SegmentName]) -> Option<InspectedFile> {
        let active = self.entry?.active?;
        if current.contains(&active.base_offset.into()) {
            return None;
        }
        let path = segments::log_path(self.id, active.base_offset);
        let path = path.display().to_string();
        let mut file = InspectedFile::new(path, FileKind::ActiveSegment, 0);
        file.partition = Some(self.id);
        file.offsets = Some((active.base_offset, active.next_offset));
        file.damage.push(Damage::Missing);
        Some(file)
    }
}

fn unused(dir: &dyn Dir, id: PartitionId, path: &Path) -> io::Result<InspectedFile> {
    let len = dir.open(path)?.len()?;
    let path = path.display().to_string();
    let mut file = InspectedFile::new(path, FileKind::UnusedSegment, len);
    file.partition = Some(id);
    Ok(file)
}

fn inspect_identity(dir: &dyn Dir) -> io::Result<(InspectedFile, Option<Identity>)> {
    let mut file = file_at_root(dir, identity::FILE, FileKind::Identity)?;
    if !file.damage.is_empty() {
        return Ok((file, None));
    }
    match Identity::load(dir) {
        Ok(identity) => Ok((file, identity)),
        Err(IdentityError::Io(error)) => Err(error),
        Err(newer @ IdentityError::Newer { .. }) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, newer))
        }
        Err(IdentityError::Unreadable) => {
            file.damage.push(Damage::Unreadable);
            Ok((file, None))
        }
    }
}

fn inspect_checkpoint(dir: &dyn Dir) -> io::Result<(InspectedFile, Option<Checkpoint>)> {
    let mut file = file_at_root(dir, checkpoint::FILE, FileKind::Checkpoint)?;
    match Checkpoint::load(dir)? {
        Loaded::Checkpoint(checkpoint) => Ok((file, Some(checkpoint))),
        Loaded::Missing => Ok((file, None)),
        Loaded::Damaged => {
            file.damage.push(Damage::Unreadable);
            Ok((file, None))
        }
    }
}

/// The snapshot of producers; `None` when there is none, and none is missed.
fn inspect_producers(
    dir: &dyn Dir,
    checkpoint: Option<&Checkpoint>,
) -> io::Result<Option<InspectedFile>> {
    let mut file = file_at_root(dir, producers::FILE, FileKind::Producers)?;
    let archived = checkpoint.map_or(Generation::ZERO, |checkpoint| checkpoint.archived);
    match Snapshot::load(dir, &Arc::default())? {
        producers::Loaded::Snapshot(snapshot) if snapshot.archived < archived => {
            file.damage.push(Damage::Outdated);
        }
        producers::Loaded::Snapshot(_) => {}
        producers::Loaded::Damaged => file.damage.push(Damage::Unreadable),
        producers::Loaded::Missing => {
            let mut entries = checkpoint
                .iter()
                .flat_map(|checkpoint| &checkpoint.partitions);
            let is_missed = entries.any(|entry| entry.has_producers);
            return Ok(is_missed.then_some(file));
        }
    }
    Ok(Some(file))
}

fn file_at_root(dir: &dyn Dir, name: &str, kind: FileKind) -> io::Result<InspectedFile> {
    let mut report = InspectedFile::new(String::from(name), kind, 0);
    match dir.open(Path::new(name)) {
        Ok(file) => report.bytes = file.len()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.damage.push(Damage::Missing);
        }
        Err(error) => return Err(error),
    }
    Ok(report)
}
