//! Commands to plain instruments: the bytes that write a value to a point, and what the answer
//! says. Pure.
//!
//! Invariants:
//! * A value never adds a byte to a command that ends it or begins another: text is printable
//!   ASCII, and a number keeps to the width of its place.
//! * What the instrument refuses is refused, even if the answer looks like a confirmation, too.

use std::collections::HashMap;
use std::sync::Arc;

use regex::bytes::Regex;
use serde::{Deserialize, de};

use super::TextProtocol;
use super::bytes::Template;
use super::checksum::Checksum;
use super::held::Held;
use super::script::Pattern;
use super::telegram::NumberFormat;
use crate::field::decode::{Meaning, round_to};
use crate::reading::Value;

/// The placeholder for the value; what follows a colon behind it is the format of a number.
pub const VALUE: &str = "value";
/// Whole numbers above are not exact as floating-point numbers.
const MOST_EXACT: f64 = 9e15;
const MOST_DECIMALS: usize = 15;

/// The command that writes a point.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCommand {
    /// Its bytes, with `{value}` unless it takes none.
    pub send: Template,
    /// The answer that confirms it; `None`: none is waited for.
    pub expect: Option<Pattern>,
    /// The answer that refuses it; `None`: any other than `expect`.
    pub refuse: Option<Pattern>,
    /// What it takes.
    pub value: CommandValue,
    /// What a simulator does; `None`: it keeps the value, and says nothing.
    pub simulated: SimulatedReply,
}

/// What a command takes.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandValue {
    /// No value: it is carried out when true or 1 is written.
    Nothing,
    /// A number in text.
    Number {
        /// Scale, words and type.
        meaning: Meaning,
        /// How it is written.
        format: NumberFormat,
    },
    /// Text: one of the words by what the instrument calls them, or any where there are none.
    Text(Vec<(Box<str>, Arc<str>)>),
    /// Bytes.
    Bytes(Meaning),
}

/// What a simulator does at a command: `'OK\r\n'`, or `{ say: 'OK\r\n', zero: [ weight ] }`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SimulatedReply {
    /// The answer.
    pub say: Option<Template>,
    /// Points that show 0 from then on, and what they differ from their present value later.
    pub zero: Vec<String>,
}

/// What an answer says about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerVerdict {
    Confirmed,
    Refused,
    Other,
}

impl<'de> Deserialize<'de> for SimulatedReply {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TypedReply {
            say: Option<Template>,
            #[serde(default)]
            zero: Vec<String>,
        }
        let value = serde_json::Value::deserialize(deserializer)?;
        let is_typed_out =
            |value: &serde_json::Value| value.get("say").is_some() || value.get("zero").is_some();
        let reply = if is_typed_out(&value) {
            serde_json::from_value(value).map(|TypedReply { say, zero }| Self { say, zero })
        } else {
            serde_json::from_value(value).map(|say| Self {
                say: Some(say),
                zero: Vec::new(),
            })
        };
        reply.map_err(de::Error::custom)
    }
}

impl TextCommand {
    /// A value in the type of the command; the error says why it does not take it.
    pub fn wanted(&self, value: &Value) -> Result<Value, String> {
        let value = self.value.in_its_type(value)?;
        self.value.encode(&value).map(|_| value)
    }

    /// The value that the instrument shows once it was written.
    pub fn shown(&self, value: Value) -> Value {
        let shown = self
            .value
            .encode(&value)
            .ok()
            .and_then(|bytes| self.value.decode(&bytes));
        shown.unwrap_or(value)
    }

    /// Its bytes with a value; `groups`: what else is filled in.
    pub(super) fn bytes(
        &self,
        protocol: &TextProtocol,
        value: &Value,
        groups: &HashMap<String, Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let encoded = self.value.encode(value)?;
        Ok(self.filled(protocol, &encoded, groups))
    }

    /// Its bytes with a value as the instrument takes it.
    pub(super) fn filled(
        &self,
        protocol: &TextProtocol,
        value: &[u8],
        groups: &HashMap<String, Vec<u8>>,
    ) -> Vec<u8> {
        let mut groups = groups.clone();
        if let Some(name) = self.placeholder() {
            groups.insert(name.to_owned(), self.send.as_typed(value));
        }
        self.send
            .fill(&groups, |before| protocol.checksum_of_request(before))
    }

