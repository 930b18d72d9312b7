//! `wellhead reload`: makes the running gateway read its file again.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::line_access::{GATEWAY_TIMEOUT, call};
use super::{CONFIG, Failure, put};
use crate::config;
use crate::status::control::{self, ControlRequest, Reply};

/// Makes the gateway of a file reload it, and prints the changes.
pub(super) fn reload(file: &Path) -> Result<(), Failure> {
    // Loaded here too: its faults are printed at the terminal.
    let mut gateway = gateway(file)?;
    match call(&mut gateway, &ControlRequest::Reload)? {
        Reply::Reloaded(changes) if changes.is_empty() => {
            put(b"configuration reloaded: no changes\n").map(drop)
        }
        Reply::Reloaded(changes) => put(format!("{}\n", changes.join("\n")).as_bytes()).map(drop),
        Reply::Refused(why) => Err(Failure {
            code: CONFIG,
            message: why,
        }),
        _ => Err(super::line_access::unexpected()),
    }
}

/// Connects to the gateway that runs with a file.
pub(super) fn gateway(file: &Path) -> Result<BufReader<UnixStream>, Failure> {
    gateway_in(&config::load(file)?.folder)
}

/// Connects to the gateway that runs with a folder.
pub(super) fn gateway_in(folder: &Path) -> Result<BufReader<UnixStream>, Failure> {
    let path = control::path(folder);
    let stream = UnixStream::connect(&path).map_err(|error| {
        Failure::runtime(match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{}: you may not ask the gateway; do it as root, or as a member of the group of that folder", path.display())
            }
            _ => format!("{}: {error}; no gateway runs with this file", path.display()),
        })
    })?;
    stream
        .set_read_timeout(Some(GATEWAY_TIMEOUT))
        .map_err(Failure::runtime)?;
    Ok(BufReader::new(stream))
}
