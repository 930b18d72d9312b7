//! `wellhead scan`: finds the devices on a line, with their speeds and addresses.

mod likeness;
mod meters;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::columns::{cut, padded, width, wrapped};
use super::line_access::{LineAccess, LineAddress, Via};
use super::{Failure, put, say};
use crate::config::{self, Factory, presets};
use crate::field::Wire;
use crate::field::decode::Table;
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use crate::field::modbus::explain;
use crate::field::serial::Speed;
use crate::log::Printable;
use likeness::Portraits;

/// The speeds of `--speed all`, the most usual first.
const BAUDS: [u32; 8] = [9600, 19200, 38400, 115_200, 57600, 4800, 2400, 1200];
const FRAMES: [&str; 4] = ["8N1", "8E1", "8O1", "8N2"];
/// Where SunSpec devices have their marker, from zero.
const SUNSPEC_PLACES: [u16; 3] = [40_000, 50_000, 0];
const SUNSPEC: [u16; 2] = [0x5375, 0x6E53];
/// A device may take longer by this factor to identify itself.
const IDENTITY_FACTOR: u32 = 3;

/// Devices that are matched with profiles by their registers, which takes a few seconds for each.
const MOST_RECOGNISED: usize = 8;
/// Different invalid answers that are printed.
const MOST_REASONS: usize = 5;

/// The arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  wellhead scan bus-a                            the units of a line of the YAML file, through the running gateway
  wellhead scan /dev/ttyUSB0 --units 1-10        a line that is in no file
  wellhead scan /dev/ttyUSB0 --speed all         at every usual speed and parity
  wellhead scan /dev/ttyUSB0 --profile siemens-pac2200   with the speed and unit such a device is delivered with
  wellhead scan 192.168.1.20 --yaml              a block for gateway.yaml
  wellhead scan /dev/ttyUSB0 --mbus              meters on an M-Bus, at 2400 8E1")]
pub(super) struct Scan {
    /// A line of the YAML file, a serial device, or the address of a Modbus TCP device
    line: String,
    /// Modbus addresses [default: 1-247, or the factory setting of the profile]
    #[arg(long, value_parser = units)]
    units: Option<UnitList>,
    /// A serial speed to try, such as '19200 8E1', or all; can be given several times [default: the
    /// factory setting of the profile, that of the line, 9600 8N1]
    #[arg(long = "speed", value_name = "SPEED")]
    speeds: Vec<String>,
    /// Try the factory settings of a profile; `wellhead profiles NAME` shows them
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Do not match profiles by register values on devices without identification
    #[arg(long)]
    quick: bool,
    /// Look for meters on an M-Bus: at primary addresses (`--units`; default 1-250), then by their
    /// identification
    #[arg(long, conflicts_with = "profile")]
    mbus: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a block for gateway.yaml
    #[arg(long, conflicts_with = "json")]
    yaml: bool,
    #[command(flatten)]
    via: Via,
}

#[derive(Debug, Clone)]
struct UnitList(Vec<u8>);

fn units(text: &str) -> Result<UnitList, String> {
    config::units(text).map(UnitList)
}

/// A device that answered.
#[derive(Debug, Serialize)]
pub(super) struct FoundDevice {
    pub(super) unit: u8,
    /// Of a serial line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) speed: Option<String>,
    /// Its own identification.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Where its SunSpec models begin, from zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    sunspec: Option<u16>,
    /// A profile whose name fits its identification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<String>,
    /// Profiles that fit its registers, where the device has no identification.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) looks_like: Vec<String>,
    /// How devices of that profile are delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    factory: Option<Factory>,
}

/// Scans a line and prints what was found.
pub(super) fn scan(scan: &Scan) -> Result<(), Failure> {
    let line = scan.via.line(&scan.line)?;
    if scan.mbus {
        return meters::scan(scan, &line);
    }
    let factory = delivered(scan)?;
    let speeds = speeds(scan, &line, &factory)?;
    let units = match &scan.units {
        Some(units) => units.0.clone(),
        None if factory.units.is_empty() => (1..=247).collect(),
        None => factory.units,
    };
    let total = speeds.len() * units.len();
    let search = Search {
        line: &line,
        speeds: &speeds,
        units: &units,
        within: scan.via.within.0,
        is_quick: scan.quick,
    };
    let (found, seen) = search.run()?;
    let out = match (scan.json, scan.yaml) {
        (true, _) => format!(
            "{}\n",
            serde_json::to_string_pretty(&found).map_err(Failure::runtime)?
        ),
        (_, true) => block(&line, &found),
        _ => table(&found),
    };
    put(out.as_bytes())?;
    advise(&found, &seen, total);
    Ok(())
}

