//! Points computed from others: arithmetic over the values of one device. Pure.

use std::fmt;
use std::sync::Arc;

use exmex::{Express, FlatEx};

use super::decode::round_to;
use crate::reading::Value;

/// An expression such as `(supply - return) * flow * 1.163`; names with other signs than letters,
/// digits and `_` are in braces: `{flow-rate}`. `+ - * / ^ min max` stand between values, functions
/// such as `abs`, `sqrt`, `round` before them.
#[derive(Clone)]
pub struct Formula {
    text: Arc<str>,
    parsed: Arc<FlatEx<f64>>,
    decimals: Option<u8>,
}

impl PartialEq for Formula {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.decimals == other.decimals
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Formula").field(&self.text).finish()
    }
}

impl Formula {
    /// Parses an expression; the error names the fault.
    pub fn new(text: &str) -> Result<Self, String> {
        let parsed = FlatEx::<f64>::parse(text).map_err(|error| {
            if text.contains(['<', '>', '=', '?', '!', '&', '|']) || text.contains("if") {
                return format!(
                    "`{text}` is not an expression: there are no conditions, only + - * / ^ min max and functions; `signum(p - 5) max 0` is 1 from 5 on and 0 below"
                );
            }
            format!("`{text}` is not an expression: {}", error.msg())
        })?;
        Ok(Self {
            text: text.into(),
            parsed: Arc::new(parsed),
            decimals: None,
        })
    }

    /// The same, rounded to a number of digits after the point.
    #[must_use]
    pub fn rounded(self, decimals: Option<u8>) -> Self {
        Self { decimals, ..self }
    }

    /// Digits after the point that its value is rounded to.
    pub fn decimals(&self) -> Option<u8> {
        self.decimals
    }

    /// The names it uses, each once.
    pub fn names(&self) -> &[String] {
        self.parsed.var_names()
    }

    /// Its value; `value_of` gives the newest value of a name, or why there is none.
    pub fn value(
        &self,
        value_of: impl Fn(&str) -> Result<Value, Arc<str>>,
    ) -> Result<Value, Arc<str>> {
        let mut values = Vec::with_capacity(self.names().len());
        for name in self.names() {
            let value = value_of(name)?;
            values.push(
                value
                    .as_f64()
                    .ok_or_else(|| Arc::from(format!("{name} is not a number")))?,
            );
        }
        let result = self
            .parsed
            .eval(&values)
            .map_err(|error| Arc::from(error.msg()))?;
        let result = self
            .decimals
            .map_or(result, |decimals| round_to(result, usize::from(decimals)));
        if result.is_finite() {
            Ok(Value::F64(result))
        } else {
            Err("not a number".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<f64, &str>) {
        let known = |name: &str| match name {
            "a" => Ok(Value::UInt(6)),
            "flow-rate" => Ok(Value::F32(2.5)),
            "mode" => Ok(Value::Text("auto".into())),
            _ => Err(Arc::from("no answer")),
        };
        let value = Formula::new(text)
            .map_err(Arc::from)
            .and_then(|formula| formula.value(known));
        match expected {
            Ok(number) => assert_eq!(value, Ok(Value::F64(number)), "{text}"),
            Err(part) => assert!(
                value.as_ref().is_err_and(|error| error.contains(part)),
                "{text}: {value:?}"
            ),
        }
    }

    #[test]
    fn arithmetic_over_points() {
        check("a * 2 + 1", Ok(13.0));
        check("{flow-rate} * 4 - a", Ok(4.0));
        check("(a max 10) / 2", Ok(5.0));
        check("abs(-a) + sqrt(16) + 2^3", Ok(18.0));
        check("a / 0", Err("not a number"));
        check("a + gone", Err("no answer"));
        check("a + mode", Err("mode is not a number"));
        check("a +", Err("not an expression"));
        check("(a", Err("not an expression"));
        check("if(a>5,1,0)", Err("there are no conditions"));
        check("a > 5 ? 1 : 0", Err("there are no conditions"));
        check("signum(a - 5) max 0", Ok(1.0));
        check("signum(a - 7) max 0", Ok(0.0));
        check("signum(a - 6) max 0", Ok(1.0));
    }
}
