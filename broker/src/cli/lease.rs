//! `statecast lease`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use statecast_client::{Lease, LeaseId};

use super::common::{Common, Output};
use super::failure::Failure;
use super::session::{block_on, print, print_json};
use super::signals::stop_requested;
use super::units;

/// Make and end leases: keys that are put with one are removed when it ends.
#[derive(Debug, Args)]
#[command(visible_alias = "leases")]
pub(super) struct LeaseCommand {
    #[command(subcommand)]
    verb: LeaseVerb,
}

#[derive(Debug, Subcommand)]
enum LeaseVerb {
    /// Make a lease; prints its id.
    Grant {
        /// How long it lives when it isn't kept alive: 1s to 1d.
        #[arg(long, value_name = "TIME", value_parser = units::timeout)]
        ttl: Duration,
        /// Stay, and keep it alive until interrupted; then end it. Fails when it is
        /// lost.
        #[arg(long)]
        keep_alive: bool,
    },
    /// End a lease at once; prints how many keys were removed.
    Revoke {
        /// Which.
        id: LeaseId,
    },
}

impl LeaseCommand {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(self.verb.run(common))
    }
}

impl LeaseVerb {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let client = common.connect().await?;
        match self {
            Self::Grant { ttl, keep_alive } => {
                let lease = client.grant_lease(ttl).await?;
                match common.output {
                    Output::Table => print(&format!("{}\n", lease.id()))?,
                    Output::Json => print_json(&json!({
                        "lease": lease.id().number(),
                        "ttl_ms": u64::try_from(lease.ttl().as_millis()).unwrap_or(u64::MAX),
                    }))?,
                }
                match keep_alive {
                    true => keep(common, lease).await,
                    false => Ok(()),
                }
            }
            Self::Revoke { id } => {
                let removed = client.revoke_lease(id).await?;
                common.note(format_args!("revoked lease {id}"));
                match common.output {
                    Output::Table => print(&format!("{removed}\n")),
                    Output::Json => print_json(&json!({ "removed_keys": removed })),
                }
            }
        }
    }
}

async fn keep(common: &Common, lease: Lease) -> Result<(), Failure> {
    let (stop, id) = (stop_requested()?, lease.id());
    common.note(format_args!("lease {id} is kept alive; Ctrl-C ends it"));
    tokio::select! {
        error = lease.lost() => Err(error.into()),
        () = stop => {
            let removed = lease.revoke().await?;
            common.note(format_args!("revoked lease {id}; keys removed: {removed}"));
            Ok(())
        }
    }
}
