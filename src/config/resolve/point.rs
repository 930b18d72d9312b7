//! One point: where it is, what it means, how it is reported.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::field::{Context, Points, id, take_topic};
use super::unused::Shape;
use super::{Check, at};
use crate::config::Group;
use crate::config::document::Step;
use crate::config::fault::MOST_COMPARED;
use crate::config::file;
use crate::config::renamed::renamed;
use crate::field::decode::{ByteOrder, Kind, Part, RECORDS, Register, Sentinel, Table};
use crate::field::formula::Formula;
use crate::field::write::{ReadBack, Rules};
use crate::field::{Device, Point, Source};
use crate::mqtt::{QoS, TopicName};
use crate::reading::PointId;
use crate::report::deadband::{Deadband, ReportRule};
use crate::report::template::TopicTemplate;
use crate::report::{Aggregate, PointReport};

const DEFAULT_EVERY: Duration = Duration::from_secs(10);
const LONGEST_READ_BACK: Duration = Duration::from_secs(2);
const DEFAULT_GOOD_FOR: Duration = Duration::from_secs(10);
const SHORTEST_EVERY: Duration = Duration::from_millis(1);

impl Context<'_> {
    pub(super) fn point(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        points: &mut Points,
    ) -> Option<Point> {
        let file = check.file;
        let template = spec
            .topic
            .clone()
            .or_else(|| file.topics.clone())
            .or_else(|| TopicTemplate::new("{site}/{device}/{point}").ok())?;
        let at = self.path(name, "topic");
        let topic = self.topic(check, &template, name, &at)?;
        let every = spec.every.map_or(DEFAULT_EVERY, |span| span.0);
        if every < SHORTEST_EVERY {
            check.fault(&self.path(name, "every"), "write at least 1ms, such as 1s");
        }
        let class = check.class(
            spec.class.as_deref().unwrap_or("normal"),
            &self.path(name, "class"),
        );
        let (class, qos) = class.unwrap_or_default();
        let source = self.shared_source(check, name, spec, points)?;
        let aggregate = self.aggregate(check, name, spec, &topic, points);
        if aggregate.is_none() {
            take_topic(
                check,
                points,
                &topic,
                format!("{}.{name}", self.device.name),
                &at,
            );
        }
        let id = PointId(id(points.reports.len()));
        let unit = spec.unit.as_deref().map(|unit| points.named(unit));
        points.set_by.push(self.set_by(name, spec));
        points.reports.push(PointReport {
            topic,
            unit,
            qos: qos.unwrap_or(QoS::AtLeastOnce),
            class,
            rule: self.rule(check, name, spec),
            median: self.median(check, name, spec),
            aggregate,
            swinging_door: self.swinging_door(check, name, spec),
        });
        self.check_spans(check, name, spec);
        let write = self.write(check, name, spec, &source);
        let stale_after = spec.stale_after.map(|span| span.0);
        let group = spec.group.as_deref().map(Arc::from);
        let wave = spec.simulate.unwrap_or_default();
        Some(Point {
            id,
            name: points.named(name),
            every,
            source,
            wave,
            says: None,
            stale_after,
            group,
            write,
        })
    }

    /// Durations of zero that would never, or always, be over.
    fn check_spans(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) {
        let stale = "every value would be stale at once; write a longer duration, such as 30s, or remove it";
        check.not_zero(&self.path(name, "stale_after"), spec.stale_after, stale);
        let again = "the value would be sent without end; write a longer duration, such as 5m, or remove it";
        check.not_zero(
            &self.path(name, "at_least_every"),
            spec.at_least_every,
            again,
        );
        let period = spec.simulate.map(|wave| wave.period);
        check.not_zero(
            &self.path(name, "simulate"),
            period,
            "a wave needs a period; write a longer one, such as `period: 1m`",
        );
        let good_for = spec.write.and_then(|write| write.good_for);
        let expired = "every write would expire before it is sent; write a longer `good_for`, such as 10s, or remove it";
        check.not_zero(&self.path(name, "write"), good_for, expired);
    }

    fn write(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        source: &Source,
    ) -> Option<Box<Rules>> {
        let writable = self.writable(check, name, spec);
        let write = spec.write?;
        let path = self.path(name, "write");
        let Source::Register { register, exponent } = source else {
            check.fault(
                &path,
                "only registers and coils can be written; remove `write`",
            );
            return None;
        };
        let meaning = &register.meaning;
        let is_read_only = !matches!(register.table, Table::Holding | Table::Coil);
        let is_odd = exponent.is_some()
            || meaning.array.is_some()
            || !meaning.flags.is_empty()
            || (meaning.kind.is_text() && meaning.kind != Kind::Text);
        if is_read_only {
            check.fault(
                &path,
                "only holding registers and coils can be written; remove `write`",
            );
        } else if matches!(meaning.kind, Kind::U8L | Kind::U8H | Kind::I8L | Kind::I8H) {
            check.fault(&path, "half a register cannot be written by itself; write `type: u16` with `bits: [ 0, 7 ]` or `bits: [ 8, 15 ]`");
        } else if is_odd || (meaning.part != Part::Whole && register.width() != 1) {
            check.fault(&path, "times, arrays, flags, parts of long numbers and values with `scale_from` are only read; remove `write`");
        }
        if write.min.zip(write.max).is_some_and(|(min, max)| min > max) {
            check.fault(
                &path,
                "no value is between these limits; `min` is the smaller one",
            );
        }
        if write
            .step
            .is_some_and(|step| !step.is_finite() || step <= 0.0)
        {
            check.fault(&path, "a step is a number above 0, such as 0.5");
        }
        if write
            .read_back
            .and_then(|how| how.0)
            .and_then(|how| how.delay)
            .is_some_and(|delay| delay.0 > LONGEST_READ_BACK)
        {
            check.fault(
                &path,
                "the line waits for what is read back; write a delay of at most 2s",
            );
        }
        if write.read_back.is_some_and(|how| how.0.is_some()) && self.device.unit == Some(0) {
            check.fault(
                &path,
                "unit 0 addresses all devices, and none of them answers; remove `read_back`",
            );
        }
        let read_back = write
            .read_back
            .and_then(|read_back| read_back.0)
            .map(|read_back| ReadBack {
                delay: read_back.delay.map_or(Duration::ZERO, |span| span.0),
                tolerance: read_back.tolerance.unwrap_or(0.0).abs(),
            });
        Some(Box::new(Rules {
            min: write.min.or(writable.min).or(meaning.min),
            max: write.max.or(writable.max).or(meaning.max),
            step: write.step,
            at_most_every: write.at_most_every.map(|span| span.0),
            good_for: write.good_for.map_or(DEFAULT_GOOD_FOR, |span| span.0),
            read_back,
            function: write.function,
            repeat: write.repeat.unwrap_or(true),
            allow_split: write.allow_split,
        }))
    }

    /// What the device takes, whether or not it may be written.
    fn writable(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> file::Writable {
        let writable = spec.writable.unwrap_or_default();
        if writable
            .min
            .zip(writable.max)
            .is_some_and(|(min, max)| min > max)
        {
            check.fault(
                &self.path(name, "writable"),
                "no value is between these limits; `min` is the smaller one",
            );
        }
        writable
    }

    /// The topics by which groups of points are written at once.
    pub(super) fn groups(&self, check: &mut Check<'_>, device: &Device) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut known: HashSet<&str> = HashSet::new();
        let names: HashSet<&str> = device.points.iter().map(|point| &*point.name).collect();
        let template = check
            .file
            .topics
            .clone()
            .or_else(|| TopicTemplate::new("{site}/{device}/{point}").ok());
        for point in device.points.iter().filter(|point| point.write.is_some()) {
            let Some(name) = point.group.as_deref().filter(|name| known.insert(name)) else {
                continue;
            };
            let path = self.path(&point.name, "group");
            if names.contains(name) {
                check.fault(
                    &path,
                    format!("the group is written by its own topic, and a point is called {name} already; choose another name"),
                );
            }
            let topic = template
                .as_ref()
                .and_then(|template| self.topic(check, template, name, &path));
            groups.extend(topic.map(|topic| Group {
                name: name.to_owned(),
                device: device.id,
                topic,
            }));
        }
        groups
    }

    /// Points that one request must bring: of one table, and not too far apart.
    pub(super) fn check_groups(&self, check: &mut Check<'_>, device: &Device) {
        let grouped = |point: &Point| {
            Some((
                Arc::clone(point.group.as_ref()?),
                point.name.to_string(),
                point.register()?.clone(),
            ))
        };
        let points: Vec<(Arc<str>, String, Register)> =
            device.points.iter().filter_map(grouped).collect();
        let mut groups: HashMap<&Arc<str>, (Table, u32, u32)> = HashMap::new();
        for (group, name, register) in &points {
            let (start, end) = (
                u32::from(register.address),
                u32::from(register.address) + u32::from(register.width()),
            );
            let whole = groups.entry(group).or_insert((register.table, start, end));
            if whole.0 != register.table {
                check.fault(
                    &self.path(name, "group"),
                    format!("one request reads one kind of register; {name} has another kind than the rest of {group}"),
                );
                return;
            }
            *whole = (register.table, whole.1.min(start), whole.2.max(end));
            let (_, start, end) = *whole;
            let most = device.limits.of(register.table);
            if end - start > u32::from(most) {
                check.fault(
                    &self.path(name, "group"),
                    format!("the group {group} reaches over more than the {most} registers of one request"),
                );
                return;
            }
        }
    }

    fn rule(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> ReportRule {
        let deadband = spec.deadband.map(|deadband| match deadband {
            file::Deadband::Absolute(width) => Deadband::Absolute(width),
            file::Deadband::Percent(percent) => Deadband::Percent(percent),
        });
        let width = match deadband {
            Some(Deadband::Absolute(width) | Deadband::Percent(width)) => width,
            None => 0.0,
        };
        if !width.is_finite() || width < 0.0 {
            check.fault(
                &self.path(name, "deadband"),
                "a deadband is a change that is too small to report: type 0 or more",
            );
        }
        ReportRule {
            deadband,
            at_least_every: spec.at_least_every.map(|span| span.0),
        }
    }

    fn median(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<u8> {
        let width = spec.filter?.median;
        if width % 2 == 0 || !(3..=99).contains(&width) {
            check.fault(
                &self.path(name, "filter"),
                "the middle one needs an odd number of values, such as `filter: { median: 5 }`",
            );
        }
        Some(width)
    }

    fn swinging_door(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<f64> {
        let bound = spec.swinging_door?;
        if !bound.is_finite() || bound <= 0.0 {
            check.fault(
                &self.path(name, "swinging_door"),
                "type the error that the line between readings may have, such as 0.5",
            );
        }
        if spec.deadband.is_some() {
            check.fault(
                &self.path(name, "swinging_door"),
                "`deadband` and `swinging_door` decide the same; keep one",
            );
        }
        Some(bound)
    }

    fn aggregate(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        topic: &TopicName,
        points: &mut Points,
    ) -> Option<Aggregate> {
        let aggregate = spec.aggregate.as_ref()?;
        let path = self.path(name, "aggregate");
        if aggregate.every.0.is_zero() || aggregate.show.0.is_empty() {
            check.fault(&path, "write an interval and what is shown of it, such as { every: 1m, show: [ min, mean, max ] }");
            return None;
        }
        let mut shows = Vec::new();
        for show in &aggregate.show.0 {
            let topic = if aggregate.show.0.len() == 1 {
                topic.clone()
            } else {
                TopicName::new(format!("{topic}/{}", show.name())).ok()?
            };
            take_topic(
                check,
                points,
                &topic,
                format!("{}.{name} ({})", self.device.name, show.name()),
                &path,
            );
            shows.push((*show, topic));
        }
        Some(Aggregate {
            every: aggregate.every.0,
            shows,
        })
    }

    /// The same for every device that takes the point from a profile as it is: there may be hundreds.
    fn shared_source(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        points: &mut Points,
    ) -> Option<Source> {
        let profile = self.device.profile.as_ref().filter(|_| {
            !self.is_text
                && !self.simulated
                && self.device.byte_order.is_none()
                && self.device.removed.is_empty()
                && self.device.base.is_none()
                && self.device.points.is_empty()
                && spec.expression.is_none()
        });
        let Some(profile) = profile else {
            return self.source(check, name, spec);
        };
        let key = (profile.clone(), name.to_owned());
        if let Some(source) = points.shared.get(&key) {
            return Some(source.clone());
        }
        let source = self.source(check, name, spec)?;
        points.shared.insert(key, source.clone());
        Some(source)
    }

    fn source(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Source> {
        if let Some(text) = &spec.expression {
            self.check_used(check, name, spec, Shape::Computed);
            return self
                .formula(check, name, text)
                .map(|formula| Source::Derived(formula.rounded(spec.decimals)));
        }
        if self.is_text {
            return self.found(check, name, spec);
        }
        let has_words_of_messages =
            spec.bad_when.is_some() || spec.units.is_some() || spec.notation.is_some();
        if spec.from.is_some()
            || spec.find.is_some()
            || spec.byte.is_some()
            || spec.when.is_some()
            || has_words_of_messages
        {
            check.fault(&self.path(name, "at"), "only plain instruments have from, find, byte, when, bad_when, units and notation; add `each_line:` or `text:` to the device, or say where the register is");
            return None;
        }
        let Some((table, address)) = self.address(check, name, spec)? else {
            self.check_used(check, name, spec, Shape::Made);
            return Some(Source::Made);
        };
        let register = self.register(check, name, spec, (table, address))?;
        let kind = register.meaning.kind;
        self.check_used(
            check,
            name,
            spec,
            if table.is_bits() {
                Shape::Coil
            } else {
                Shape::Registers(kind)
            },
        );
        let exponent = match &spec.scale_from {
            None => None,
            Some(other) => Some(Arc::new(self.exponent(check, name, other)?)),
        };
        if let Some(exponent) = &exponent {
            let (start, end) = (
                register.address.min(exponent.address),
                register.address.max(exponent.address),
            );
            if exponent.table != register.table || end - start >= 120 {
                check.fault(
                    &self.path(name, "scale_from"),
                    "the power of ten must come with the value: name a register of the same kind, at most 120 away",
                );
                return None;
            }
        }
        Some(Source::Register {
            register: Arc::new(register),
            exponent,
        })
    }

    fn formula(&self, check: &mut Check<'_>, name: &str, text: &str) -> Option<Formula> {
        let path = self.path(name, "expression");
        let formula = match Formula::new(text) {
            Ok(formula) => formula,
            Err(why) => {
                check.fault(&path, why);
                return None;
            }
        };
        let known = self.known();
        let mut fine = true;
        for used in formula.names() {
            match known.get(used.as_str()) {
                Some(other) if other.expression.is_none() => {}
                Some(_) => {
                    check.fault(
                        &path,
                        format!("{used} is an expression itself; write its parts here"),
                    );
                    fine = false;
                }
                None => {
                    let names: Vec<String> = known.keys().take(MOST_COMPARED).cloned().collect();
                    check.unknown(&path, "point", used, &names);
                    fine = false;
                }
            }
        }
        fine.then_some(formula)
    }

    /// The register that holds the power of ten of another.
    fn exponent(&self, check: &mut Check<'_>, name: &str, other: &str) -> Option<Register> {
        let path = self.path(name, "scale_from");
        let points = self.known();
        let Some(spec) = points.get(other) else {
            let names: Vec<String> = points.keys().take(MOST_COMPARED).cloned().collect();
            check.unknown(&path, "point", other, &names);
            return None;
        };
        let place = self.address(check, other, spec)?;
        let kind = spec.kind.unwrap_or(Kind::I16);
        let register = place
            .filter(|(table, _)| !table.is_bits())
            .map(|(table, address)| {
                let mut register = Register::new(table, address, kind);
                register.meaning.order = self.order(spec);
                let own = spec
                    .broken_value
                    .iter()
                    .flat_map(|list| list.0.iter().map(|broken| broken.0.clone()));
                // "Not implemented" of SunSpec.
                register.meaning.broken = std::iter::once(Sentinel::Number(-32768.0))
                    .chain(own)
                    .collect();
                register
            });
        if register.is_none() || !matches!(kind, Kind::I16 | Kind::U16) {
            check.fault(
                &path,
                format!(
                    "{other} is not a 16-bit register; name the point that holds the power of ten"
                ),
            );
            return None;
        }
        register
    }

    pub(super) fn order(&self, spec: &file::Point) -> ByteOrder {
        let base = self
            .profile
            .filter(|_| !self.device.takes_away("byte_order"));
        spec.byte_order
            .or(self.device.byte_order)
            .or(base.and_then(|profile| profile.byte_order))
            .unwrap_or_default()
    }

    /// `Some(None)` for a simulated point that is nowhere.
    #[allow(clippy::option_option)]
    pub(super) fn address(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
    ) -> Option<Option<(Table, u16)>> {
        let zero_based = [
            (Table::Holding, spec.holding),
            (Table::Input, spec.input),
            (Table::Coil, spec.coil),
            (Table::Discrete, spec.discrete),
        ];
        if spec.file.is_some() != spec.record.is_some() || spec.file == Some(0) {
            check.missing(
                &self.path(name, "file"),
                "a value in a file needs both numbers; write `file: 4, record: 0` (files are counted from 1, records from 0)",
            );
            return None;
        }
        if spec
            .record
            .as_ref()
            .is_some_and(|record| record.0 >= RECORDS)
        {
            check.fault(
                &self.path(name, "record"),
                "a file has the records 0 to 9999; write one of these",
            );
            return None;
        }
        let mut given: Vec<(Table, u16)> = zero_based
            .into_iter()
            .filter_map(|(table, address)| Some((table, address?.0)))
            .collect();
        given.extend(
            spec.file
                .zip(spec.record)
                .map(|(file, record)| (Table::File(file), record.0)),
        );
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
            [one] => {
                self.printed_from_zero(check, name, spec, *one);
                self.moved(check, name, *one).map(Some)
            }
            [] if self.simulated => Some(None),
            [] => {
                // A point that adds to one of the profile, by a name that the profile does not have.
                let renamed = self
                    .profile
                    .and_then(|profile| renamed(name, |new| profile.points.contains_key(new)));
                let message = match renamed {
                    Some(new) => {
                        format!("the profile has no point \"{name}\"; it is called \"{new}\"")
                    }
                    None => format!(
                        "point \"{name}\" does not say where its value is; add `at: 40001` (as printed in the manual) or `holding: 0` (from zero)"
                    ),
                };
                check.missing(&self.path(name, "at"), message);
                None
            }
            _ => {
                check.fault(
                    &self.path(name, "at"),
                    format!("point \"{name}\" says twice where its value is; keep one of at, holding, input, coil, discrete, file"),
                );
                None
            }
        }
    }

    /// Where a register is in a device whose registers begin at a `base`.
    fn moved(
        &self,
        check: &mut Check<'_>,
        name: &str,
        (table, address): (Table, u16),
    ) -> Option<(Table, u16)> {
        // Files begin where they begin.
        let base = if matches!(table, Table::File(_)) {
            0
        } else {
            self.device.base.unwrap_or(0)
        };
        let moved = address.checked_add(base);
        if moved.is_none() {
            check.fault(
                &at!["devices", self.index, "base"],
                format!(
                    "point \"{name}\" would be at register {}; the last one is 65535",
                    u32::from(address) + u32::from(base)
                ),
            );
        }
        Some((table, moved?))
    }

    /// Where a key of a point stands: in the device if it is given there, else in the profile.
    pub(super) fn path(&self, name: &str, key: &str) -> Vec<Step> {
        let in_device = self.device.points.contains_key(name);
        match &self.device.profile {
            Some(profile) if !in_device && self.is_in_file => {
                at!["profiles", profile, "points", name, key].to_vec()
            }
            Some(_) if !in_device => at!["devices", self.index, "profile"].to_vec(),
            _ => at!["devices", self.index, "points", name, key].to_vec(),
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
        assert_eq!(
            (as_printed(0), as_printed(40_000), as_printed(20_000)),
            (None, None, None)
        );
    }
}
