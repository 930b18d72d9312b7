//! Lines, profiles, devices and points.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::given::{self, Givers, givers};
use super::{Check, at};
use crate::config::document::Step;
use crate::config::{Group, SetBy, fault, file, profiles};
use crate::field::modbus::patience::AnswerWithin;
use crate::field::modbus::plan::Limits;
use crate::field::serial::Port;
use crate::field::{Device, Line, Source, Wire};
use crate::mqtt::TopicName;
use crate::reading::DeviceId;
use crate::report::PointReport;
use crate::report::template::{Names, TopicTemplate};

const SHORTEST_ANSWER: Duration = Duration::from_millis(5);
const DEFAULT_ANSWER: Duration = Duration::from_secs(1);
/// In the name of devices that are given by their `units`.
const UNIT: &str = "{unit}";
pub(super) const DEFAULT_SPEED: &str = "9600 8N1";

/// Collects points and topics over all devices.
#[derive(Default)]
pub(super) struct Points {
    pub(super) reports: Vec<PointReport>,
    /// Who sets their settings.
    pub(super) set_by: Vec<[SetBy; 6]>,
    groups: Vec<Group>,
    /// What points of profiles mean, by profile and point.
    pub(super) shared: HashMap<(String, String), Source>,
    names: HashSet<Arc<str>>,
    availability: Vec<TopicName>,
    /// Topic -> who has it.
    taken: HashMap<TopicName, String>,
}

impl Points {
    /// A name that points of many devices have in common.
    pub(super) fn named(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// The southbound side as meant.
pub(super) struct Field {
    pub(super) lines: Vec<Line>,
    pub(super) reports: Vec<PointReport>,
    pub(super) set_by: Vec<[SetBy; 6]>,
    pub(super) availability: Vec<TopicName>,
    pub(super) groups: Vec<Group>,
}

/// Every line with its devices, how each point is reported, and the availability topic of each device.
pub(super) fn resolve(check: &mut Check<'_>) -> Field {
    let file = check.file;
    check.unique(
        "lines",
        file.lines.iter().map(|line| line.name.as_str()).enumerate(),
    );
    super::advice::shared_ports(check);
    given::check(check);
    let mut devices: Vec<(usize, Cow<'_, file::Device>)> = Vec::new();
    for (index, device) in file.devices.iter().enumerate() {
        devices.extend(
            each(check, index, device)
                .into_iter()
                .map(|device| (index, device)),
        );
    }
    check.unique(
        "devices",
        devices
            .iter()
            .map(|(index, device)| (*index, device.name.as_str())),
    );
    let mut lines: Vec<Option<Line>> = file
        .lines
        .iter()
        .enumerate()
        .map(|(index, line)| self::line(check, index, line))
        .collect();
    let mut points = Points::default();
    // Of those that have one name the first stands for all: the others have been told of.
    let mut names = HashSet::new();
    for (index, device) in devices
        .iter()
        .filter(|(_, device)| names.insert(device.name.clone()))
    {
        self::device(check, *index, device, &mut lines, &mut points);
    }
    let enabled = file
        .lines
        .iter()
        .zip(lines)
        .filter(|(line, _)| line.enabled);
    let lines: Vec<Line> = enabled.filter_map(|(_, line)| line).collect();
    let places: HashMap<&str, usize> = devices
        .iter()
        .rev()
        .map(|(index, device)| (device.name.as_str(), *index))
        .collect();
    super::advice::twins(check, &lines, |name| places.get(name).copied());
    Field {
        lines,
        reports: points.reports,
        set_by: points.set_by,
        availability: points.availability,
        groups: points.groups,
    }
}

/// The devices that one entry of the list stands for.
fn each<'a>(
    check: &mut Check<'_>,
    index: usize,
    device: &'a file::Device,
) -> Vec<Cow<'a, file::Device>> {
    let Some(file::Units(units)) = &device.units else {
        return vec![Cow::Borrowed(device)];
    };
    if device.unit.is_some() {
        check.fault(
            &at!["devices", index, "units"],
            "keep either `unit` or `units`",
        );
    }
    if !device.name.contains(UNIT) && units.len() > 1 {
        check.fault(
            &at!["devices", index, "name"],
            "several devices need several names; put {unit} into it, such as meter-{unit}",
        );
        return Vec::new();
    }
    let one = |unit: &u8| {
        let name = device.name.replace(UNIT, &unit.to_string());
        Cow::Owned(file::Device {
            name,
            unit: Some(*unit),
            units: None,
            ..device.clone()
        })
    };
    units.iter().map(one).collect()
}

fn line(check: &mut Check<'_>, index: usize, line: &file::Line) -> Option<Line> {
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
        if line.speed.is_some() {
            check.fault(
                &at!["lines", index, "speed"],
                "only a serial line has a speed; remove it",
            );
        }
        if line.rs485.is_some() {
            check.fault(
                &at!["lines", index, "rs485"],
                "only a serial line has a transceiver; remove it",
            );
        }
        if line.framing != file::Framing::Rtu {
            check.fault(
                &at!["lines", index, "framing"],
                "only a serial line has a framing; for a terminal server write `ascii_over_tcp: host:port`",
            );
        }
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

fn wire(check: &mut Check<'_>, index: usize, line: &file::Line) -> Option<Wire> {
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
            super::advice::missing_port(check, index, path);
        }
        let speed = line.speed.or_else(|| DEFAULT_SPEED.parse().ok())?;
        let path = super::advice::device_path(path, check.folder)
            .to_string_lossy()
            .into_owned();
        Wire::Serial(Port {
            path,
            speed,
            ascii: line.framing == file::Framing::Ascii,
            rs485: line.rs485,
        })
    } else {
        Wire::Simulated
    })
}

