//! The first line: its wire, and its keys in the file.

use std::path::Path;

use super::super::{Failure, USAGE, say};
use super::Init;
use super::answers::{Answers, FoundPort, ports};
use super::instrument::Instrument;
use super::search::LineWire;
use super::yaml::quoted;
use crate::field::serial::Speed;
use crate::net::endpoint::has_port;

/// The wire that was given, or is chosen; `None` for a gateway without a line.
pub(super) fn choose(init: &Init, answers: Answers) -> Result<Option<LineWire>, Failure> {
    if let Some(address) = &init.modbus_tcp {
        return Ok(Some(LineWire::Tcp(address.clone())));
    }
    if let Some(path) = init.serial.as_ref().filter(|path| !path.is_empty()) {
        // It may be plugged in later.
        return Ok(Some(LineWire::Serial(path.clone())));
    }
    let chosen = match &init.serial {
        Some(_) => String::new(),
        None => choose_port(answers)?,
    };
    if chosen.is_empty() {
        return needs_no_line(init).map(|()| None);
    }
    Ok(Some(if is_serial(&chosen) {
        LineWire::Serial(chosen)
    } else {
        LineWire::Tcp(chosen)
    }))
}

fn is_serial(typed: &str) -> bool {
    typed.contains('/') || Path::new(typed).exists()
}

/// Lists the serial ports and asks for one; empty for none.
fn choose_port(answers: Answers) -> Result<String, Failure> {
    let ports = ports(Path::new("/dev"));
    if answers.asks {
        list(&ports);
    }
    let first = ports
        .first()
        .map(|port| port.path.as_str())
        .unwrap_or_default();
    let question =
        "Serial device or its number, or address of a Modbus TCP device (nothing for none)";
    answers.get(None, question, first, |typed| {
        let typed = by_number(typed, &ports)?;
        let is_there = !is_serial(&typed) || Path::new(&typed).exists();
        is_there.then_some(typed).ok_or_else(|| {
            "there is no such device; check the cable and `ls -l /dev/serial/by-id`".to_owned()
        })
    })
}

fn list(ports: &[FoundPort]) {
    say(if ports.is_empty() {
        "No serial port was found."
    } else {
        "Serial ports:"
    });
    for (number, FoundPort { path, device }) in (1..).zip(ports) {
        let leads_to = if path.ends_with(device.as_str()) {
            String::new()
        } else {
            format!(" ({device})")
        };
        say(&format!("  {number}  {path}{leads_to}"));
    }
}

/// The path of the port with this number in the list; anything else as it was typed.
fn by_number(typed: &str, ports: &[FoundPort]) -> Result<String, String> {
    let Ok(number) = typed.parse::<usize>() else {
        return Ok(typed.to_owned());
    };
    match number.checked_sub(1).and_then(|index| ports.get(index)) {
        Some(port) => Ok(port.path.clone()),
        None => Err(format!(
            "there is no port with the number {typed}; type its path"
        )),
    }
}

/// An error if a flag describes an instrument, which needs a line.
fn needs_no_line(init: &Init) -> Result<(), Failure> {
    let given = [
        ("--profile", init.profile.is_some()),
        ("--unit", init.unit.is_some()),
        ("--address", init.address.is_some()),
        ("--name", init.name.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure {
            code: USAGE,
            message: format!("{flag} is for an instrument on a line; add --serial or --modbus-tcp"),
        }),
        None => Ok(()),
    }
}

/// The keys of the line.
pub(super) fn keys(
    init: &Init,
    answers: Answers,
    wire: &LineWire,
    instrument: &Instrument,
) -> Result<String, Failure> {
    match wire {
        LineWire::Tcp(address) if instrument.is_plain => {
            let address = terminal_server(address, instrument, answers)?;
            Ok(format!("tcp: {}", quoted(&address)))
        }
        LineWire::Tcp(address) => {
            let ports = &instrument.factory.ports;
            // 502 is the port where none is written.
            let is_usual = has_port(address) || ports.contains(&502);
            let address = match ports.first().filter(|_| !is_usual) {
                Some(port) => format!("{address}:{port}"),
                None => address.clone(),
            };
            Ok(format!("modbus_tcp: {}", quoted(&address)))
        }
        LineWire::Serial(path) => {
            let delivered = instrument
                .factory
                .speeds
                .first()
                .map_or_else(|| "9600 8N1".to_owned(), ToString::to_string);
            let usual = instrument.found.speed.clone().unwrap_or(delivered);
            let speed = answers.get(init.speed.as_deref(), "Speed", &usual, str::parse::<Speed>)?;
            Ok(format!("serial: {}, speed: {speed}", quoted(path)))
        }
    }
}

/// The address of a terminal server; asks for the port if it has none.
fn terminal_server(
    address: &str,
    instrument: &Instrument,
    answers: Answers,
) -> Result<String, Failure> {
    if has_port(address) {
        return Ok(address.to_owned());
    }
    let port = answers.get(None, "Its port at the terminal server", "", |typed| {
        typed.parse::<u16>().map_err(|_| format!("{} is a plain instrument, not a Modbus TCP device: it needs the port of its terminal server, such as --modbus-tcp {address}:4001", instrument.profile))
    })?;
    Ok(format!("{address}:{port}"))
}
