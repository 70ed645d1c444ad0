//! `statecast inspect`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{print, print_json};
use crate::storage::dir::{Dir, ExaminedDir};
use crate::storage::{FileKind, InspectedFile, Inspection, inspect_dir, inspect_file};

/// Verify the files of a data directory while no broker uses it: exit code 1
/// when any is damaged. Changes nothing.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A data directory, or one file of it.
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
}

impl Inspect {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        let failed = |error| Failure::failed(format!("{}: {error}", self.path.display()));
        let inspection = if self.path.is_dir() {
            let dir: Arc<dyn Dir> = Arc::new(open(&self.path)?);
            inspect_dir(&dir).map_err(failed)?
        } else {
            let path = self.path.canonicalize().map_err(failed)?;
            let root = root_of(&path);
            let relative = path.strip_prefix(root).map_err(Failure::failed)?;
            inspect_file(&open(root)?, relative).map_err(failed)?
        };
        match common.output {
            Output::Json => print_json(&json_of(&inspection))?,
            Output::Table => print(&text_of(&inspection))?,
        }
        let damaged = inspection.files.iter();
        let damaged = damaged.filter(|file| !file.damage.is_empty()).count();
        match damaged {
            0 => Ok(()),
            1 => Err(Failure::failed("1 file is damaged")),
            count => Err(Failure::failed(format!("{count} files are damaged"))),
        }
    }
}

fn open(root: &Path) -> Result<ExaminedDir, Failure> {
    ExaminedDir::open(root).map_err(Failure::failed)
}

/// The data directory that a file lies in: `journal/x` or `partitions/n/x`. A
/// file elsewhere is looked at on its own.
fn root_of(file: &Path) -> &Path {
    let above = file.ancestors().skip(1).take(3);
    let mut data_dirs = above.filter(|dir| dir.join("FORMAT").is_file());
    let parent = file.parent().unwrap_or(Path::new("/"));
    data_dirs.next().unwrap_or(parent)
}

fn text_of(inspection: &Inspection) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FILE", "KIND", "BYTES", "OFFSETS", "BATCHES", "RECORDS"]);
    for column in [2, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut unused = (0, 0);
    for file in &inspection.files {
        // There may be thousands that hold nothing.
        if file.kind == FileKind::SpareJournal && file.damage.is_empty() {
            unused = (unused.0 + 1, unused.1 + file.bytes);
            continue;
        }
        table.add_row(row(file));
    }
    let mut text = format!("{}\n", table.trim_fmt());
    if unused.0 > 0 {
        let (count, bytes) = unused;
        let _ = writeln!(text, "{count} spare journal files, {bytes} bytes");
    }
    for file in &inspection.files {
        for damage in &file.damage {
            let _ = writeln!(text, "damaged: {}: {damage}", file.path);
        }
    }
    text
}

fn row(file: &InspectedFile) -> [String; 6] {
    let offsets = file
        .offsets
        .map(|(from, to)| format!("{from}..{to}"))
        .unwrap_or_default();
    let holds_batches = !matches!(
        file.kind,
        FileKind::Identity
            | FileKind::Checkpoint
            | FileKind::Producers
            | FileKind::Index
            | FileKind::UnfitIndex
            | FileKind::Unknown
    );
    let count = |count: u64| match holds_batches {
        true => count.to_string(),
        false => String::new(),
    };
    [
        file.path.clone(),
        file.kind.to_string(),
        file.bytes.to_string(),
        offsets,
        count(file.batches),
        count(file.records),
    ]
}

fn json_of(inspection: &Inspection) -> Value {
    let files: Vec<Value> = inspection.files.iter().map(file_json).collect();
    json!({ "sound": inspection.is_sound(), "files": files })
}

fn file_json(file: &InspectedFile) -> Value {
    let damage: Vec<String> = file.damage.iter().map(ToString::to_string).collect();
    json!({
        "path": file.path,
        "kind": file.kind.to_string(),
        "bytes": file.bytes,
        "partition": file.partition.map(|id| id.0),
        "from_offset": file.offsets.map(|(from, _)| from.0),
        "next_offset": file.offsets.map(|(_, to)| to.0),
        "batches": file.batches,
        "records": file.records,
        "damage": damage,
    })
}
