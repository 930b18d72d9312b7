//! `wellhead sessions`: sessions of the broker of the running gateway.

use std::path::PathBuf;

use clap::Subcommand;

use super::line_access::call;
use super::reload::gateway;
use super::{Failure, chosen};
use crate::status::control::{ControlRequest, Reply};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
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

/// Runs a command, through the control socket of the gateway.
pub(super) fn sessions(command: SessionsCommand) -> Result<(), Failure> {
    let SessionsCommand::End { client_id, file } = command;
    match call(
        &mut gateway(&chosen(file)?)?,
        &ControlRequest::EndSession { client_id },
    )? {
        Reply::Ended => Ok(()),
        Reply::Refused(why) => Err(Failure::runtime(why)),
        _ => Err(super::line_access::unexpected()),
    }
}