    /// The placeholder of the value, as typed.
    pub(super) fn placeholder(&self) -> Option<&str> {
        self.send.names().find(|name| is_value(name))
    }

    /// The pattern of what a simulator is sent; its group `value` is the value. `None`: nothing
    /// that can be told from other commands.
    pub(super) fn pattern(
        &self,
        groups: &HashMap<String, Vec<u8>>,
        protocol: &TextProtocol,
    ) -> Option<Regex> {
        let checksum = protocol.checksum.as_ref().map_or(0, Checksum::length);
        let pattern = self.send.pattern(|name| match name {
            "checksum" => format!(".{{{checksum}}}"),
            name if is_value(name) => format!("(?P<{VALUE}>{})", self.value.pattern()),
            name => {
                let known = groups.get(name.trim_end_matches('?'));
                let bytes = known.map(Vec::as_slice).unwrap_or_default();
                self.send
                    .in_place(bytes)
                    .iter()
                    .map(|byte| format!("\\x{byte:02X}"))
                    .collect()
            }
        });
        Regex::new(&format!(r"(?s-u){pattern}\z")).ok()
    }

    /// What an answer says.
    pub(super) fn verdict(&self, answer: &[u8]) -> AnswerVerdict {
        let is_in = |pattern: &Option<Pattern>| {
            pattern
                .as_ref()
                .is_some_and(|pattern| pattern.0.is_match(answer))
        };
        if is_in(&self.refuse) {
            AnswerVerdict::Refused
        } else if is_in(&self.expect) {
            AnswerVerdict::Confirmed
        } else {
            AnswerVerdict::Other
        }
    }
}

/// True for `value` and `value:05.1`.
pub fn is_value(name: &str) -> bool {
    name.split(':').next() == Some(VALUE)
}

impl CommandValue {
    fn in_its_type(&self, value: &Value) -> Result<Value, String> {
        match self {
            Self::Nothing => match value {
                Value::Bool(true) | Value::Int(1) | Value::UInt(1) => Ok(Value::Bool(true)),
                Value::Text(text) if matches!(&**text, "true" | "on" | "1") => {
                    Ok(Value::Bool(true))
                }
                other => Err(format!(
                    "this is a command without a value, and {other} is none; write 1 or true to carry it out"
                )),
            },
            Self::Number { meaning, .. } | Self::Bytes(meaning) => Ok(meaning.in_its_type(value)),
            Self::Text(_) => Ok(value.clone()),
        }
    }

    /// The value as the instrument takes it.
    fn encode(&self, value: &Value) -> Result<Vec<u8>, String> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Number { meaning, format } => {
                number(meaning, *format, value).map(String::into_bytes)
            }
            Self::Text(words) => text(words, value).map(String::into_bytes),
            Self::Bytes(meaning) => meaning.bytes_of(value),
        }
    }

    /// The pattern of the value in what a simulator is sent.
    fn pattern(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Number { format, .. } if format.width() > 0 => {
                format!(r"[\x20-\x7E]{{{}}}", format.width())
            }
            Self::Number { .. } | Self::Text(_) => r"[\x20-\x7E]+?".to_owned(),
            Self::Bytes(meaning) => format!(".{{{}}}", meaning.bytes()),
        }
    }

    /// What a simulator shows once it got this value; `None`: what it showed before.
    pub(super) fn held(&self, bytes: &[u8]) -> Option<Held> {
        let text = || std::str::from_utf8(bytes).ok().map(str::trim);
        match self {
            Self::Nothing => None,
            // As the messages have it, before scale and words.
            Self::Number { .. } => text()?.parse().ok().map(Held::Number),
            Self::Text(_) => text().map(|text| Held::Text(text.into())),
            Self::Bytes(_) => match self.decode(bytes)? {
                Value::Text(text) => Some(Held::Text(text)),
                number => number.as_f64().map(Held::Number),
            },
        }
    }

    /// The value of what the instrument takes.
    pub(super) fn decode(&self, bytes: &[u8]) -> Option<Value> {
        let text = || std::str::from_utf8(bytes).ok();
        match self {
            Self::Nothing => Some(Value::Bool(true)),
            Self::Number { meaning, .. } => meaning.decode_text(text()?).ok(),
            Self::Text(words) => {
                let raw = text()?;
                let word = words.iter().find(|(known, _)| **known == *raw);
                Some(Value::Text(
                    word.map_or_else(|| raw.into(), |(_, word)| Arc::clone(word)),
                ))
            }
            Self::Bytes(meaning) => meaning.decode_bytes(bytes).ok(),
        }
    }
}

