//! How segments are named, and which of them count.
//!
//! The archiver names a segment by its base offset alone. One that compaction
//! made in the place of others names the offsets that it covers, and a revision
//! that is higher than those of all that it replaces. So the names alone tell
//! what a crash left behind: a segment is superseded when its base lies within
//! another one of a higher revision.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::model::{Offset, PartitionId};
use crate::storage::PARTITIONS_DIR;
use crate::storage::dir::Dir;

/// Ends the name of a segment.
const LOG: &str = ".log";
/// Ends the name of its index.
const INDEX: &str = ".index";
/// Ends the name of a segment that compaction has not finished.
const UNFINISHED: &str = ".compacting";

/// What tells a segment from all others of its partition, ever. In the order of
/// their base offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Offset of the first record that it may hold.
    pub base_offset: Offset,
    /// What it stands for, if compaction made it.
    pub compacted: Option<Compacted>,
}

/// What a compacted segment stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Compacted {
    /// One past the last offset that it covers.
    pub next_offset: Offset,
    /// Higher than those of all segments that it replaces; at least 1.
    pub revision: u32,
}

impl From<Offset> for SegmentName {
    /// The name of a segment of the archiver's.
    fn from(base_offset: Offset) -> SegmentName {
        SegmentName {
            base_offset,
            compacted: None,
        }
    }
}

impl SegmentName {
    /// 0 if the archiver made it.
    pub fn revision(&self) -> u32 {
        self.compacted.map_or(0, |compacted| compacted.revision)
    }

    fn supersedes(&self, other: &SegmentName) -> bool {
        self.compacted.is_some_and(|compacted| {
            let covered = self.base_offset..compacted.next_offset;
            covered.contains(&other.base_offset) && compacted.revision > other.revision()
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.base_offset.0)?;
        match self.compacted {
            Some(compacted) => {
                let Compacted {
                    next_offset,
                    revision,
                } = compacted;
                write!(f, "-{:020}.{revision}", next_offset.0)
            }
            None => Ok(()),
        }
    }
}

/// A name that no segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSegment;

impl FromStr for SegmentName {
    type Err = NoSegment;

    fn from_str(text: &str) -> Result<SegmentName, NoSegment> {
        let parse = || {
            let (base, compacted) = match text.split_once('-') {
                None => (text, None),
                Some((base, rest)) => {
                    let (next_offset, revision) = rest.split_once('.')?;
                    let compacted = Compacted {
                        next_offset: Offset(next_offset.parse().ok()?),
                        revision: revision.parse().ok()?,
                    };
                    (base, Some(compacted))
                }
            };
            Some(SegmentName {
                base_offset: Offset(base.parse().ok()?),
                compacted,
            })
        };
        // Spelt in another way, it would name another file.
        let is_ours = |name: &SegmentName| name.to_string() == text;
        parse().filter(is_ours).ok_or(NoSegment)
    }
}

/// The directory of a partition's segments.
pub fn partition_dir(id: PartitionId) -> PathBuf {
    Path::new(PARTITIONS_DIR).join(id.to_string())
}

/// The file of a segment.
pub fn log_path(id: PartitionId, name: impl Into<SegmentName>) -> PathBuf {
    partition_dir(id).join(format!("{}{LOG}", name.into()))
}

/// The index of a segment.
pub fn index_path(id: PartitionId, name: impl Into<SegmentName>) -> PathBuf {
    partition_dir(id).join(format!("{}{INDEX}", name.into()))
}

/// Where compaction writes a segment before it counts.
pub fn unfinished_path(id: PartitionId, base_offset: Offset) -> PathBuf {
    let name = SegmentName::from(base_offset);
    partition_dir(id).join(format!("{name}{UNFINISHED}"))
}

/// Whose segment or index a path names; `None` when it names neither.
pub fn parse_path(path: &Path) -> Option<(PartitionId, SegmentName)> {
    let name = path.file_stem()?.to_str()?.parse().ok()?;
    let partition = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let id = PartitionId(partition);
    let is_ours = path == log_path(id, name) || path == index_path(id, name);
    is_ours.then_some((id, name))
}

/// What lies in the directory of a partition.
#[derive(Debug)]
pub struct Listing {
    id: PartitionId,
    files: Vec<String>,
    /// Those of the files that are segments, in order.
    segments: Vec<SegmentName>,
}

/// Looks into the directory of a partition; it need not be there.
pub fn list(dir: &dyn Dir, id: PartitionId) -> io::Result<Listing> {
    let files = dir.list(&partition_dir(id))?;
    let name = |file: &String| file.strip_suffix(LOG)?.parse().ok();
    let mut segments: Vec<SegmentName> = files.iter().filter_map(name).collect();
    segments.sort_unstable();
    Ok(Listing {
        id,
        files,
        segments,
    })
}

impl Listing {
    /// The segments, in order; among them those that don't count any more.
    pub fn segments(&self) -> &[SegmentName] {
        &self.segments
    }

