//! Writes to points: limits, read-back, and groups that are written in one request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Check;
use super::context::{DeviceContext, PointCheck};
use super::text_command::TypedCommand;
use crate::config::{WriteGroup, file};
use crate::field::decode::{DataType, Meaning, Part, Register, Table};
use crate::field::modbus::request::Function;
use crate::field::text::command::{CommandValue, TextCommand};
use crate::field::write::{ReadBack, RegisterRules, Rules, WriteMethod};
use crate::field::{Device, PointSource};
use crate::report::template::TopicTemplate;

const LONGEST_READ_BACK: Duration = Duration::from_secs(2);
const DEFAULT_GOOD_FOR: Duration = Duration::from_secs(10);

impl PointCheck<'_, '_> {
    /// How the point is written; `None` if it is not, or cannot be.
    pub(super) fn write(&mut self, source: &PointSource) -> Option<Box<Rules>> {
        let writable = self.writable();
        self.check_command_used(source);
        let method = self.method(source)?;
        let write = self.spec.write.as_ref()?;
        self.check_write(write);
        let meaning = meaning_of(source);
        let limits = [
            write.min.or(writable.min).or_else(|| meaning?.min),
            write.max.or(writable.max).or_else(|| meaning?.max),
        ];
        if let WriteMethod::Command(command) = &method {
            self.check_command_write(write, command, source);
            self.advise_command(write, command, limits);
        }
        let read_back = write
            .read_back
            .and_then(|read_back| read_back.0)
            .map(|read_back| ReadBack {
                delay: read_back.delay.map_or(Duration::ZERO, |span| span.0),
                tolerance: read_back.tolerance.unwrap_or(0.0).abs(),
            });
        let [min, max] = limits;
        Some(Box::new(Rules {
            min,
            max,
            step: write.step,
            at_most_every: write.at_most_every.map(|span| span.0),
            good_for: write.good_for.map_or(DEFAULT_GOOD_FOR, |span| span.0),
            read_back,
            repeat: write.repeat.unwrap_or(true),
            method,
        }))
    }

    /// How the protocol of its device writes the point; `None` if nothing can.
    fn method(&mut self, source: &PointSource) -> Option<WriteMethod> {
        let write = self.spec.write.as_ref();
        match source {
            PointSource::Register { register, exponent } => {
                let write = write?;
                if let Some(why) = read_only(register, exponent.is_some()) {
                    self.fault("write", why);
                }
                Some(WriteMethod::Registers(RegisterRules {
                    function: write.function,
                    allow_split: write.allow_split,
                }))
            }
            PointSource::Extracted(_) | PointSource::Command(_) => {
                let is_typed = write.is_some() || TypedCommand::of(self.spec).is_typed();
                let command = is_typed.then(|| self.command(source)).flatten()?;
                Some(WriteMethod::Command(Arc::new(command)))
            }
            _ => {
                write?;
                self.fault(
                    "write",
                    "only registers and coils can be written; remove `write`",
                );
                None
            }
        }
    }

    /// A command at a point that is not in a plain instrument.
    fn check_command_used(&mut self, source: &PointSource) {
        let is_of_text = matches!(source, PointSource::Extracted(_) | PointSource::Command(_));
        // What is simulated here is not asked; the same file may describe the real instrument.
        let is_simulated = self.context.is_text && self.context.simulated;
        let typed = TypedCommand::of(self.spec);
        if typed.is_typed() && !is_of_text && !is_simulated {
            self.fault(
                typed.key,
                "only plain instruments have send, expect, refuse and simulate; remove them",
            );
        }
    }

    /// Settings of a write that its command does not have.
    fn check_command_write(
        &mut self,
        write: &file::WriteConfig,
        command: &TextCommand,
        source: &PointSource,
    ) {
        let read_back = write.read_back.and_then(|how| how.0);
        let has_limits = write.min.is_some() || write.max.is_some() || write.step.is_some();
        let is_word = matches!(command.value, CommandValue::Text(_))
            || meaning_of(source).is_some_and(|meaning| !meaning.words.is_empty());
        let tolerance = read_back.and_then(|how| how.tolerance);
        let rows = [
            (
                write.function != Function::Auto || write.allow_split,
                "a plain instrument has no functions and no groups; remove `function` and `allow_split`",
            ),
            (
                command.value == CommandValue::Nothing && has_limits,
                "this command takes no value; remove `min`, `max` and `step`, or write {value} into `send`",
            ),
            (
                is_word && has_limits,
                "text and words have no limits; remove `min`, `max` and `step`",
            ),
            (
                is_word && tolerance.is_some_and(|width| width != 0.0),
                "text and words cannot be compared with a tolerance; remove it",
            ),
            (
                command.value == CommandValue::Nothing && read_back.is_some(),
                "this command takes no value that could be read back; remove `read_back`",
            ),
            (
                matches!(source, PointSource::Command(_)) && read_back.is_some(),
                "no message brings this point, so it cannot be read back; add `find:`, or remove `read_back`",
            ),
        ];
        for (_, why) in rows.iter().filter(|(is_wrong, _)| *is_wrong) {
            self.fault("write", *why);
        }
    }

    /// Warnings about a command that may do more, or less, than is known.
    fn advise_command(
        &mut self,
        write: &file::WriteConfig,
        command: &TextCommand,
        limits: [Option<f64>; 2],
    ) {
        let takes_any = match &command.value {
            CommandValue::Number { meaning, .. } | CommandValue::Bytes(meaning) => {
                meaning.words.is_empty() && !meaning.kind.is_text()
            }
            CommandValue::Nothing | CommandValue::Text(_) => false,
        };
        if takes_any && limits.contains(&None) {
            self.warn(
                "write",
                "every number can be written; set the limits of the instrument: `write: { min: 0, max: 50 }`",
            );
        }
        if command.expect.is_none() && write.read_back.and_then(|how| how.0).is_none() {
            self.warn(
                "write",
                "nothing shows whether the instrument carries it out: add `expect:` with its answer, or `read_back: true`",
            );
        }
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
        let writable = self.spec.writable.clone().unwrap_or_default();
        if are_swapped(writable.min, writable.max) {
            self.fault(
                "writable",
                "no value is between these limits; `min` is the smaller one",
            );
        }
        writable
    }
}

/// The meaning of what is written.
fn meaning_of(source: &PointSource) -> Option<&Meaning> {
    match source {
        PointSource::Register { register, .. } => Some(&register.meaning),
        PointSource::Extracted(found) => Some(&found.meaning),
        PointSource::Command(meaning) => Some(meaning),
        _ => None,
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
