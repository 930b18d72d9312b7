//! SenML in JSON (RFC 8428): `[{"n":"s7/inlet/temperature","u":"Cel","t":1769847330.25,"v":12.3}]`.
//! Pure.
//!
//! In a pack of several the first record has the common beginning of all names (`bn`) and its own
//! time (`bt`), and the others what follows and the seconds since then.
//!
//! The name is the local topic; characters that SenML has no place for become `_`. Units are those
//! of its registries (RFC 8428, RFC 8798); others are left out. Numbers are in `v`, truth values in
//! `vb`, text in `vs`, lists in `vs` as JSON. A time that was taken before the clock of the gateway
//! was set is left out, which means "now". Quality has no place: only good readings can be written.

use super::{NamedReading, json, names, value};
use crate::reading::Value;

/// Units as people write them, where SenML has another name for them.
const RENAMED: [(&str, &str); 8] = [
    ("degC", "Cel"),
    ("°C", "Cel"),
    ("ohm", "Ohm"),
    ("Ω", "Ohm"),
    ("%", "/100"),
    ("m³", "m3"),
    ("m³/s", "m3/s"),
    ("rpm", "1/min"),
];
/// The units of its registries.
const UNITS: &[&str] = &[
    "m", "kg", "g", "s", "A", "K", "cd", "mol", "Hz", "rad", "sr", "N", "Pa", "J", "W", "C", "V",
    "F", "Ohm", "S", "Wb", "T", "H", "Cel", "lm", "lx", "Bq", "Gy", "Sv", "kat", "m2", "m3", "l",
    "m/s", "m/s2", "m3/s", "l/s", "W/m2", "cd/m2", "bit", "bit/s", "lat", "lon", "pH", "dB", "dBW",
    "count", "/", "%RH", "1/s", "1/min", "S/m", "B", "VA", "VAs", "var", "vars", "J/m", "kg/m3",
    "deg", "NTU", "ms", "min", "h", "MHz", "kW", "kVA", "kvar", "Ah", "Wh", "kWh", "varh", "kvarh",
    "kVAh", "Wh/km", "KiB", "GB", "Mbit/s", "B/s", "MB/s", "mV", "mA", "dBm", "ug/m3", "mm/h",
    "m/h", "ppm", "/100", "/1000", "hPa", "mm", "cm", "km", "km/h",
];

/// Readings as a pack, in their order; `None` if none has a value.
pub(super) fn encode(readings: &[NamedReading<'_>]) -> Option<String> {
    let has_value = |named: &&NamedReading<'_>| named.reading.value.is_some();
    let readings: Vec<&NamedReading<'_>> = readings.iter().filter(has_value).collect();
    let base = Base::of(&readings);
    let records: Vec<String> = (0..)
        .zip(&readings)
        .filter_map(|(number, named)| base.record(number, named))
        .collect();
    (!records.is_empty()).then(|| format!("[{}]", records.join(",")))
}

/// What the records of a pack have in common: the first one says it for all.
#[derive(Debug, Default)]
struct Base {
    /// The beginning of all names, up to the last slash in it.
    name: String,
    /// The time of the first record, if all have one.
    time: Option<i64>,
}

impl Base {
    /// A record alone needs none.
    fn of(readings: &[&NamedReading<'_>]) -> Self {
        let (Some(first), true) = (readings.first(), readings.len() > 1) else {
            return Self::default();
        };
        let names = readings
            .iter()
            .map(|named| name(named.names.topic.as_str()));
        let names: Vec<String> = names.collect();
        let has_times = readings.iter().all(|named| named.time.clock_set);
        Self {
            name: names::common_levels(names.iter().map(String::as_str)).to_owned(),
            time: has_times.then_some(first.time.unix_ms),
        }
    }

    fn record(&self, number: usize, named: &NamedReading<'_>) -> Option<String> {
        let value = written(named.reading.value.as_ref()?);
        let mut fields = Vec::new();
        if number == 0 && !self.name.is_empty() {
            fields.push(format!("\"bn\":{}", json::text(&self.name)));
        }
        if number == 0 {
            fields.extend(self.time.map(|time| format!("\"bt\":{}", seconds(time))));
        }
        let name = name(named.names.topic.as_str());
        let rest = name.strip_prefix(&self.name).unwrap_or(&name);
        fields.push(format!("\"n\":{}", json::text(&rest)));
        let unit = named.names.unit.as_deref().and_then(unit);
        fields.extend(unit.map(|unit| format!("\"u\":{}", json::text(&unit))));
        let since = named.time.unix_ms - self.time.unwrap_or(0);
        if named.time.clock_set && since != 0 {
            fields.push(format!("\"t\":{}", seconds(since)));
        }
        fields.push(value);
        Some(format!("{{{}}}", fields.join(",")))
    }
}

fn written(value: &Value) -> String {
    match value {
        Value::Bool(truth) => format!("\"vb\":{truth}"),
        Value::Text(_) | Value::List(_) => format!("\"vs\":{}", json::text(&value::encode(value))),
        Value::Int(_) | Value::UInt(_) | Value::F32(_) | Value::F64(_) => {
            format!("\"v\":{}", value::encode(value))
        }
    }
}

/// A topic as a name: letters, digits and `-:./_`, with a letter or digit in front.
fn name(topic: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "-:./_".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = topic.chars().map(allowed).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name
    } else {
        format!("x{name}")
    }
}

/// A unit as the registries have it.
fn unit(unit: &str) -> Option<&'static str> {
    let renamed = RENAMED.iter().find(|(ours, _)| *ours == unit);
    let as_it_is = || UNITS.iter().find(|known| **known == unit).copied();
    renamed.map(|(_, theirs)| *theirs).or_else(as_it_is)
}

