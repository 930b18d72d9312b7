//! `wellhead run`: the gateway, until SIGTERM or Ctrl-C.

use std::path::Path;

use super::{Failure, runtime, start_log, stop_signal};
use crate::{config, gateway};

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    start_log();
    let runtime = runtime()?;
    runtime.block_on(gateway::run(config, stop_signal())).map_err(Failure::runtime)
}
