//! `wellhead simulate`: the devices of a YAML file, for any Modbus client, or as plain instruments.
//!
//! Faults are given by `--fault` and by lines on standard input, so that a script can drive it:
//! `fault <fault>`, `clear`, `count`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_serial::{SerialPort, SerialStream};

use super::{Failure, StopSignal, chosen, log, runtime, say};
use crate::config;
use crate::field::modbus::slave::{
    FaultInjector, Image, InjectedFault, Tally, TransmissionMode, WirePace, serve_frames, serve_tcp,
};
use crate::field::serial::{Port, Speed};
use crate::field::{Line, PlayedDevices, Wire};
use crate::tasks::{OwnThread, Stop, Tasks, detach, stop_token};
use crate::units::Span;

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// Simulate only this line; can be given several times
    #[arg(long = "line", value_name = "NAME")]
    lines: Vec<String>,
    /// A fault to inject, such as 'delay=200ms unit 3 for 5' or 'silence function 6 every 10'; can
    /// be given several times, and typed while it runs: `fault <fault>`, `clear`
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<InjectedFault>,
    /// Send bytes on serial lines as slowly as the speed of the line allows
    #[arg(long)]
    baud_true: bool,
    /// How long a device waits before it answers
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    turnaround: Span,
}

/// How lines are played: faults, speed, and the count of requests.
#[derive(Debug, Default, Clone)]
pub(super) struct Play {
    faults: Arc<Mutex<FaultInjector>>,
    baud_true: bool,
    turnaround: Duration,
    tally: Arc<Tally>,
}

