//! `statecast config`.

use clap::{Args, Subcommand};

use super::common::{Common, Output};
use super::failure::Failure;
use super::serve::SettingsArgs;
use super::session::print;

/// Show the configuration of `serve`.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print the settings that `serve` would use with the same flags,
    /// environment and file.
    Show(SettingsArgs),
}

impl Config {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        let ConfigVerb::Show(args) = self.verb;
        let settings = args.resolve()?;
        let text = match common.output {
            Output::Table => toml::to_string(&settings).map_err(Failure::failed)?,
            Output::Json => serde_json::to_string(&settings).map_err(Failure::failed)? + "\n",
        };
        print(&text)
    }
}
