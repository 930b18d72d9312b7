//! Line protocol of InfluxDB, also read by Telegraf, QuestDB, VictoriaMetrics and others:
//! `inlet,site=s7 flow=12.3 1769847330250000000`. Pure.
//!
//! The device is the measurement, the site a tag, the point a field; a unit has no place. Integers
//! end with `i`, those above 2^63 - 1 with `u`, text is in quotes, a list is text in JSON. What is
//! not good says so in fields of its own, `flow_quality`, `flow_reason` and `flow_age`, and a
//! reading without a value has only those. A time that was taken before the clock of the gateway
//! was set is left out: the database takes its own.

use super::{NamedReading, nanos, value};
use crate::reading::Value;

/// A field that databases take for the time itself.
const TIME: &str = "time";

/// Readings in their order; those that follow one another and are of one device and time share a
/// line. The last line has no end.
pub(super) fn encode(readings: &[NamedReading<'_>]) -> String {
    let mut lines: Vec<ProtocolLine> = Vec::new();
    for named in readings {
        let mut next = ProtocolLine::of(named);
        match lines.last_mut() {
            Some(last) if last.takes(&next) => last.fields.append(&mut next.fields),
            _ => lines.push(next),
        }
    }
    let texts: Vec<String> = lines.iter().map(ProtocolLine::text).collect();
    texts.join("\n")
}

/// A line in its parts.
struct ProtocolLine {
    /// The device, with its tags.
    series: String,
    /// Each with its key and its value.
    fields: Vec<(String, String)>,
    /// The time, with a blank before it, if there is one.
    time: String,
}

impl ProtocolLine {
    fn of(named: &NamedReading<'_>) -> Self {
        let names = named.names;
        let mut series = escaped(&names.device, &[',', ' ']);
        if !names.site.is_empty() {
            series.extend([",site=", &of_field(&names.site)]);
        }
        let time = if named.time.clock_set {
            format!(" {}", nanos(named.time))
        } else {
            String::new()
        };
        Self {
            series,
            fields: fields(named),
            time,
        }
    }

    /// True if the fields of another line can join its own.
    fn takes(&self, other: &Self) -> bool {
        let is_free = |(key, _): &(String, String)| self.fields.iter().all(|(own, _)| own != key);
        self.series == other.series && self.time == other.time && other.fields.iter().all(is_free)
    }

    fn text(&self) -> String {
        let field = |(key, value): &(String, String)| format!("{key}={value}");
        let fields: Vec<String> = self.fields.iter().map(field).collect();
        format!("{} {}{}", self.series, fields.join(","), self.time)
    }
}

/// The fields of a reading.
fn fields(named: &NamedReading<'_>) -> Vec<(String, String)> {
    let reading = named.reading;
    let point = match of_field(&named.names.point) {
        name if name == TIME => "time_".to_owned(),
        name => name,
    };
    let value = reading.value.as_ref();
    let mut fields: Vec<(String, String)> = Vec::new();
    fields.extend(value.map(|value| (point.clone(), written(value))));
    if let Some(reason) = reading.quality.reason() {
        let quality = quoted(reading.quality.name());
        fields.push((format!("{point}_quality"), quality));
        fields.push((format!("{point}_reason"), quoted(reason)));
    }
    if !reading.age.is_zero() {
        let age = value::float64(reading.age.as_secs_f64());
        fields.push((format!("{point}_age"), age));
    }
    fields
}

fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::List(_) => quoted(&value::encode(value)),
        Value::Int(int) => format!("{int}i"),
        Value::UInt(uint) if i64::try_from(*uint).is_ok() => format!("{uint}i"),
        Value::UInt(uint) => format!("{uint}u"),
        Value::Bool(_) | Value::F32(_) | Value::F64(_) => value::encode(value),
    }
}

/// A text; the end of a line, which cannot be escaped, becomes a blank.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace(char::is_control, " "))
}

fn of_field(name: &str) -> String {
    escaped(name, &[',', '=', ' '])
}

