//! Writes to points: limits, read-back, and groups that are written in one request.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Check;
use super::context::{DeviceContext, PointCheck};
use crate::config::{WriteGroup, file};
use crate::field::decode::{DataType, Part, Register, Table};
use crate::field::write::{ReadBack, RegisterRules, Rules};
use crate::field::{Device, PointSource};
use crate::report::template::TopicTemplate;

const LONGEST_READ_BACK: Duration = Duration::from_secs(2);
const DEFAULT_GOOD_FOR: Duration = Duration::from_secs(10);

impl PointCheck<'_, '_> {
    /// How the point is written; `None` if it is not, or cannot be.
    pub(super) fn write(&mut self, source: &PointSource) -> Option<Box<Rules>> {
        let writable = self.writable();
        let write = self.spec.write?;
        let PointSource::Register { register, exponent } = source else {
            self.fault(
                "write",
                "only registers and coils can be written; remove `write`",
            );
            return None;
        };
        let meaning = &register.meaning;
        if let Some(why) = read_only(register, exponent.is_some()) {
            self.fault("write", why);
        }
        self.check_write(&write);
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
            repeat: write.repeat.unwrap_or(true),
            registers: RegisterRules {
                function: write.function,
                allow_split: write.allow_split,
            },
        }))
    }

    /// Limits, steps and delays that make no sense.
    fn check_write(&mut self, write: &file::WriteConfig) {
        let read_back = write.read_back.and_then(|how| how.0);
        let rows = [
            (
                are_swapped(write.min, write.max),
                "no value is between these limits; `min` is the smaller one",
            ),
            (
                write
                    .step
                    .is_some_and(|step| !step.is_finite() || step <= 0.0),
                "a step is a number above 0, such as 0.5",
            ),
            (
                read_back
                    .and_then(|how| how.delay)
                    .is_some_and(|delay| delay.0 > LONGEST_READ_BACK),
                "the line waits for what is read back; write a delay of at most 2s",
            ),
            (
                read_back.is_some() && self.context.device.unit == Some(0),
                "unit 0 addresses all devices, and none of them answers; remove `read_back`",
            ),
        ];
        for (_, why) in rows.iter().filter(|(is_wrong, _)| *is_wrong) {
            self.fault("write", *why);
        }
    }

    /// The values that the device accepts, whether or not it may be written.
    fn writable(&mut self) -> file::Writable {
        let writable = self.spec.writable.unwrap_or_default();
        if are_swapped(writable.min, writable.max) {
            self.fault(
                "writable",
                "no value is between these limits; `min` is the smaller one",
            );
        }
        writable
    }
}

fn are_swapped(min: Option<f64>, max: Option<f64>) -> bool {
    min.zip(max).is_some_and(|(min, max)| min > max)
}

/// The reason why a register cannot be written.
fn read_only(register: &Register, has_exponent: bool) -> Option<&'static str> {
    let meaning = &register.meaning;
    let is_odd = has_exponent
        || meaning.array.is_some()
        || !meaning.flags.is_empty()
        || (meaning.kind.is_text() && meaning.kind != DataType::Text);
    if !matches!(register.table, Table::Holding | Table::Coil) {
        Some("only holding registers and coils can be written; remove `write`")
    } else if matches!(
        meaning.kind,
        DataType::U8L | DataType::U8H | DataType::I8L | DataType::I8H
    ) {
        Some(
            "half a register cannot be written by itself; write `type: u16` with `bits: [ 0, 7 ]` or `bits: [ 8, 15 ]`",
        )
    } else if is_odd || (meaning.part != Part::Whole && register.width() != 1) {
        Some(
            "times, arrays, flags, parts of long numbers and values with `scale_from` are only read; remove `write`",
        )
    } else {
        None
    }
}

/// The registers of a group.
struct GroupExtent {
    table: Table,
    start: u32,
    end: u32,
}

impl DeviceContext<'_> {
    /// The topics by which groups of points are written at once.
    pub(super) fn groups(&self, check: &mut Check<'_>, device: &Device) -> Vec<WriteGroup> {
        let mut groups: Vec<WriteGroup> = Vec::new();
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
            groups.extend(topic.map(|topic| WriteGroup {
                name: name.to_owned(),
                device: device.id,
                topic,
            }));
        }
        groups
    }

    /// Points of a group are read in one request: from one table, and not too far apart.
    pub(super) fn check_groups(&self, check: &mut Check<'_>, device: &Device) {
        let mut groups: HashMap<&str, GroupExtent> = HashMap::new();
        for point in &device.points {
            let (Some(group), Some(register)) = (point.group.as_deref(), point.register()) else {
                continue;
            };
            let start = u32::from(register.address);
            let end = start + u32::from(register.width());
            let table = register.table;
            let extent = groups
                .entry(group)
                .or_insert(GroupExtent { table, start, end });
            let name = &point.name;
            if extent.table != table {
                check.fault(
                    &self.path(name, "group"),
                    format!("one request reads one kind of register; {name} has another kind than the rest of {group}"),
                );
                return;
            }
            extent.start = extent.start.min(start);
            extent.end = extent.end.max(end);
            let most = device.limits.of(table);
            if extent.end - extent.start > u32::from(most) {
                check.fault(
                    &self.path(name, "group"),
                    format!("the group {group} reaches over more than the {most} registers of one request"),
                );
                return;
            }
        }
    }
}
