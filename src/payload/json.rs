//! The payload any MQTT subscriber can read:
//! `{"v":12.3,"t":"2026-01-31T08:15:30.250Z","q":"good"}`.
//!
//! `v` is null if there is no value; `reason` says why `q` is not good; `age` is that of a stale
//! value in seconds; `"clock":"unset"` marks a time that was taken before the clock of the gateway
//! was set.

use bytes::Bytes;
use serde::Serialize;

use crate::reading::{Reading, Value, seven_digits};
use crate::time::{is_plausible, parse_rfc3339, rfc3339};

#[derive(Serialize)]
struct ReadingJson<'a> {
    v: Option<Number<'a>>,
    t: String,
    q: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
}

/// A value as a JSON number, text or list.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Number<'a> {
    Bool(bool),
    Int(i64),
    UInt(u64),
    F32(f32),
    F64(f64),
    Text(&'a str),
    List(Vec<Number<'a>>),
}

impl<'a> From<&'a Value> for Number<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::UInt(u) => Self::UInt(*u),
            Value::F32(f) => Self::F32(seven_digits(*f)),
            Value::F64(f) => Self::F64(*f),
            Value::Text(text) => Self::Text(text),
            Value::List(list) => Self::List(list.iter().map(Number::from).collect()),
        }
    }
}

/// One reading as JSON.
pub fn encode(reading: &Reading) -> Bytes {
    let shape = ReadingJson {
        v: reading.value.as_ref().map(Number::from),
        t: rfc3339(reading.time.unix_ms),
        q: reading.quality.name(),
        reason: reading.quality.reason(),
        age: (!reading.age.is_zero()).then_some(reading.age.as_secs_f64()),
        clock: (!reading.time.clock_set).then_some("unset"),
    };
    text(&shape).into()
}

/// A structure of texts, numbers and lists as JSON.
///
/// An empty text in its place would remove a retained message, so a structure without JSON (a map
/// whose keys are no texts) is a bug, and stops the program.
pub fn text(shape: &impl Serialize) -> String {
    serde_json::to_string(shape)
        .expect("texts, numbers and lists of them can always be written as JSON")
}

const TIME: &[u8] = b",\"t\":\"";
const TIME_LENGTH: usize = "2026-01-31T08:15:30.250Z".len();
const UNSET: &[u8] = b",\"clock\":\"unset\"}";

/// The same reading with its time moved by `step` milliseconds; `None` if it was not made by
/// [`encode`].
pub fn moved(payload: &[u8], step: i64) -> Option<Bytes> {
    // Quotes inside a text are escaped: the first place that looks like it is it.
    let start = memchr::memmem::find(payload, TIME)? + TIME.len();
    let (before, rest) = payload.split_at_checked(start)?;
    let (time, after) = rest.split_at_checked(TIME_LENGTH)?;
    let unix_ms = parse_rfc3339(std::str::from_utf8(time).ok()?)? + step;
    let mut moved = Vec::with_capacity(payload.len());
    moved.extend_from_slice(before);
    moved.extend_from_slice(rfc3339(unix_ms).as_bytes());
    match after.strip_suffix(UNSET).filter(|_| is_plausible(unix_ms)) {
        Some(rest) => {
            moved.extend_from_slice(rest);
            moved.push(b'}');
        }
        None => moved.extend_from_slice(after),
    }
    Some(moved.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{PointId, Quality, Timestamp};
    use std::time::Duration;

    fn check(value: Option<Value>, quality: Quality, unix_ms: i64, expected: &str) {
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(unix_ms),
            quality,
            age: Duration::ZERO,
        };
        assert_eq!(encode(&reading), expected);
    }

    #[test]
    fn a_time_taken_before_the_clock_was_set_is_put_right() {
        let reading = |unix_ms| Reading {
            point: PointId(0),
            value: Some(Value::Text(r#"a","t":"1999"#.into())),
            time: Timestamp::at(unix_ms),
            quality: Quality::Stale("no answer".into()),
            age: Duration::from_secs(1),
        };
        assert_eq!(
            moved(&encode(&reading(5)), 1_769_847_330_245).unwrap(),
            encode(&reading(1_769_847_330_250))
        );
        assert_eq!(
            moved(&encode(&reading(1_769_847_330_250)), -50).unwrap(),
            encode(&reading(1_769_847_330_200))
        );
        assert_eq!(
            moved(&encode(&reading(5)), 50).unwrap(),
            encode(&reading(55))
        );
        for other in [
            &b"21.5"[..],
            br#"{"v":1,"t":"2026-01"#,
            br#"{"v":1,"t":"2026-01-31X08:15:30.250Z"}"#,
        ] {
            assert_eq!(moved(other, 50), None);
        }
    }

    #[test]
    fn readings_are_written_as_documented() {
        let at = 1_769_847_330_250;
        check(
            Some(Value::F32(229.400_01)),
            Quality::Good,
            at,
            r#"{"v":229.4,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::F32(0.1 + 0.2)),
            Quality::Good,
            at,
            r#"{"v":0.3,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::F32(-1.234_567_8e-5)),
            Quality::Good,
            at,
            r#"{"v":-0.00001234568,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::F32(229.4)),
            Quality::Good,
            at,
            r#"{"v":229.4,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::F64(12.3)),
            Quality::Good,
            at,
            r#"{"v":12.3,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::Bool(true)),
            Quality::Good,
            at,
            r#"{"v":true,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::Text("a\"b".into())),
            Quality::Good,
            at,
            r#"{"v":"a\"b","t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
        );
        check(
            Some(Value::UInt(7)),
            Quality::Stale("no answer".into()),
            at,
            r#"{"v":7,"t":"2026-01-31T08:15:30.250Z","q":"stale","reason":"no answer"}"#,
        );
        check(
            None,
            Quality::Bad("no answer".into()),
            5,
            r#"{"v":null,"t":"1970-01-01T00:00:00.005Z","q":"bad","reason":"no answer","clock":"unset"}"#,
        );
    }
}
