//! Values of plain instruments: where they are in messages, and in which units.

use std::sync::Arc;

use super::at;
use super::context::PointCheck;
use super::text_command::{TypedCommand, words_of_text};
use super::unused::ValueShape;
use crate::config::file::{self, OneOrMore};
use crate::field::PointSource;
use crate::field::decode::{DataType, Meaning, Table};
use crate::field::text::parse::{Extraction, Notation, UNIT, ValueLocation};
use crate::field::text::script::Pattern;

impl PointCheck<'_, '_> {
    /// The value of the point in messages; `None` if its place or its type is faulty.
    pub(super) fn found(&mut self) -> Option<PointSource> {
        let spec = self.spec;
        if self.context.simulated {
            return Some(PointSource::Simulated);
        }
        self.check_place_in_messages();
        if self.is_only_written() {
            return self.written_only();
        }
        let place = self.place_in_messages()?;
        let is_bytes = matches!(place, ValueLocation::Byte(_));
        let typed = if is_bytes {
            spec.clone()
        } else {
            self.typed_as_text()
        };
        let meaning = self.with(self.name, &typed).meaning(Table::Holding)?;
        self.check_used(if is_bytes {
            ValueShape::Bytes(meaning.kind)
        } else {
            ValueShape::Written(meaning.kind)
        });
        let units = self.units(&place, &meaning);
        let is_degrees = spec.notation == Some(Notation::DegreesMinutes);
        if is_degrees && (is_bytes || meaning.kind != DataType::F64) {
            self.fault(
                "notation",
                "degrees and minutes are a number in text; remove `type` or `byte`",
            );
        }
        Some(PointSource::Extracted(Box::new(Extraction {
            place,
            when: spec.when.clone(),
            bad_when: self.bad_when(),
            units,
            unit_if_none: self.context.text().unit_if_none.as_deref().map(Arc::from),
            notation: spec.notation.unwrap_or_default(),
            words: words_of_text(spec, &meaning),
            meaning,
        })))
    }

    fn place_in_messages(&mut self) -> Option<ValueLocation> {
        match (&self.spec.find, self.spec.byte) {
            (Some(OneOrMore(patterns)), _) => Some(ValueLocation::Find(patterns.clone())),
            (None, Some(at)) => Some(ValueLocation::Byte(at)),
            (None, None) => self.group(),
        }
    }

    /// True if it has a command, and no place in messages.
    fn is_only_written(&self) -> bool {
        let is_group = || {
            let pattern = self.message_pattern();
            pattern.is_some_and(|pattern| pattern.names().any(|name| name == self.name))
        };
        let spec = self.spec;
        let has_place = spec.find.is_some() || spec.byte.is_some() || spec.from.is_some();
        TypedCommand::of(spec).is_typed() && !has_place && !is_group()
    }

    /// One place, and none in registers.
    fn check_place_in_messages(&mut self) {
        let spec = self.spec;
        let given = [
            spec.from.is_some(),
            spec.find.is_some(),
            spec.byte.is_some(),
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            let name = self.name;
            self.fault("from", format!("point \"{name}\" says twice where its value is; keep one of from, find and byte"));
        }
        let has_register = spec.at.is_some()
            || spec.holding.is_some()
            || spec.input.is_some()
            || spec.coil.is_some()
            || spec.discrete.is_some()
            || spec.file.is_some()
            || spec.record.is_some();
        if has_register {
            self.fault(
                "at",
                "a plain instrument has no registers; write from, find or byte",
            );
        }
        for (is_given, key) in [
            (spec.scale_from.is_some(), "scale_from"),
            (spec.every.is_some(), "every"),
            (spec.group.is_some(), "group"),
        ] {
            if is_given {
                self.fault(
                    key,
                    "points of a plain instrument do not have this; remove it (`every` below `text:` says how often it is asked)",
                );
            }
        }
    }

    /// The point with the type that text has where none is typed: text brings its own length, and a
    /// number in it may have decimals.
    pub(super) fn typed_as_text(&mut self) -> file::PointConfig {
        let mut typed = self.spec.clone();
        let has_words_for_text = typed
            .words
            .iter()
            .flatten()
            .any(|(raw, _)| raw.number().is_none());
        let is_whole = typed.words.is_some()
            || typed.flags.is_some()
            || typed.bit.is_some()
            || typed.bits.is_some()
            || typed.mask.is_some();
        let kind = typed.kind.unwrap_or(if has_words_for_text {
            DataType::Text
        } else if is_whole {
            DataType::I64
        } else {
            DataType::F64
        });
        typed.kind = Some(kind);
        if typed.array.is_some() {
            self.fault(
                "array",
                "an array is read from bytes; write `byte:`, or one point for each value",
            );
        }
        typed.length = typed
            .length
            .or_else(|| (kind == DataType::Text).then_some(1));
        typed
    }

