//! Messages of instruments to values. Pure.
//!
//! Invariants:
//! * A number is only good with its identity and its unit: lines that belong together are joined by
//!   the groups that both name, and a unit that is not the one of the point is converted or makes
//!   the value bad.
//! * A fault that a message reports itself (`bad_when`) overrides any number in it.

use std::sync::Arc;

use regex::bytes::Captures;
use serde::Deserialize;

use super::script::Pattern;
use crate::field::decode::Meaning;
use crate::field::{Device, PointSource, Sample, Values};
use crate::reading::Value;

/// The group that holds the value, where the first one does not.
const VALUE: &str = "value";
/// The group that holds the unit.
pub const UNIT: &str = "unit";
/// Characters of a pattern that a reason shows.
const MOST_SHOWN: usize = 40;

/// The location of a value in a message.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueLocation {
    /// The group of this name in the device's `match`.
    Group(String),
    /// The group `value`, or else the first one, of the first of these patterns that is in the
    /// message.
    Find(Vec<Pattern>),
    /// Bytes from here on; below zero counted from the end.
    Byte(isize),
}

/// How the number of a point is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notation {
    /// 48.1173
    #[default]
    Decimal,
    /// Degrees and minutes without a separator, as in NMEA 0183: 4807.038 is 48.1173 degrees.
    DegreesMinutes,
}

/// A value in the messages of an instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct Extraction {
    /// Where.
    pub place: ValueLocation,
    /// Only in messages with this pattern; a group that `place` names, too, must hold the same in
    /// both.
    pub when: Option<Pattern>,
    /// Messages that say that there is no good value, and why.
    pub bad_when: Vec<(Pattern, Arc<str>)>,
    /// The meaning of the number in each unit that a message may name; empty: units are ignored.
    pub units: Vec<(Box<str>, Meaning)>,
    /// The unit of messages that name none.
    pub unit_if_none: Option<Arc<str>>,
    /// How it is written.
    pub notation: Notation,
    /// Text for text: what the instrument writes, and what is published.
    pub words: Vec<(Box<str>, Arc<str>)>,
    /// The meaning of the number.
    pub meaning: Meaning,
}

/// Bytes of a message that are changed before anything is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subtract {
    /// The value subtracted from each byte.
    pub value: u8,
    /// The first byte.
    pub from: usize,
    /// First byte that stays unchanged, counted from the end, below zero.
    pub to: isize,
}

impl Subtract {
    /// The other way round: a message as it travels, from one as patterns see it, whose last
    /// `behind` bytes stay.
    pub(super) fn undo(self, message: &mut [u8], behind: usize) {
        let end = message.len().saturating_sub(behind);
        let bytes = message.get_mut(self.from..end).unwrap_or_default();
        bytes
            .iter_mut()
            .for_each(|byte| *byte = byte.wrapping_add(self.value));
    }

    pub(super) fn apply(self, message: &mut [u8]) {
        let end = message.len().saturating_sub(self.to.unsigned_abs());
        if let Some(bytes) = message.get_mut(self.from..end) {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_sub(self.value));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(
        |_| bytes.iter().map(|byte| char::from(*byte)).collect(),
        str::to_owned,
    )
}

/// A number with the unit beside it, as the instrument wrote both.
struct WrittenNumber {
    number: String,
    unit: Option<String>,
}

impl WrittenNumber {
    /// The text of a group of the device's pattern, with the unit from the group beside it or of
    /// the whole message.
    fn of_group(name: &str, captures: &Captures<'_>) -> Option<Self> {
        let unit = captures
            .name(&format!("{name}_{UNIT}"))
            .or_else(|| captures.name(UNIT).filter(|_| name != UNIT));
        Some(Self {
            number: text(captures.name(name)?.as_bytes()),
            unit: unit.map(|unit| text(unit.as_bytes())),
        })
    }