/// A number as text.
fn number(meaning: &Meaning, format: NumberFormat, value: &Value) -> Result<String, String> {
    let raw = meaning.raw_of(value)?.as_f64();
    if !raw.is_finite() || raw.abs() > MOST_EXACT {
        return Err(format!("{value} is too large for this command"));
    }
    let is_whole = meaning.kind.is_integer() || meaning.kind.bits() == 1;
    let usual = if is_whole {
        0
    } else {
        decimals_of(meaning, raw)
    };
    let decimals = format.decimals().unwrap_or(usual);
    // Adding zero takes the sign of a zero away.
    let rounded = round_to(raw, decimals) + 0.0;
    if meaning
        .raw_range()
        .is_some_and(|(least, most)| rounded < least || rounded > most)
    {
        return Err(format!("{} does not hold {value}", meaning.kind.name()));
    }
    let text = format.number(rounded, Some(decimals));
    match format.width() {
        width if width > 0 && text.len() > width => Err(format!(
            "{} does not fit into the {width} characters of this command",
            text.trim()
        )),
        _ => Ok(text),
    }
}

/// The decimals of a number: those of its point where it is written as it is published, else as
/// many as it has.
#[allow(clippy::float_cmp)]
fn decimals_of(meaning: &Meaning, raw: f64) -> usize {
    let is_unscaled = meaning.scale == 1.0 && meaning.offset == 0.0;
    if let Some(decimals) = meaning.decimals.filter(|_| is_unscaled) {
        return usize::from(decimals);
    }
    // Fifteen digits are those that were meant; more come of the arithmetic.
    let plain: f64 = format!("{raw:.14e}").parse().unwrap_or(raw);
    let shown = plain.to_string();
    shown
        .split_once('.')
        .map_or(0, |(_, digits)| digits.len().min(MOST_DECIMALS))
}

