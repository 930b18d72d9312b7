//! A payload as the file writes it, such as `{"{point}": {value}, "ts": {time_ms}}`. Pure.
//!
//! Invariants:
//! * A template that begins with `[`, or with a `{` that is no placeholder, makes JSON whatever the
//!   names and values are: a name in quotes is escaped, one without quotes is a JSON number, text,
//!   list or null.
//! * Any other template is filled in as it is.
//! * A brace is a placeholder only with a name of small letters and `_` in it, and all such names
//!   are known.

use std::fmt;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::{NamedReading, json, value};
use crate::mqtt::TopicName;
use crate::payload::PointNames;
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
use crate::time::rfc3339;

/// Names of placeholders, and what they stand for.
const NAMES: [(&str, TemplateName); 14] = [
    ("value", TemplateName::Value),
    ("quality", TemplateName::Quality),
    ("reason", TemplateName::Reason),
    ("age", TemplateName::Age),
    ("time", TemplateName::Time),
    ("time_s", TemplateName::Seconds),
    ("time_ms", TemplateName::Millis),
    ("time_ns", TemplateName::Nanos),
    ("topic", TemplateName::Topic),
    ("site", TemplateName::Site),
    ("line", TemplateName::Line),
    ("device", TemplateName::Device),
    ("point", TemplateName::Point),
    ("unit", TemplateName::Unit),
];

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplateName {
    Value,
    Quality,
    Reason,
    Age,
    Time,
    Seconds,
    Millis,
    Nanos,
    Topic,
    Site,
    Line,
    Device,
    Point,
    Unit,
}

/// How a placeholder is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplatePosition {
    /// In text that is no JSON.
    Text,
    /// Between quotes of JSON.
    JsonText,
    /// In the place of a JSON value.
    JsonValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Filled(TemplateName, TemplatePosition),
}

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct PayloadTemplate {
    text: Arc<str>,
    parts: Arc<[TemplatePart]>,
}

impl fmt::Debug for PayloadTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PayloadTemplate").field(&self.text).finish()
    }
}

/// What is filled in.
enum TemplateFilling {
    /// Without quotes also where it is a JSON value.
    Number(String),
    Text(String),
    Nothing,
}

impl PayloadTemplate {
    /// Reads a template; the error names the mistake and the remedy.
    pub fn new(text: &str) -> Result<Self, String> {
        let is_json = begins_like_json(text);
        let template = Self {
            text: text.into(),
            parts: parts(text, is_json)?.into(),
        };
        if !template.has(&[TemplateName::Value]) {
            return Err("a payload without {value} says nothing of the reading; write {value} where the value is to be".to_owned());
        }
        if is_json {
            template.check_json()?;
        }
        Ok(template)
    }

    /// True if it says whether a reading is good.
    pub fn tells_quality(&self) -> bool {
        self.has(&[TemplateName::Quality, TemplateName::Reason])
    }

    /// True if it says when a reading was taken.
    pub fn tells_time(&self) -> bool {
        self.has(&[
            TemplateName::Time,
            TemplateName::Seconds,
            TemplateName::Millis,
            TemplateName::Nanos,
        ])
    }

    fn has(&self, any: &[TemplateName]) -> bool {
        let is_one = |part: &TemplatePart| matches!(part, TemplatePart::Filled(placeholder, _) if any.contains(placeholder));
        self.parts.iter().any(is_one)
    }

    /// Rejects what is no JSON when it is filled in.
    fn check_json(&self) -> Result<(), String> {
        let topic = TopicName::new("site/device/point").map_err(|error| error.to_string())?;
        let names = PointNames::of_topic(&topic);
        let reading = Reading {
            point: PointId(0),
            value: Some(Value::Int(1)),
            time: Timestamp::at(1_800_000_000_000),
            quality: Quality::Good,
            age: std::time::Duration::ZERO,
        };
        let filled = self.fill(&NamedReading {
            reading: &reading,
            time: reading.time,
            names: &names,
            number: 0,
        });
        match serde_json::from_str::<IgnoredAny>(&filled) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "it begins like JSON, and is none when it is filled in: {error} of `{filled}`; names of members are in quotes, as in {{\"{{point}}\": {{value}}}}"
            )),
        }
    }

    /// The payload of a reading.
    pub fn fill(&self, named: &NamedReading<'_>) -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Filled(placeholder, position) => {
                written(filling(*placeholder, named), *position)
            }
        };
        self.parts.iter().map(part).collect()
    }
}

