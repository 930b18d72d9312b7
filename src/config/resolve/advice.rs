//! What is possible and hardly meant: faults where it cannot be meant, warnings where it will hurt.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::field::Context;
use super::rates::rates;
use super::{Check, at, cloud, health};
use crate::config::traffic::{MONTH, load, size, traffic};
use crate::config::{Uplink, file};
use crate::field::decode::{Part, Register, Table};
use crate::field::{Device, Line, Point, Source, Wire};
use crate::message::{Message, Origin};
use crate::mqtt::{TopicFilter, TopicName};
use crate::outbox::{Inward, SET};
use crate::report::PointReport;
use crate::units::Span;
use crate::uplink::Protocol;
use crate::uplink::cloud::Cloud;

/// A serial line that is asked for more than this part of its time has little left for repetitions and silent devices.
const FULL: f64 = 0.8;

/// Points at one place that are compared with each other.
const MOST_COMPARED: usize = 32;

/// A value of a point: where it begins, where it ends, whose it is.
struct Piece<'a> {
    table: Table,
    start: u32,
    end: u32,
    point: &'a Point,
    register: &'a Register,
}

impl Piece<'_> {
    /// True if both may stand in the same registers: parts of one word, or the same kind at the same place.
    fn agrees(&self, other: &Self) -> bool {
        let is_view = |register: &Register| {
            register.meaning.part != Part::Whole
                || !register.meaning.flags.is_empty()
                || register.meaning.kind.bits() < 16
        };
        let is_same =
            self.start == other.start && self.register.meaning.kind == other.register.meaning.kind;
        self.table.is_bits() || is_same || is_view(self.register) || is_view(other.register)
    }
}

/// The values of a point, one for each element of an array.
fn pieces(point: &Point) -> Vec<Piece<'_>> {
    let Some(register) = point.register() else {
        return Vec::new();
    };
    let start = u32::from(register.address);
    let (count, stride) = register.meaning.array.map_or((1, 0), |array| {
        (u32::from(array.count), u32::from(array.stride))
    });
    let each = register
        .meaning
        .array
        .map_or(u32::from(register.width()), |_| {
            u32::from(register.meaning.kind.words().unwrap_or(1))
        });
    let piece = |number: u32| {
        let start = start + number * stride;
        Piece {
            table: register.table,
            start,
            end: start + each,
            point,
            register,
        }
    };
    (0..count).map(piece).collect()
}

