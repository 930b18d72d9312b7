//! Lines and addresses that differ from the settings with which devices leave their factories.
//!
//! People change these settings on purpose, so there are warnings only where a change is unlikely:
//! * the speed of a serial line that no device on it is delivered with, where the settings of all
//!   of them are known;
//! * unit 1, because the file names none or for the only device of its line, where the device is
//!   delivered with another;
//! * port 502, because the file names none, where no device of the line is delivered with it.

use std::collections::HashMap;

use super::{Check, at};
use crate::config::factory::{Factory, one_of};
use crate::config::file::{DeviceConfig, LineConfig, Profile};
use crate::field::serial::Speed;

/// The port of a Modbus TCP line that names none.
const MODBUS_PORT: u16 = 502;

/// A device with a profile, at its index in the file.
struct Delivered<'a> {
    index: usize,
    device: &'a DeviceConfig,
    profile: &'a str,
    factory: Factory,
}

/// Warns of lines and devices whose settings are not those of the factory.
pub(super) fn settings(check: &mut Check<'_>) {
    let file = check.file;
    let mut by_line: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, device) in file.devices.iter().enumerate() {
        by_line.entry(&device.line).or_default().push(index);
    }
    for (index, line) in file
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.enabled && line.simulated.is_none())
    {
        let all = by_line
            .get(line.name.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let devices = all
            .iter()
            .filter_map(|index| Some((*index, file.devices.get(*index)?)));
        let known: Vec<Delivered<'_>> = devices
            .filter_map(|(index, device)| delivered(check, index, device))
            .collect();
        let total = all.len();
        if line.serial.is_some() && known.len() == total {
            speed(check, index, line, &known);
        }
        if known.len() == total {
            port(check, index, line, &known);
        }
        for device in &known {
            unit(check, line, device, total);
        }
    }
}

fn delivered<'a>(
    check: &Check<'a>,
    index: usize,
    device: &'a DeviceConfig,
) -> Option<Delivered<'a>> {
    let name = device.profile.as_ref()?;
    let profile: &Profile = check
        .file
        .profiles
        .get(name)
        .or_else(|| check.profiles.get(name)?.as_ref())?;
    Some(Delivered {
        index,
        device,
        profile: name,
        factory: Factory::from(profile.factory.as_ref()?),
    })
}

fn speed(check: &mut Check<'_>, index: usize, line: &LineConfig, devices: &[Delivered<'_>]) {
    let Some(speed) = line
        .speed
        .or_else(|| super::line::DEFAULT_SPEED.parse::<Speed>().ok())
    else {
        return;
    };
    let is_possible = |device: &Delivered<'_>| {
        device.factory.speeds.is_empty() || device.factory.speeds.contains(&speed)
    };
    let Some(first) = devices.first().filter(|_| !devices.iter().any(is_possible)) else {
        return;
    };
    let Some(usual) = first.factory.speeds.first() else {
        return;
    };
    let place = if line.speed.is_some() {
        at!["lines", index, "speed"].to_vec()
    } else {
        at!["lines", index].to_vec()
    };
    let (name, profile, speeds) = (&line.name, first.profile, one_of(&first.factory.speeds));
    check.warn(
        &place,
        format!(
            "line \"{name}\" runs at {speed}, but its devices are delivered with another speed ({profile}: {speeds}); write `speed: {usual}`, unless they were set to {speed}"
        ),
    );
}

fn unit(check: &mut Check<'_>, line: &LineConfig, device: &Delivered<'_>, total: usize) {
    let Delivered {
        index,
        device,
        profile,
        factory,
    } = device;
    let Some(usual) = factory.units.first() else {
        return;
    };
    // Without `units:` a Modbus TCP device is unit 1 if the file says nothing; on a bus that is a
    // fault already.
    let is_typed = device.unit.is_some();
    if device.units.is_some() || (!is_typed && line.modbus_tcp.is_none()) {
        return;
    }
    let is_suspicious = device.unit.unwrap_or(1) == 1 && (!is_typed || total == 1);
    if !is_suspicious || factory.units.contains(&1) {
        return;
    }
    let place = if is_typed {
        at!["devices", *index, "unit"].to_vec()
    } else {
        at!["devices", *index].to_vec()
    };
    let units = one_of(&factory.units);
    check.warn(
        &place,
        format!("this device is read as unit 1, but {profile} is delivered as unit {units}; write `unit: {usual}`, unless its address was changed"),
    );
}

fn port(check: &mut Check<'_>, index: usize, line: &LineConfig, devices: &[Delivered<'_>]) {
    let Some(host) = line
        .modbus_tcp
        .as_ref()
        .filter(|address| !address.contains(':'))
    else {
        return;
    };
    let is_possible = |device: &Delivered<'_>| {
        device.factory.ports.is_empty() || device.factory.ports.contains(&MODBUS_PORT)
    };
    let Some(first) = devices.first().filter(|_| !devices.iter().any(is_possible)) else {
        return;
    };
    let Some(usual) = first.factory.ports.first() else {
        return;
    };
    let (profile, ports) = (first.profile, one_of(&first.factory.ports));
    check.warn(
        &at!["lines", index, "modbus_tcp"],
        format!(
            "this line uses port {MODBUS_PORT}, but {profile} is delivered with TCP port {ports}; write `modbus_tcp: {host}:{usual}`, or `{host}:{MODBUS_PORT}` if its port was changed"
        ),
    );
}