/// Text that is one of the words, or that may be in a command.
fn text(words: &[(Box<str>, Arc<str>)], value: &Value) -> Result<String, String> {
    let Value::Text(text) = value else {
        return Err(format!("{value} is not text; write it in quotation marks"));
    };
    if !words.is_empty() {
        let known = words
            .iter()
            .find(|(raw, word)| **word == **text || **raw == **text);
        return known.map(|(raw, _)| raw.to_string()).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(_, word)| word.as_ref()).collect();
            format!("\"{text}\" is not one of {}", known.join(", "))
        });
    }
    let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_printable && !text.is_empty() {
        Ok(text.to_string())
    } else {
        Err("a command takes printable ASCII characters, and at least one; control characters would end it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::DataType;

    fn command(send: &str, value: CommandValue) -> TextCommand {
        TextCommand {
            send: serde_yaml::from_str(send).unwrap(),
            expect: Some(Pattern::new("^OK", None).unwrap()),
            refuse: Some(Pattern::new("E\\d", None).unwrap()),
            value,
            simulated: SimulatedReply::default(),
        }
    }

    fn numbered(format: &str, meaning: Meaning) -> CommandValue {
        CommandValue::Number {
            meaning,
            format: NumberFormat::parse(format).unwrap(),
        }
    }

    /// The bytes of a command with a value, or why it is refused.
    #[track_caller]
    fn check(command: &TextCommand, value: &Value, expected: &str) {
        let protocol = super::super::tests::protocol();
        let bytes = command
            .wanted(value)
            .and_then(|value| command.bytes(&protocol, &value, &HashMap::new()));
        match bytes {
            Ok(bytes) => assert_eq!(String::from_utf8_lossy(&bytes), expected, "{value:?}"),
            Err(why) => assert!(
                expected
                    .strip_prefix("refused: ")
                    .is_some_and(|part| why.contains(part)),
                "{value:?}: {why}"
            ),
        }
    }

    #[test]
    fn numbers_are_written_as_the_template_says() {
        let plain = Meaning::new(DataType::F64);
        let set = |format: &str| {
            command(
                &format!(
                    "'S {{value{}{format}}}\\r'",
                    if format.is_empty() { "" } else { ":" }
                ),
                numbered(format, plain.clone()),
            )
        };
        check(&set(""), &Value::F64(21.5), "S 21.5\r");
        check(&set(""), &Value::Int(21), "S 21\r");
        check(&set(""), &Value::F64(0.1 + 0.2), "S 0.3\r");
        check(&set(""), &Value::Text("12.50".into()), "S 12.5\r");
        check(&set(".2"), &Value::F64(21.456), "S 21.46\r");
        check(&set("07.1"), &Value::F64(21.56), "S 00021.6\r");
        check(&set("05.1"), &Value::F64(-0.04), "S 000.0\r");
        check(&set("+.1"), &Value::Int(5), "S +5.0\r");
        check(&set("05.1"), &Value::Int(12_345), "refused: 5 characters");
        check(&set(""), &Value::F64(1e300), "refused: too large");
        check(
            &set(""),
            &Value::Text("warm".into()),
            "refused: not a number",
        );
        check(&set(""), &Value::Bool(true), "refused: write a number");
        let scaled = Meaning {
            scale: 0.1,
            ..Meaning::new(DataType::I64)
        };
        let tenths = command("'S{value}'", numbered("", scaled));
        check(&tenths, &Value::F64(21.5), "S215");
        assert_eq!(tenths.shown(Value::F64(21.54)), Value::F64(21.5));
        let byte = command("'S{value}'", numbered("", Meaning::new(DataType::U16)));
        check(&byte, &Value::Int(70_000), "refused: does not hold");
        let words = Meaning {
            words: [(0, Arc::from("off")), (7, Arc::from("on"))].into(),
            ..Meaning::new(DataType::I64)
        };
        let mode = command("'M{value}'", numbered("", words));
        check(&mode, &Value::Text("on".into()), "M7");
        check(&mode, &Value::Text("up".into()), "refused: one of off, on");
    }

    #[test]
    fn text_cannot_carry_a_second_command() {
        let any = command("'N {value}\\r'", CommandValue::Text(Vec::new()));
        check(&any, &Value::Text("Tank 7".into()), "N Tank 7\r");
        for text in ["a\rZ", "a\u{7f}", "", "\u{e4}"] {
            check(&any, &Value::Text(text.into()), "refused: printable");
        }
        check(&any, &Value::Int(7), "refused: quotation marks");
        let words = vec![("R".into(), "run".into()), ("H".into(), "halt".into())];
        let mode = command("'M {value}\\r'", CommandValue::Text(words));
        check(&mode, &Value::Text("run".into()), "M R\r");
        check(&mode, &Value::Text("H".into()), "M H\r");
        check(&mode, &Value::Text("Z".into()), "refused: one of run, halt");
        assert_eq!(
            mode.shown(Value::Text("H".into())),
            Value::Text("halt".into())
        );
    }

    #[test]
    fn a_command_without_a_value_takes_one_value_only() {
        let tare = command("'T\\r'", CommandValue::Nothing);
        for value in [Value::Bool(true), Value::Int(1), Value::Text("on".into())] {
            check(&tare, &value, "T\r");
        }
        for value in [Value::Bool(false), Value::Int(0), Value::Text("T".into())] {
            check(&tare, &value, "refused: without a value");
        }
    }

    #[test]
    fn bytes_are_filled_in_as_their_type_has_them() {
        let word = command(
            "{ hex: '05 {value} 06' }",
            CommandValue::Bytes(Meaning::default()),
        );
        let protocol = super::super::tests::protocol();
        assert_eq!(
            word.bytes(&protocol, &Value::Int(0x1234), &HashMap::new()),
            Ok(vec![5, 0x12, 0x34, 6])
        );
        assert!(word.wanted(&Value::Int(70_000)).is_err());
        // Text between hexadecimal digits stays text, even if it looks like such digits.
        let text = command(
            "{ hex: '02 {value} 03' }",
            numbered("", Meaning::new(DataType::F64)),
        );
        assert_eq!(
            text.bytes(&protocol, &Value::Int(2150), &HashMap::new()),
            Ok(b"\x022150\x03".to_vec())
        );
    }

    #[test]
    fn a_refusal_counts_more_than_a_confirmation() {
        let any = command("'x'", CommandValue::Nothing);
        assert_eq!(any.verdict(b"OK\r\n"), AnswerVerdict::Confirmed);
        assert_eq!(any.verdict(b"OK E5\r\n"), AnswerVerdict::Refused);
        assert_eq!(any.verdict(b"12.5 kg\r\n"), AnswerVerdict::Other);
    }
}
