//! A remote broker for uplinks and bridges.

use std::fs;
use std::process::Command;

use crate::brokers::{Broker, launch, mosquitto};

/// A mosquitto that stands for a remote broker, with `more` in its file.
pub(crate) fn remote(port: u16, more: &str) -> Broker {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let config = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n{more}");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(mosquitto());
    command.arg("-c").arg(&file);
    launch(command, port, folder)
}
