//! `wellhead run`: the gateway, until SIGTERM or Ctrl-C.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Failure, StopSignal, log, runtime};
use crate::log::Format;
use crate::status::restarts::{self, Restarts};
use crate::status::service::Service;
use crate::tasks::detach;
use crate::{config, gateway};

pub(super) fn run(
    file: &Path,
    line_priority: Option<u8>,
    format: Option<Format>,
) -> Result<(), Failure> {
    // The file is read again below, after a delay in which its faults may have been corrected; they
    // are reported there.
    log::start(format.unwrap_or_else(|| {
        config::load(file)
            .map(|config| config.log)
            .unwrap_or_default()
    }))?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut stop = StopSignal::catch()?;
        let hang_up = on_hang_up()?;
        let starts = Restarts::of_environment();
        tokio::select! {
            () = stop.wait() => {
                starts.forget();
                return Ok(());
            }
            () = delay_start(starts.count()) => {}
        }
        let config = configuration(file, line_priority)?;
        for warning in &config.warnings {
            tracing::warn!(event = "config.warning", "{warning}");
        }
        let until = async {
            tokio::select! {
                () = stop.wait() => {}
                () = async { sleep(restarts::PROVEN).await; starts.forget(); std::future::pending().await } => {}
            }
        };
        let again = file.to_path_buf();
        let load = Arc::new(move || configuration(&again, line_priority).map_err(|failure| failure.message));
        gateway::run(config, load, until, hang_up).await.map_err(Failure::runtime)?;
        starts.forget();
        Ok(())
    })
}

/// The configuration, if this process may act on it.
fn configuration(file: &Path, line_priority: Option<u8>) -> Result<config::Gateway, Failure> {
    let config = config::Gateway {
        line_priority,
        ..config::load_to_run(file)?
    };
    is_ours(&config.folder)?;
    if is_volatile(&config.folder) {
        let folder = config.folder.display();
        tracing::warn!(event = "gateway.folder_not_persistent", %folder, "data folder is on tmpfs or a container overlay; queued messages will not survive a reboot - mount persistent storage");
    }
    Ok(config)
}

/// Root must not leave files in the folder of the service that the service cannot use.
fn is_ours(folder: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(folder)
        .map(|metadata| metadata.uid())
        .ok()
        .filter(|_| rustix::process::geteuid().is_root());
    match owner.filter(|owner| *owner != 0) {
        Some(owner) => Err(Failure::runtime(format!(
            "{} belongs to the user with number {owner}, and what root writes there that user cannot use; start it as a service (systemctl start wellhead), or as that user",
            folder.display()
        ))),
        None => Ok(()),
    }
}

/// True if a reboot empties the folder, or the one in which it will be made.
fn is_volatile(folder: &Path) -> bool {
    const OVERLAY: u32 = 0x794c_7630;
    const RAMFS: u32 = 0x8584_58f6;
    const TMPFS: u32 = 0x0102_1994;
    let kind = folder
        .ancestors()
        .find_map(|folder| rustix::fs::statfs(folder).ok())
        .map(|system| system.f_type);
    // As wide as a machine word; the low half counts.
    kind.is_some_and(|kind| {
        [OVERLAY, RAMFS, TMPFS]
            .iter()
            .any(|known| kind.to_le_bytes().starts_with(&known.to_le_bytes()))
    })
}

/// Delays a start after `before` failed ones in a row.
async fn delay_start(before: u32) {
    let delay = restarts::delay(before);
    if delay > Duration::ZERO {
        let seconds = delay.as_secs();
        tracing::warn!(
            event = "gateway.start_delayed",
            before,
            seconds,
            "crash loop: delaying start; the lines above say why earlier starts ended"
        );
        let mut service = Service::of_environment();
        service.starts_later(delay);
        service.status(&format!(
            "waits {seconds} s, because {before} starts in a row ended early"
        ));
        sleep(delay).await;
    }
}

/// An item for every SIGHUP.
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
