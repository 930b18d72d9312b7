//! One device: its line, its profile, its address and what requests may ask of it.

use std::cell::OnceCell;
use std::sync::Arc;

use super::context::{DeviceContext, PointCheck};
use super::inheritance::defaults;
use super::registry::{PointRegistry, next_id};
use super::{Check, at};
use crate::config::{file, profiles, suggestion};
use crate::field::modbus::plan::Limits;
use crate::field::{Device, DeviceProtocol, Line, Wire};
use crate::reading::DeviceId;
use crate::report::template::TopicTemplate;

/// Resolves a device with its points and adds it to its line, if that is enabled. A device without
/// a line or with an unknown profile is left out; the faults are noted.
pub(super) fn device(
    check: &mut Check<'_>,
    index: usize,
    device: &file::DeviceConfig,
    lines: &mut [Option<Line>],
    points: &mut PointRegistry,
) {
    let file = check.file;
    let Some(profile) = profile(check, index, device) else {
        return;
    };
    let Some(line_index) = line_of(check, index, device) else {
        return;
    };
    let (Some(typed_line), Some(Some(line))) =
        (file.lines.get(line_index), lines.get_mut(line_index))
    else {
        return;
    };
    let is_in_file = device
        .profile
        .as_ref()
        .is_some_and(|name| file.profiles.contains_key(name));
    let is_of_the_program = device
        .profile
        .as_ref()
        .is_some_and(|name| !is_in_file && profiles::is_of_the_program(check.folder, name));
    let context = DeviceContext {
        index,
        device,
        profile,
        defaults: defaults(file, typed_line, device, profile),
        line_index,
        line: typed_line,
        simulated: line.wire == Wire::Simulated,
        is_text: device.each_line.is_some()
            || device.text.is_some()
            || profile.is_some_and(|profile| profile.text.is_some()),
        is_meter: device.mbus.is_some() || device.sml.is_some(),
        is_in_file,
        is_of_the_program,
        known: OnceCell::new(),
    };
    let resolved = context.resolve(check, line, points);
    if typed_line.enabled {
        line.devices.push(Arc::new(resolved));
    }
}

/// The profile that a device names, if it names one; `None` if the profile is faulty itself.
#[allow(clippy::option_option)]
fn profile<'a>(
    check: &mut Check<'a>,
    index: usize,
    device: &file::DeviceConfig,
) -> Option<Option<&'a file::Profile>> {
    let Some(name) = &device.profile else {
        return Some(None);
    };
    let in_files = check.profiles.get(name).map(Option::as_ref);
    if matches!(in_files, Some(None)) {
        return None;
    }
    let found = check.file.profiles.get(name).or(in_files.flatten());
    if found.is_some() {
        return Some(found);
    }
    let (document, folder) = (check.document, check.folder);
    let known = check.known_profiles.get_or_init(|| {
        let mut known = document.keys("profiles");
        known.extend(profiles::names(folder));
        known
    });
    if !known.contains(name) {
        let hint = suggestion(name, known.iter().map(String::as_str));
        check.fault(
            &at!["devices", index, "profile"],
            format!("there is no profile \"{name}\"; {hint} (`wellhead profiles` lists those that come with the program)"),
        );
    }
    Some(found)
}

/// The line of a device, by its place in the list.
fn line_of(check: &mut Check<'_>, index: usize, device: &file::DeviceConfig) -> Option<usize> {
    let position = check.lines.get(device.line.as_str()).copied();
    if position.is_none() {
        let document = check.document;
        let known = std::mem::take(&mut check.known_lines);
        let names = known.get_or_init(|| document.names("lines", "name"));
        if !names.contains(&device.line) {
            check.unknown(&at!["devices", index, "line"], "line", &device.line, names);
        }
        check.known_lines = known;
    }
    position
}