/// A name with a backslash before what has a meaning. What cannot be escaped becomes `-`: a
/// backslash, the end of a line, a `#` that would begin a comment.
fn escaped(name: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        let is_comment = character == '#' && escaped.is_empty();
        if special.contains(&character) {
            escaped.push('\\');
        }
        escaped.push(
            if character.is_control() || character == '\\' || is_comment {
                '-'
            } else {
                character
            },
        );
    }
    if escaped.is_empty() {
        escaped.push('-');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mqtt::TopicName;
    use crate::payload::PointNames;
    use crate::payload::samples::{NamedSample, named};
    use crate::reading::{PointId, Quality, Reading, Timestamp};
    use proptest::prelude::*;

    fn line(device: &str, point: &str, value: Option<Value>, quality: Quality) -> String {
        let names = PointNames {
            topic: TopicName::new("s7/inlet/flow").unwrap(),
            site: "s 7".into(),
            line: "bus".into(),
            device: device.into(),
            point: point.into(),
            unit: None,
        };
        let stale = matches!(quality, Quality::Stale(_));
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(1_769_847_330_250),
            quality,
            age: if stale {
                Duration::from_millis(1500)
            } else {
                Duration::ZERO
            },
        };
        encode(&[NamedReading {
            reading: &reading,
            time: reading.time,
            names: &names,
            number: 0,
        }])
    }

    #[test]
    fn readings_are_lines_as_the_reference_has_them() {
        let check = |value, field: &str| {
            assert_eq!(
                line("inlet", "flow", Some(value), Quality::Good),
                format!("inlet,site=s\\ 7 flow={field} 1769847330250000000")
            );
        };
        check(Value::F64(12.3), "12.3");
        check(Value::F32(229.400_01), "229.4");
        check(Value::Int(-3), "-3i");
        check(Value::UInt(7), "7i");
        check(Value::UInt(u64::MAX), "18446744073709551615u");
        check(Value::Bool(false), "false");
        check(Value::Text("say \"hi\"\\".into()), r#""say \"hi\"\\""#);
        check(Value::List(vec![Value::Text("a".into())]), r#""[\"a\"]""#);
    }

    #[test]
    fn what_is_not_good_says_so_in_fields_of_its_own() {
        assert_eq!(
            line(
                "inlet",
                "flow",
                Some(Value::Int(1)),
                Quality::Stale("no answer".into())
            ),
            r#"inlet,site=s\ 7 flow=1i,flow_quality="stale",flow_reason="no answer",flow_age=1.5 1769847330250000000"#
        );
        assert_eq!(
            line("inlet", "flow", None, Quality::Bad("no answer".into())),
            r#"inlet,site=s\ 7 flow_quality="bad",flow_reason="no answer" 1769847330250000000"#
        );
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(
            line("#1, a=b", "x,y=z w", Some(Value::Int(1)), Quality::Good),
            r"-1\,\ a=b,site=s\ 7 x\,y\=z\ w=1i 1769847330250000000"
        );
        assert_eq!(
            line("", "time", Some(Value::Int(1)), Quality::Good),
            r"-,site=s\ 7 time_=1i 1769847330250000000"
        );
    }

    #[test]
    fn readings_of_one_device_and_time_share_a_line() {
        const AT: i64 = 1_769_847_330_250;
        let samples = [
            NamedSample::new("s7/pump/flow", AT, Value::F64(12.3)),
            NamedSample::new("s7/pump/temp", AT, Value::UInt(7)),
            NamedSample::new("s7/pump/temp", AT, Value::UInt(8)),
            NamedSample::new("s7/pump/flow", AT + 10, Value::F64(12.5)),
            NamedSample::new("s7/valve/flow", AT + 10, Value::F64(1.0)),
        ];
        let lines = encode(&named(&samples));
        assert_eq!(
            lines.split('\n').collect::<Vec<_>>(),
            [
                "pump,site=s7 flow=12.3,temp=7i 1769847330250000000",
                "pump,site=s7 temp=8i 1769847330250000000",
                "pump,site=s7 flow=12.5 1769847330260000000",
                "valve,site=s7 flow=1 1769847330260000000",
            ]
        );
    }

    /// The text up to `end` that is not escaped, without escapes; and what follows.
    fn until(text: &str, ends: &[char]) -> (String, String) {
        let mut taken = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => taken.extend(characters.next()),
                _ if ends.contains(&character) => break,
                _ => taken.push(character),
            }
        }
        (taken, characters.collect())
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_reader_finds_names_and_text_again(
            device in "[a-zA-Z0-9,= \u{fc}]{1,12}", point in "[a-z,= ]{1,12}", text in "\\PC{0,12}",
        ) {
            prop_assume!(point != TIME);
            let line = line(&device, &point, Some(Value::Text(text.as_str().into())), Quality::Good);
            let (measurement, rest) = until(&line, &[',']);
            prop_assert_eq!(measurement, device);
            let (tag, rest) = until(&rest, &[' ']);
            prop_assert_eq!(tag, "site=s 7");
            let (field, rest) = until(&rest, &['=']);
            prop_assert_eq!(field, point);
            let (value, rest) = until(rest.strip_prefix('"').unwrap(), &['"']);
            prop_assert_eq!((value.as_str(), rest.as_str()), (text.as_str(), " 1769847330250000000"));
        }
    }
}