    /// The segments that no other one has replaced, in order.
    pub fn current(&self) -> Vec<SegmentName> {
        current(&self.segments)
    }

    /// What compaction has not finished.
    pub fn unfinished(&self) -> impl Iterator<Item = PathBuf> {
        let unfinished = self.files.iter().filter(|file| file.ends_with(UNFINISHED));
        unfinished.map(|file| partition_dir(self.id).join(file))
    }

    /// What a crash left of compaction: segments that others have replaced, those
    /// that it has not finished, and indexes without a segment.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let current = self.current();
        let is_left = |file: &String| {
            let of = file.strip_suffix(LOG).or(file.strip_suffix(INDEX));
            match of.map(str::parse) {
                Some(Ok(name)) => current.binary_search(&name).is_err(),
                Some(Err(NoSegment)) => false,
                None => file.ends_with(UNFINISHED),
            }
        };
        let left = self.files.iter().filter(|file| is_left(file));
        left.map(|file| partition_dir(self.id).join(file)).collect()
    }
}

/// Those of the segments, given in order, that no other one has replaced.
fn current(names: &[SegmentName]) -> Vec<SegmentName> {
    // Compacted ones that cover what comes next: one, but for what crashes left.
    let mut covers: Vec<SegmentName> = Vec::new();
    let mut current = Vec::with_capacity(names.len());
    for of_base in names.chunk_by(|a, b| a.base_offset == b.base_offset) {
        let base = of_base[0].base_offset;
        let reaches = |cover: &SegmentName| cover.compacted.is_some_and(|c| c.next_offset > base);
        covers.retain(reaches);
        covers.extend(of_base.iter().filter(|name| name.compacted.is_some()));
        let is_covered = |name: &SegmentName| covers.iter().any(|cover| cover.supersedes(name));
        current.extend(of_base.iter().filter(|name| !is_covered(name)));
    }
    current
}

/// Removes a segment and its index.
pub fn remove(dir: &dyn Dir, id: PartitionId, name: impl Into<SegmentName>) -> io::Result<()> {
    let name = name.into();
    for path in [index_path(id, name), log_path(id, name)] {
        remove_if_there(dir, &path)?;
    }
    Ok(())
}

/// Removes a file, if there is one.
pub fn remove_if_there(dir: &dyn Dir, path: &Path) -> io::Result<()> {
    match dir.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archived(base: u64) -> SegmentName {
        Offset(base).into()
    }

    fn compacted(base: u64, next: u64, revision: u32) -> SegmentName {
        SegmentName {
            base_offset: Offset(base),
            compacted: Some(Compacted {
                next_offset: Offset(next),
                revision,
            }),
        }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        for name in [archived(0), archived(42), compacted(42, 1042, 7)] {
            assert_eq!(name.to_string().parse(), Ok(name));
            for path in [
                log_path(PartitionId(3), name),
                index_path(PartitionId(3), name),
            ] {
                assert_eq!(parse_path(&path), Some((PartitionId(3), name)));
            }
        }
        assert_eq!(
            compacted(42, 1042, 7).to_string(),
            "00000000000000000042-00000000000000001042.7"
        );
        for text in [
            "",
            "42",
            "+0000000000000000042",
            "00000000000000000042-",
            "00000000000000000042-1042.7",
            "00000000000000000042-00000000000000001042",
            "00000000000000000042-00000000000000001042.07",
            "00000000000000000042-00000000000000001042.7.7",
        ] {
            assert_eq!(text.parse::<SegmentName>(), Err(NoSegment), "{text}");
        }
    }

    #[test]
    fn what_a_newer_one_covers_is_superseded() {
        let (first, second, third) = (archived(0), archived(10), archived(20));
        let names = [first, compacted(0, 20, 1), second, third];
        assert_eq!(current(&names), [compacted(0, 20, 1), third]);
        // It replaced one that had replaced others, and all are still there.
        let names = [
            first,
            compacted(0, 20, 1),
            compacted(0, 30, 2),
            second,
            compacted(10, 20, 1),
            third,
            archived(30),
        ];
        assert_eq!(current(&names), [compacted(0, 30, 2), archived(30)]);
    }

    #[test]
    fn one_of_an_equal_or_higher_revision_is_not_superseded() {
        let names = [
            compacted(0, 30, 1),
            compacted(10, 20, 1),
            compacted(20, 30, 2),
        ];
        assert_eq!(current(&names), names);
    }
}
