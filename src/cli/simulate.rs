//! `wellhead simulate`: the devices of a YAML file, to be polled by anything that speaks Modbus, or as plain instruments do.
//!
//! Faults are given by `--fault` and by lines on standard input, so that a script can drive it: `fault <fault>`, `clear`, `count`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_serial::{SerialPort, SerialStream};

use super::{Failure, StopSignal, log, runtime, say};
use crate::config;
use crate::field::modbus::slave::{
    FaultInjector, Image, InjectedFault, Tally, TransmissionMode, WirePace, serve_frames, serve_tcp,
};
use crate::field::serial::Speed;
use crate::field::text::simulator;
use crate::field::{Device, Line, Wire};
use crate::tasks::{OwnThread, Stop, Tasks, detach, stop_token};
use crate::units::Span;

/// How a line is played.
#[derive(Debug, Default, Clone)]
pub(super) struct Play {
    faults: Arc<Mutex<FaultInjector>>,
    baud_true: bool,
    turnaround: Duration,
    tally: Arc<Tally>,
}

impl Play {
    /// With faults from the start.
    pub(super) fn new(faults: &[InjectedFault], baud_true: bool, turnaround: Span) -> Self {
        let play = Self {
            baud_true,
            turnaround: turnaround.0,
            ..Self::default()
        };
        faults
            .iter()
            .for_each(|fault| play.with(|faults| faults.add(fault.clone())));
        play
    }

