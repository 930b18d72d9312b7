//! The script before an instrument sends its values: send, expect, wait, change speed. Pure.

use regex::bytes::Regex;
use serde::{Deserialize, de};

use super::bytes::Template;
use crate::units::Span;

/// One step, as typed: `{ send: '/?!\r\n' }`, `{ expect: '/(?P<name>.*)\r\n' }`, `{ wait: 300ms }`,
/// `{ speed: 9600 7E1 }`.
#[derive(Debug, Clone)]
pub enum ScriptStep {
    /// Sends bytes.
    Send(Template),
    /// Reads until the pattern is found; what its groups hold can be filled in from then on.
    Expect(Regex),
    /// Waits: a time, or a group that holds seconds.
    Wait(Template),
    /// Goes on at another speed, such as `9600 7E1`; `{digit}` alone is a digit of IEC 62056-21.
    Speed(Template),
    /// Only if the group of this name was found: `{ send: ..., if: speed }`.
    If(String, Box<ScriptStep>),
}

impl PartialEq for ScriptStep {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Expect(one), Self::Expect(another)) => one.as_str() == another.as_str(),
            (Self::Send(one), Self::Send(another))
            | (Self::Wait(one), Self::Wait(another))
            | (Self::Speed(one), Self::Speed(another)) => one == another,
            (Self::If(name, step), Self::If(other, another)) => name == other && step == another,
            _ => false,
        }
    }
}

/// A pattern over bytes: `.` is any byte, and text is ASCII.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl ScriptStep {
    /// The step itself, without its conditions.
    pub fn always(&self) -> &Self {
        let mut step = self;
        while let Self::If(_, inner) = step {
            step = inner;
        }
        step
    }
}

impl Pattern {
    /// Reads a regular expression. `{address}` stands for the address as text, `{address_hex}` for
    /// its digits as bytes, the last first; without an address for any.
    pub fn new(text: &str, address: Option<&str>) -> Result<Self, String> {
        let digits = address.map(|address| {
            let pairs: Vec<String> = address
                .as_bytes()
                .chunks(2)
                .map(|pair| format!("\\x{}", String::from_utf8_lossy(pair)))
                .collect();
            pairs.into_iter().rev().collect::<String>()
        });
        let plain = address.map_or_else(|| ".+?".to_owned(), regex::escape);
        let whole = text
            .replace("{address}", &plain)
            .replace("{address_hex}", digits.as_deref().unwrap_or(".+?"));
        let built = regex::bytes::RegexBuilder::new(&whole)
            .unicode(false)
            .dot_matches_new_line(true)
            .multi_line(true)
            .build();
        built.map(Self).map_err(|error| {
            // The last line of the message names the fault; the others draw a picture.
            let why = error.to_string();
            format!(
                "`{text}` is not a regular expression: {}",
                why.lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
            )
        })
    }
}

impl Pattern {
    /// The names of its groups.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?, None).map_err(de::Error::custom)
    }
}

/// A pattern as typed, whose `{address}` is not filled in yet.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedPattern {
    /// The text.
    pub text: String,
    /// With any address.
    pub any: Pattern,
}

impl<'de> Deserialize<'de> for TypedPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Pattern::new(&text, None)
            .map(|any| Self { text, any })
            .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ScriptStep {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TypedScript {
            send: Option<Template>,
            expect: Option<Pattern>,
            wait: Option<Template>,
            speed: Option<Template>,
            r#if: Option<String>,
        }
        let TypedScript {
            send,
            expect,
            wait,
            speed,
            r#if,
        } = TypedScript::deserialize(deserializer)?;
        let steps = [
            send.map(Self::Send),
            expect.map(|Pattern(pattern)| Self::Expect(pattern)),
            wait.map(Self::Wait),
            speed.map(Self::Speed),
        ];
        let mut given = steps.into_iter().flatten();
        match (given.next(), given.next(), r#if) {
            (Some(step), None, None) => Ok(step),
            (Some(step), None, Some(name)) => Ok(Self::If(name, Box::new(step))),
            _ => Err(de::Error::custom(
                "write one of send, expect, wait and speed in a step; `if` may be added to each of them",
            )),
        }
    }
}

/// A time as typed, or seconds from an answer.
pub(super) fn time(text: &[u8]) -> Result<std::time::Duration, String> {
    let text = String::from_utf8_lossy(text);
    let seconds = text
        .trim()
        .parse::<u64>()
        .ok()
        .filter(|seconds| *seconds <= 3600)
        .map(std::time::Duration::from_secs);
    seconds.map_or_else(|| text.parse::<Span>().map(|span| span.0), Ok)
}

/// A speed as typed, or the digit (mode C) or letter (mode B) by which IEC 62056-21 names it.
pub(super) fn speed(text: &[u8]) -> Result<crate::field::serial::Speed, String> {
    let text = String::from_utf8_lossy(text);
    let named = match text.as_ref() {
        "0" => "300 7E1",
        "1" | "A" => "600 7E1",
        "2" | "B" => "1200 7E1",
        "3" | "C" => "2400 7E1",
        "4" | "D" => "4800 7E1",
        "5" | "E" => "9600 7E1",
        "6" | "F" => "19200 7E1",
        other => other,
    };
    named.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_one_thing_each() {
        let read = |text: &str| {
            serde_yaml::from_str::<ScriptStep>(text).map_err(|error| error.to_string())
        };
        assert!(matches!(read("{ send: 'x' }"), Ok(ScriptStep::Send(_))));
        assert!(matches!(
            read("{ expect: '(?P<z>\\d)' }"),
            Ok(ScriptStep::Expect(_))
        ));
        assert!(matches!(read("{ send: x, if: z }"), Ok(ScriptStep::If(name, _)) if name == "z"));
        assert!(read("{ if: z }").unwrap_err().contains("one of"));
        assert!(
            read("{ send: x, wait: 1s }")
                .unwrap_err()
                .contains("one of")
        );
        assert!(
            read("{ expect: '(' }")
                .unwrap_err()
                .contains("not a regular expression")
        );
        assert_eq!(time(b"013"), Ok(std::time::Duration::from_secs(13)));
        assert_eq!(time(b"300ms"), Ok(std::time::Duration::from_millis(300)));
        assert_eq!(speed(b"5").unwrap().baud, 9600);
        assert_eq!(speed(b"D").unwrap().baud, 4800);
        assert!(speed(b"Z").is_err());
    }
}
