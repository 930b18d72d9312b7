//! `wellhead scan --mbus`: the meters on an M-Bus, by their primary and their secondary addresses.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::super::line_access::LineAddress;
use super::super::{Failure, USAGE, put, say};
use super::Scan;
use crate::field::Wire;
use crate::field::mbus::search::{Found, find_meters};
use crate::field::mbus::spec::{LARGEST_ADDRESS, MeterAddress};
use crate::field::mbus::telegram::Identity;
use crate::field::serial::{Port, Speed};

/// What meters leave their factory with.
const USUAL_SPEED: &str = "2400 8E1";

/// One row of what was found.
#[derive(Debug, Serialize)]
struct FoundMeter {
    /// Primary address.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<u8>,
    /// Secondary address: eight digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    identification: Option<String>,
    /// Three letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    manufacturer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    medium: Option<&'static str>,
    /// Several meters answer at once.
    is_collision: bool,
}

impl FoundMeter {
    fn of(found: &Found) -> Self {
        let (address, identity, is_collision) = match found {
            Found::Meter(address, identity) => (*address, *identity, false),
            Found::Collision(address) => (*address, None, true),
        };
        let (primary, secondary) = match address {
            MeterAddress::Primary(address) => (Some(address), None),
            MeterAddress::Secondary(address) => (None, Some(address.to_string())),
        };
        let number = identity.map(|identity| format!("{:08}", identity.number));
        Self {
            address: primary,
            identification: number.or(secondary),
            manufacturer: identity.map(Identity::letters),
            version: identity.map(|identity| identity.version),
            medium: identity.map(Identity::medium_name),
            is_collision,
        }
    }

    fn row(&self) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let remark = if self.is_collision {
            "several meters answer at once"
        } else {
            self.medium.unwrap_or_default()
        };
        format!(
            "{:>7}  {:14}  {:12}  {:>7}  {remark}",
            or_dash(self.address.map(|address| address.to_string())),
            or_dash(self.identification.clone()),
            or_dash(self.manufacturer.clone()),
            or_dash(self.version.map(|version| version.to_string())),
        )
    }

    /// Its device in a YAML file.
    fn block(&self, index: usize) -> String {
        let address = match (self.address, &self.identification) {
            (Some(address), _) => format!("address: {address}"),
            (None, digits) => {
                let digits = digits.as_deref().unwrap_or_default();
                let maker = self.manufacturer.as_deref();
                let maker =
                    maker.map_or_else(String::new, |maker| format!(", manufacturer: {maker}"));
                format!("identification: '{digits}'{maker}")
            }
        };
        let medium = self.medium.unwrap_or_default();
        format!(
            "  - {{ name: meter-{index}, line: meters, mbus: {{ {address} }}, points: {{ first: {{ mbus: {{ index: 0, kind: energy }} }} }} }}   # {medium}\n"
        )
    }
}

/// Looks for meters and prints what was found.
pub(super) fn scan(scan: &Scan, line: &LineAddress) -> Result<(), Failure> {
    if line.is_owned()? {
        return Err(Failure::runtime(
            "the running gateway holds this line; stop it to look for meters (systemctl stop wellhead)",
        ));
    }
    let wire = wire(scan, line)?;
    let primary = match &scan.units {
        Some(units) => units.0.clone(),
        None => (1..=LARGEST_ADDRESS).collect(),
    };
    let bar = super::progress(primary.len());
    let tell = |address: MeterAddress| {
        bar.set_message(address.to_string());
        bar.inc(1);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let within: Duration = scan.via.within.0;
    let found = runtime.block_on(find_meters(&wire, within, &primary, tell));
    bar.finish_and_clear();
    let found: Vec<FoundMeter> = found
        .map_err(Failure::runtime)?
        .iter()
        .map(FoundMeter::of)
        .collect();
    if found.is_empty() {
        say(
            "no meter answered; check the supply of the bus and the speed (--speed '300 8E1'), and try --within 1s",
        );
    }
    put(printed(scan, &found)?.as_bytes())?;
    Ok(())
}

fn printed(scan: &Scan, found: &[FoundMeter]) -> Result<String, Failure> {
    if scan.json {
        let text = serde_json::to_string_pretty(found).map_err(Failure::runtime)?;
        return Ok(text + "\n");
    }
    let mut out = String::new();
    if scan.yaml {
        out += "devices:\n";
        for (index, meter) in found.iter().enumerate() {
            out += &meter.block(index + 1);
        }
    } else if !found.is_empty() {
        out += "address  identification  manufacturer  version  medium\n";
        for meter in found {
            // Writing to a text cannot fail.
            let _ = writeln!(out, "{}", meter.row());
        }
    }
    Ok(out)
}

/// The wire with the speed of meters, unless another is typed.
fn wire(scan: &Scan, line: &LineAddress) -> Result<Wire, Failure> {
    match &line.line.wire {
        Wire::Serial(port) => {
            let own = port.speed.to_string();
            let typed = scan.speeds.first().map(String::as_str);
            let typed = typed.unwrap_or(if own.ends_with("8E1") {
                &own
            } else {
                USUAL_SPEED
            });
            let speed: Speed = typed.parse().map_err(|message| Failure {
                code: USAGE,
                message,
            })?;
            Ok(Wire::Serial(Port {
                speed,
                ascii: false,
                ..port.clone()
            }))
        }
        Wire::ModbusTcp(address)
        | Wire::RtuOverTcp(address)
        | Wire::AsciiOverTcp(address)
        | Wire::Tcp(address) => Ok(Wire::Tcp(address.clone())),
        Wire::Simulated => Err(Failure::runtime("a simulated line has no meters to find")),
    }
}
