//! Lines, profiles, devices and points.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, at};
use crate::config::document::Step;
use crate::config::file;
use crate::field::modbus::decode::{ByteOrder, Kind, Register, Table};
use crate::field::serial::Port;
use crate::field::{Device, Line, Point, Wire};
use crate::mqtt::{QoS, TopicName};
use crate::reading::{DeviceId, PointId};
use crate::report::PointReport;
use crate::report::exception::Rule;
use crate::report::template::{Names, Template};

const DEFAULT_EVERY: Duration = Duration::from_secs(10);
const SHORTEST_EVERY: Duration = Duration::from_millis(1);
const DEFAULT_ANSWER: Duration = Duration::from_secs(1);
const DEFAULT_SPEED: &str = "9600 8N1";

/// Collects points and topics over all devices.
#[derive(Default)]
struct Points {
    reports: Vec<PointReport>,
    availability: Vec<TopicName>,
    /// Topic -> who has it.
    taken: HashMap<TopicName, String>,
}

/// Every line with its devices, how each point is reported, and the availability topic of each device.
pub(super) fn resolve(check: &mut Check<'_>) -> (Vec<Line>, Vec<PointReport>, Vec<TopicName>) {
    let file = check.file;
    let names: Vec<&str> = file.lines.iter().map(|line| line.name.as_str()).collect();
    check.unique("lines", &names);
    let names: Vec<&str> = file.devices.iter().map(|device| device.name.as_str()).collect();
    check.unique("devices", &names);
    let mut lines: Vec<Option<Line>> = file.lines.iter().enumerate().map(|(index, line)| self::line(check, index, line)).collect();
    let mut points = Points::default();
    for (index, device) in file.devices.iter().enumerate() {
        self::device(check, index, device, &mut lines, &mut points);
    }
    let enabled = file.lines.iter().zip(lines).filter(|(line, _)| line.enabled);
    (enabled.filter_map(|(_, line)| line).collect(), points.reports, points.availability)
}

fn line(check: &mut Check<'_>, index: usize, line: &file::Line) -> Option<Line> {
    let here = at!["lines", index];
    let given = [line.modbus_tcp.is_some(), line.rtu_over_tcp.is_some(), line.serial.is_some(), line.simulated.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        check.missing(
            &here,
            format!(
                "line \"{}\" must be exactly one of: modbus_tcp: host:502, rtu_over_tcp: host:port, serial: /dev/..., simulated: {{}}",
                line.name
            ),
        );
        return None;
    }
    if line.speed.is_some() && line.serial.is_none() {
        check.fault(&at!["lines", index, "speed"], "only a serial line has a speed; remove it");
    }
    if line.answer_within.is_some_and(|span| span.0 < Duration::from_millis(5)) {
        check.fault(&at!["lines", index, "answer_within"], "no device answers that fast; write at least 5ms, such as 300ms");
    }
    let wire = if let Some(address) = &line.modbus_tcp {
        Wire::ModbusTcp(endpoint(check, &at!["lines", index, "modbus_tcp"], address, 502)?)
    } else if let Some(address) = &line.rtu_over_tcp {
        Wire::RtuOverTcp(endpoint(check, &at!["lines", index, "rtu_over_tcp"], address, 502)?)
    } else if let Some(path) = &line.serial {
        let speed = line.speed.or_else(|| DEFAULT_SPEED.parse().ok())?;
        Wire::Serial(Port { path: path.clone(), speed })
    } else {
        Wire::Simulated
    };
    let answer_within = line.answer_within.map_or(DEFAULT_ANSWER, |span| span.0);
    Some(Line { name: line.name.clone(), wire, answer_within, devices: Vec::new() })
}

/// `host` or `host:port`.
fn endpoint(check: &mut Check<'_>, path: &[Step], text: &str, default_port: u16) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (text, Some(default_port)),
    };
    match port {
        Some(port) if !host.is_empty() && !host.contains("//") => Some(format!("{host}:{port}")),
        _ => {
            check.fault(path, format!("`{text}` is not an address; write host:port, such as 192.168.1.20:{default_port}"));
            None
        }
    }
}

