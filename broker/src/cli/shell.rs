//! `statecast completions` and `statecast man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::failure::Failure;
use super::session::print;

/// Print completions for a shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "statecast", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

/// Print the manual page, or write those of all verbs into a directory.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Where to write the pages; it must exist.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let command = super::command();
        if let Some(dir) = self.dir {
            return clap_mangen::generate_to(command, dir).map_err(Failure::failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(Failure::failed)?;
        print(&String::from_utf8_lossy(&page))
    }
}
