//! `wellhead sessions`: sessions of the broker of a gateway that runs.

use std::path::PathBuf;

use clap::Subcommand;

use super::line::call;
use super::reload::gateway;
use super::{Failure, chosen};
use crate::status::control::{Reply, Request};

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// End the session of a client: disconnect it and delete its queued messages
    #[command(
        after_help = "Examples:\n  wellhead sessions end hmi-7                    another user can use this client identifier then"
    )]
    End {
        /// The client identifier
        client_id: String,
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// Does it, through the control socket of the gateway.
pub(super) fn sessions(action: Action) -> Result<(), Failure> {
    let Action::End { client_id, file } = action;
    match call(
        &mut gateway(&chosen(file)?)?,
        &Request::EndSession { client_id },
    )? {
        Reply::Ended => Ok(()),
        Reply::Refused(why) => Err(Failure::runtime(why)),
        _ => Err(super::line::unexpected()),
    }
}
