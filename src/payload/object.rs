//! The values of one device at one time: `{"ts":1769847330250,"flow":12.3,"mode":"auto"}`. Pure.
//!
//! Without a time, because the clock of the gateway was not set, an object has only the values: the
//! receiver takes its own time. A point named `ts` becomes `ts_`. Quality and units have no place:
//! only good readings can be written.

use super::{NamedReading, json, value};

/// The member that has the time.
const TIME: &str = "ts";

/// Readings of one device and time, in their order; those without a value are left out. Of a point
/// that comes twice the last value counts.
pub(super) fn encode(readings: &[NamedReading<'_>]) -> Option<String> {
    let first = readings.first()?;
    let mut values: Vec<(String, String)> = Vec::new();
    for named in readings {
        let Some(value) = &named.reading.value else {
            continue;
        };
        let name = match &*named.names.point {
            TIME => json::text(&"ts_"),
            other => json::text(&other),
        };
        let written = value::json(value);
        match values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => *earlier = written,
            None => values.push((name, written)),
        }
    }
    if values.is_empty() {
        return None;
    }
    let time = first.time.clock_set.then(|| first.time.unix_ms.to_string());
    let members = time
        .map(|time| (json::text(&TIME), time))
        .into_iter()
        .chain(values)
        .map(|(name, value)| format!("{name}:{value}"));
    Some(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::samples::{NamedSample, named};
    use crate::reading::Value;

    #[test]
    fn readings_of_one_time_are_members_of_an_object() {
        const AT: i64 = 1_769_847_330_250;
        let samples = [
            NamedSample::new("s7/pump/flow", AT, Value::F64(12.3)),
            NamedSample::new("s7/pump/mode", AT, Value::Text("a\"b".into())),
            NamedSample::new("s7/pump/ts", AT, Value::UInt(7)),
            NamedSample::new("s7/pump/flow", AT, Value::F32(12.4)),
        ];
        assert_eq!(
            encode(&named(&samples)).unwrap(),
            r#"{"ts":1769847330250,"flow":12.4,"mode":"a\"b","ts_":7}"#
        );
        let unset = [NamedSample::new("s7/pump/on", 5, Value::Bool(true))];
        assert_eq!(encode(&named(&unset)).unwrap(), r#"{"on":true}"#);
        assert_eq!(encode(&[]), None);
    }
}