    fn with<R>(&self, action: impl FnOnce(&mut FaultInjector) -> R) -> R {
        action(&mut self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pace(&self, speed: Option<Speed>) -> WirePace {
        WirePace {
            speed: speed.filter(|_| self.baud_true),
            turnaround: self.turnaround,
            tally: Arc::clone(&self.tally),
        }
    }

    /// Does what a line of a script says; the answer is told.
    fn obey(&self, line: &str) -> String {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("count", _) => {
                format!(
                    "{} requests, {} too soon after an answer",
                    self.tally.requests.value(),
                    self.tally.gap_violations.value()
                )
            }
            ("clear", _) => {
                self.with(FaultInjector::clear);
                "no faults".to_owned()
            }
            ("fault", text) => match text.parse::<InjectedFault>() {
                Ok(fault) => {
                    self.with(|faults| faults.add(fault));
                    format!("fault {text}")
                }
                Err(why) => why,
            },
            _ => "type `fault <fault>`, `clear` or `count`".to_owned(),
        }
    }
}

pub(super) fn simulate(file: &Path, only: &[String], play: &Play) -> Result<(), Failure> {
    let config = config::load(file)?;
    log::start(crate::log::Format::Text)?;
    for name in only {
        if !config.lines.iter().any(|line| line.name == *name) {
            let known: Vec<&str> = config.lines.iter().map(|line| line.name.as_str()).collect();
            return Err(Failure::runtime(format!(
                "there is no line \"{name}\" in {}; choose one of: {}",
                file.display(),
                known.join(", ")
            )));
        }
    }
    let lines = config
        .lines
        .into_iter()
        .filter(|line| only.is_empty() || only.contains(&line.name));
    listen_to_script(play.clone())?;
    runtime()?.block_on(async {
        let mut signal = StopSignal::catch()?;
        let (switch, stop) = stop_token();
        let mut tasks = Tasks::default();
        let mut threads = Vec::new();
        for line in lines {
            // Every line keeps its own time.
            let thread = OwnThread::start(&line.name).map_err(Failure::runtime)?;
            start(&line, play, &stop, (&mut tasks, &thread)).await?;
            threads.push(thread);
        }
        if tasks.is_empty() {
            return Err(Failure::runtime(format!("no enabled line with a wire in {}; nothing to simulate: give a line `serial:`, `modbus_tcp:` or `tcp:`", file.display())));
        }
        tokio::select! {
            () = signal.wait() => {}
            Some(ended) = tasks.next_ended() => return Err(Failure::runtime(format!("{}: {}", ended.name, ended.result.err().unwrap_or_default()))),
        }
        switch.stop();
        while tasks.next_ended().await.is_some() {}
        Ok(())
    })
}

/// A thread, because standard input can only be waited for by one; it ends with the program.
fn listen_to_script(play: Play) -> Result<(), Failure> {
    let listen = move || {
        for line in std::io::stdin()
            .lines()
            .map_while(Result::ok)
            .filter(|line| !line.trim().is_empty())
        {
            say(&play.obey(&line));
        }
    };
    std::thread::Builder::new()
        .name("script".to_owned())
        .spawn(listen)
        .map(drop)
        .map_err(Failure::runtime)
}

async fn start(
    line: &Line,
    play: &Play,
    stop: &Stop,
    (tasks, thread): (&mut Tasks, &OwnThread),
) -> Result<(), Failure> {
    let image = Image::new(&line.devices);
    match &line.wire {
        Wire::ModbusTcp(address)
        | Wire::RtuOverTcp(address)
        | Wire::AsciiOverTcp(address)
        | Wire::Tcp(address) => {
            let (travels, what) = match &line.wire {
                Wire::ModbusTcp(_) => (Travels::Tcp, "Modbus TCP"),
                Wire::RtuOverTcp(_) => (
                    Travels::Frames(TransmissionMode::Rtu),
                    "Modbus RTU over TCP",
                ),
                Wire::AsciiOverTcp(_) => (
                    Travels::Frames(TransmissionMode::Ascii),
                    "Modbus ASCII over TCP",
                ),
                _ => (Travels::Text(line.devices.clone()), "plain instruments"),
            };
            let server = TcpServer::bind(address, image, travels)
                .await
                .map_err(Failure::runtime)?
                .played(play);
            let server = TcpServer {
                most_clients: if line.manners.close_when_idle.is_some() {
                    1
                } else {
                    MOST_CLIENTS
                },
                ..server
            };
            say(&format!("line {}: {what} on {}", line.name, server.address));
            tasks.start_on(thread.handle(), line.name.clone(), server.run(stop.clone()));
        }
        Wire::Serial(port) => {
            let path = Path::new(&port.path);
            let is_text = line.devices.iter().any(|device| device.protocol.is_some());
            let framing = if port.ascii {
                TransmissionMode::Ascii
            } else {
                TransmissionMode::Rtu
            };
            let what = match (is_text, port.ascii) {
                (true, _) => "plain instruments",
                (false, true) => "Modbus ASCII",
                (false, false) => "Modbus RTU",
            };
            let instruments = if is_text {
                line.devices.clone()
            } else {
                Vec::new()
            };
            let served = Served {
                image,
                instruments,
                play: play.clone(),
                how: (framing, play.pace(Some(port.speed))),
            };
            let _inside = thread.handle().enter();
            // Something that exists is a real device, by whatever name; only a link to nothing is taken over.
            if path.exists() {
                let wire = port.open().map_err(Failure::runtime)?;
                say(&format!("line {}: {what} on {}", line.name, port.path));
                tasks.start_on(
                    thread.handle(),
                    line.name.clone(),
                    served.serve(wire, stop.clone()),
                );
            } else {
                let terminal = PseudoTerminal::linked(path).map_err(Failure::runtime)?;
                say(&format!(
                    "line {}: {what} on the pseudo-terminal {}",
                    line.name, port.path
                ));
                tasks.start_on(
                    thread.handle(),
                    line.name.clone(),
                    terminal.run(served, stop.clone()),
                );
            }
        }
        Wire::Simulated => {}
    }
    Ok(())
}

/// A slave on one wire.
pub(super) struct Served {
    image: Image,
    /// Plain instruments in its place.
    instruments: Vec<Arc<Device>>,
    play: Play,
    how: (TransmissionMode, WirePace),
}

impl Served {
    /// Binary frames without faults, as fast as it goes.
    pub(super) fn plain(image: Image) -> Self {
        Self {
            image,
            instruments: Vec::new(),
            play: Play::default(),
            how: (TransmissionMode::Rtu, WirePace::default()),
        }
    }