fn answer_within(check: &mut Check<'_>, index: usize, line: &file::Line) -> AnswerWithin {
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

/// How many registers and bits one request may ask of a device.
fn limits(
    check: &mut Check<'_>,
    index: usize,
    device: &file::Device,
    profile: Option<&file::Profile>,
) -> Limits {
    let defaults = Limits::default();
    let base = |key: &str| profile.filter(|_| !device.takes_away(key));
    let words = device
        .max_registers
        .or(base("max_registers").and_then(|profile| profile.max_registers))
        .unwrap_or(defaults.words);
    let bits = device
        .max_bits
        .or(base("max_bits").and_then(|profile| profile.max_bits))
        .unwrap_or(defaults.bits);
    if !(1..=defaults.words).contains(&words) {
        check.fault(
            &at!["devices", index, "max_registers"],
            "a request asks for 1 to 125 registers",
        );
    }
    if !(1..=defaults.bits).contains(&bits) {
        check.fault(
            &at!["devices", index, "max_bits"],
            "a request asks for 1 to 2000 coils or discrete inputs",
        );
    }
    Limits {
        words: words.clamp(1, defaults.words),
        bits: bits.clamp(1, defaults.bits),
        hold: None,
    }
}

/// `host` or `host:port`.
fn endpoint(check: &mut Check<'_>, path: &[Step], text: &str, default_port: u16) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (text, Some(default_port)),
    };
    match port {
        Some(port)
            if !host.is_empty() && !host.contains("//") && !host.contains(char::is_whitespace) =>
        {
            Some(format!("{host}:{port}"))
        }
        _ => {
            check.fault(path, format!("`{text}` is not an address; write host:port, such as 192.168.1.20:{default_port}"));
            None
        }
    }
}

/// The profile that a device names, if it names one; `None` if what is wrong with it has been told.
#[allow(clippy::option_option)]
fn profile<'a>(
    check: &mut Check<'a>,
    index: usize,
    device: &file::Device,
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
        let hint = fault::suggestion(name, known.iter().map(String::as_str));
        check.fault(
            &at!["devices", index, "profile"],
            format!("there is no profile \"{name}\"; {hint} (`wellhead profiles` lists those that come with the program)"),
        );
    }
    Some(found)
}