    /// The match of a pattern; `joined`: groups that only identify the line. `None` if no group
    /// took part.
    fn of(pattern: &Pattern, captures: &Captures<'_>, joined: &[&str]) -> Option<Self> {
        let names = || pattern.0.capture_names().enumerate().skip(1);
        let is_value =
            |name: Option<&str>| name.is_none_or(|name| name != UNIT && !joined.contains(&name));
        let candidates = || names().filter(|(_, name)| is_value(*name));
        let group = |(index, _): (usize, Option<&str>)| captures.get(index);
        let number = match captures.name(VALUE) {
            Some(found) => found,
            // A pattern without groups is the value itself.
            None if candidates().next().is_none() => captures.get(0)?,
            None => candidates().find_map(group)?,
        };
        Some(Self {
            number: text(number.as_bytes()),
            unit: captures.name(UNIT).map(|unit| text(unit.as_bytes())),
        })
    }
}

impl Extraction {
    /// The value in a message; `None` if this message does not bring it.
    fn value(
        &self,
        message: &[u8],
        captures: Option<&Captures<'_>>,
    ) -> Option<Result<Value, Arc<str>>> {
        if self
            .when
            .as_ref()
            .is_some_and(|when| !when.0.is_match(message))
        {
            return None;
        }
        if let Some((_, why)) = self
            .bad_when
            .iter()
            .find(|(pattern, _)| pattern.0.is_match(message))
        {
            return Some(Err(Arc::clone(why)));
        }
        match &self.place {
            ValueLocation::Group(name) => {
                let written = WrittenNumber::of_group(name, captures?)?;
                Some(self.meant(&written))
            }
            ValueLocation::Find(patterns) => {
                let found = self.find(patterns, message).transpose()?;
                Some(found.and_then(|written| self.meant(&written)))
            }
            ValueLocation::Byte(at) => {
                let from = if *at < 0 {
                    message.len().checked_sub(at.unsigned_abs())?
                } else {
                    at.unsigned_abs()
                };
                let Some(bytes) = message.get(from..from + self.meaning.bytes()) else {
                    return Some(Err("the message is too short".into()));
                };
                Some(self.meaning.decode_bytes(bytes))
            }
        }
    }

    /// The match of the first pattern. With groups that `when` names, too: in the one line that
    /// holds the same as a line of `when`.
    fn find(
        &self,
        patterns: &[Pattern],
        message: &[u8],
    ) -> Result<Option<WrittenNumber>, Arc<str>> {
        let mut chosen: Option<(Vec<Vec<u8>>, WrittenNumber)> = None;
        for pattern in patterns {
            let joined = self.joined(pattern);
            if joined.is_empty() {
                if let Some(written) = pattern
                    .0
                    .captures(message)
                    .and_then(|captures| WrittenNumber::of(pattern, &captures, &[]))
                {
                    return Ok(Some(written));
                }
                continue;
            }
            let lines = self.lines_of_when(message, &joined);
            for captures in pattern.0.captures_iter(message) {
                let key = key(&captures, &joined);
                let Some(written) =
                    WrittenNumber::of(pattern, &captures, &joined).filter(|_| lines.contains(&key))
                else {
                    continue;
                };
                match &chosen {
                    Some((other, _)) if *other != key => return Err(several(&joined, other, &key)),
                    Some(_) => {}
                    None => chosen = Some((key, written)),
                }
            }
        }
        Ok(chosen.map(|(_, written)| written))
    }