fn device(check: &mut Check<'_>, index: usize, device: &file::Device, lines: &mut [Option<Line>], points: &mut Points) {
    let file = check.file;
    let profile = match &device.profile {
        None => None,
        Some(name) => {
            let found = file.profiles.get(name);
            let known = check.document.keys("profiles");
            if found.is_none() && !known.contains(name) {
                check.unknown(&at!["devices", index, "profile"], "profile", name, &known);
            }
            found
        }
    };
    let Some(position) = file.lines.iter().position(|line| line.name == device.line) else {
        let known = check.document.names("lines", "name");
        if !known.contains(&device.line) {
            check.unknown(&at!["devices", index, "line"], "line", &device.line, &known);
        }
        return;
    };
    let enabled = file.lines.get(position).is_some_and(|line| line.enabled);
    let Some(line) = lines.get_mut(position).and_then(Option::as_mut) else { return };
    let unit = unit(check, index, device, &line.wire);
    let mut resolved = Device { id: DeviceId(id(points.availability.len())), name: device.name.clone(), unit, points: Vec::new() };
    let context = Context { index, device, profile, line: line.name.clone(), simulated: line.wire == Wire::Simulated };
    for (name, spec) in context.points() {
        if let Some(point) = context.point(check, &name, &spec, points) {
            resolved.points.push(point);
        }
    }
    if resolved.points.is_empty() && device.points.is_empty() && profile.is_none_or(|profile| profile.points.is_empty()) {
        check.missing(&at!["devices", index], format!("device \"{}\" has no points; add `points:` or a `profile:`", device.name));
    }
    let template = file.availability.clone().or_else(|| Template::new("{site}/{device}/availability").ok());
    let filled = template.and_then(|template| context.topic(check, &template, "", &at!["devices", index, "name"]));
    if let Some(topic) = filled {
        take_topic(check, points, &topic, format!("the availability of {}", device.name), &at!["devices", index, "name"]);
        points.availability.push(topic);
    }
    if enabled {
        line.devices.push(resolved);
    }
}

fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn unit(check: &mut Check<'_>, index: usize, device: &file::Device, wire: &Wire) -> u8 {
    match (device.unit, wire) {
        (Some(unit), Wire::Serial(_) | Wire::RtuOverTcp(_)) if !(1..=247).contains(&unit) => {
            check.fault(&at!["devices", index, "unit"], "a Modbus unit is a number from 1 to 247");
            1
        }
        (Some(unit), _) => unit,
        (None, Wire::Serial(_) | Wire::RtuOverTcp(_)) => {
            check.missing(&at!["devices", index], format!("device \"{}\" needs its Modbus address; add `unit: 1`", device.name));
            1
        }
        (None, _) => 1,
    }
}

fn take_topic(check: &mut Check<'_>, points: &mut Points, topic: &TopicName, owner: String, path: &[Step]) {
    if let Some(other) = points.taken.insert(topic.clone(), owner.clone()) {
        check.fault(path, format!("{owner} and {other} would both be published on {topic}; give one of them a `topic:` of its own"));
    }
}

/// One device with what its points need to know.
struct Context<'a> {
    index: usize,
    device: &'a file::Device,
    profile: Option<&'a file::Profile>,
    line: String,
    simulated: bool,
}