impl Context<'_> {
    /// What is odd about the points of a device.
    pub(super) fn advise(&self, check: &mut Check<'_>, device: &Device, reports: &[PointReport]) {
        self.overlaps(check, device);
        self.printed_holes(check, device);
        for point in &device.points {
            self.deadband(check, point, reports);
            self.soon_stale(check, device, point);
            self.open_write(check, point);
        }
    }

    /// Points that read the same registers as different things.
    fn overlaps(&self, check: &mut Check<'_>, device: &Device) {
        let mut all: Vec<Piece<'_>> = device.points.iter().flat_map(pieces).collect();
        all.sort_by_key(|piece| (piece.table, piece.start, piece.end));
        for (index, piece) in all.iter().enumerate() {
            // One that meets many is told of the first.
            let rest = all
                .iter()
                .skip(index + 1)
                .take(MOST_COMPARED)
                .take_while(|next| next.table == piece.table && next.start < piece.end);
            for next in rest.filter(|next| next.point.id != piece.point.id && !piece.agrees(next)) {
                let kind = |piece: &Piece<'_>| {
                    format!(
                        "{} ({})",
                        piece.point.name,
                        piece.register.meaning.kind.name()
                    )
                };
                let (one, other, place) = (kind(piece), kind(next), next.table.place(next.start));
                check.warn(
                    &self.path(&next.point.name, "type"),
                    format!("{one} and {other} both read {place}, as different types; check their addresses"),
                );
            }
        }
    }

    /// A key that counts from zero with a number as manuals print it: hardly meant, but possible.
    pub(super) fn printed_from_zero(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        (table, address): (Table, u16),
    ) {
        let Some((first, six_digits)) = looks_printed(table, u32::from(address)) else {
            return;
        };
        let is_of_the_program = self.is_of_the_program && !self.device.points.contains_key(name);
        if spec.at.is_some() || is_of_the_program {
            return;
        }
        let (key, from_zero, printed) = (
            table.name(),
            u32::from(address) - first,
            six_digits + u32::from(address),
        );
        check.warn(
            &self.path(name, key),
            format!(
                "`{key}: {address}` counts from zero; if the manual prints {address}, write `at: {address}` or `{key}: {from_zero}`, and if this register is meant, `at: {printed}`"
            ),
        );
    }

    /// Holes with numbers as manuals print them, in a device whose points are nowhere near.
    fn printed_holes(&self, check: &mut Check<'_>, device: &Device) {
        let path = match (&self.device.holes, &self.device.profile) {
            (Some(_), _) => at!["devices", self.index, "holes"].to_vec(),
            (None, Some(profile)) if self.is_in_file => at!["profiles", profile, "holes"].to_vec(),
            _ => return,
        };
        for hole in &device.holes {
            let has_points = device
                .points
                .iter()
                .filter_map(Point::register)
                .any(|register| {
                    register.table == hole.table
                        && looks_printed(register.table, u32::from(register.address)).is_some()
                });
            let Some((first, _)) = looks_printed(hole.table, hole.start).filter(|_| !has_points)
            else {
                continue;
            };
            let (table, start, last, from_zero) = (
                hole.table.name(),
                hole.start,
                hole.end - 1,
                hole.start - first,
            );
            check.warn(
                &path,
                format!(
                    "the hole `{table} {start}-{last}` counts from zero, and no point is there; if the manual prints {start}, it begins at {from_zero}"
                ),
            );
        }
    }

    /// A value that is stale before it is read again.
    fn soon_stale(&self, check: &mut Check<'_>, device: &Device, point: &Point) {
        let every = match &device.talk {
            _ if matches!(point.source, Source::Derived(_)) => return,
            Some(talk) if !talk.is_polled() => return,
            Some(talk) => talk.every,
            None => point.every,
        };
        let Some(stale_after) = point.stale_after.filter(|stale_after| *stale_after < every) else {
            return;
        };
        let (name, stale_after, every) = (&point.name, Span(stale_after), Span(every));
        check.warn(
            &self.path(name, "stale_after"),
            format!("{name} is stale {stale_after} after it was read, and read every {every}; write a `stale_after` longer than that"),
        );
    }

    fn deadband(&self, check: &mut Check<'_>, point: &Point, reports: &[PointReport]) {
        use crate::report::deadband::Deadband;
        let of_profile = self
            .profile
            .and_then(|profile| profile.points.get(&*point.name));
        let typed = [self.device.points.get(&*point.name), of_profile];
        if !typed
            .into_iter()
            .flatten()
            .any(|spec| spec.deadband.is_some())
        {
            return;
        }
        let deadband = reports
            .get(point.id.0 as usize)
            .and_then(|report| report.rule.deadband);
        let (
            Some(Deadband::Absolute(width)),
            Source::Register {
                register,
                exponent: None,
            },
        ) = (deadband, &point.source)
        else {
            return;
        };
        let step = register.meaning.scale.abs();
        if register.meaning.kind.is_integer() && width > 0.0 && width < step {
            check.warn(
                &self.path(&point.name, "deadband"),
                format!("one step of the register is {step}, so every change is reported; write 0 for that, or more than {step}"),
            );
        }
    }

    fn open_write(&self, check: &mut Check<'_>, point: &Point) {
        let (Some(rules), Some(register)) = (&point.write, point.register()) else {
            return;
        };
        let is_choice =
            !register.meaning.words.is_empty() || matches!(register.meaning.part, Part::Bit(_));
        let is_number = !register.table.is_bits() && !is_choice && !register.meaning.kind.is_text();
        if is_number && (rules.min.is_none() || rules.max.is_none()) {
            check.warn(
                &self.path(&point.name, "write"),
                "every value that fits into the register can be written; set the limits of the instrument: `write: { min: 0, max: 50 }`",
            );
        }
    }
}

/// The first register of a table as manuals print it with five digits and with six, if a number that counts from zero looks so.
fn looks_printed(table: Table, address: u32) -> Option<(u32, u32)> {
    let (first, last, six_digits) = match table {
        Table::Holding => (40_001, 49_999, 400_001),
        Table::Input => (30_001, 39_999, 300_001),
        Table::Discrete => (10_001, 19_999, 100_001),
        // Their numbers begin with 0, or with nothing.
        Table::Coil | Table::File(_) => return None,
    };
    (first..=last)
        .contains(&address)
        .then_some((first, six_digits))
}