/// The place of the line that a device is on.
fn place_of_line(check: &mut Check<'_>, index: usize, device: &file::Device) -> Option<usize> {
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

fn device(
    check: &mut Check<'_>,
    index: usize,
    device: &file::Device,
    lines: &mut [Option<Line>],
    points: &mut Points,
) {
    let file = check.file;
    let Some(profile) = profile(check, index, device) else {
        return;
    };
    let Some(position) = place_of_line(check, index, device) else {
        return;
    };
    let enabled = file.lines.get(position).is_some_and(|line| line.enabled);
    let Some(line) = lines.get_mut(position).and_then(Option::as_mut) else {
        return;
    };
    let is_text = device.each_line.is_some()
        || device.text.is_some()
        || profile.is_some_and(|profile| profile.text.is_some());
    let simulated = line.wire == Wire::Simulated;
    let is_in_file = device
        .profile
        .as_ref()
        .is_some_and(|name| file.profiles.contains_key(name));
    let is_of_the_program = device
        .profile
        .as_ref()
        .is_some_and(|name| !is_in_file && profiles::is_of_the_program(check.folder, name));
    let givers = givers(file, file.lines.get(position), device, profile);
    let context = Context {
        index,
        device,
        profile,
        givers,
        line: line.name.clone(),
        simulated,
        is_text,
        is_in_file,
        is_of_the_program,
        known: OnceCell::new(),
    };
    context.check_choice(check);
    context.check_device_used(check);
    let talk = context.talk(check, line);
    let is_written_only = context
        .points()
        .iter()
        .all(|(_, point)| point.write.is_some());
    let (unit, is_broadcast) = if is_text {
        (0, false)
    } else {
        unit(check, index, device, &line.wire, is_written_only)
    };
    let mut resolved = Device::new(DeviceId(id(points.availability.len())), &device.name, unit);
    resolved.is_broadcast = is_broadcast;
    resolved.talk = talk.map(Arc::new);
    let base = |key: &str| profile.filter(|_| !device.takes_away(key));
    resolved.identify = device
        .identify
        .or(base("identify").and_then(|profile| profile.identify))
        .unwrap_or(false);
    resolved.limits = Limits {
        hold: context.max_hold(check),
        ..limits(check, index, device, profile)
    };
    if let Some(typed) = file.lines.get(position) {
        resolved.pause = context.pause(check, typed);
        resolved.first_answer_within = context.first_answer_within(check, typed, line);
    }
    let holes = device
        .holes
        .as_ref()
        .or(base("holes").and_then(|profile| profile.holes.as_ref()));
    resolved.holes = holes.into_iter().flatten().map(|hole| hole.0).collect();
    for (name, spec) in context.points() {
        if let Some(point) = context.point(check, &name, &spec, points) {
            resolved.points.push(point);
        }
    }
    context.simulate(&mut resolved);
    context.check_groups(check, &resolved);
    for group in context.groups(check, &resolved) {
        take_topic(
            check,
            points,
            &group.topic,
            format!("the group {} of {}", group.name, device.name),
            &at!["devices", index, "name"],
        );
        points.groups.push(group);
    }
    if resolved.points.is_empty()
        && device.points.is_empty()
        && profile.is_none_or(|profile| profile.points.is_empty())
    {
        check.missing(
            &at!["devices", index],
            format!(
                "device \"{}\" has no points; add `points:` or a `profile:`",
                device.name
            ),
        );
    }
    let template = file
        .availability
        .clone()
        .or_else(|| TopicTemplate::new("{site}/{device}/availability").ok());
    let filled = template
        .and_then(|template| context.topic(check, &template, "", &at!["devices", index, "name"]));
    if let Some(topic) = filled {
        take_topic(
            check,
            points,
            &topic,
            format!("the availability of {}", device.name),
            &at!["devices", index, "name"],
        );
        points.availability.push(topic);
    }
    context.advise(check, &resolved, &points.reports);
    if enabled {
        line.devices.push(Arc::new(resolved));
    }
}

pub(super) fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The Modbus address, and whether it stands for all devices of the line.
fn unit(
    check: &mut Check<'_>,
    index: usize,
    device: &file::Device,
    wire: &Wire,
    is_written_only: bool,
) -> (u8, bool) {
    let is_bus = matches!(
        wire,
        Wire::Serial(_) | Wire::RtuOverTcp(_) | Wire::AsciiOverTcp(_)
    );
    match (device.unit, is_bus) {
        (Some(0), true) if is_written_only => return (0, true),
        (Some(0), true) => check.fault(
            &at!["devices", index, "unit"],
            "unit 0 addresses all devices of the line, and none of them answers: give every point `write:`, or type the address, 1 to 247",
        ),
        (Some(unit), true) if unit > 247 => check.fault(&at!["devices", index, "unit"], "a Modbus unit is a number from 1 to 247"),
        (Some(unit), _) => return (unit, false),
        (None, true) => {
            check.missing(&at!["devices", index], format!("device \"{}\" needs its Modbus address; add `unit: 1`", device.name));
        }
        (None, false) => {}
    }
    (1, false)
}

pub(super) fn take_topic(
    check: &mut Check<'_>,
    points: &mut Points,
    topic: &TopicName,
    owner: String,
    path: &[Step],
) {
    if let Some(other) = points.taken.insert(topic.clone(), owner.clone()) {
        check.fault(path, format!("{owner} and {other} would both be published on {topic}; give one of them a `topic:` of its own"));
    }
}

/// One device with what its points need to know.
pub(super) struct Context<'a> {
    pub(super) index: usize,
    pub(super) device: &'a file::Device,
    pub(super) profile: Option<&'a file::Profile>,
    pub(super) givers: Givers<'a>,
    line: String,
    pub(super) simulated: bool,
    /// A plain instrument.
    pub(super) is_text: bool,
    /// Its profile stands in the same file.
    pub(super) is_in_file: bool,
    /// Its profile comes with the program, and is right about its registers.
    pub(super) is_of_the_program: bool,
    /// Its points by name, when they were first looked for.
    known: OnceCell<IndexMap<String, file::Point>>,
}

