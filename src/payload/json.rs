//! The payload any MQTT subscriber can read:
//! `{"v":12.3,"t":"2026-01-31T08:15:30.250Z","q":"good"}`.
//!
//! `v` is null if there is no value; `reason` says why `q` is not good; `age` is that of a stale
//! value in seconds; `"clock":"unset"` marks a time that was taken before the clock of the gateway
//! was set.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::reading::{PointId, Quality, Reading, Timestamp, Value, seven_digits};
use crate::time::{parse_rfc3339, rfc3339};

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

/// One reading as JSON, with its time as it was taken.
pub fn encode(reading: &Reading) -> Bytes {
    encode_as_of(reading, reading.time).into()
}

/// One reading as JSON at the moment `now`. The time of a reading that was taken before the clock
/// was set is corrected.
pub fn encode_at(reading: &Reading, now: Timestamp) -> Bytes {
    encode_as_of(reading, reading.time.corrected(now)).into()
}

/// One reading as JSON that was taken at `time`.
pub(super) fn encode_as_of(reading: &Reading, time: Timestamp) -> String {
    let shape = ReadingJson {
        v: reading.value.as_ref().map(Number::from),
        t: rfc3339(time.unix_ms),
        q: reading.quality.name(),
        reason: reading.quality.reason(),
        age: (!reading.age.is_zero()).then_some(reading.age.as_secs_f64()),
        clock: (!time.clock_set).then_some("unset"),
    };
    text(&shape)
}

/// A structure of texts, numbers and lists as JSON.
///
/// An empty text in its place would remove a retained message, so a structure without JSON (a map
/// whose keys are no texts) is a bug, and stops the program.
pub fn text(shape: &impl Serialize) -> String {
    serde_json::to_string(shape)
        .expect("texts, numbers and lists of them can always be written as JSON")
}

/// A reading as an earlier version queued it, in JSON.
#[derive(Deserialize)]
struct QueuedJson {
    v: serde_json::Value,
    t: String,
    q: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    age: f64,
    clock: Option<String>,
}

/// The value of a text in JSON; `None` if it is none.
pub(super) fn value(text: &str) -> Option<Value> {
    value_of(serde_json::from_str(text).ok()?)
}

pub(super) fn value_of(json: serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match json {
        Json::Bool(b) => Value::Bool(b),
        Json::Number(number) => number
            .as_u64()
            .map(Value::UInt)
            .or(number.as_i64().map(Value::Int))
            .or(number.as_f64().map(Value::F64))?,
        Json::String(text) => Value::Text(text.into()),
        Json::Array(list) => Value::List(list.into_iter().map(value_of).collect::<Option<_>>()?),
        Json::Null | Json::Object(_) => return None,
    })
}

/// The reading that [`encode`] wrote, without its point and the time since the machine started;
/// `None` if it is none. [`encode`] makes the same numbers and texts of it again.
pub fn decode(payload: &[u8]) -> Option<Reading> {
    let json: QueuedJson = serde_json::from_slice(payload).ok()?;
    let mut time = Timestamp::at(parse_rfc3339(&json.t)?);
    time.clock_set &= json.clock.is_none();
    let reason = || json.reason.as_str().into();
    let quality = match json.q.as_str() {
        "good" => Quality::Good,
        "stale" => Quality::Stale(reason()),
        "bad" => Quality::Bad(reason()),
        _ => return None,
    };
    Some(Reading {
        point: PointId(u32::MAX),
        value: value_of(json.v),
        time,
        quality,
        age: Duration::try_from_secs_f64(json.age).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_an_earlier_version_wrote_is_read_and_written_again_as_it_was() {
        for text in [
            r#"{"v":229.4,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":-0.00001234568,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":true,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":18446744073709551615,"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":"a\"b\",\"t\":\"1999","t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":[1,-2,3.5],"t":"2026-01-31T08:15:30.250Z","q":"good"}"#,
            r#"{"v":7,"t":"2026-01-31T08:15:30.250Z","q":"stale","reason":"no answer","age":1.5}"#,
            r#"{"v":null,"t":"1970-01-01T00:00:00.005Z","q":"bad","reason":"no answer","clock":"unset"}"#,
        ] {
            let reading = decode(text.as_bytes()).unwrap();
            assert_eq!(encode(&reading), text);
        }
        for other in [
            &b"21.5"[..],
            br#"{"v":1,"t":"2026-01"#,
            br#"{"v":1,"t":"2026-01-31X08:15:30.250Z","q":"good"}"#,
            br#"{"v":1,"t":"2026-01-31T08:15:30.250Z","q":"perfect"}"#,
            br#"{"v":1,"t":"2026-01-31T08:15:30.250Z","q":"good","age":-1}"#,
        ] {
            assert_eq!(decode(other), None);
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
