//! Access of commands to a line: through the running gateway that owns it, else by opening it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;

use super::{Failure, say, usual_file};
use crate::config;
use crate::field::counts::LineCounts;
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use crate::field::modbus::Modbus;
use crate::field::modbus::manners::Manners;
use crate::field::modbus::timeout_estimator::AnswerWithin;
use crate::field::serial::{Port, Speed};
use crate::field::{Driver, Line, Wire};
use crate::net::endpoint::{has_port, written};
use crate::status::control::{self, ControlRequest, Reply};

/// How long a gateway may take to answer.
pub(super) const GATEWAY_TIMEOUT: Duration = Duration::from_secs(60);

/// The gateway, and how a line without one is opened.
#[derive(Debug, Args)]
pub(super) struct Via {
    /// The YAML file of the gateway [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Modbus ASCII on a serial device that is not in the YAML file
    #[arg(long)]
    ascii: bool,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "300ms")]
    pub(super) within: crate::units::Span,
}

/// A line that a command names, and the gateway that may own it.
#[derive(Debug, Clone)]
pub(super) struct LineAddress {
    pub(super) line: Line,
    /// The gateway of the file, if the line is in it.
    folder: Option<PathBuf>,
}

impl Via {
    /// The gateway of the file; `None` if there is no file.
    pub(super) fn gateway(&self) -> Result<Option<config::Gateway>, Failure> {
        match self.file.clone().or_else(usual_file) {
            Some(file) => Ok(Some(config::load(&file)?)),
            None => Ok(None),
        }
    }

    /// The line with this name, serial device or address.
    pub(super) fn line(&self, typed: &str) -> Result<LineAddress, Failure> {
        let form = Form::of(typed);
        let gateway = self.gateway_for(&form)?;
        let lines = gateway.iter().flat_map(|gateway| &gateway.lines);
        let known = lines
            .clone()
            .find(|line| line.name == typed || stands_for(&line.wire, typed));
        if let (Some(line), Some(gateway)) = (known, &gateway) {
            return Ok(LineAddress {
                line: line.clone(),
                folder: Some(gateway.folder.clone()),
            });
        }
        let wire = match form {
            Form::Path => {
                let speed: Speed = "9600 8N1".parse().map_err(Failure::runtime)?;
                serial(typed, speed, self.ascii)
            }
            Form::Address => modbus_tcp(typed),
            Form::Name => {
                let hint = config::suggestion(typed, lines.map(|line| line.name.as_str()));
                return Err(Failure::runtime(format!(
                    "there is no line \"{typed}\"; {hint}; or name a serial device such as /dev/ttyUSB0, or the address of a Modbus TCP device"
                )));
            }
        };
        Ok(LineAddress::of(typed, wire, self.within.0))
    }

    /// The gateway of the file. A device or an address needs no file; a wrong one is ignored then,
    /// unless it was named.
    fn gateway_for(&self, form: &Form) -> Result<Option<config::Gateway>, Failure> {
        match self.gateway() {
            Err(failure) if *form != Form::Name && self.file.is_none() => {
                say(&format!(
                    "ignoring invalid configuration file: {}",
                    failure.message.lines().next().unwrap_or_default()
                ));
                Ok(None)
            }
            other => other,
        }
    }
}

/// What a person has typed to name a line.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    /// Something that can be opened: a device, a link, a pseudo-terminal.
    Path,
    /// An address with a port, or an IP address.
    Address,
    /// A name of the YAML file.
    Name,
}

impl Form {
    fn of(typed: &str) -> Self {
        if typed.contains('/') || Path::new(typed).exists() {
            Self::Path
        } else if has_port(typed) || is_ip(typed) {
            Self::Address
        } else {
            Self::Name
        }
    }
}

fn is_ip(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok()
}

/// A serial device that is in no file.
pub(super) fn serial(path: &str, speed: Speed, ascii: bool) -> Wire {
    Wire::Serial(Port {
        path: path.to_owned(),
        speed,
        ascii,
        rs485: None,
    })
}

/// A Modbus TCP device that is in no file; at port 502 if none is given.
pub(super) fn modbus_tcp(address: &str) -> Wire {
    Wire::ModbusTcp(if is_ip(address) || !has_port(address) {
        written(address, 502)
    } else {
        address.to_owned()
    })
}

impl LineAddress {
    /// A line that is in no file.
    pub(super) fn of(name: &str, wire: Wire, within: Duration) -> Self {
        let answer_within = AnswerWithin::at_most(within);
        let line = Line {
            name: name.to_owned(),
            wire,
            answer_within,
            manners: Manners::default(),
            devices: Vec::new(),
        };
        Self { line, folder: None }
    }
}

/// True if a device or an address names this wire.
fn stands_for(wire: &Wire, typed: &str) -> bool {
    match wire {
        Wire::Serial(port) => port.path == typed || same_file(&port.path, typed),
        Wire::ModbusTcp(address) | Wire::RtuOverTcp(address) | Wire::AsciiOverTcp(address) => {
            address == typed || address.strip_suffix(":502") == Some(typed)
        }
        Wire::Tcp(_) | Wire::Simulated => false,
    }
}

