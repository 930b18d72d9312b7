//! The condition of a rule, such as `v > 80 and q == "good"`: whether it takes a message depends on
//! what is in it. Pure.
//!
//! Invariants:
//! * What a message does not have is unknown. A comparison with something unknown is neither true
//!   nor false, `and` and `or` keep that where it matters, and a rule takes a message only if its
//!   condition is true.
//! * A payload is parsed only if a condition asks for it, and once for all rules of all uplinks.

mod operand;
mod subject;
mod syntax;

use std::fmt;
use std::sync::Arc;

use exmex::{Express, FlatEx};

use operand::{Literals, Operand, Operators};
pub use subject::Subject;

/// See the module.
///
/// Names stand for the members of a JSON object, `a.b` for a member of a member; `v` is also the
/// whole payload if that is a number, a text or a truth value. Of readings there are `v`, `q`,
/// `reason`, `age` and `t`. `topic`, `content_type` and `user.<name>` are of the message itself.
/// Names with other characters than ASCII letters, digits, `_` and `.` are in braces:
/// `{flow-rate}`.
#[derive(Clone)]
pub struct Condition {
    text: Arc<str>,
    parsed: Arc<FlatEx<Operand, Operators, Literals>>,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Parses a condition; the error names the fault and the remedy.
    pub fn new(text: &str) -> Result<Self, String> {
        let translated = syntax::translate(text)?;
        let parsed = FlatEx::parse(&translated).map_err(|_| {
            format!("`{text}` is not a condition; write comparisons such as `v > 80 and q == \"good\"`, with `and`, `or`, `not (...)`, `contains`, `known` and + - * / %")
        })?;
        let condition = Self {
            text: text.into(),
            parsed: Arc::new(parsed),
        };
        condition.check()?;
        Ok(condition)
    }

    /// Rejects mistakes that parse.
    fn check(&self) -> Result<(), String> {
        let text = &self.text;
        let compares_quality = self.names().any(|name| name == "q");
        let is_quality = |name: &&str| ["good", "stale", "bad"].contains(name);
        if let Some(word) = self.names().filter(|_| compares_quality).find(is_quality) {
            return Err(format!(
                "`{text}` compares with a name; put a text in quotes: \"{word}\"; a member of that name is `payload.{word}`"
            ));
        }
        if self.names().next().is_none() {
            return Err(format!(
                "`{text}` does not look into the message; compare a member of the payload, or `v`, `q`, `topic`, `content_type` or `user.<name>`"
            ));
        }
        let kinds = [
            Operand::Bool(true),
            Operand::Number(1.0),
            Operand::Text("x".into()),
        ];
        let outcomes = kinds.map(|kind| self.evaluate(|_| kind.clone()));
        let is_truth = |outcome: &Operand| matches!(outcome, Operand::Bool(_));
        let is_value = |outcome: &Operand| matches!(outcome, Operand::Number(_) | Operand::Text(_));
        if outcomes.iter().any(is_value) && !outcomes.iter().any(is_truth) {
            return Err(format!(
                "`{text}` is a value, not a condition; compare it with something"
            ));
        }
        Ok(())
    }