impl Context<'_> {
    /// The points of the profile, overridden by name, then those of the device alone.
    fn points(&self) -> Vec<(String, file::Point)> {
        let base = self.profile.map(|profile| &profile.points);
        let mut points: Vec<(String, file::Point)> = base
            .into_iter()
            .flatten()
            .map(|(name, point)| (name.clone(), self.device.points.get(name).map_or_else(|| point.clone(), |own| own.over(point))))
            .collect();
        let own = self.device.points.iter().filter(|(name, _)| base.is_none_or(|base| !base.contains_key(*name)));
        points.extend(own.map(|(name, point)| (name.clone(), point.clone())));
        points
    }

    /// Where a key of a point stands: in the device if it is given there, else in the profile.
    fn path(&self, name: &str, key: &str) -> Vec<Step> {
        let in_device = self.device.points.contains_key(name);
        match &self.device.profile {
            Some(profile) if !in_device => at!["profiles", profile, "points", name, key].to_vec(),
            _ => at!["devices", self.index, "points", name, key].to_vec(),
        }
    }

    fn topic(&self, check: &mut Check<'_>, template: &Template, point: &str, path: &[Step]) -> Option<TopicName> {
        let names = Names { site: check.file.site.as_deref().unwrap_or("site"), line: &self.line, device: &self.device.name, point };
        match template.fill(names) {
            Ok(topic) if topic.is_reserved() => {
                check.fault(path, "topics that begin with $ belong to the broker; choose another");
                None
            }
            Ok(topic) => Some(topic),
            Err(error) => {
                check.fault(path, format!("this makes no topic: {error}"));
                None
            }
        }
    }

    fn point(&self, check: &mut Check<'_>, name: &str, spec: &file::Point, points: &mut Points) -> Option<Point> {
        let file = check.file;
        let template = spec.topic.clone().or_else(|| file.topics.clone()).or_else(|| Template::new("{site}/{device}/{point}").ok())?;
        let at = self.path(name, "topic");
        let topic = self.topic(check, &template, name, &at)?;
        take_topic(check, points, &topic, format!("{}.{name}", self.device.name), &at);
        let every = spec.every.map_or(DEFAULT_EVERY, |span| span.0);
        if every < SHORTEST_EVERY {
            check.fault(&self.path(name, "every"), "write at least 1ms, such as 1s");
        }
        if spec.deadband.is_some_and(|deadband| !deadband.is_finite() || deadband < 0.0) {
            check.fault(&self.path(name, "deadband"), "a deadband is a change that is too small to report: type 0 or more");
        }
        let class = check.class(spec.class.as_deref().unwrap_or("normal"), &self.path(name, "class"));
        let (class, qos) = class.unwrap_or_default();
        let register = self.register(check, name, spec);
        if register.is_none() && !self.simulated {
            return None;
        }
        let rule = Rule { deadband: spec.deadband, at_least_every: spec.at_least_every.map(|span| span.0) };
        let id = PointId(id(points.reports.len()));
        points.reports.push(PointReport { topic, qos: qos.unwrap_or(QoS::AtLeastOnce), class, rule });
        Some(Point { id, name: name.to_owned(), every, register, wave: spec.simulate.unwrap_or_default() })
    }

    fn register(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Register> {
        let (table, address) = self.address(check, name, spec)?;
        let kind = self.kind(check, name, spec, table)?;
        let order =
            spec.byte_order.or(self.device.byte_order).or(self.profile.and_then(|profile| profile.byte_order)).unwrap_or(ByteOrder::ABCD);
        let words = spec.words.iter().flatten().map(|(raw, text)| (*raw, Arc::from(text.as_str()))).collect();
        let scale = spec.scale.unwrap_or(1.0);
        if scale == 0.0 || !scale.is_finite() {
            check.fault(&self.path(name, "scale"), "this scale would make every value 0; type the factor from the manual, such as 0.1");
        }
        if spec.offset.is_some_and(|offset| !offset.is_finite()) {
            check.fault(&self.path(name, "offset"), "type a number");
        }
        if let Some(broken) = spec.broken_value.filter(|broken| !kind.holds(*broken)) {
            check.fault(
                &self.path(name, "broken_value"),
                format!("a register of this type never holds {broken}; type the raw value, before scale and with its sign"),
            );
        }
        let register = Register {
            table,
            address,
            kind,
            order,
            bit: spec.bit,
            scale,
            offset: spec.offset.unwrap_or(0.0),
            broken: spec.broken_value,
            words,
        };
        if u32::from(address) + u32::from(register.width()) > 65_536 {
            check.fault(&self.path(name, "type"), "the value reaches past the last register of the device");
        }
        Some(register)
    }

    fn address(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<(Table, u16)> {
        let zero_based =
            [(Table::Holding, spec.holding), (Table::Input, spec.input), (Table::Coil, spec.coil), (Table::Discrete, spec.discrete)];
        let mut given: Vec<(Table, u16)> = zero_based.into_iter().filter_map(|(table, address)| Some((table, address?))).collect();
        if let Some(file::Printed(printed)) = spec.at {
            match as_printed(printed) {
                Some(place) => given.push(place),
                None => {
                    check.fault(&self.path(name, "at"), format!("{printed} is not a register as manuals print them: 1-9999 coils, 10001-19999 discrete inputs, 30001-39999 input registers, 40001-49999 holding registers; to count from zero write `holding: {printed}`"));
                    return None;
                }
            }
        }
        match given.as_slice() {
            [one] => Some(*one),
            [] if self.simulated => None,
            [] => {
                check.missing(
                    &self.path(name, "at"),
                    format!(
                        "point \"{name}\" says not where it is; add `at: 40001` (as printed in the manual) or `holding: 0` (from zero)"
                    ),
                );
                None
            }
            _ => {
                check.fault(
                    &self.path(name, "at"),
                    format!("point \"{name}\" says twice where it is; keep one of at, holding, input, coil, discrete"),
                );
                None
            }
        }
    }

    fn kind(&self, check: &mut Check<'_>, name: &str, spec: &file::Point, table: Table) -> Option<Kind> {
        if spec.bit.is_some_and(|bit| bit > 15) {
            check.fault(&self.path(name, "bit"), "a register has the bits 0 to 15, 0 being the least significant");
        }
        match (spec.kind, table.is_bits(), spec.bit) {
            (None | Some(Kind::Bool), true, None) => Some(Kind::Bool),
            (_, true, _) => {
                check.fault(&self.path(name, "type"), "coils and discrete inputs are single bits; remove `type` and `bit`");
                None
            }
            (None | Some(Kind::Bool | Kind::U16 | Kind::I16), false, Some(_)) => Some(Kind::U16),
            (Some(_), false, Some(_)) => {
                check.fault(&self.path(name, "type"), "`bit` picks one bit of a 16-bit register; remove `type`");
                None
            }
            (Some(kind), false, None) => Some(kind),
            (None, false, None) if spec.words.is_some() => Some(Kind::U16),
            (None, false, None) => {
                check.missing(
                    &self.path(name, "type"),
                    format!("point \"{name}\" has no type; add `type: u16` (or i16, u32, i32, u64, i64, f32, f64)"),
                );
                None
            }
        }
    }
}

/// The table and the address from zero of a register number as manuals print it, with five or six digits.
fn as_printed(number: u32) -> Option<(Table, u16)> {
    let place = match number {
        1..=9_999 => (Table::Coil, number - 1),
        10_001..=19_999 => (Table::Discrete, number - 10_001),
        30_001..=39_999 => (Table::Input, number - 30_001),
        40_001..=49_999 => (Table::Holding, number - 40_001),
        100_001..=165_536 => (Table::Discrete, number - 100_001),
        300_001..=365_536 => (Table::Input, number - 300_001),
        400_001..=465_536 => (Table::Holding, number - 400_001),
        _ => return None,
    };
    Some((place.0, u16::try_from(place.1).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_register_numbers_are_understood() {
        assert_eq!(as_printed(40_001), Some((Table::Holding, 0)));
        assert_eq!(as_printed(400_108), Some((Table::Holding, 107)));
        assert_eq!(as_printed(465_536), Some((Table::Holding, 65_535)));
        assert_eq!(as_printed(30_010), Some((Table::Input, 9)));
        assert_eq!(as_printed(10_001), Some((Table::Discrete, 0)));
        assert_eq!(as_printed(1), Some((Table::Coil, 0)));
        assert_eq!((as_printed(0), as_printed(40_000), as_printed(20_000)), (None, None, None));
    }
}
