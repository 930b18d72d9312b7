//! `wellhead simulate`: the Modbus devices of a YAML file, to be polled by anything that speaks Modbus.

use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio_serial::{SerialPort, SerialStream};

use super::{Failure, StopSignal, runtime, say, start_log};
use crate::config;
use crate::field::modbus::slave::Image;
use crate::field::{Line, Wire};
use crate::tasks::{Stop, Tasks, detach, stop_token};

pub(super) fn simulate(file: &Path, only: &[String]) -> Result<(), Failure> {
    let config = config::load(file)?;
    start_log();
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
    let lines = config.lines.into_iter().filter(|line| only.is_empty() || only.contains(&line.name));
    runtime()?.block_on(async {
        let signal = StopSignal::catch()?;
        let (switch, stop) = stop_token();
        let mut tasks = Tasks::default();
        for line in lines {
            play(&line, &stop, &mut tasks).await?;
        }
        if tasks.is_empty() {
            return Err(Failure::runtime(format!("no enabled Modbus line in {}; nothing to simulate", file.display())));
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

async fn play(line: &Line, stop: &Stop, tasks: &mut Tasks) -> Result<(), Failure> {
    let image = Image::new(&line.devices);
    match &line.wire {
        Wire::ModbusTcp(address) => {
            let server = TcpServer::bind(address, image, Framing::Tcp).await.map_err(Failure::runtime)?;
            say(&format!("line {}: Modbus TCP on {}", line.name, server.address));
            tasks.start(line.name.clone(), server.run(stop.clone()));
        }
        Wire::RtuOverTcp(address) => {
            let server = TcpServer::bind(address, image, Framing::Rtu).await.map_err(Failure::runtime)?;
            say(&format!("line {}: Modbus RTU over TCP on {}", line.name, server.address));
            tasks.start(line.name.clone(), server.run(stop.clone()));
        }
        Wire::Serial(port) => {
            let path = Path::new(&port.path);
            // Something that exists is a real device, by whatever name; only a link to nothing is taken over.
            if path.exists() {
                let wire = port.open().map_err(Failure::runtime)?;
                say(&format!("line {}: Modbus RTU on {}", line.name, port.path));
                tasks.start(line.name.clone(), serve_wire(image, wire, stop.clone()));
            } else {
                let terminal = PseudoTerminal::linked(path).map_err(Failure::runtime)?;
                say(&format!("line {}: Modbus RTU on the pseudo-terminal {}", line.name, port.path));
                tasks.start(line.name.clone(), terminal.run(image, stop.clone()));
            }
        }
        Wire::AsciiOverTcp(_) | Wire::Tcp(_) | Wire::Simulated => {}
    }
    Ok(())
}

async fn serve_wire(image: Image, wire: SerialStream, mut stop: Stop) -> Result<(), String> {
    tokio::select! {
        served = image.serve_rtu(wire) => served.map_err(|error| error.to_string()),
        () = stop.wait() => Ok(()),
    }
}

/// What travels on a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Framing {
    Tcp,
    Rtu,
}

/// A Modbus device reached by TCP.
pub(super) struct TcpServer {
    listener: TcpListener,
    pub(super) address: std::net::SocketAddr,
    image: Image,
    framing: Framing,
}

impl TcpServer {
    pub(super) async fn bind(address: &str, image: Image, framing: Framing) -> Result<Self, String> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            format!("cannot listen on {address}: {error}; give the line an address of this machine, such as 127.0.0.1:5020")
        })?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Self { listener, address, image, framing })
    }

    pub(super) async fn run(self, mut stop: Stop) -> Result<(), String> {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return Ok(()),
            };
            let (stream, _) = accepted.map_err(|error| error.to_string())?;
            // Answers are small and alone; if the option cannot be set they are merely slower.
            let _ = stream.set_nodelay(true);
            let (image, framing, mut stop) = (self.image.clone(), self.framing, stop.clone());
            detach(async move {
                let serving = async {
                    match framing {
                        Framing::Tcp => image.serve_tcp(stream).await,
                        Framing::Rtu => image.serve_rtu(stream).await,
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
        let fail = |what: &dyn std::fmt::Display| format!("no pseudo-terminal at {}: {what}", link.display());
        let (near, mut far) = SerialStream::pair().map_err(|error| fail(&error))?;
        far.set_exclusive(false).map_err(|error| fail(&error))?;
        let device = far.name().ok_or_else(|| fail(&"the system gives it no name"))?;
        if std::fs::symlink_metadata(link).is_ok_and(|meta| meta.is_symlink()) {
            std::fs::remove_file(link).map_err(|error| fail(&error))?;
        }
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let held = rustix::fs::open(device.as_str(), flags, rustix::fs::Mode::empty()).map_err(|error| fail(&error))?;
        std::os::unix::fs::symlink(device, link).map_err(|error| fail(&format!("{error}; choose a path you may write for `serial`")))?;
        Ok(Self { near, _far: held, link: link.to_owned() })
    }

    pub(super) async fn run(self, image: Image, stop: Stop) -> Result<(), String> {
        let served = serve_wire(image, self.near, stop).await;
        // The link is ours; if somebody removed it already, that is as well.
        let _ = std::fs::remove_file(&self.link);
        served
    }
}