/// Seconds with as many digits as milliseconds need.
fn seconds(unix_ms: i64) -> String {
    let (sign, ms) = (if unix_ms < 0 { "-" } else { "" }, unix_ms.unsigned_abs());
    let text = format!("{sign}{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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

    fn pack(topic: &str, unit: Option<&str>, value: Option<Value>, unix_ms: i64) -> Option<String> {
        let topic = TopicName::new(topic.to_owned()).unwrap();
        let names = PointNames {
            unit: unit.map(Into::into),
            ..PointNames::of_topic(&topic)
        };
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(unix_ms),
            quality: Quality::Good,
            age: Duration::ZERO,
        };
        encode(&[NamedReading {
            reading: &reading,
            time: reading.time,
            names: &names,
            number: 0,
        }])
    }

    #[test]
    fn readings_are_packs_of_one_record() {
        let check = |topic: &str, unit, value, expected: &str| {
            assert_eq!(
                pack(topic, unit, Some(value), 1_769_847_330_250).unwrap(),
                expected
            );
        };
        check(
            "s7/inlet/temp",
            Some("degC"),
            Value::F64(21.5),
            r#"[{"n":"s7/inlet/temp","u":"Cel","t":1769847330.25,"v":21.5}]"#,
        );
        check(
            "s7/inlet/flow",
            Some("barrels/h"),
            Value::UInt(7),
            r#"[{"n":"s7/inlet/flow","t":1769847330.25,"v":7}]"#,
        );
        check(
            "_s7/pump 1/ü",
            None,
            Value::Bool(true),
            r#"[{"n":"x_s7/pump_1/_","t":1769847330.25,"vb":true}]"#,
        );
        check(
            "s7/mode",
            None,
            Value::Text("a\"b".into()),
            r#"[{"n":"s7/mode","t":1769847330.25,"vs":"a\"b"}]"#,
        );
        check(
            "s7/list",
            None,
            Value::List(vec![Value::Int(1)]),
            r#"[{"n":"s7/list","t":1769847330.25,"vs":"[1]"}]"#,
        );
        assert_eq!(pack("s7/none", None, None, 1_769_847_330_250), None);
        assert_eq!(
            pack("s7/x", None, Some(Value::Int(1)), 5_000).unwrap(),
            r#"[{"n":"s7/x","v":1}]"#,
            "the clock was not set"
        );
    }

    /// The names and times of the records of a pack, as RFC 8428 resolves them (section 4.6).
    fn resolved(pack: &str) -> Vec<(String, i64)> {
        let records: Vec<serde_json::Value> = serde_json::from_str(pack).unwrap();
        let (mut base_name, mut base_time) = (String::new(), 0.0);
        let mut resolved = Vec::new();
        for record in &records {
            if let Some(name) = record["bn"].as_str() {
                name.clone_into(&mut base_name);
            }
            base_time = record["bt"].as_f64().unwrap_or(base_time);
            let time = base_time + record["t"].as_f64().unwrap_or(0.0);
            #[allow(clippy::cast_possible_truncation)]
            let ms = (time * 1000.0).round() as i64;
            let name = format!("{base_name}{}", record["n"].as_str().unwrap());
            resolved.push((name, ms));
        }
        resolved
    }

    #[test]
    fn a_pack_of_several_says_once_what_they_have_in_common() {
        const AT: i64 = 1_769_847_330_250;
        let samples = [
            NamedSample::new("s7/pump/flow", AT, Value::F64(12.3)),
            NamedSample::new("s7/pump/temp", AT, Value::UInt(7)),
            NamedSample::new("s7/pump/flow", AT - 1, Value::F64(12.5)),
            NamedSample::new("s7/pumps/on", AT + 10_000, Value::Bool(true)),
        ];
        let pack = encode(&named(&samples)).unwrap();
        assert_eq!(
            pack,
            concat!(
                r#"[{"bn":"s7/","bt":1769847330.25,"n":"pump/flow","v":12.3},"#,
                r#"{"n":"pump/temp","v":7},{"n":"pump/flow","t":-0.001,"v":12.5},"#,
                r#"{"n":"pumps/on","t":10,"vb":true}]"#
            )
        );
        let expected =
            samples.map(|sample| (sample.names.topic.to_string(), sample.reading.time.unix_ms));
        assert_eq!(resolved(&pack), expected);
        // Without the time of one of them there is no time for all.
        let pack = encode(&named(&[
            NamedSample::new("a", AT, Value::UInt(1)),
            NamedSample::new("b", 5, Value::UInt(2)),
        ]));
        assert_eq!(
            pack.unwrap(),
            r#"[{"n":"a","t":1769847330.25,"v":1},{"n":"b","v":2}]"#
        );
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_pack_is_json_with_the_value_and_the_time(
            topic in "[a-z0-9/ \"\u{e4}_]{1,20}", float in -1e12..1e12_f64,
            unix_ms in 1_800_000_000_000..4_000_000_000_000_i64,
        ) {
            let pack = pack(&topic, Some("V"), Some(Value::F64(float)), unix_ms).unwrap();
            let json: serde_json::Value = serde_json::from_str(&pack).unwrap();
            let record = &json[0];
            let name = record["n"].as_str().unwrap();
            prop_assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-:./_".contains(c)));
            prop_assert!((record["v"].as_f64().unwrap() - float).abs() <= float.abs() * 1e-15);
            #[allow(clippy::cast_possible_truncation)]
            let ms = (record["t"].as_f64().unwrap() * 1000.0).round() as i64;
            prop_assert_eq!(ms, unix_ms);
            prop_assert_eq!(&record["u"], "V");
        }
    }
}
