//! Points and lines that are possible and hardly meant: faults where they cannot be meant, warnings
//! where they will hurt.

use std::collections::{BTreeMap, HashMap};

use super::context::{DeviceContext, PointCheck};
use super::register_address::RegisterAddress;
use super::{Check, at};
use crate::config::traffic::load;
use crate::field::decode::{Part, Register, Table};
use crate::field::{Device, DeviceProtocol, Line, Point, PointSource, Wire};
use crate::report::PointReport;
use crate::report::deadband::Deadband;
use crate::units::Span;

/// A serial line that is asked for more than this part of its time has little left for repetitions
/// and silent devices.
const FULL: f64 = 0.8;

/// Points at one place that are compared with each other.
const MOST_COMPARED: usize = 32;

/// A value of a point: where it begins, where it ends, whose it is.
struct RegisterSpan<'a> {
    table: Table,
    start: u32,
    end: u32,
    point: &'a Point,
    register: &'a Register,
}

impl RegisterSpan<'_> {
    /// True if both may read the same registers: parts of one word, or the same kind at the same
    /// place.
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
fn spans_of(point: &Point) -> Vec<RegisterSpan<'_>> {
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
    let span = |number: u32| {
        let start = start + number * stride;
        RegisterSpan {
            table: register.table,
            start,
            end: start + each,
            point,
            register,
        }
    };
    (0..count).map(span).collect()
}

impl DeviceContext<'_> {
    /// Warnings about the points of a device.
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
        let mut all: Vec<RegisterSpan<'_>> = device.points.iter().flat_map(spans_of).collect();
        all.sort_by_key(|span| (span.table, span.start, span.end));
        for (index, span) in all.iter().enumerate() {
            // Of many overlaps the first one is noted.
            let rest = all
                .iter()
                .skip(index + 1)
                .take(MOST_COMPARED)
                .take_while(|next| next.table == span.table && next.start < span.end);
            for next in rest.filter(|next| next.point.id != span.point.id && !span.agrees(next)) {
                let kind = |span: &RegisterSpan<'_>| {
                    format!(
                        "{} ({})",
                        span.point.name,
                        span.register.meaning.kind.name()
                    )
                };
                let (one, other, place) = (kind(span), kind(next), next.table.place(next.start));
                check.warn(
                    &self.path(&next.point.name, "type"),
                    format!("{one} and {other} both read {place}, as different types; check their addresses"),
                );
            }
        }
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
        let every = match &device.protocol {
            _ if matches!(point.source, PointSource::Derived(_)) => return,
            DeviceProtocol::Text(talk) if !talk.is_polled() => return,
            DeviceProtocol::Text(talk) => talk.every,
            _ => point.every,
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
            PointSource::Register {
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

impl PointCheck<'_, '_> {
    /// A key that counts from zero with a number as manuals print it: hardly meant, but possible.
    pub(super) fn printed_from_zero(&mut self, place: RegisterAddress) {
        let address = u32::from(place.address);
        let Some((first, six_digits)) = looks_printed(place.table, address) else {
            return;
        };
        let is_of_the_program =
            self.context.is_of_the_program && !self.context.device.points.contains_key(self.name);
        if self.spec.at.is_some() || is_of_the_program {
            return;
        }
        let (key, from_zero, printed) = (place.table.name(), address - first, six_digits + address);
        self.warn(
            key,
            format!(
                "`{key}: {address}` counts from zero; if the manual prints {address}, write `at: {address}` or `{key}: {from_zero}`, and if this register is meant, `at: {printed}`"
            ),
        );
    }
}

/// The first register of a table as manuals print it with five digits and with six, if a number
/// that counts from zero looks so.
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

/// Two devices that are one instrument; `places` are those of the devices in the file, by name.
pub(super) fn duplicate_devices(
    check: &mut Check<'_>,
    lines: &[Line],
    places: &HashMap<&str, usize>,
) {
    for line in lines
        .iter()
        .filter(|line| !matches!(line.wire, Wire::Simulated | Wire::Tcp(_)))
    {
        let mut by_unit: HashMap<u8, ReadRegisters<'_>> = HashMap::new();
        for (number, device) in line
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| device.protocol.is_modbus() && !device.is_broadcast)
        {
            let known = by_unit.entry(device.unit).or_default();
            let duplicate = known.first_shared(device);
            let index = places.get(device.name.as_str()).copied().filter(|index| {
                // A wrong or missing address is a fault already.
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
            if let (Some((other, table, start)), Some(index)) = (duplicate, index) {
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
struct ReadRegisters<'a> {
    /// By table, start and end: the first device, by its number on the line and its name.
    spans: BTreeMap<(Table, u32, u32), (usize, &'a str)>,
    /// Of the longest span.
    longest: u32,
}

impl<'a> ReadRegisters<'a> {
    fn take(&mut self, number: usize, device: &'a Device) {
        for span in device.points.iter().flat_map(spans_of) {
            self.longest = self.longest.max(span.end - span.start);
            self.spans
                .entry((span.table, span.start, span.end))
                .or_insert((number, &device.name));
        }
    }

    /// The first device that reads a register of `device`, and the first such register.
    fn first_shared(&self, device: &Device) -> Option<(&'a str, Table, u32)> {
        let mut first: Option<(usize, Table, u32, &'a str)> = None;
        for span in device.points.iter().flat_map(spans_of) {
            let near =
                (span.table, span.start.saturating_sub(self.longest), 0)..(span.table, span.end, 0);
            for ((table, start, end), (number, name)) in self.spans.range(near) {
                let found = (*number, *table, span.start.max(*start), *name);
                if *end > span.start && first.is_none_or(|first| found < first) {
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