/// What a placeholder stands for in a reading.
fn filling(placeholder: TemplateName, named: &NamedReading<'_>) -> TemplateFilling {
    let NamedReading {
        reading,
        time,
        names,
        ..
    } = *named;
    let text = |text: &str| TemplateFilling::Text(text.to_owned());
    let optional = |found: Option<&str>| found.map_or(TemplateFilling::Nothing, text);
    match placeholder {
        TemplateName::Value => match &reading.value {
            None => TemplateFilling::Nothing,
            Some(Value::Text(words)) => text(words),
            Some(value) => TemplateFilling::Number(value::encode(value)),
        },
        TemplateName::Quality => text(reading.quality.name()),
        TemplateName::Reason => optional(reading.quality.reason()),
        TemplateName::Age => TemplateFilling::Number(value::float64(reading.age.as_secs_f64())),
        TemplateName::Time => TemplateFilling::Text(rfc3339(time.unix_ms)),
        TemplateName::Seconds => TemplateFilling::Number(time.unix_ms.div_euclid(1000).to_string()),
        TemplateName::Millis => TemplateFilling::Number(time.unix_ms.to_string()),
        TemplateName::Nanos => TemplateFilling::Number(super::nanos(time)),
        TemplateName::Topic => text(names.topic.as_str()),
        TemplateName::Site => text(&names.site),
        TemplateName::Line => text(&names.line),
        TemplateName::Device => text(&names.device),
        TemplateName::Point => text(&names.point),
        TemplateName::Unit => optional(names.unit.as_deref()),
    }
}

fn written(filling: TemplateFilling, position: TemplatePosition) -> String {
    match (position, filling) {
        (TemplatePosition::JsonValue, TemplateFilling::Nothing) => "null".to_owned(),
        (TemplatePosition::JsonValue, TemplateFilling::Text(text)) => json::text(&text),
        (
            TemplatePosition::JsonText,
            TemplateFilling::Text(text) | TemplateFilling::Number(text),
        ) => {
            let quoted = json::text(&text);
            let inner = quoted
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            inner.unwrap_or_default().to_owned()
        }
        (TemplatePosition::JsonValue, TemplateFilling::Number(text))
        | (TemplatePosition::Text, TemplateFilling::Number(text) | TemplateFilling::Text(text)) => {
            text
        }
        (TemplatePosition::JsonText | TemplatePosition::Text, TemplateFilling::Nothing) => {
            String::new()
        }
    }
}

/// Follows the quotes of JSON.
#[derive(Debug, Default)]
struct JsonQuotes {
    is_inside: bool,
    is_escaped: bool,
}

impl JsonQuotes {
    fn follow(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = self.is_inside,
                '"' => self.is_inside = !self.is_inside,
                _ => {}
            }
        }
    }
}

/// True if it begins with a bracket, or with a brace that is only a brace.
fn begins_like_json(text: &str) -> bool {
    let text = text.trim_start();
    let is_brace = |after: &str| name_in(after).is_none();
    text.starts_with('[') || text.strip_prefix('{').is_some_and(is_brace)
}

/// The parts of a template.
fn parts(text: &str, is_json: bool) -> Result<Vec<TemplatePart>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut quotes = JsonQuotes::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        plain.push_str(before);
        let Some((name, behind)) = name_in(after) else {
            plain.push('{');
            rest = after;
            continue;
        };
        let placeholder = known(name)?;
        quotes.follow(&plain);
        let position = match (is_json, quotes.is_inside) {
            (false, _) => TemplatePosition::Text,
            (true, true) => TemplatePosition::JsonText,
            (true, false) => TemplatePosition::JsonValue,
        };
        parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
        parts.push(TemplatePart::Filled(placeholder, position));
        rest = behind;
    }
    plain.push_str(rest);
    parts.push(TemplatePart::Text(plain));
    parts.retain(|part| !matches!(part, TemplatePart::Text(text) if text.is_empty()));
    Ok(parts)
}

/// The name of a placeholder whose brace was opened, and what follows it; `None` if the brace is
/// only a brace.
fn name_in(after: &str) -> Option<(&str, &str)> {
    let (name, behind) = after.split_once('}')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then_some((name, behind))
}

