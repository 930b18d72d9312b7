//! Values by time, as ThingsBoard takes them from a device:
//! `[{"ts":1769847330250,"values":{"flow":12.3,"mode":"auto"}}]`. Pure.
//!
//! Readings that follow one another and have the same time share an object. Without a time, because
//! the clock of the gateway was not set, an object has only the values: the receiver takes its own
//! time. Quality and units have no place: only good readings can be written.

use super::{NamedReading, json, value};
use crate::reading::Value;

/// Readings of one device, in their order; those without a value are left out.
pub(super) fn encode(readings: &[NamedReading<'_>]) -> Option<String> {
    let mut objects: Vec<Object> = Vec::new();
    for named in readings {
        let Some(value) = &named.reading.value else {
            continue;
        };
        let name = json::text(&&*named.names.point);
        let time = named.time.clock_set.then_some(named.time.unix_ms);
        match objects.last_mut() {
            Some(last) if last.time == time && !last.has(&name) => last.add(name, value),
            _ => {
                let mut object = Object {
                    time,
                    values: Vec::new(),
                };
                object.add(name, value);
                objects.push(object);
            }
        }
    }
    let texts: Vec<String> = objects.iter().map(Object::text).collect();
    (!texts.is_empty()).then(|| format!("[{}]", texts.join(",")))
}

/// The values of one time, by their names as JSON.
struct Object {
    time: Option<i64>,
    values: Vec<(String, String)>,
}

impl Object {
    fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(known, _)| known == name)
    }

    fn add(&mut self, name: String, value: &Value) {
        self.values.push((name, value::json(value)));
    }

    fn text(&self) -> String {
        let member = |(name, value): &(String, String)| format!("{name}:{value}");
        let members: Vec<String> = self.values.iter().map(member).collect();
        let values = format!("{{{}}}", members.join(","));
        match self.time {
            Some(time) => format!("{{\"ts\":{time},\"values\":{values}}}"),
            None => values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::samples::{NamedSample, named};

    const AT: i64 = 1_769_847_330_250;

    #[test]
    fn readings_of_one_time_share_an_object() {
        let samples = [
            NamedSample::new("s7/pump/flow", AT, Value::F64(12.3)),
            NamedSample::new("s7/pump/mode", AT, Value::Text("a\"b".into())),
            NamedSample::new("s7/pump/flow", AT, Value::UInt(7)),
            NamedSample::new("s7/pump/on", AT + 10, Value::Bool(true)),
            NamedSample::new("s7/pump/list", 5, Value::List(vec![Value::Int(1)])),
        ];
        assert_eq!(
            encode(&named(&samples)).unwrap(),
            concat!(
                r#"[{"ts":1769847330250,"values":{"flow":12.3,"mode":"a\"b"}},"#,
                r#"{"ts":1769847330250,"values":{"flow":7}},"#,
                r#"{"ts":1769847330260,"values":{"on":true}},{"list":[1]}]"#
            )
        );
        assert_eq!(encode(&[]), None);
    }
}
