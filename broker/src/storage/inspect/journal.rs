//! Verifies the journal: what a recovery would make of it, file by file.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::report::{Damage, FileKind, InspectedFile};
use crate::model::PartitionId;
use crate::storage::checkpoint::CheckpointEntry;
use crate::storage::dir::Dir;
use crate::storage::journal::{
    Chain, ChainFile, FILE_HEADER_LEN, FileHeader, JOURNAL_DIR, JournalFiles, JournalSize, Scanned,
    ScannedFrame, scan_file,
};
use crate::storage::log::PartitionLog;
use crate::storage::lsn::{Generation, Lsn};
use crate::storage::open::log_of;
use crate::storage::producers::ProducerReplay;
use crate::storage::recovery::{self, JournalDamage, RecoveryReport, ReplayInto};
use crate::storage::segment::partition_dir;

/// Verifies every frame that is not in segments yet. A torn tail is no damage:
/// nothing in it was acknowledged.
pub(super) fn inspect(
    dir: &Arc<dyn Dir>,
    file_bytes: u32,
    archived: Option<Generation>,
    entries: &[CheckpointEntry],
) -> io::Result<Vec<InspectedFile>> {
    let size = JournalSize {
        file_bytes,
        max_files: usize::MAX,
        spares: 0,
    };
    let mut logs: HashMap<PartitionId, Arc<PartitionLog>> = entries
        .iter()
        .map(|entry| (entry.partition, Arc::new(log_of(entry))))
        .collect();
    let mut recovery = RecoveryReport::default();
    let files = JournalFiles::new(dir.clone(), size);
    let into = ReplayInto {
        logs: &mut logs,
        producers: &mut ProducerReplay::default(),
        report: &mut recovery,
    };
    recovery::replay(&files, archived, into)?;

    let mut reports = Vec::new();
    let chain = Chain::walk(files.open_all()?, archived)?;
    let durable = match chain.files.last() {
        Some(last) => recovery::durable(&chain.files, &scan_file(last)?),
        None => Lsn::ZERO,
    };
    for file in &chain.files {
        reports.push(inspect_used(file, durable)?);
    }
    for spare in &chain.spares {
        let len = spare.file().len()?;
        reports.push(InspectedFile::new(
            spare.path().display().to_string(),
            FileKind::SpareJournal,
            len,
        ));
    }
    for damage in recovery.damage {
        attribute(dir.as_ref(), entries, &mut reports, &damage)?;
    }
    Ok(reports)
}

fn inspect_used(chained: &ChainFile, durable: Lsn) -> io::Result<InspectedFile> {
    let kind = FileKind::Journal(chained.header.generation);
    let len = chained.file.file().len()?;
    let mut report = InspectedFile::new(chained.file.path().display().to_string(), kind, len);
    for found in scan_file(chained)? {
        if let Scanned::Frame(frame) = found {
            count(&mut report, &frame, durable);
        }
    }
    Ok(report)
}

/// Counts a frame, or notes that its payload is damaged. What was not durable
/// may be torn.
fn count(report: &mut InspectedFile, frame: &ScannedFrame, durable: Lsn) {
    if frame.payload_is_valid {
        report.batches += 1;
        report.records += u64::from(frame.span);
    } else if frame.lsn < durable {
        let (from, to) = (frame.lsn, frame.end());
        report.damage.push(Damage::Frames { from, to });
    }
}

/// Notes damage at the file where it is.
fn attribute(
    dir: &dyn Dir,
    entries: &[CheckpointEntry],
    reports: &mut Vec<InspectedFile>,
    damage: &JournalDamage,
) -> io::Result<()> {
    let (generation, damage) = match *damage {
        JournalDamage::Bytes { from, to } => (from.generation(), Damage::Frames { from, to }),
        JournalDamage::File(generation) => (generation, Damage::Missing),
        JournalDamage::Offsets {
            partition,
            from,
            to,
        } => {
            // A partition that was deleted leaves frames behind.
            let is_known = entries.iter().any(|entry| entry.partition == partition);
            if !is_known && dir.list(&partition_dir(partition))?.is_empty() {
                return Ok(());
            }
            let damage = Damage::Offsets {
                partition,
                from,
                to,
            };
            note(reports, None, damage);
            return Ok(());
        }
    };
    note(reports, Some(generation), damage);
    Ok(())
}

/// At the file of this generation, or at the journal as a whole.
fn note(reports: &mut Vec<InspectedFile>, generation: Option<Generation>, damage: Damage) {
    let kind = generation.map(FileKind::Journal);
    let at = reports.iter().position(|file| Some(file.kind) == kind);
    let at = at.unwrap_or_else(|| {
        let kind = FileKind::Journal(generation.unwrap_or(Generation::ZERO));
        reports.push(InspectedFile::new(String::from(JOURNAL_DIR), kind, 0));
        reports.len() - 1
    });
    reports[at].damage.push(damage);
}

/// Verifies a journal file on its own: below the highest place that its frames
/// prove durable, nothing may be missing.
pub(super) fn inspect_alone(dir: &dyn Dir, path: &Path) -> io::Result<Option<InspectedFile>> {
    let file = dir.open(path)?;
    let len = file.len()?;
    let mut head = vec![0; FILE_HEADER_LEN];
    let read = file.read_salvaging(&mut head, 0)?;
    let Some(header) = FileHeader::decode(&head[..read]) else {
        return Ok(None);
    };
    let kind = FileKind::Journal(header.generation);
    let mut report = InspectedFile::new(path.display().to_string(), kind, len);
    let chained = ChainFile::alone(file, header);
    let found = scan_file(&chained)?;
    let durable = recovery::durable(std::slice::from_ref(&chained), &found);
    for found in found {
        match found {
            Scanned::Frame(frame) => count(&mut report, &frame, durable),
            Scanned::Gap { from, to } if from < durable => {
                let to = to.min(durable);
                report.damage.push(Damage::Frames { from, to });
            }
            Scanned::Gap { .. } => {}
        }
    }
    Ok(Some(report))
}
