//! `statecast health`.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use statecast_client::Client;

use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{block_on, print, print_json};
use super::units;

/// Ask whether the broker serves: exit code 0 when it does. Made for container
/// health checks.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// How long the broker may take to answer.
    #[arg(long, value_name = "TIME", value_parser = units::timeout, default_value = "3s")]
    timeout: Duration,
}

impl Health {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(async {
            let client = Client::builder(&common.endpoint)
                .connect_timeout(self.timeout)
                .request_timeout(self.timeout)
                .connect_lazy()?;
            let serving = common.reach(client.is_serving().await)?;
            if !serving {
                return Err(Failure::failed("the broker is up, but not serving"));
            }
            match common.output {
                Output::Json => print_json(&json!({ "serving": true })),
                Output::Table if common.quiet => Ok(()),
                Output::Table => print("serving\n"),
            }
        })
    }
}