fn same_file(one: &str, other: &str) -> bool {
    let real = |path: &str| Path::new(path).canonicalize().ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}

/// An open line.
pub(super) enum LineAccess {
    /// Through the running gateway.
    Gateway {
        stream: BufReader<UnixStream>,
        line: String,
    },
    /// Opened by this process.
    Own {
        runtime: Runtime,
        driver: Box<Modbus>,
    },
}

impl LineAddress {
    /// The running gateway that owns the line, if there is one.
    fn gateway(&self) -> Result<Option<UnixStream>, Failure> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };
        let path = control::path(folder);
        match UnixStream::connect(&path) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(GATEWAY_TIMEOUT))
                    .map_err(Failure::runtime)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Failure::runtime(format!(
                    "{}: you may not ask the gateway; do it as root, or as a member of the group of that folder",
                    path.display()
                )))
            }
            Err(error) if control::is_running(folder) => Err(Failure::runtime(format!(
                "{}: {error}; a gateway runs and has this line, but it cannot be asked; stop it first",
                path.display()
            ))),
            Err(_) => Ok(None),
        }
    }

    /// True if a running gateway owns the line.
    pub(super) fn is_owned(&self) -> Result<bool, Failure> {
        self.gateway().map(|gateway| gateway.is_some())
    }

    /// Opens the line, or connects to the gateway that owns it.
    pub(super) fn open(&self) -> Result<LineAccess, Failure> {
        if let Some(stream) = self.gateway()? {
            return Ok(LineAccess::Gateway {
                stream: BufReader::new(stream),
                line: self.line.name.clone(),
            });
        }
        if matches!(self.line.wire, Wire::Tcp(_) | Wire::Simulated) {
            return Err(Failure::runtime(format!(
                "the devices of line {} have no registers",
                self.line.name
            )));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::runtime)?;
        let line = Line {
            devices: Vec::new(),
            ..self.line.clone()
        };
        let counts = Arc::new(LineCounts::new(&line.name, std::iter::empty()));
        let mut driver = Box::new(Modbus::new(&line, counts, None));
        runtime
            .block_on(driver.connect())
            .map_err(Failure::runtime)?;
        Ok(LineAccess::Own { runtime, driver })
    }
}

impl LineAccess {
    /// Sends one request.
    pub(super) fn ask(
        &mut self,
        unit: u8,
        ask: &DiagnosticRequest,
        within: Duration,
    ) -> Result<DiagnosticResponse, Failure> {
        if let Some(fault) = ask.fault(unit) {
            return Err(Failure::runtime(fault));
        }
        match self {
            Self::Own { runtime, driver } => Ok(runtime.block_on(driver.ask(unit, ask, within))),
            Self::Gateway { stream, line } => {
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                let request = ControlRequest::Ask {
                    line: line.clone(),
                    unit,
                    ask: ask.clone(),
                    within_ms,
                };
                match call(stream, &request)? {
                    Reply::Said(said) => Ok(said),
                    Reply::Refused(why) => Err(Failure::runtime(why)),
                    _ => Err(unexpected()),
                }
            }
        }
    }

    /// Reads registers; the inner error is for a person.
    pub(super) fn words(
        &mut self,
        unit: u8,
        ask: &DiagnosticRequest,
        within: Duration,
    ) -> Result<Result<Vec<u16>, String>, Failure> {
        Ok(match self.ask(unit, ask, within)? {
            DiagnosticResponse::Words(words) => Ok(words),
            DiagnosticResponse::Exception(code) => Err(crate::field::modbus::explain(code)),
            DiagnosticResponse::Nothing => Err(format!("unit {unit} does not answer")),
            DiagnosticResponse::Garbage(why) => {
                Err(format!("unit {unit} sent no valid answer: {why}"))
            }
            DiagnosticResponse::NoLine(why) => return Err(Failure::runtime(why)),
            DiagnosticResponse::Identity(_) => {
                Err("received an answer to another request".to_owned())
            }
        })
    }
}

/// The reply of the gateway does not belong to the request.
pub(super) fn unexpected() -> Failure {
    Failure::runtime(
        "unexpected reply from the gateway; check that it runs the same version as this command",
    )
}

/// One request to a gateway.
pub(super) fn call(
    stream: &mut BufReader<UnixStream>,
    request: &ControlRequest,
) -> Result<Reply, Failure> {
    let mut text = serde_json::to_string(request).map_err(Failure::runtime)?;
    text.push('\n');
    stream
        .get_mut()
        .write_all(text.as_bytes())
        .map_err(Failure::runtime)?;
    next_reply(stream)
}

/// The next reply of a gateway.
fn next_reply(stream: &mut BufReader<UnixStream>) -> Result<Reply, Failure> {
    let mut line = String::new();
    let hung_up = || Failure::runtime("the gateway hung up; is it stopping?");
    if stream.read_line(&mut line).map_err(|_| hung_up())? == 0 {
        return Err(hung_up());
    }
    serde_json::from_str(&line)
        .map_err(|_| Failure::runtime("the running gateway is of another version; restart it"))
}