impl DeviceContext<'_> {
    fn resolve(&self, check: &mut Check<'_>, line: &Line, points: &mut PointRegistry) -> Device {
        self.check_choice(check);
        self.check_device_used(check);
        let id = DeviceId(next_id(points.availability.len()));
        let mut resolved = self.without_points(check, id, line);
        for (name, spec) in &self.points() {
            let mut point = PointCheck {
                context: self,
                name,
                spec,
                check,
            };
            resolved.points.extend(point.point(points));
        }
        self.simulate(&mut resolved);
        self.check_groups(check, &resolved);
        self.take_groups(check, &resolved, points);
        if resolved.points.is_empty()
            && self.device.points.is_empty()
            && self.profile.is_none_or(|profile| profile.points.is_empty())
        {
            check.missing(
                &at!["devices", self.index],
                format!(
                    "device \"{}\" has no points; add `points:` or a `profile:`",
                    self.device.name
                ),
            );
        }
        self.take_availability(check, points);
        self.advise(check, &resolved, &points.reports);
        resolved
    }

    /// What it speaks; notes a line of another kind.
    fn protocol(&self, check: &mut Check<'_>, line: &Line) -> DeviceProtocol {
        if self.is_meter {
            return self.meter(check, line).unwrap_or_default();
        }
        let talk = self.talk(check, line);
        talk.map_or(DeviceProtocol::Modbus, |talk| {
            DeviceProtocol::Text(Arc::new(talk))
        })
    }

    /// Address, limits and timing.
    fn without_points(&self, check: &mut Check<'_>, id: DeviceId, line: &Line) -> Device {
        let device = self.device;
        let protocol = self.protocol(check, line);
        let (unit, is_broadcast) = self.unit(check, &line.wire);
        let mut resolved = Device::new(id, &device.name, unit);
        resolved.is_broadcast = is_broadcast;
        resolved.protocol = protocol;
        resolved.identify = device
            .identify
            .or(self.base("identify").and_then(|profile| profile.identify))
            .unwrap_or(false);
        resolved.limits = Limits {
            hold: self.max_hold(check),
            ..self.limits(check)
        };
        resolved.pause = self.pause(check);
        resolved.first_answer_within = self.first_answer_within(check, line);
        let holes = device.holes.as_ref().or(self
            .base("holes")
            .and_then(|profile| profile.holes.as_ref()));
        resolved.holes = holes.into_iter().flatten().map(|hole| hole.0).collect();
        resolved
    }

    fn take_groups(&self, check: &mut Check<'_>, resolved: &Device, points: &mut PointRegistry) {
        for group in self.groups(check, resolved) {
            let owner = format!("the group {} of {}", group.name, self.device.name);
            let path = at!["devices", self.index, "name"];
            points.take_topic(check, &group.topic, owner, &path);
            points.groups.push(group);
        }
    }

    fn take_availability(&self, check: &mut Check<'_>, points: &mut PointRegistry) {
        let template = check
            .file
            .availability
            .clone()
            .or_else(|| TopicTemplate::new("{site}/{device}/availability").ok());
        let path = at!["devices", self.index, "name"];
        if let Some(topic) = template.and_then(|template| self.topic(check, &template, "", &path)) {
            let owner = format!("the availability of {}", self.device.name);
            points.take_topic(check, &topic, owner, &path);
            points.availability.push(topic);
        }
    }

    /// How many registers and bits one request may ask for.
    fn limits(&self, check: &mut Check<'_>) -> Limits {
        let defaults = Limits::default();
        let words = self
            .device
            .max_registers
            .or(self
                .base("max_registers")
                .and_then(|profile| profile.max_registers))
            .unwrap_or(defaults.words);
        let bits = self
            .device
            .max_bits
            .or(self.base("max_bits").and_then(|profile| profile.max_bits))
            .unwrap_or(defaults.bits);
        if !(1..=defaults.words).contains(&words) {
            check.fault(
                &at!["devices", self.index, "max_registers"],
                "a request asks for 1 to 125 registers",
            );
        }
        if !(1..=defaults.bits).contains(&bits) {
            check.fault(
                &at!["devices", self.index, "max_bits"],
                "a request asks for 1 to 2000 coils or discrete inputs",
            );
        }
        Limits {
            words: words.clamp(1, defaults.words),
            bits: bits.clamp(1, defaults.bits),
            hold: None,
        }
    }

    /// The Modbus address, and whether it addresses all devices of the line; 0 for a plain
    /// instrument.
    fn unit(&self, check: &mut Check<'_>, wire: &Wire) -> (u8, bool) {
        if self.is_text || self.is_meter {
            return (0, false);
        }
        let is_bus = matches!(
            wire,
            Wire::Serial(_) | Wire::RtuOverTcp(_) | Wire::AsciiOverTcp(_)
        );
        let is_written_only = || self.points().iter().all(|(_, point)| point.write.is_some());
        let path = at!["devices", self.index, "unit"];
        match (self.device.unit, is_bus) {
            (Some(0), true) if is_written_only() => return (0, true),
            (Some(0), true) => check.fault(
                &path,
                "unit 0 addresses all devices of the line, and none of them answers: give every point `write:`, or type the address, 1 to 247",
            ),
            (Some(unit), true) if unit > 247 => {
                check.fault(&path, "a Modbus unit is a number from 1 to 247");
            }
            (Some(unit), _) => return (unit, false),
            (None, true) => check.missing(
                &at!["devices", self.index],
                format!(
                    "device \"{}\" needs its Modbus address; add `unit: 1`",
                    self.device.name
                ),
            ),
            (None, false) => {}
        }
        (1, false)
    }
}