    /// The groups that `when` and a pattern of `find` both name.
    fn joined<'a>(&self, pattern: &'a Pattern) -> Vec<&'a str> {
        let Some(when) = &self.when else {
            return Vec::new();
        };
        let names = pattern.0.capture_names().flatten();
        names
            .filter(|name| when.0.capture_names().flatten().any(|other| other == *name))
            .collect()
    }

    fn lines_of_when(&self, message: &[u8], joined: &[&str]) -> Vec<Vec<Vec<u8>>> {
        let when = self.when.iter();
        when.flat_map(|when| {
            when.0
                .captures_iter(message)
                .map(|captures| key(&captures, joined))
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// The value of a number as written.
    fn meant(&self, written: &WrittenNumber) -> Result<Value, Arc<str>> {
        let number = written.number.trim();
        if let Some((_, word)) = self.words.iter().find(|(raw, _)| **raw == *number) {
            return Ok(Value::Text(Arc::clone(word)));
        }
        let meaning = self.in_unit(written.unit.as_deref().map(str::trim).unwrap_or_default())?;
        match self.notation {
            Notation::Decimal => meaning.decode_text(number),
            Notation::DegreesMinutes => meaning.decode_text(&degrees(number)?),
        }
    }

    /// The meaning of a number in this unit.
    fn in_unit(&self, unit: &str) -> Result<&Meaning, Arc<str>> {
        if self.units.is_empty() {
            return Ok(&self.meaning);
        }
        let named = |unit: &str| {
            self.units
                .iter()
                .find(|(known, _)| **known == *unit)
                .map(|(_, meaning)| meaning)
        };
        // A default unit for energy is no default for a voltage.
        let default = self
            .unit_if_none
            .as_deref()
            .filter(|default| unit.is_empty() && named(default).is_some());
        named(default.unwrap_or(unit)).ok_or_else(|| match unit {
            "" => "the message gives no unit; if you know it, write it as `text: { unit_if_none: ... }`".into(),
            unit => {
                let known: Vec<&str> = self.units.iter().map(|(known, _)| &**known).collect();
                format!("the unit is {} and not {}; add it to `units:` of the point", shown(unit), known.join(", ")).into()
            }
        })
    }

    /// The text that messages are searched for, for people.
    pub(super) fn sought(&self, name: &str) -> String {
        match &self.place {
            ValueLocation::Group(group) => format!("\"{group}\""),
            ValueLocation::Find(patterns) => patterns
                .first()
                .map_or_else(|| name.to_owned(), |pattern| readable(pattern.0.as_str())),
            ValueLocation::Byte(_) => self
                .when
                .as_ref()
                .map_or_else(|| format!("\"{name}\""), |when| readable(when.0.as_str())),
        }
    }
}

/// The texts of the groups by which lines are joined.
fn key(captures: &Captures<'_>, joined: &[&str]) -> Vec<Vec<u8>> {
    joined
        .iter()
        .map(|name| {
            captures
                .name(name)
                .map(|found| found.as_bytes().to_vec())
                .unwrap_or_default()
        })
        .collect()
}

fn several(joined: &[&str], one: &[Vec<u8>], other: &[Vec<u8>]) -> Arc<str> {
    let told = |key: &[Vec<u8>]| {
        key.iter()
            .map(|part| shown(&text(part)))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (name, one, other) = (joined.join(" "), told(one), told(other));
    format!("{name} {one} and {name} {other} both carry this value; add a `find:` to the point to choose one").into()
}

/// Text of a peer, fit for a log.
fn shown(text: &str) -> String {
    text.chars()
        .take(MOST_SHOWN)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `4807.038` as degrees.
fn degrees(number: &str) -> Result<String, Arc<str>> {
    let unreadable = || Arc::from(format!("`{}` is not degrees and minutes", shown(number)));
    let dot = number.find('.').unwrap_or(number.len());
    let split = dot
        .checked_sub(2)
        .and_then(|at| number.split_at_checked(at));
    let (whole, minutes) = split.ok_or_else(unreadable)?;
    let degrees: f64 = if whole.is_empty() {
        0.0
    } else {
        whole.parse::<u16>().map_err(|_| unreadable())?.into()
    };
    let minutes = minutes
        .parse::<f64>()
        .ok()
        .filter(|minutes| (0.0..60.0).contains(minutes))
        .ok_or_else(unreadable)?;
    Ok(format!("{:.9}", degrees + minutes / 60.0))
}

/// The beginning of the lines that a regular expression matches, as it is in messages: `1-0:1.8.0`
/// of `^1-0:1\.8\.0\((\d+)`; the expression itself where that would say nothing.
fn readable(pattern: &str) -> String {
    let mut plain = String::new();
    let mut rest = without_prefix(pattern);
    while let Some(c) = rest.chars().next() {
        let escaped = rest.strip_prefix('\\').filter(|behind| {
            !behind.starts_with('(') && behind.starts_with(|c: char| c.is_ascii_punctuation())
        });
        if let Some(behind) = behind_digits(rest) {
            plain.push('n');
            rest = behind;
        } else if let Some((c, behind)) =
            escaped.and_then(|behind| behind.chars().next().zip(behind.get(1..)))
        {
            plain.push(c);
            rest = behind;
        } else if r"\([{?*+|$".contains(c) {
            break;
        } else {
            plain.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    let plain = plain.trim_end_matches(['*', ' ']);
    if plain.chars().filter(char::is_ascii_alphanumeric).count() >= 2 {
        plain.to_owned()
    } else {
        shown(pattern)
    }
}

/// A pattern without what may or must precede the line that it describes.
fn without_prefix(pattern: &str) -> &str {
    let mut begin = pattern.trim_start_matches('^');
    while let Some((_, behind)) = begin
        .strip_prefix("(?:")
        .and_then(|inner| inner.split_once(')'))
    {
        begin = behind.trim_start_matches('?');
    }
    begin
}

/// The rest of a pattern that begins with digits which differ from message to message.
fn behind_digits(pattern: &str) -> Option<&str> {
    let mut digits = ["\\d+", "\\d", "[01]", "[13]"].into_iter();
    let group = || {
        let (_, inner) = pattern.strip_prefix("(?P<")?.split_once('>')?;
        inner.strip_prefix("\\d+)")
    };
    digits
        .find_map(|digit| pattern.strip_prefix(digit))
        .or_else(group)
}

/// The values that a message brings; `None` if it is none of this device's.
pub(super) fn values(device: &Device, pattern: Option<&Pattern>, message: &[u8]) -> Option<Values> {
    let captures = match pattern {
        Some(pattern) => Some(pattern.0.captures(message)?),
        None => None,
    };
    let found = device
        .points
        .iter()
        .filter_map(|point| match &point.source {
            PointSource::Extracted(found) => {
                let value = found.value(message, captures.as_ref())?;
                Some(Sample::new(point.id, value))
            }
            _ => None,
        });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::DataType;

    fn found(place: &[&str], when: Option<&str>, units: &[(&str, f64)]) -> Extraction {
        let pattern = |text: &str| Pattern::new(text, None).unwrap();
        let meaning = Meaning::new(DataType::F64);
        let in_unit = |(name, scale): &(&str, f64)| {
            (
                (*name).into(),
                Meaning {
                    scale: *scale,
                    decimals: Some(6),
                    ..meaning.clone()
                },
            )
        };
        Extraction {
            place: ValueLocation::Find(place.iter().map(|text| pattern(text)).collect()),
            when: when.map(pattern),
            bad_when: Vec::new(),
            units: units.iter().map(in_unit).collect(),
            unit_if_none: None,
            notation: Notation::Decimal,
            words: Vec::new(),
            meaning,
        }
    }

    fn check(found: &Extraction, message: &str, expected: &str) {
        let told = match found.value(message.as_bytes(), None) {
            None => "nothing".to_owned(),
            Some(Ok(value)) => value.to_string(),
            Some(Err(why)) => format!("bad: {why}"),
        };
        if let Some(part) = expected.strip_prefix("bad: ") {
            assert!(
                told.starts_with("bad: ") && told.contains(part),
                "{message:?}: {told}"
            );
        } else {
            assert_eq!(told, expected, "{message:?}");
        }
    }

    #[test]
    fn a_group_of_one_line_selects_another_line() {
        let value = r"^0-(?P<channel>\d):24\.2\.[13]\(\d+\)\(([\d.]+)\*(?P<unit>m3)\)";
        let water = found(
            &[value],
            Some(r"^0-(?P<channel>\d):24\.1\.0\(0*7\)"),
            &[("m3", 1.0)],
        );
        let telegram = "0-1:24.1.0(003)\r\n0-1:24.2.1(12)(1.5*m3)\r\n0-2:24.2.1(12)(2.5*m3)\r\n0-2:24.1.0(007)\r\n";
        check(&water, telegram, "2.5");
        check(&water, &telegram.replace("(007)", "(006)"), "nothing");
        check(
            &water,
            &telegram.replace("0-2:24.2.1", "0-3:24.2.1"),
            "nothing",
        );
        check(
            &water,
            &telegram.replace("(003)", "(007)"),
            "bad: channel 1 and channel 2",
        );
        // Both lines of one channel: the first counts.
        check(&water, &telegram.replace("0-1:24.2.1", "0-2:24.2.3"), "1.5");
    }

    #[test]
    fn the_first_group_that_takes_part_is_the_value() {
        check(&found(&[r"A(\d+)|B(\d+)"], None, &[]), "B7", "7");
        check(
            &found(&[r"(?:A=(?P<value>\d+))|x"], None, &[]),
            "x",
            "nothing",
        );
        check(
            &found(&[r"(?P<word>[A-Z])=(?P<value>\d+)"], None, &[]),
            "T=5",
            "5",
        );
        check(&found(&[r"\d+"], None, &[]), "T=5", "5");
        check(&found(&[r"A=(\d+)", r"B=(\d+)"], None, &[]), "B=1 A=2", "2");
    }

    #[test]
    fn a_number_in_another_unit_is_converted_or_bad() {
        let energy = found(
            &[r"E=([\d.]+)(?:\*(?P<unit>\w+))?"],
            None,
            &[("kWh", 1.0), ("Wh", 0.001)],
        );
        check(&energy, "E=12.5*kWh", "12.5");
        check(&energy, "E=6545766*Wh", "6545.766");
        check(&energy, "E=1*EUR", "bad: the unit is EUR");
        check(&energy, "E=1", "bad: gives no unit");
        let known = Extraction {
            unit_if_none: Some("Wh".into()),
            ..energy.clone()
        };
        check(&known, "E=1000", "1");
        // A unit of another quantity does not apply to this one.
        check(
            &Extraction {
                unit_if_none: Some("V".into()),
                ..energy
            },
            "E=1",
            "bad: gives no unit",
        );
    }

    #[test]
    fn a_message_may_say_that_its_value_is_not_good() {
        let void = (Pattern::new(",V,", None).unwrap(), "not valid".into());
        let position = Extraction {
            bad_when: vec![void],
            notation: Notation::DegreesMinutes,
            ..found(
                &[r"([\d.]+),(?P<unit>[NS])"],
                None,
                &[("N", 1.0), ("S", -1.0)],
            )
        };
        check(&position, "A,4807.038,N", "48.1173");
        check(&position, "A,0007.5,S", "-0.125");
        check(&position, "x,V,4807.038,N", "bad: not valid");
        check(&position, "A,4861.0,N", "bad: not degrees and minutes");
        check(&position, "A,7,N", "bad: not degrees and minutes");
    }

    #[test]
    fn a_pattern_is_told_as_it_stands_in_messages() {
        for (pattern, expected) in [
            (r"^1-[01]:31\.7\.0(?:\*255)?\(([\d.]+)\*A\)", "1-n:31.7.0"),
            (r"^0-(?P<channel>\d+):24\.2\.[13]\(", "0-n:24.2.n"),
            (r"^\$..GGA,(?:[^,]*,){8}(-?[\d.]+),M", "$..GGA,"),
            (r"RH\s*=\s*([\d.]+)", "RH"),
            (
                r"(?:^|[\x02\x29])(?:1-[01]:)?1\.8\.0(?:[*.]255)?\(",
                "1.8.0",
            ),
            (r"^(?:1-[01]:)?71\.7\.0(?:[*.]255)?\(", "71.7.0"),
            (r"^(\d+)", r"^(\d+)"),
        ] {
            assert_eq!(readable(pattern), expected);
        }
    }
}