/// Two devices that are one instrument.
pub(super) fn twins<'a>(
    check: &mut Check<'_>,
    lines: &[Line],
    index_of: impl Fn(&str) -> Option<usize> + 'a,
) {
    for line in lines
        .iter()
        .filter(|line| !matches!(line.wire, Wire::Simulated | Wire::Tcp(_)))
    {
        let mut by_unit: HashMap<u8, Taken<'_>> = HashMap::new();
        for (number, device) in line
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| device.talk.is_none() && !device.is_broadcast)
        {
            let known = by_unit.entry(device.unit).or_default();
            let twin = known.first_shared(device);
            let index = index_of(&device.name).filter(|index| {
                // An address that is wrong or missing has been told of.
                let is_typed = check
                    .file
                    .devices
                    .get(*index)
                    .is_some_and(|device| device.unit.is_some());
                !(if is_typed {
                    check.is_faulty(&at!["devices", *index, "unit"])
                } else {
                    check.is_faulty(&at!["devices", *index])
                })
            });
            if let (Some((other, table, start)), Some(index)) = (twin, index) {
                let (line, unit) = (&line.name, device.unit);
                let place = table.place(start);
                check.fault(
                    &at!["devices", index, "unit"],
                    format!("{other} is unit {unit} of {line} too, and both read {place}; type the address of this one, or put all points into one device"),
                );
            }
            known.take(number, device);
        }
    }
}

/// The registers of a unit that devices read.
#[derive(Default)]
struct Taken<'a> {
    /// By table, start and end: the first device, by its number on the line and its name.
    spans: BTreeMap<(Table, u32, u32), (usize, &'a str)>,
    /// Of the longest span.
    longest: u32,
}

impl<'a> Taken<'a> {
    fn take(&mut self, number: usize, device: &'a Device) {
        for piece in device.points.iter().flat_map(pieces) {
            self.longest = self.longest.max(piece.end - piece.start);
            self.spans
                .entry((piece.table, piece.start, piece.end))
                .or_insert((number, &device.name));
        }
    }

