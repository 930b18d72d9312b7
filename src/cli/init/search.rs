//! The search for Modbus devices on the first line.

use std::time::Duration;

use super::super::line_access::{LineAddress, modbus_tcp, serial};
use super::super::scan::{Search, table};
use super::super::{Failure, put, say};
use super::Init;
use super::answers::Answers;
use crate::config;
use crate::field::serial::Speed;

/// How long a device may take to answer.
const WITHIN: Duration = Duration::from_millis(300);

/// The wire of the first line.
pub(super) enum LineWire {
    /// A serial device.
    Serial(String),
    /// The address of a Modbus TCP device, or of a terminal server.
    Tcp(String),
}

/// The first device that a search has found on the line.
#[derive(Debug, Default)]
pub(super) struct SearchResult {
    pub(super) unit: Option<u8>,
    pub(super) speed: Option<String>,
    pub(super) profile: Option<String>,
}

/// Searches the line for Modbus devices, if that is wanted.
pub(super) fn search(
    init: &Init,
    answers: Answers,
    wire: &LineWire,
) -> Result<SearchResult, Failure> {
    let is_known = init.profile.is_some() && init.unit.is_some();
    if is_known
        || !answers
            .agrees("Look for Modbus devices on it now? It takes up to two minutes (y or n)")?
    {
        return Ok(SearchResult::default());
    }
    let (name, wire, speed) = match wire {
        LineWire::Tcp(address) => (address, modbus_tcp(address), None),
        LineWire::Serial(path) => {
            let speed = answers.get(
                init.speed.as_deref(),
                "At which speed",
                "9600 8N1",
                str::parse::<Speed>,
            )?;
            (path, serial(path, speed, false), Some(speed))
        }
    };
    let units = answers.get(None, "Which addresses", "1-247", config::units)?;
    first_device(&Search {
        line: &LineAddress::of(name, wire, WITHIN),
        speeds: &[speed],
        units: &units,
        within: WITHIN,
        is_quick: false,
    })
}

/// Prints the devices that a search finds, and returns the first; a failed search finds none.
fn first_device(search: &Search<'_>) -> Result<SearchResult, Failure> {
    let found = match search.run() {
        Ok((found, _)) => found,
        Err(failure) => {
            say(&format!("  {}", failure.message));
            return Ok(SearchResult::default());
        }
    };
    let Some(first) = found.first() else {
        say(
            "  no device answered; check the A/B wiring, and speed and address in the device's menu. `wellhead scan` tries more",
        );
        return Ok(SearchResult::default());
    };
    put(table(&found).as_bytes())?;
    Ok(SearchResult {
        unit: Some(first.unit),
        speed: first.speed.clone(),
        profile: first.profile.as_ref().or(first.looks_like.first()).cloned(),
    })
}