impl Context<'_> {
    /// The points of the profile, overridden by name, then those of the device alone.
    pub(super) fn points(&self) -> Vec<(String, file::Point)> {
        let base = self.profile.map(|profile| &profile.points);
        let mut points: Vec<(String, file::Point)> = base
            .into_iter()
            .flatten()
            .map(|(name, point)| {
                (
                    name.clone(),
                    self.device
                        .points
                        .get(name)
                        .map_or_else(|| point.clone(), |own| own.over(point)),
                )
            })
            .collect();
        let own = self
            .device
            .points
            .iter()
            .filter(|(name, _)| base.is_none_or(|base| !base.contains_key(*name)));
        points.extend(own.map(|(name, point)| (name.clone(), point.clone())));
        let is_chosen = self.chosen();
        points.retain(|(name, _)| is_chosen(name));
        points
            .into_iter()
            .map(|(name, point)| (name, self.given(point)))
            .collect()
    }

    /// The same by name.
    pub(super) fn known(&self) -> &IndexMap<String, file::Point> {
        self.known
            .get_or_init(|| self.points().into_iter().collect())
    }

    /// Whether a point is meant: what the device says of itself always is; of its profile what is chosen.
    fn chosen(&self) -> impl Fn(&str) -> bool + '_ {
        let names = |list: &'_ Option<Vec<String>>| {
            list.as_ref()
                .map(|list| list.iter().cloned().collect::<HashSet<String>>())
        };
        let (only, except) = (names(&self.device.only), names(&self.device.except));
        move |name| {
            let is_left_out = only.as_ref().is_some_and(|only| !only.contains(name))
                || except.as_ref().is_some_and(|except| except.contains(name));
            self.device.points.contains_key(name) || !is_left_out
        }
    }

    /// Points are chosen out of those of the profile.
    fn check_choice(&self, check: &mut Check<'_>) {
        let points = self.profile.map(|profile| &profile.points);
        let known: Vec<String> = points
            .into_iter()
            .flat_map(|points| points.keys().cloned())
            .collect();
        let is_known = |name: &String| points.is_some_and(|points| points.contains_key(name));
        for (key, list) in [("only", &self.device.only), ("except", &self.device.except)] {
            for (place, name) in list
                .iter()
                .flatten()
                .enumerate()
                .filter(|(_, name)| !is_known(name))
            {
                check.unknown(
                    &at!["devices", self.index, key, place],
                    "point of the profile",
                    name,
                    &known,
                );
            }
        }
    }

    pub(super) fn topic(
        &self,
        check: &mut Check<'_>,
        template: &TopicTemplate,
        point: &str,
        path: &[Step],
    ) -> Option<TopicName> {
        let names = Names {
            site: check.file.site.as_deref().unwrap_or("site"),
            line: &self.line,
            device: &self.device.name,
            point,
        };
        match template.fill(names) {
            Ok(topic) if topic.is_reserved() => {
                check.fault(
                    path,
                    "topics that begin with $ belong to the broker; choose another",
                );
                None
            }
            Ok(topic) => Some(topic),
            Err(error) => {
                check.fault(path, format!("this is not a valid topic: {error}"));
                None
            }
        }
    }
}
