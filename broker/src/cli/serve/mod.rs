//! `statecast serve`.

mod settings;

use clap::Args;

use super::common::Common;
use super::failure::Failure;

pub(super) use settings::SettingsArgs;

/// Run the broker.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Serve {
    pub(super) fn run(self, _common: &Common) -> Result<(), Failure> {
        let settings = self.settings.resolve()?;
        Err(Failure::failed(format_args!(
            "serving {} comes next",
            settings.data_dir.display()
        )))
    }
}
