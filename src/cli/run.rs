//! `wellhead run`: the gateway, until SIGTERM or Ctrl-C.

use std::path::Path;

use super::{Failure, StopSignal, runtime, start_log};
use crate::{config, gateway};

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    start_log();
    let runtime = runtime()?;
    runtime.block_on(async {
        let stop = StopSignal::catch()?;
        gateway::run(config, stop.wait()).await.map_err(Failure::runtime)
    })
}