impl Play {
    fn new(faults: Vec<InjectedFault>, baud_true: bool, turnaround: Duration) -> Self {
        let play = Self {
            baud_true,
            turnaround,
            ..Self::default()
        };
        play.with(|all| faults.into_iter().for_each(|fault| all.add(fault)));
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

    /// Runs a line of a script; returns the answer.
    fn run(&self, line: &str) -> String {
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

/// Plays the lines until a signal.
pub(super) fn simulate(arguments: SimulateArguments) -> Result<(), Failure> {
    let SimulateArguments {
        file,
        lines: only,
        faults,
        baud_true,
        turnaround,
    } = arguments;
    let file = chosen(file)?;
    let lines = chosen_lines(&file, &only)?;
    let play = Play::new(faults, baud_true, turnaround.0);
    listen_to_script(play.clone())?;
    runtime()?.block_on(async {
        let mut signal = StopSignal::catch()?;
        let (switch, stop) = stop_token();
        let mut tasks = Tasks::default();
        let mut threads = Vec::new();
        for line in lines {
            // A thread for each line: delays on one do not disturb another.
            let thread = OwnThread::start(&line.name).map_err(Failure::runtime)?;
            let started = LineServer {
                line: &line,
                play: &play,
                thread: &thread,
                stop: &stop,
            };
            started.start(&mut tasks).await.map_err(Failure::runtime)?;
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

/// The lines of the file; only those that are named, if any is.
fn chosen_lines(file: &Path, only: &[String]) -> Result<Vec<Line>, Failure> {
    let mut lines = config::load(file)?.lines;
    log::start(crate::log::Format::Text)?;
    let is_unknown = |name: &&String| !lines.iter().any(|line| line.name == **name);
    if let Some(name) = only.iter().find(is_unknown) {
        let known: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        return Err(Failure::runtime(format!(
            "there is no line \"{name}\" in {}; choose one of: {}",
            file.display(),
            known.join(", ")
        )));
    }
    lines.retain(|line| only.is_empty() || only.contains(&line.name));
    Ok(lines)
}

/// Runs the script on standard input, in a thread that ends with the program.
fn listen_to_script(play: Play) -> Result<(), Failure> {
    let listen = move || {
        for line in std::io::stdin()
            .lines()
            .map_while(Result::ok)
            .filter(|line| !line.trim().is_empty())
        {
            say(&play.run(&line));
        }
    };
    std::thread::Builder::new()
        .name("script".to_owned())
        .spawn(listen)
        .map(drop)
        .map_err(Failure::runtime)
}

/// A line on its way to be played.
struct LineServer<'a> {
    line: &'a Line,
    play: &'a Play,
    thread: &'a OwnThread,
    stop: &'a Stop,
}

impl LineServer<'_> {
    /// Starts the line's task, if it has a wire.
    async fn start(&self, tasks: &mut Tasks) -> Result<(), String> {
        match &self.line.wire {
            Wire::ModbusTcp(address) => {
                self.start_tcp(address, Travels::Tcp, "Modbus TCP", tasks)
                    .await
            }
            Wire::RtuOverTcp(address) => {
                let travels = Travels::Frames(TransmissionMode::Rtu);
                self.start_tcp(address, travels, "Modbus RTU over TCP", tasks)
                    .await
            }
            Wire::AsciiOverTcp(address) => {
                let travels = Travels::Frames(TransmissionMode::Ascii);
                self.start_tcp(address, travels, "Modbus ASCII over TCP", tasks)
                    .await
            }
            Wire::Tcp(address) => {
                let travels = Travels::Plain(PlayedDevices::new(self.line.devices.clone()));
                self.start_tcp(address, travels, self.line.protocol().name(), tasks)
                    .await
            }
            Wire::Serial(port) => self.start_serial(port, tasks),
            Wire::Simulated => Ok(()),
        }
    }

    async fn start_tcp(
        &self,
        address: &str,
        travels: Travels,
        what: &str,
        tasks: &mut Tasks,
    ) -> Result<(), String> {
        let Self { line, thread, .. } = self;
        let image = Image::new(&line.devices);
        let server = TcpServer {
            play: self.play.clone(),
            most_clients: match line.manners.close_when_idle {
                Some(_) => 1,
                None => MOST_CLIENTS,
            },
            ..TcpServer::bind(address, image, travels).await?
        };
        say(&format!("line {}: {what} on {}", line.name, server.address));
        let task = server.run(self.stop.clone());
        tasks.start_on(thread.handle(), line.name.clone(), task);
        Ok(())
    }

    fn start_serial(&self, port: &Port, tasks: &mut Tasks) -> Result<(), String> {
        let Self { line, thread, .. } = self;
        let is_modbus = line.protocol().is_modbus();
        let what = match port.ascii {
            _ if !is_modbus => line.protocol().name(),
            true => "Modbus ASCII",
            false => "Modbus RTU",
        };
        let served = self.served(port);
        let (path, stop) = (Path::new(&port.path), self.stop.clone());
        let _inside = thread.handle().enter();
        // A path that exists is a real device, by whatever name; only a link to nothing is
        // replaced.
        if path.exists() {
            let wire = port.open().map_err(|error| error.to_string())?;
            say(&format!("line {}: {what} on {}", line.name, port.path));
            tasks.start_on(thread.handle(), line.name.clone(), served.serve(wire, stop));
        } else {
            let terminal = PseudoTerminal::linked(path)?;
            say(&format!(
                "line {}: {what} on the pseudo-terminal {}",
                line.name, port.path
            ));
            tasks.start_on(
                thread.handle(),
                line.name.clone(),
                terminal.run(served, stop),
            );
        }
        Ok(())
    }

    fn served(&self, port: &Port) -> Served {
        let devices = &self.line.devices;
        let framing = if port.ascii {
            TransmissionMode::Ascii
        } else {
            TransmissionMode::Rtu
        };
        Served {
            image: Image::new(devices),
            instruments: if self.line.protocol().is_modbus() {
                PlayedDevices::default()
            } else {
                PlayedDevices::new(devices.clone())
            },
            play: self.play.clone(),
            how: (framing, self.play.pace(Some(port.speed))),
        }
    }
}

/// A server on one serial wire.
pub(super) struct Served {
    image: Image,
    /// Devices without registers, served instead of the image if there are any.
    instruments: PlayedDevices,
    play: Play,
    how: (TransmissionMode, WirePace),
}

impl Served {
    /// Modbus RTU without faults and without delays.
    pub(super) fn plain(image: Image) -> Self {
        Self {
            image,
            instruments: PlayedDevices::default(),
            play: Play::default(),
            how: (TransmissionMode::Rtu, WirePace::default()),
        }
    }

    async fn serve(self, wire: SerialStream, mut stop: Stop) -> Result<(), String> {
        let serving = async {
            if self.instruments.is_empty() {
                let (mode, pace) = self.how;
                serve_frames(&self.image, &self.play.faults, mode, pace, wire).await
            } else {
                self.instruments.play(&self.play.faults, wire).await
            }
        };
        tokio::select! {
            served = serving => served.map_err(|error| error.to_string()),
            () = stop.wait() => Ok(()),
        }
    }
}

/// The protocol on a TCP connection.
#[derive(Debug, Clone)]
pub(super) enum Travels {
    Tcp,
    Frames(TransmissionMode),
    /// Bytes of devices without registers.
    Plain(PlayedDevices),
}

/// A server of simulated devices on a TCP port.
pub(super) struct TcpServer {
    listener: TcpListener,
    pub(super) address: std::net::SocketAddr,
    image: Image,
    travels: Travels,
    play: Play,
    most_clients: usize,
}

/// Clients at a time; a line that is closed when idle has a device that takes only one.
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
                tokio::select! {
                    served = serve(stream, &image, &play, travels) => tracing::debug!(event = "simulator.client_gone", ?served, "client gone"),
                    () = stop.wait() => {}
                }
            });
        }
    }
}

/// Serves one client until it goes.
async fn serve(
    stream: TcpStream,
    image: &Image,
    play: &Play,
    travels: Travels,
) -> std::io::Result<()> {
    let pace = play.pace(None);
    match travels {
        Travels::Tcp => serve_tcp(image, &play.faults, pace, stream).await,
        Travels::Frames(framing) => serve_frames(image, &play.faults, framing, pace, stream).await,
        Travels::Plain(devices) => devices.play(&play.faults, stream).await,
    }
}

/// A pseudo-terminal behind a symbolic link.
pub(super) struct PseudoTerminal {
    near: SerialStream,
    /// Held open, so that the near end does not end when a client closes it; without a lock, so
    /// that clients may have one.
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
        // It may be removed already.
        let _ = std::fs::remove_file(&self.link);
        served
    }
}