    /// The first device that reads a register of `device`, and the first such register.
    fn first_shared(&self, device: &Device) -> Option<(&'a str, Table, u32)> {
        let mut first: Option<(usize, Table, u32, &'a str)> = None;
        for piece in device.points.iter().flat_map(pieces) {
            let near = (piece.table, piece.start.saturating_sub(self.longest), 0)
                ..(piece.table, piece.end, 0);
            for ((table, start, end), (number, name)) in self.spans.range(near) {
                let found = (*number, *table, piece.start.max(*start), *name);
                if *end > piece.start && first.is_none_or(|first| found < first) {
                    first = Some(found);
                }
            }
        }
        first.map(|(_, table, start, name)| (name, table, start))
    }
}

/// Lines that are asked for nearly all their time, or for more.
pub(super) fn loads(check: &mut Check<'_>, lines: &[Line]) {
    for line in lines {
        let load = load(line);
        let Some(index) = check.lines.get(line.name.as_str()).copied() else {
            continue;
        };
        let Some(load) = load.filter(|load| *load > FULL) else {
            continue;
        };
        let percent = (load * 100.0).round();
        let what = if load > 1.0 {
            "so every interval will be stretched"
        } else {
            "which leaves little for repetitions and silent devices"
        };
        check.warn(
            &at!["lines", index, "speed"],
            format!(
                "the devices of \"{}\" need {percent} % of its time, {what}; read less often (`every:`), or at a higher speed",
                line.name
            ),
        );
    }
}

/// Rules that never have anything to send, rules that send back what came, bills that are too high.
pub(super) fn uplinks(
    check: &mut Check<'_>,
    uplinks: &[Uplink],
    lines: &[Line],
    reports: (&[PointReport], &[TopicName]),
) {
    let points = lines
        .iter()
        .flat_map(|line| &line.devices)
        .flat_map(|device| &device.points)
        .filter(|point| point.write.is_some());
    let writable: Vec<&TopicName> = points
        .filter_map(|point| Some(&reports.0.get(point.id.0 as usize)?.topic))
        .collect();
    for uplink in uplinks {
        let Some(index) = check
            .file
            .uplinks
            .iter()
            .position(|typed| typed.name == uplink.settings.name)
        else {
            continue;
        };
        idle_rules(check, index, uplink, reports);
        echoes(check, index, uplink, uplinks);
        copies(check, index, uplink);
        rates(check, index, uplink, lines, reports.0);
        returning_commands(check, index, uplink, (uplinks, &writable));
        cloud::topics(
            check,
            index,
            uplink,
            reports
                .0
                .iter()
                .flat_map(PointReport::topics)
                .chain(reports.1),
        );
        // A backup is used for hours, and nobody knows for how many.
        let Some(budget) = uplink
            .tariff
            .per_month
            .filter(|_| uplink.settings.use_when.is_none())
        else {
            continue;
        };
        let month = traffic(lines, reports.0, uplink).most_together * MONTH;
        #[allow(clippy::cast_precision_loss)]
        if month > budget as f64 {
            let (month, budget) = (size(month), size(budget as f64));
            check.warn(
                &at!["uplinks", index, "tariff", "per_month"],
                format!("if every reading is sent, {month} a month go through this uplink, and {budget} are meant; read less often, or use deadbands"),
            );
        }
    }
}

fn idle_rules(
    check: &mut Check<'_>,
    index: usize,
    uplink: &Uplink,
    (reports, availability): (&[PointReport], &[TopicName]),
) {
    for (number, rule) in uplink.routes.send.iter().enumerate() {
        let path = at!["uplinks", index, "send", number, "filter"];
        let filter = rule.mapping.filter();
        if let Some(why) = health::keeps_here(rule) {
            check.fault(&path, why);
            continue;
        }
        let takes_all = |other: &&crate::outbox::Rule| {
            other.mapping.filter().covers(filter)
                && (other.only.is_empty()
                    || (!rule.only.is_empty()
                        && rule.only.iter().all(|class| other.only.contains(class))))
        };
        if let Some(other) = uplink.routes.send.iter().take(number).find(takes_all) {
            check.fault(
                &path,
                format!("the rule for {} before this one takes all its messages; put this one first, or remove it", other.mapping.filter()),
            );
            continue;
        }
        let own = uplink
            .own
            .iter()
            .map(|own| &own.topic)
            .filter(|_| health::is_of_gateway(check, filter));
        let mut topics = reports
            .iter()
            .flat_map(PointReport::topics)
            .chain(availability)
            .chain(own);
        let site = check.file.site.as_deref().unwrap_or_default();
        let is_of_site = filter.as_str().split('/').next() == Some(site);
        if topics.any(|topic| filter.matches(topic)) {
            continue;
        }
        let first = filter
            .as_str()
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        if !is_of_site && is_slip_of(first, site) {
            let own = if check.file.broker.is_some() {
                ", unless a client publishes here"
            } else {
                ""
            };
            check.warn(
                &path,
                format!(
                    "no point is published below `{first}`{own}; did you mean `{site}`, the site?"
                ),
            );
        } else if check.file.broker.is_none() || is_of_site {
            check.warn(
                &path,
                format!("no point of this file is published on a topic that {filter} matches"),
            );
        }
    }
}

/// True if a name is another one with a slip of the pen, and not the next one in a row of numbers.
fn is_slip_of(typed: &str, name: &str) -> bool {
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    let distance = strsim::damerau_levenshtein(&typed.to_lowercase(), &name.to_lowercase());
    !name.is_empty() && distance <= name.len() / 4 && digits(typed) == digits(name)
}

/// Filters of which one matches topics of another one, where nothing tells copies from messages that were published again.
fn copies(check: &mut Check<'_>, index: usize, uplink: &Uplink) {
    if uplink.settings.protocol != Protocol::V311 {
        return;
    }
    let filters: Vec<&TopicFilter> = uplink
        .routes
        .receive
        .iter()
        .map(|inward| inward.mapping.filter())
        .collect();
    let meets = |one: &TopicFilter, other: &TopicFilter| {
        let is_shared = one.is_shared() || other.is_shared();
        !is_shared && one.overlaps(other) && !one.covers(other) && !other.covers(one)
    };
    let mut pairs = filters.iter().enumerate().map(|(number, one)| {
        (
            number,
            one,
            filters.iter().take(number).find(|other| meets(one, other)),
        )
    });
    if let Some((number, one, Some(other))) = pairs.find(|(_, _, other)| other.is_some()) {
        check.warn(
            &at!["uplinks", index, "receive", number, "filter"],
            format!("a message that both {other} and {one} match may come twice, because MQTT 3.1.1 does not tell copies from messages; choose filters that do not meet, or `protocol: 5`"),
        );
    }
}

/// Messages that would go back where they came from.
fn echoes(check: &mut Check<'_>, index: usize, uplink: &Uplink, uplinks: &[Uplink]) {
    if matches!(uplink.settings.cloud, Some(Cloud::AzureIotHub(_))) {
        // A hub hands nothing on to the device that it came from.
        return;
    }
    for (number, rule) in uplink.routes.send.iter().enumerate() {
        let path = at!["uplinks", index, "send", number, "filter"];
        let there = rule
            .mapping
            .image()
            .map_or_else(|| "topics".to_owned(), |there| there.to_string());
        let returned = uplink
            .routes
            .receive
            .iter()
            .map(|inward| inward.mapping.filter())
            .find(|filter| rule.mapping.meets(filter));
        if let Some(filter) = returned.filter(|_| uplink.settings.protocol == Protocol::V311) {
            check.fault(
                &path,
                format!("what is sent to {there} comes back through `receive: {filter}`, because MQTT 3.1.1 has no \"no local\"; choose filters that do not meet, or `protocol: 5`"),
            );
        }
        let others = uplinks
            .iter()
            .filter(|other| other.settings.name != uplink.settings.name && meets(uplink, other));
        for other in others {
            let goes_round = |inward: &&Inward| {
                inward.mapping.meets(rule.mapping.filter())
                    && rule.mapping.meets(inward.mapping.filter())
            };
            if let Some(inward) = other.routes.receive.iter().find(goes_round) {
                let (filter, other) = (inward.mapping.filter(), &other.settings.name);
                check.fault(
                    &path,
                    format!("{other} receives {filter} from the same remote, this rule sends it back there, and it would go round for ever; choose filters that do not meet"),
                );
            }
        }
    }
}

/// Commands of local clients that come back by another uplink: the instrument would be written twice.
fn returning_commands(
    check: &mut Check<'_>,
    index: usize,
    uplink: &Uplink,
    (uplinks, writable): (&[Uplink], &[&TopicName]),
) {
    let others = uplinks
        .iter()
        .filter(|other| other.settings.name != uplink.settings.name && meets(uplink, other));
    for other in others.filter(|other| other.routes.commands || !other.routes.receive.is_empty()) {
        let returns = |point: &&TopicName| {
            let command = TopicName::new(format!("{point}{SET}")).ok()?;
            let message = Message::new(command.clone(), "", Origin::Client);
            let (rule, there) = uplink.routes.outward(&message)?;
            let number = uplink.routes.send.iter().position(|own| own == rule)?;
            other
                .routes
                .comes_in_as(&there.ok()?, &command)
                .then_some((number, command))
        };
        let Some((number, command)) = writable.iter().find_map(returns) else {
            continue;
        };
        let path = at!["uplinks", index, "send", number, "filter"];
        if !check.is_faulty(&path) {
            let other = &other.settings.name;
            check.fault(
                &path,
                format!("{command} of a local client would come back through {other}, and the instrument would be written twice; send what is needed only, or add `commands: true` here and remove it there"),
            );
        }
    }
}

/// True if both reach the same remote.
fn meets(one: &Uplink, other: &Uplink) -> bool {
    one.settings
        .remotes
        .iter()
        .any(|remote| other.settings.remotes.contains(remote))
}

/// Lines that would open one serial device: only the first ever could.
pub(super) fn shared_ports(check: &mut Check<'_>) {
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
        // Files of tests may stand for no port at all.
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

/// Where a serial device is that is typed without its folder: names of devices are below /dev, paths begin at the folder of the YAML.
pub(super) fn device_path(typed: &str, folder: &Path) -> PathBuf {
    let is_of_dev = !typed.contains('/') || typed.starts_with("serial/by-");
    if is_of_dev {
        Path::new("/dev").join(typed)
    } else {
        folder.join(typed)
    }
}

/// A serial device that is not there now, or hardly one.
pub(super) fn missing_port(check: &mut Check<'_>, index: usize, path: &str) {
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