/// A search for devices.
pub(super) struct Search<'a> {
    pub(super) line: &'a LineAddress,
    /// `None` for the line as it is.
    pub(super) speeds: &'a [Option<Speed>],
    pub(super) units: &'a [u8],
    pub(super) within: Duration,
    /// Only identifications are read.
    pub(super) is_quick: bool,
}

/// How often each invalid answer came.
type InvalidAnswers = BTreeMap<String, usize>;

impl Search<'_> {
    /// Asks every unit at every speed.
    pub(super) fn run(&self) -> Result<(Vec<FoundDevice>, InvalidAnswers), Failure> {
        let bar = progress(self.speeds.len() * self.units.len());
        let (mut found, mut seen) = (Vec::new(), InvalidAnswers::new());
        for speed in self.speeds {
            let here = at_speed(self.line, *speed);
            let mut access = here.open()?;
            for unit in self.units {
                bar.set_message(speed.map_or_else(String::new, |speed| speed.to_string()));
                match access.ask(*unit, &first_of(Table::Holding, 0, 1), self.within)? {
                    // A gateway in between knows that there is no such device.
                    DiagnosticResponse::Exception(code @ (10 | 11)) => {
                        *seen.entry(explain(code)).or_default() += 1;
                    }
                    DiagnosticResponse::Words(_) | DiagnosticResponse::Exception(_) => {
                        found.push(describe(&mut access, *unit, *speed, self.within)?);
                    }
                    DiagnosticResponse::Garbage(why) => {
                        *seen.entry(without_number(&why)).or_default() += 1;
                    }
                    DiagnosticResponse::NoLine(why) => return Err(Failure::runtime(why)),
                    DiagnosticResponse::Nothing | DiagnosticResponse::Identity(_) => {}
                }
                bar.inc(1);
            }
            if !self.is_quick {
                recognise(&mut found, &mut access, &bar, self.within)?;
            }
        }
        bar.finish_and_clear();
        Ok((found, seen))
    }
}

/// Matches devices without identification with profiles.
fn recognise(
    found: &mut [FoundDevice],
    access: &mut LineAccess,
    bar: &ProgressBar,
    within: Duration,
) -> Result<(), Failure> {
    let is_nameless = |found: &&mut FoundDevice| {
        found.profile.is_none() && found.sunspec.is_none() && found.looks_like.is_empty()
    };
    let mut portraits = None;
    for found in found.iter_mut().filter(is_nameless).take(MOST_RECOGNISED) {
        bar.set_message(format!("unit {}", found.unit));
        let portraits = portraits.get_or_insert_with(|| Portraits::all(Path::new(".")));
        found.looks_like = portraits.like(access, found.unit, within)?;
    }
    Ok(())
}

/// The factory settings of the profile that was named; empty without one.
fn delivered(scan: &Scan) -> Result<Factory, Failure> {
    let Some(name) = &scan.profile else {
        return Ok(Factory::default());
    };
    let refused = |message| Failure {
        code: super::USAGE,
        message,
    };
    let factory = config::factory(Path::new("."), name).ok_or_else(|| {
        let hint = config::suggestion(name, presets::names());
        refused(format!("there is no profile \"{name}\"; {hint} (`wellhead profiles` lists those that come with the program)"))
    })?;
    if presets::text(name).is_some_and(|text| text.contains("\ntext:")) {
        return Err(refused(format!(
            "scan looks for Modbus devices, and {name} is a plain instrument; it is delivered with {factory}"
        )));
    }
    Ok(factory)
}

/// The speeds to try; `None` for the line as it is.
fn speeds(
    scan: &Scan,
    address: &LineAddress,
    factory: &Factory,
) -> Result<Vec<Option<Speed>>, Failure> {
    let Wire::Serial(port) = &address.line.wire else {
        return if scan.speeds.is_empty() {
            Ok(vec![None])
        } else {
            Err(Failure::runtime(
                "only a serial line has a speed; remove --speed",
            ))
        };
    };
    let is_default =
        scan.speeds.is_empty() && (factory.speeds.is_empty() || factory.speeds == [port.speed]);
    if is_default {
        return Ok(vec![Some(port.speed)]);
    }
    if address.is_owned()? {
        return Err(Failure::runtime(format!(
            "the running gateway holds {} at {}; stop it to try other speeds (systemctl stop wellhead)",
            port.path, port.speed
        )));
    }
    let mut speeds = Vec::new();
    if scan.speeds.is_empty() {
        speeds.extend(factory.speeds.iter().copied().map(Some));
    }
    for typed in &scan.speeds {
        if typed == "all" {
            let all = FRAMES
                .iter()
                .flat_map(|frame| BAUDS.iter().map(move |baud| format!("{baud} {frame}")));
            speeds.extend(all.filter_map(|speed| speed.parse().ok()).map(Some));
        } else {
            speeds.push(Some(typed.parse().map_err(|message| Failure {
                code: super::USAGE,
                message,
            })?));
        }
    }
    Ok(speeds)
}