fn known(name: &str) -> Result<TemplateName, String> {
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, placeholder)| *placeholder).ok_or_else(|| {
        let all = NAMES.map(|(known, _)| format!("{{{known}}}"));
        format!(
            "{{{name}}} is not known in a payload; use {}",
            all.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn names() -> PointNames {
        PointNames {
            topic: TopicName::new("s7/inlet/flow").unwrap(),
            site: "s7".into(),
            line: "bus".into(),
            device: "inlet".into(),
            point: "flow \"in\"".into(),
            unit: Some("m3/h".into()),
        }
    }

    fn fill(template: &str, value: Option<Value>, quality: Quality) -> String {
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(1_769_847_330_250),
            quality,
            age: Duration::from_millis(1500),
        };
        PayloadTemplate::new(template).unwrap().fill(&NamedReading {
            reading: &reading,
            time: reading.time,
            names: &names(),
            number: 0,
        })
    }

    #[test]
    fn json_stays_json_whatever_is_filled_in() {
        let good = |template: &str, value| fill(template, Some(value), Quality::Good);
        assert_eq!(
            good(r#"{"{point}": {value}, "ts": {time_ms}}"#, Value::F64(12.5)),
            r#"{"flow \"in\"": 12.5, "ts": 1769847330250}"#
        );
        assert_eq!(
            good(
                r#"{"v":{value},"s":"{value} {unit}"}"#,
                Value::Text("a\"b".into())
            ),
            r#"{"v":"a\"b","s":"a\"b m3/h"}"#
        );
        assert_eq!(
            good(
                r#"[{"t":{time},"d":{device},"n":"\"{point}","v":{value}}]"#,
                Value::List(vec![Value::Int(1)])
            ),
            r#"[{"t":"2026-01-31T08:15:30.250Z","d":"inlet","n":"\"flow \"in\"","v":[1]}]"#
                .replace(r#"flow "in""#, r#"flow \"in\""#)
        );
        assert_eq!(
            fill(
                r#"{"v":{value},"q":{quality},"why":{reason},"text":"{value}"}"#,
                None,
                Quality::Bad("no answer".into())
            ),
            r#"{"v":null,"q":"bad","why":"no answer","text":""}"#
        );
        assert_eq!(
            fill(
                r#"{"v":{value},"why":{reason},"age":{age}}"#,
                Some(Value::Bool(true)),
                Quality::Good
            ),
            r#"{"v":true,"why":null,"age":1.5}"#
        );
    }

    #[test]
    fn other_templates_are_filled_in_as_they_are() {
        assert_eq!(
            fill(
                "{site} {line} {topic}={value};{time_s};{time_ns} {x1} {",
                Some(Value::Text("a\"b".into())),
                Quality::Good
            ),
            "s7 bus s7/inlet/flow=a\"b;1769847330;1769847330250000000 {x1} {"
        );
    }

    #[test]
    fn mistakes_are_told_with_their_remedy() {
        let check = |template: &str, expected: &str| {
            let error = PayloadTemplate::new(template).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "{valu}",
            "{valu} is not known in a payload; use {value}, {quality}",
        );
        check("{point}", "without {value}");
        check("", "without {value}");
        check(r#"{"{point}: {value}}"#, "is none when it is filled in");
        check(r#"{"v": {value}"#, "is none when it is filled in");
        for tells in ["{value} {quality}", "{value} {reason}"] {
            assert!(PayloadTemplate::new(tells).unwrap().tells_quality());
        }
        assert!(!PayloadTemplate::new("{value}").unwrap().tells_quality());
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn json_holds_what_was_filled_in(text in "\\PC{0,12}|.{0,6}", number: i32) {
            let template = r#"{"{value}":{value},"a":["{value}",{value}],"b":{time_ms}}"#;
            for value in [Value::Text(text.as_str().into()), Value::Int(number.into())] {
                let filled = fill(template, Some(value.clone()), Quality::Good);
                let json: serde_json::Value = serde_json::from_str(&filled).unwrap();
                let written = value::encode(&value);
                prop_assert_eq!(&json["a"][0], &serde_json::json!(written));
                prop_assert!(json.get(&written).is_some() || written == "a" || written == "b");
                match value {
                    Value::Text(_) => prop_assert_eq!(&json["a"][1], &serde_json::json!(text)),
                    _ => prop_assert_eq!(&json["a"][1], &serde_json::json!(number)),
                }
            }
        }

        #[test]
        fn any_text_is_a_template_or_a_mistake(text in "[{}\"\\\\a-z_ :,\\[\\]]{0,30}") {
            if let Ok(template) = PayloadTemplate::new(&text) {
                prop_assert!(template.has(&[TemplateName::Value]));
            }
        }
    }
}
