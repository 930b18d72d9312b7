//! The gateway's end of the control socket.

use std::path::Path;

use tokio::sync::mpsc;

use crate::status::control::{self, Call, Control, InstanceLock};
use crate::tasks::{Stop, detach};

/// Where requests of commands arrive.
pub(super) struct ControlEnd {
    pub(super) requests: mpsc::Receiver<Call>,
    _lock: Option<InstanceLock>,
}

impl ControlEnd {
    /// Takes the lock and binds the socket in a folder; without them the gateway runs all the same.
    pub(super) fn open(folder: &Path, stop: &Stop) -> Self {
        let lock = InstanceLock::take(folder).inspect_err(|error| {
            tracing::warn!(event = "control.lock_failed", %error, "cannot lock control socket; CLI commands will not find this instance");
        });
        let (calls, requests) = mpsc::channel(1);
        match Control::bind(folder) {
            Ok(control) => detach(control.run(calls, stop.clone())),
            Err(error) => {
                let path = control::path(folder);
                tracing::warn!(event = "control.bind_failed", path = %path.display(), %error, "control socket unavailable; CLI commands cannot reach this gateway");
            }
        }
        Self {
            requests,
            _lock: lock.ok(),
        }
    }
}
