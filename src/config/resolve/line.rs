//! Lines: one connection each, serial ports, addresses, timeouts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Check, at};
use crate::config::document::PathStep;
use crate::config::file;
use crate::field::modbus::timeout_estimator::AnswerWithin;
use crate::field::serial::Port;
use crate::field::{Line, Wire};
use crate::net::endpoint::Endpoint;

const SHORTEST_ANSWER: Duration = Duration::from_millis(5);
const DEFAULT_ANSWER: Duration = Duration::from_secs(1);
pub(super) const DEFAULT_SPEED: &str = "9600 8N1";

/// A line without its devices; `None` if its connection is faulty.
pub(super) fn line(check: &mut Check<'_>, index: usize, line: &file::LineConfig) -> Option<Line> {
    let here = at!["lines", index];
    let given = [
        line.modbus_tcp.is_some(),
        line.rtu_over_tcp.is_some(),
        line.ascii_over_tcp.is_some(),
        line.serial.is_some(),
        line.tcp.is_some(),
        line.simulated.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        check.missing(
            &here,
            format!(
                "line \"{}\" must be exactly one of: modbus_tcp: host:502, rtu_over_tcp: host:port, ascii_over_tcp: host:port, serial: /dev/..., tcp: host:port (plain instruments), simulated: {{}}",
                line.name
            ),
        );
        return None;
    }
    if line.serial.is_none() {
        check_serial_only(check, index, line);
    }
    let wire = wire(check, index, line)?;
    let answer_within = answer_within(check, index, line);
    let manners = super::manners::of_line(check, index, line, &wire);
    Some(Line {
        name: line.name.clone(),
        wire,
        answer_within,
        manners,
        devices: Vec::new(),
    })
}

/// Settings of a serial port on a line that has none.
fn check_serial_only(check: &mut Check<'_>, index: usize, line: &file::LineConfig) {
    let rows = [
        (
            line.speed.is_some(),
            "speed",
            "only a serial line has a speed; remove it",
        ),
        (
            line.rs485.is_some(),
            "rs485",
            "only a serial line has a transceiver; remove it",
        ),
        (
            line.framing != file::FramingConfig::Rtu,
            "framing",
            "only a serial line has a framing; for a terminal server write `ascii_over_tcp: host:port`",
        ),
    ];
    for (_, key, message) in rows.iter().filter(|(is_given, ..)| *is_given) {
        check.fault(&at!["lines", index, *key], *message);
    }
}

fn wire(check: &mut Check<'_>, index: usize, line: &file::LineConfig) -> Option<Wire> {
    let mut address =
        |key: &'static str, text: &str| endpoint(check, &at!["lines", index, key], text, 502);
    Some(if let Some(text) = &line.modbus_tcp {
        Wire::ModbusTcp(address("modbus_tcp", text)?)
    } else if let Some(text) = &line.rtu_over_tcp {
        Wire::RtuOverTcp(address("rtu_over_tcp", text)?)
    } else if let Some(text) = &line.ascii_over_tcp {
        Wire::AsciiOverTcp(address("ascii_over_tcp", text)?)
    } else if let Some(text) = &line.tcp {
        Wire::Tcp(endpoint(check, &at!["lines", index, "tcp"], text, 23)?)
    } else if let Some(path) = &line.serial {
        if line.enabled {
            check_port(check, index, path);
        }
        let speed = line.speed.or_else(|| DEFAULT_SPEED.parse().ok())?;
        let path = device_path(path, check.folder)
            .to_string_lossy()
            .into_owned();
        Wire::Serial(Port {
            path,
            speed,
            ascii: line.framing == file::FramingConfig::Ascii,
            rs485: line.rs485,
        })
    } else {
        Wire::Simulated
    })
}

fn answer_within(check: &mut Check<'_>, index: usize, line: &file::LineConfig) -> AnswerWithin {
    let Some(bounds) = line.answer_within else {
        return AnswerWithin::at_most(DEFAULT_ANSWER);
    };
    let path = at!["lines", index, "answer_within"];
    if bounds.most.0 < SHORTEST_ANSWER {
        check.fault(
            &path,
            "no device answers that fast; write at least 5ms, such as 300ms",
        );
    }
    let Some(least) = bounds.least else {
        return AnswerWithin::at_most(bounds.most.0);
    };
    if least.0 > bounds.most.0 || least.0 < SHORTEST_ANSWER {
        check.fault(
            &path,
            "write the shorter bound first, at least 5ms, such as { least: 50ms, most: 2s }",
        );
    }
    AnswerWithin {
        least: least.0,
        most: bounds.most.0,
    }
}

/// `host` or `host:port`.
fn endpoint(
    check: &mut Check<'_>,
    path: &[PathStep],
    text: &str,
    default_port: u16,
) -> Option<String> {
    let malformed = || {
        format!("`{text}` is not an address; write host:port, such as 192.168.1.20:{default_port}")
    };
    let is_host = |host: &str| !host.contains("//") && !host.contains(char::is_whitespace);
    let message = match Endpoint::parse(text, default_port) {
        Ok(found) if is_host(&found.host) => return Some(found.to_string()),
        Ok(_) => malformed(),
        Err(error) => error.or(malformed),
    };
    check.fault(path, message);
    None
}

/// Lines that would open one serial device: only the first ever could.
pub(super) fn check_shared_ports(check: &mut Check<'_>) {
    let (file, folder) = (check.file, check.folder);
    let real = |typed: &str| {
        let path = device_path(typed, folder);
        path.canonicalize().unwrap_or(path)
    };
    let lines = file
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.enabled);
    let mut ports: HashMap<PathBuf, &str> = HashMap::new();
    for (index, line) in lines {
        let Some(port) = line.serial.as_ref().map(|path| real(path)) else {
            continue;
        };
        // Files of tests use it for no port at all.
        let is_of_tests = port == Path::new("/dev/null");
        match ports.entry(port) {
            Entry::Occupied(other) if !is_of_tests => {
                let other = other.get();
                check.fault(
                    &at!["lines", index, "serial"],
                    format!(
                        "line {other} has this device already; put all its instruments on one line"
                    ),
                );
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(free) => drop(free.insert(&line.name)),
        }
    }
}

/// Where a serial device is that is typed without its folder: names of devices are below /dev,
/// paths begin at the folder of the YAML.
fn device_path(typed: &str, folder: &Path) -> PathBuf {
    let is_of_dev = !typed.contains('/') || typed.starts_with("serial/by-");
    if is_of_dev {
        Path::new("/dev").join(typed)
    } else {
        folder.join(typed)
    }
}

/// A serial device that is not there now, or hardly one.
fn check_port(check: &mut Check<'_>, index: usize, path: &str) {
    let is_of_windows = path
        .to_ascii_uppercase()
        .strip_prefix("COM")
        .is_some_and(|number| number.parse::<u16>().is_ok());
    if is_of_windows {
        check.warn(
            &at!["lines", index, "serial"],
            format!("`{path}` is a device name of Windows; here it is a path such as /dev/ttyUSB0, or one below /dev/serial/by-id"),
        );
        return;
    }
    let device = device_path(path, check.folder);
    let device = device.display();
    if !path.starts_with('/') && !path.starts_with('.') {
        check.warn(
            &at!["lines", index, "serial"],
            format!(
                "`{path}` is read as {device}; a name below /dev/serial/by-id survives replugging"
            ),
        );
        return;
    }
    if !Path::new(&device.to_string()).exists() {
        check.warn(
            &at!["lines", index, "serial"],
            format!("{device} does not exist on this machine yet; the gateway waits for it (ls -l /dev/serial/by-id)"),
        );
    }
}