    /// The names it uses, each once.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.parsed.var_names().iter().map(String::as_str)
    }

    fn evaluate(&self, value_of: impl Fn(&str) -> Operand) -> Operand {
        let values: Vec<Operand> = self.names().map(value_of).collect();
        // It fails if there are not as many values as names.
        self.parsed.eval(&values).unwrap_or_default()
    }

    /// True if it is true of a message.
    pub fn is_true_of(&self, subject: &Subject<'_>) -> bool {
        self.evaluate(|name| subject.value(name)) == Operand::Bool(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::{Message, Origin};
    use crate::mqtt::TopicName;
    use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

    fn message(payload: &[u8]) -> Message {
        let topic = TopicName::new("plant/pump/flow").unwrap();
        let mut message = Message::new(topic, payload.to_vec(), Origin::Client);
        let properties = message.properties.edit();
        properties.content_type = Some("application/json".into());
        properties.user = vec![
            ("site".into(), "north".into()),
            ("flow-id".into(), "7".into()),
        ];
        message
    }

    fn is_true(condition: &str, payload: &str) -> bool {
        let message = message(payload.as_bytes());
        Condition::new(condition)
            .unwrap()
            .is_true_of(&Subject::of(&message))
    }

    #[test]
    fn members_of_a_json_payload_are_compared() {
        let payload = r#"{"temperature":31.5,"on":true,"mode":"auto","pump":{"hours":[7,8],"flow-rate":2},"n":null}"#;
        for (condition, expected) in [
            ("temperature > 30", true),
            ("temperature>31.5", false),
            ("temperature >= 31.5 and temperature <= 31.5", true),
            ("30 < temperature && temperature < 32", true),
            ("temperature * 1.8 + 32 > 88", true),
            ("-temperature < 0", true),
            ("temperature % 10 == 1.5", true),
            ("mode == \"auto\"", true),
            ("mode == 'auto'", true),
            ("mode != 'auto' or on", true),
            ("mode contains \"ut\"", true),
            ("mode == 7", false),
            ("mode != 7", true),
            ("mode > 7", false),
            ("on == true", true),
            ("on", true),
            ("not (on)", false),
            ("pump.hours.1 == 8", true),
            ("pump.{flow-rate} == 2", true),
            ("{pump.flow-rate} == 2", true),
            ("payload.mode == \"auto\"", true),
            ("payload.payload.mode == \"auto\"", false),
            ("known(temperature)", true),
            ("known(humidity)", false),
            ("known(n)", false),
            ("not (known(humidity)) and on", true),
            // What is not there makes nothing true, nor its contrary.
            ("humidity > 30", false),
            ("not (humidity > 30)", false),
            ("humidity > 30 or temperature > 30", true),
            ("humidity > 30 and temperature > 30", false),
            ("not (humidity > 30 and temperature > 40)", true),
            ("pump > 3", false),
            ("pump.hours == 7", false),
            // Names that begin like an operator.
            ("order == 1 or android == 1 or notes == 1", false),
        ] {
            assert_eq!(is_true(condition, payload), expected, "{condition}");
        }
    }

    #[test]
    fn a_payload_that_is_no_object_is_v() {
        for (condition, payload, expected) in [
            ("v > 3", "3.5", true),
            ("v > 3", " 3.5\n", true),
            ("v == \"open\"", "open", true),
            ("v == \"open\"", "\"open\"", true),
            ("v", "true", true),
            ("v > 3", "", false),
            ("v > 3", "{\"v\":4}", true),
            ("v > 3", "[4]", false),
            ("payload.a > 3", r#"{"payload":{"a":4}}"#, true),
            ("known(v) or known(a)", r#"{"a":true,"t":1e999}"#, false),
            ("good > 3", r#"{"good":4}"#, true),
            ("x > 3", "{\"x\":4", false),
            ("v == \"ä\"", "ä", true),
        ] {
            assert_eq!(
                is_true(condition, payload),
                expected,
                "{condition} {payload}"
            );
        }
        let bytes = message(&[0xff, 0x00]);
        let condition = Condition::new("known(v)").unwrap();
        assert!(!condition.is_true_of(&Subject::of(&bytes)));
    }

    #[test]
    fn the_message_itself_is_compared() {
        for (condition, expected) in [
            ("content_type == \"application/json\"", true),
            ("user.site == \"north\"", true),
            ("{user.flow-id} == \"7\"", true),
            ("user.other == \"7\"", false),
            ("topic contains \"/pump/\"", true),
            ("topic == \"plant\"", false),
        ] {
            assert_eq!(is_true(condition, "{}"), expected, "{condition}");
        }
        // A member with the name of a property is below `payload`.
        assert!(!is_true("topic == \"x\"", r#"{"topic":"x"}"#));
        assert!(is_true("payload.topic == \"x\"", r#"{"topic":"x"}"#));
    }

    #[test]
    fn a_large_payload_is_not_looked_into() {
        let large = format!(r#"{{"a":1,"b":"{}"}}"#, "x".repeat(subject::MOST_BYTES));
        assert!(!is_true("a == 1", &large));
        assert!(is_true("a == 1 or topic contains \"pump\"", &large));
    }

    #[test]
    fn a_reading_is_compared_without_becoming_text() {
        let reading = |value: Option<Value>, quality| Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(1_769_847_330_250),
            quality,
            age: Duration::from_millis(1500),
        };
        let message = message(b"");
        let check = |condition: &str, reading: &Reading, expected: bool| {
            let subject = Subject::of_reading(&message, reading);
            let condition = Condition::new(condition).unwrap();
            assert_eq!(condition.is_true_of(&subject), expected, "{condition}");
        };
        let good = reading(Some(Value::F32(80.1)), Quality::Good);
        check("v > 80 and q == \"good\"", &good, true);
        check("v == 80.1", &good, true);
        check("age > 1", &good, true);
        check("t contains \"2026-01-31T08:15\"", &good, true);
        check("known(reason)", &good, false);
        check("topic contains \"flow\"", &good, true);
        let stale = reading(Some(Value::UInt(81)), Quality::Stale("no answer".into()));
        check("v > 80 and q == \"good\"", &stale, false);
        check("q != \"good\" and reason == \"no answer\"", &stale, true);
        let bad = reading(None, Quality::Bad("no answer".into()));
        check("v > 80", &bad, false);
        check("not (v > 80)", &bad, false);
        check("q == \"bad\"", &bad, true);
        let word = reading(Some(Value::Text("open".into())), Quality::Good);
        check("v == \"open\"", &word, true);
        let list = reading(Some(Value::List(vec![Value::UInt(1)])), Quality::Good);
        check("known(v)", &list, false);
        check("v.0 == 1", &list, true);
        check("known(v.1)", &list, false);
        check("known(clock)", &list, false);
        let fresh = Reading {
            age: Duration::ZERO,
            ..reading(Some(Value::UInt(81)), Quality::Good)
        };
        check("v > 80 and age < 10", &fresh, true);
    }

    #[test]
    fn a_faulty_condition_names_its_remedy() {
        for (text, part) in [
            ("", "is empty"),
            ("v = 80", "write `==`"),
            ("v > 80 & q", "write `and`"),
            ("v > 80 | q", "write `or`"),
            ("not v > 80", "parentheses"),
            ("!v", "parentheses"),
            ("q == good", "in quotes: \"good\""),
            ("q == \"good", "quote"),
            ("{flow-rate > 3", "`}`"),
            ("v >", "is not a condition"),
            ("v > 80 q", "is not a condition"),
            ("(v > 80", "is not a condition"),
            ("v > 80)", "is not a condition"),
            ("v ; 3", "`;`"),
            ("v > 8ä", "`ä`"),
            ("1 > 2", "does not look into the message"),
            ("v > 1.2.3", "1.2.3"),
            ("v + \"x\" = 3", "write `==`"),
            ("v + 3", "is a value"),
        ] {
            let error = Condition::new(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        /// Whatever is typed is a condition or an error, and whatever it compares is true or not.
        #[test]
        fn nothing_that_is_typed_panics(
            text in r#"([ a-z0-9.<>=!&|()+*/%{}"'ä-]|and |or |not |known|contains| v | 80 ){0,14}"#,
            payload in r#"[\[\]{}",:0-9a-z]{0,20}"#,
        ) {
            if let Ok(condition) = Condition::new(&text) {
                let message = message(payload.as_bytes());
                condition.is_true_of(&Subject::of(&message));
            }
        }
    }
}