fn at_speed<'a>(line: &'a LineAddress, speed: Option<Speed>) -> std::borrow::Cow<'a, LineAddress> {
    let (Wire::Serial(port), Some(speed)) = (&line.line.wire, speed) else {
        return std::borrow::Cow::Borrowed(line);
    };
    let mut other = line.clone();
    other.line.wire = Wire::Serial(crate::field::serial::Port {
        speed,
        ..port.clone()
    });
    std::borrow::Cow::Owned(other)
}

fn first_of(table: Table, start: u16, count: u16) -> DiagnosticRequest {
    DiagnosticRequest::Registers {
        table,
        start,
        count,
    }
}

/// Reads the identification of a device.
fn describe(
    access: &mut LineAccess,
    unit: u8,
    speed: Option<Speed>,
    within: Duration,
) -> Result<FoundDevice, Failure> {
    let identity = match access.ask(unit, &DiagnosticRequest::Identity, within * IDENTITY_FACTOR)? {
        // For terminals and YAML files: always one line.
        DiagnosticResponse::Identity(text) if !text.is_empty() => {
            Some(Printable(&text).to_string())
        }
        _ => None,
    };
    let mut sunspec = None;
    for place in SUNSPEC_PLACES {
        if access.ask(
            unit,
            &first_of(Table::Holding, place, 2),
            within * IDENTITY_FACTOR,
        )? == DiagnosticResponse::Words(SUNSPEC.to_vec())
        {
            sunspec = Some(place);
            break;
        }
    }
    let profile = identity.as_deref().and_then(profile_for);
    let factory = profile
        .as_deref()
        .and_then(|profile| config::factory(Path::new("."), profile))
        .filter(|factory| !factory.is_empty());
    Ok(FoundDevice {
        unit,
        speed: speed.map(|speed| speed.to_string()),
        identity,
        sunspec,
        profile,
        looks_like: Vec::new(),
        factory,
    })
}

/// The profile whose model is part of an identification.
fn profile_for(identity: &str) -> Option<String> {
    let plain = |text: &str| {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase()
    };
    let said = plain(identity);
    let is_model = |part: &&str| part.len() >= 4 && part.bytes().any(|byte| byte.is_ascii_digit());
    let fits = |name: &&str| {
        name.split('-')
            .filter(is_model)
            .any(|part| said.contains(part))
    };
    presets::names().find(fits).map(str::to_owned)
}

/// A row for each device, and remarks about their profiles; no line is wider than the terminal.
pub(super) fn table(found: &[FoundDevice]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let width = width();
    let mut out = "unit  speed       sunspec   profile                       identity\n".to_owned();
    for device in found {
        out += &(cut(&row(device), width).trim_end().to_owned() + "\n");
    }
    for device in found.iter().filter(|device| !device.looks_like.is_empty()) {
        let like = device.looks_like.join(" or ");
        let text = format!(
            "unit {} looks like {like}: frequency and voltages are where these have them; compare its values with its display",
            device.unit
        );
        out += &wrapped("", &text, width);
    }
    let mut listed = BTreeSet::new();
    for device in found {
        if let (Some(profile), Some(factory)) = (&device.profile, &device.factory)
            && listed.insert(profile)
        {
            // Writing to a text cannot fail.
            let _ = writeln!(out, "{profile} is delivered with {factory}");
        }
    }
    out
}

fn row(device: &FoundDevice) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let sunspec = device.sunspec.map(|place| format!("at {place}"));
    let like = device.looks_like.first().map(|like| format!("like {like}"));
    format!(
        "{:>4}  {} {} {} {}",
        device.unit,
        padded(&or_dash(device.speed.clone()), 11),
        padded(&or_dash(sunspec), 9),
        padded(&or_dash(like.or_else(|| device.profile.clone())), 29),
        or_dash(device.identity.clone())
    )
}

