//! A gateway that dies: at any moment, or at a sync that was chosen; of kill -9, or of a power cut,
//! which takes what was not synced with it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tempfile::TempDir;

use super::super::power::disk::{Disk, records, tracer};
use super::super::support::{PATIENCE, Process, wait_for, wellhead};

/// What a death takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process.
    Process,
    /// The process, and what was not synced.
    Power,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "kills",
            Self::Power => "power cuts",
        }
    }
}

/// When a gateway dies.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// So long after its start, which may be before it listens.
    Any(Duration),
    Sync(SyncPoint),
}

/// One side of a sync.
#[derive(Debug, Clone, Copy)]
pub struct SyncPoint {
    pub side: Side,
    /// Counted from the order on, from 1.
    pub number: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Side {
    Before,
    After,
}

impl Moment {
    /// Any of the syncs of a start or of the traffic behind it, or any moment between them.
    pub fn draw(random: &mut Rng) -> Self {
        let side = match random.u8(..4) {
            0 => Side::Before,
            1 => Side::After,
            _ => return Self::Any(Duration::from_micros(random.u64(5_000..900_000))),
        };
        let number = random.u32(1..=150);
        Self::Sync(SyncPoint { side, number })
    }
}

/// The file that tells the tracer where to stop the process.
const ORDER: &str = "stop";
/// What the gateway has done to its files.
const TRACE: &str = "trace.log";
/// How long nothing is written when everything is written: longer than messages wait for each other
/// to share a commit.
const QUIET: Duration = Duration::from_millis(120);
/// The folder of the outbox and of the broker.
pub const STATE: &str = "state";

pub struct Site {
    library: PathBuf,
    loss: Loss,
    process: Option<Process>,
    /// Where the gateway listens.
    port: Option<u16>,
    /// The files at its start, if power cuts are played.
    disk: Option<Disk>,
    random: Rng,
    deaths: u32,
    /// Behind the process, which prints its log when it fails.
    folder: TempDir,
}

impl Site {
    /// A folder for a gateway that does not run yet.
    pub fn new(loss: Loss) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = tracer(folder.path());
        fs::create_dir(folder.path().join(STATE)).unwrap();
        Self {
            library,
            loss,
            process: None,
            port: None,
            disk: None,
            random: Rng::with_seed(21),
            deaths: 0,
            folder,
        }
    }

    /// How often the gateway died, and of what.
    pub fn deaths(&self) -> String {
        format!("{} {}", self.deaths, self.loss.name())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn configure(&self, yaml: &str) {
        fs::write(self.path("gateway.yaml"), yaml).unwrap();
    }

    /// Starts the gateway with its syncs played, and waits for nothing.
    pub fn start(&mut self) {
        let mut command = wellhead();
        command
            .env("LD_PRELOAD", &self.library)
            .env("TRACE_ROOT", self.path(STATE))
            .env("TRACE_LOG", self.path(TRACE))
            .env("TRACE_STOP", self.path(ORDER));
        self.start_as(command);
    }

    /// Starts a gateway that is not to die at a sync: with real syncs, which take their time, if no
    /// power cut has to be played.
    pub fn start_for_any_moment(&mut self) {
        match self.loss {
            Loss::Process => self.start_as(wellhead()),
            Loss::Power => self.start(),
        }
    }

    fn start_as(&mut self, mut command: Command) {
        // What an earlier one has said must not be taken for this one.
        let _ = fs::rename(self.path("gateway.log"), self.path("gateway.log.before"));
        let _ = fs::remove_file(self.path(TRACE));
        if self.loss == Loss::Power {
            self.disk = Some(Disk::of(&self.path(STATE)));
        }
        command.arg("run").arg(self.path("gateway.yaml"));
        self.process = Some(Process::start(&mut command, &self.path("gateway.log")));
    }

    /// Starts a gateway that will die at a sync.
    pub fn start_until(&mut self, point: SyncPoint) {
        self.order(point);
        self.start();
    }

    /// Lets the gateway die at a sync from now on.
    pub fn order(&self, point: SyncPoint) {
        let side = match point.side {
            Side::Before => "before",
            Side::After => "after",
        };
        let draft = self.path("stop.new");
        fs::write(&draft, format!("{side} {}", point.number)).unwrap();
        fs::rename(draft, self.path(ORDER)).unwrap();
    }

    /// Where the gateway listens; `None` while it does not.
    pub fn port(&mut self) -> Option<u16> {
        if self.port.is_none() {
            let lines = self.process.as_ref()?.events("broker.listening", &[]);
            let (_, port) = lines.first()?.rsplit_once(':')?;
            self.port = Some(port.trim_end().parse().unwrap());
        }
        self.port
    }

    /// Waits until the gateway has started.
    pub fn started(&mut self) -> u16 {
        self.process
            .as_ref()
            .unwrap()
            .wait_for_event("gateway.started", &[]);
        wait_for("the port of the gateway", || self.port())
    }

    pub fn is_dead(&mut self) -> bool {
        !self.process.as_mut().unwrap().is_running()
    }

    /// Works until the gateway dies at the sync that was ordered; ends it if that does not come.
    pub fn die_within(&mut self, limit: Duration, mut work: impl FnMut(&mut Self)) {
        let end = Instant::now() + limit;
        while !self.is_dead() && Instant::now() < end {
            work(self);
        }
        self.die();
    }

    /// Ends the gateway, if it is not dead yet, with what its death takes with it.
    pub fn die(&mut self) {
        let mut process = self.process.take().unwrap();
        if process.is_running() {
            process.kill_9();
        } else {
            let output = process.output();
            let signal = process.wait().signal();
            assert_eq!(signal, Some(9), "the gateway ended by itself: {output}");
        }
        let _ = fs::remove_file(self.path(ORDER));
        self.port = None;
        self.deaths += 1;
        if let Some(mut disk) = self.disk.take() {
            // It is missing if the process died before it had begun.
            let log = fs::read(self.path(TRACE)).unwrap_or_default();
            for record in records(&log) {
                disk.apply(&record);
            }
            let state = self.path(STATE);
            fs::remove_dir_all(&state).unwrap();
            disk.cut(&mut self.random, &state);
        }
    }

    /// Works until the gateway has written nothing for a while.
    pub fn rest(&mut self, mut work: impl FnMut(u16)) -> bool {
        let log = self.path(TRACE);
        let (mut size, mut since) = (0, Instant::now());
        self.calm(|port| {
            work(port);
            let found = fs::metadata(&log).map_or(0, |found| found.len());
            if found != size {
                (size, since) = (found, Instant::now());
            }
            since.elapsed() > QUIET
        })
    }

    /// Asks `is_done`, which does the work, until it is true; false if it never is.
    pub fn calm(&mut self, mut is_done: impl FnMut(u16) -> bool) -> bool {
        let port = self.started();
        let end = Instant::now() + PATIENCE;
        while !is_done(port) {
            if Instant::now() > end {
                return false;
            }
        }
        true
    }
}
