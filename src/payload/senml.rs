//! SenML in JSON (RFC 8428): `[{"n":"s7/inlet/temperature","u":"Cel","t":1769847330.25,"v":12.3}]`.
//! Pure.
//!
//! The name is the local topic; characters that SenML has no place for become `_`. Units are those
//! of its registries (RFC 8428, RFC 8798); others are left out. Numbers are in `v`, truth values in
//! `vb`, text in `vs`, lists in `vs` as JSON. A time that was taken before the clock of the gateway
//! was set is left out, which means "now". Quality has no place: only good readings can be written.

use super::{NamedReading, json, value};
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

/// One reading as a pack of one record; `None` without a value.
pub(super) fn encode(named: &NamedReading<'_>) -> Option<String> {
    let value = written(named.reading.value.as_ref()?);
    let name = json::text(&name(named.names.topic.as_str()));
    let unit = named.names.unit.as_deref().and_then(unit);
    let unit = unit.map_or(String::new(), |unit| {
        format!("\"u\":{},", json::text(&unit))
    });
    let time = if named.time.clock_set {
        format!("\"t\":{},", seconds(named.time.unix_ms))
    } else {
        String::new()
    };
    Some(format!("[{{\"n\":{name},{unit}{time}{value}}}]"))
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
        encode(&NamedReading {
            reading: &reading,
            time: reading.time,
            names: &names,
        })
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