    async fn serve(self, wire: SerialStream, mut stop: Stop) -> Result<(), String> {
        let serving = async {
            if self.instruments.is_empty() {
                let (framing, pace) = self.how;
                serve_frames(&self.image, &self.play.faults, framing, pace, wire).await
            } else {
                simulator::play(&self.instruments, &self.play.faults, wire).await
            }
        };
        tokio::select! {
            served = serving => served.map_err(|error| error.to_string()),
            () = stop.wait() => Ok(()),
        }
    }
}

/// What travels on a TCP connection.
#[derive(Debug, Clone)]
pub(super) enum Travels {
    Tcp,
    Frames(TransmissionMode),
    Text(Vec<Arc<Device>>),
}

/// A Modbus device reached by TCP.
pub(super) struct TcpServer {
    listener: TcpListener,
    pub(super) address: std::net::SocketAddr,
    image: Image,
    travels: Travels,
    play: Play,
    most_clients: usize,
}

/// Clients of one simulated device at a time; a line that is closed when idle has a device that takes only one.
const MOST_CLIENTS: usize = 1000;

impl TcpServer {
    pub(super) async fn bind(
        address: &str,
        image: Image,
        travels: Travels,
    ) -> Result<Self, String> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            format!("cannot listen on {address}: {error}; give the line an address of this machine, such as 127.0.0.1:5020")
        })?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Self {
            listener,
            address,
            image,
            travels,
            play: Play::default(),
            most_clients: MOST_CLIENTS,
        })
    }

    fn played(self, play: &Play) -> Self {
        Self {
            play: play.clone(),
            ..self
        }
    }

    pub(super) async fn run(self, mut stop: Stop) -> Result<(), String> {
        let room = Arc::new(Semaphore::new(self.most_clients));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return Ok(()),
            };
            let (stream, _) = accepted.map_err(|error| error.to_string())?;
            // Beyond that a connection is closed at once.
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                continue;
            };
            // Answers are small and alone; if the option cannot be set they are merely slower.
            let _ = stream.set_nodelay(true);
            let (image, play, travels, mut stop) = (
                self.image.clone(),
                self.play.clone(),
                self.travels.clone(),
                stop.clone(),
            );
            detach(async move {
                let _place = place;
                let serving = async {
                    let pace = play.pace(None);
                    match travels {
                        Travels::Tcp => serve_tcp(&image, &play.faults, pace, stream).await,
                        Travels::Frames(framing) => {
                            serve_frames(&image, &play.faults, framing, pace, stream).await
                        }
                        Travels::Text(devices) => {
                            simulator::play(&devices, &play.faults, stream).await
                        }
                    }
                };
                tokio::select! {
                    served = serving => tracing::debug!(?served, "client gone"),
                    () = stop.wait() => {}
                }
            });
        }
    }
}

/// A pseudo-terminal with a name of our choice.
pub(super) struct PseudoTerminal {
    near: SerialStream,
    /// Held open, so that the near end does not end when a client closes it; without a lock, so that clients may have one.
    _far: std::os::fd::OwnedFd,
    link: PathBuf,
}

impl PseudoTerminal {
    pub(super) fn linked(link: &Path) -> Result<Self, String> {
        let fail = |what: &dyn std::fmt::Display| {
            format!("no pseudo-terminal at {}: {what}", link.display())
        };
        let (near, mut far) = SerialStream::pair().map_err(|error| fail(&error))?;
        far.set_exclusive(false).map_err(|error| fail(&error))?;
        let device = far
            .name()
            .ok_or_else(|| fail(&"the system gives it no name"))?;
        if std::fs::symlink_metadata(link).is_ok_and(|meta| meta.is_symlink()) {
            std::fs::remove_file(link).map_err(|error| fail(&error))?;
        }
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let held = rustix::fs::open(device.as_str(), flags, rustix::fs::Mode::empty())
            .map_err(|error| fail(&error))?;
        std::os::unix::fs::symlink(device, link).map_err(|error| {
            fail(&format!(
                "{error}; choose a path you may write for `serial`"
            ))
        })?;
        Ok(Self {
            near,
            _far: held,
            link: link.to_owned(),
        })
    }

    pub(super) async fn run(self, served: Served, stop: Stop) -> Result<(), String> {
        let served = served.serve(self.near, stop).await;
        // The link is ours; if somebody removed it already, that is as well.
        let _ = std::fs::remove_file(&self.link);
        served
    }
}
