//! `wellhead run`: the gateway, until SIGTERM or Ctrl-C.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, StopSignal, runtime, start_log};
use crate::tasks::detach;
use crate::{config, gateway};

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    start_log();
    let runtime = runtime()?;
    runtime.block_on(async {
        let stop = StopSignal::catch()?;
        gateway::run(config, stop.wait(), on_hang_up()?).await.map_err(Failure::runtime)
    })
}

/// Gets something for every SIGHUP.
fn on_hang_up() -> Result<mpsc::Receiver<()>, Failure> {
    let failed = |error| Failure::runtime(format!("signals cannot be received: {error}"));
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(1);
    detach(async move {
        while hang_up.recv().await.is_some() {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