/// A correct part of a YAML file.
fn block(address: &LineAddress, found: &[FoundDevice]) -> String {
    let name = if address.line.name.contains(['/', ':', '.']) {
        "bus"
    } else {
        &address.line.name
    };
    let wire = wire_keys(&address.line.wire, found);
    let mut out = format!("lines:\n  - {{ name: {name}, {wire} }}\ndevices:\n");
    for device in found {
        let unit = device.unit;
        let remark = remark(device).map_or_else(String::new, |remark| format!("   # {remark}"));
        let profile = device.profile.as_ref().or(device.looks_like.first());
        let points = match (profile, device.sunspec) {
            (Some(profile), _) => format!("profile: {profile}"),
            (None, Some(place)) => format!("profile: sunspec-1, base: {}", place + 2),
            (None, None) => "points: { first: { holding: 0, type: u16 } }".to_owned(),
        };
        let _ = writeln!(
            out,
            "  - {{ name: unit-{unit}, line: {name}, unit: {unit}, {points} }}{remark}"
        );
    }
    out
}

fn wire_keys(wire: &Wire, found: &[FoundDevice]) -> String {
    match wire {
        Wire::Serial(port) => {
            let speed = found.first().and_then(|device| device.speed.clone());
            let speed = speed.unwrap_or_else(|| port.speed.to_string());
            let framing = if port.ascii { ", framing: ascii" } else { "" };
            format!("serial: {}, speed: {speed}{framing}", port.path)
        }
        Wire::ModbusTcp(address) => format!("modbus_tcp: '{address}'"),
        Wire::RtuOverTcp(address) => format!("rtu_over_tcp: '{address}'"),
        Wire::AsciiOverTcp(address) => format!("ascii_over_tcp: '{address}'"),
        Wire::Tcp(_) | Wire::Simulated => "simulated: {}".to_owned(),
    }
}

fn remark(device: &FoundDevice) -> Option<String> {
    let like = &device.looks_like;
    let likeness = (!like.is_empty()).then(|| format!("looks like {}", like.join(" or ")));
    device.identity.clone().or(likeness)
}

fn advise(found: &[FoundDevice], seen: &BTreeMap<String, usize>, asked: usize) {
    let advice = |text: &str| say(wrapped("", text, width()).trim_end());
    if found.is_empty() {
        advice(
            "no device answered; check the A/B wiring and the address in the device's menu, and try --speed all or --within 1s",
        );
    } else if found.len() == asked && asked > 10 {
        advice("every address answers: this device does not look at it; take unit 1");
    }
    for (why, times) in seen.iter().take(MOST_REASONS) {
        advice(&format!("{times} of {asked} questions: {why}"));
    }
    if seen.keys().any(|why| why.contains("check speed")) {
        advice(
            "this is what another speed or parity looks like, or two devices with one address; try --speed all",
        );
    }
}

/// Without the number of bytes, so that such answers are counted together.
fn without_number(why: &str) -> String {
    why.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
        .to_owned()
}

fn progress(total: usize) -> ProgressBar {
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    // The template is fixed; without it the bar has the library's own.
    match ProgressStyle::with_template("scanning {msg} {wide_bar} {pos}/{len}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_the_model_that_a_device_names() {
        assert_eq!(
            profile_for("Eastron SDM630-Modbus V2").as_deref(),
            Some("eastron-sdm630")
        );
        assert_eq!(
            profile_for("SIEMENS SENTRON PAC3200 1.0"),
            Some("siemens-pac3200".to_owned())
        );
        assert_eq!(profile_for("ACME 1.2"), None);
    }

    #[test]
    fn a_device_that_is_recognised_is_shown_with_the_settings_of_its_factory() {
        let found = |unit| FoundDevice {
            unit,
            speed: Some("9600 8E1".to_owned()),
            identity: Some("Eastron SDM120".to_owned()),
            sunspec: None,
            profile: Some("eastron-sdm120".to_owned()),
            looks_like: Vec::new(),
            factory: config::factory(Path::new("/"), "eastron-sdm120"),
        };
        let shown = table(&[found(3), found(4)]);
        assert_eq!(
            shown
                .lines()
                .filter(
                    |line| *line == "eastron-sdm120 is delivered with 2400 8N1 or 9600 8N1, unit 1"
                )
                .count(),
            1,
            "{shown}"
        );
        let json = serde_json::to_value(found(3)).unwrap();
        assert_eq!(
            json["factory"],
            serde_json::json!({ "speeds": ["2400 8N1", "9600 8N1"], "units": [1] })
        );
    }
}