    fn bad_when(&mut self) -> Vec<(Pattern, Arc<str>)> {
        let spec = self.spec;
        let mut patterns = Vec::new();
        for (text, why) in spec.bad_when.iter().flatten() {
            match Pattern::new(text, self.context.device.address.as_deref()) {
                Ok(pattern) => patterns.push((pattern, Arc::from(why.as_str()))),
                Err(why) => self.fault("bad_when", why),
            }
        }
        patterns
    }

    /// The meaning of a number in each unit that messages may name. Without `units` that is the
    /// unit of the point alone.
    fn units(&mut self, place: &ValueLocation, meaning: &Meaning) -> Vec<(Box<str>, Meaning)> {
        let is_named = self.names_unit(place);
        let is_text = meaning.kind.is_text();
        match (&self.spec.units, &self.spec.unit) {
            (Some(_), _) if !is_named => {
                self.fault("units", "no group of the pattern holds the unit; name one (?P<unit>...), or remove `units`");
                Vec::new()
            }
            (Some(_), _) if is_text => {
                self.fault("units", "text has no unit; remove `units`, or the `type`");
                Vec::new()
            }
            (Some(units), _) => {
                let is_wrong = |factor: &file::Factor| {
                    !factor.scale.is_finite() || factor.scale == 0.0 || !factor.offset.is_finite()
                };
                if units.values().any(is_wrong) {
                    self.fault("units", "a factor is a number other than 0, such as 0.001");
                }
                let in_unit = |factor: &file::Factor| Meaning {
                    scale: meaning.scale * factor.scale,
                    offset: meaning.offset + meaning.scale * factor.offset,
                    ..meaning.clone()
                };
                units
                    .iter()
                    .map(|(unit, factor)| (unit.as_str().into(), in_unit(factor)))
                    .collect()
            }
            (None, Some(unit)) if is_named && !is_text => {
                vec![(unit.as_str().into(), meaning.clone())]
            }
            (None, _) => Vec::new(),
        }
    }

    /// True if a group of the pattern holds the unit of the value.
    fn names_unit(&self, place: &ValueLocation) -> bool {
        match place {
            ValueLocation::Group(group) => {
                let own = format!("{group}_{UNIT}");
                group != UNIT
                    && self
                        .message_pattern()
                        .iter()
                        .flat_map(Pattern::names)
                        .any(|name| name == own || name == UNIT)
            }
            ValueLocation::Find(patterns) => patterns
                .iter()
                .flat_map(Pattern::names)
                .any(|name| name == UNIT),
            ValueLocation::Byte(_) => false,
        }
    }

    /// The pattern of all messages of the instrument.
    fn message_pattern(&self) -> Option<Pattern> {
        self.context
            .device
            .each_line
            .clone()
            .or_else(|| self.context.text().pattern.map(|typed| typed.any))
    }

    /// The group of the pattern with the name of the point, or the one it names.
    fn group(&mut self) -> Option<ValueLocation> {
        let spec = self.spec;
        let name = self.name;
        let group = spec.from.as_deref().unwrap_or(name);
        let pattern = self.message_pattern();
        let known: Vec<String> = pattern
            .iter()
            .flat_map(|pattern| pattern.0.capture_names().flatten())
            .map(str::to_owned)
            .collect();
        if known.iter().any(|known| known == group) {
            return Some(ValueLocation::Group(group.to_owned()));
        }
        if known.is_empty() {
            // A wrong pattern is a fault already.
            let place = if self.context.device.text.is_some() {
                at!["devices", self.context.index, "text"].to_vec()
            } else {
                self.context.text_path("match")
            };
            if pattern.is_none() && self.check.is_faulty(&place) {
                return None;
            }
            self.missing("from", format!(
                    "point \"{name}\" does not say where its value is; name it in the pattern as (?P<{name}>...), or add `find:` or `byte:`"
                ),
            );
        } else {
            self.unknown("from", "group", group, &known);
        }
        None
    }
}
