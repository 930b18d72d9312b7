//! The bare value: `12.3`, `true`, `auto`; a list as JSON. Pure.
//!
//! Time and quality have no place in it: only good readings can be written.

use crate::payload::json;
use crate::reading::{Value, seven_digits};

/// Numbers with more characters are written with an exponent.
const LONGEST: usize = 21;

/// A value as text.
pub(super) fn encode(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::List(_) => json::text(&json::Number::from(value)),
        _ => number(value).unwrap_or_default(),
    }
}

/// A number or truth value, as it is written in JSON, too; `None` for text and lists.
pub(super) fn number(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(truth) => truth.to_string(),
        Value::Int(int) => int.to_string(),
        Value::UInt(uint) => uint.to_string(),
        Value::F32(float) => float32(seven_digits(*float)),
        Value::F64(float) => float64(*float),
        Value::Text(_) | Value::List(_) => return None,
    })
}

/// A value as it is written in JSON.
pub(super) fn json(value: &Value) -> String {
    number(value).unwrap_or_else(|| json::text(&json::Number::from(value)))
}

fn float32(float: f32) -> String {
    readable(float.to_string(), || format!("{float:e}"))
}

/// A number in as few digits as say which one it is.
pub(super) fn float64(float: f64) -> String {
    readable(float.to_string(), || format!("{float:e}"))
}

fn readable(plain: String, with_exponent: impl Fn() -> String) -> String {
    if plain.len() > LONGEST {
        with_exponent()
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_written_bare() {
        let check = |value: Value, expected: &str| assert_eq!(encode(&value), expected);
        check(Value::F32(229.400_01), "229.4");
        check(Value::F64(12.0), "12");
        check(Value::F64(-0.001), "-0.001");
        check(Value::F64(1e300), "1e300");
        check(Value::F32(1.5e-30), "1.5e-30");
        check(Value::Bool(true), "true");
        check(Value::UInt(u64::MAX), "18446744073709551615");
        check(Value::Text("auto".into()), "auto");
        check(
            Value::List(vec![Value::Int(-1), Value::Text("a\"b".into())]),
            r#"[-1,"a\"b"]"#,
        );
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_number_is_the_same_one_again_and_is_json(
            float in proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL,
            int: i64,
        ) {
            let text = encode(&Value::F64(float));
            prop_assert!(text.len() <= LONGEST + 4, "{}", text);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), float.to_bits());
            let json: f64 = serde_json::from_str(&text).unwrap();
            prop_assert!((json - float).abs() <= float.abs() * 1e-15);
            prop_assert_eq!(encode(&Value::Int(int)).parse::<i64>().unwrap(), int);
        }
    }
}
