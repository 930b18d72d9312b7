//! What the YAML says about a meter that sends SML, and how its values become points. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::list::{EntryValue, ListEntry, Obis};
use crate::field::meter_units::{MeterUnit, Plausibility};
use crate::reading::Value;

/// A meter that sends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmlSpec {
    /// The longest silence of a meter that works.
    pub silent_after: Duration,
}

/// Which value of a meter is a point.
#[derive(Debug, Clone, PartialEq)]
pub struct ObisSelector {
    /// Its code.
    pub obis: Obis,
    /// The unit of the point; `None`: that of its code, if that has one.
    pub unit: Option<MeterUnit>,
    /// What is published of its numbers.
    pub plausibility: Plausibility,
}

impl ObisSelector {
    /// The value of the point, or the reason why it has none.
    pub fn value(&self, entries: &[ListEntry]) -> Result<Value, Arc<str>> {
        let Some(entry) = entries.iter().find(|entry| entry.obis == self.obis) else {
            let count = entries.len();
            return Err(format!("the meter sends {count} values, none is {}", self.obis).into());
        };
        let number = match &entry.value {
            EntryValue::Missing => return Err("the meter has no value".into()),
            EntryValue::Bool(state) => return Ok(Value::Bool(*state)),
            EntryValue::Text(text) => return Ok(Value::Text(text.as_str().into())),
            EntryValue::Number(number) => *number,
        };
        // A code whose unit is not known keeps the number of the meter.
        let own = entry.unit.filter(|_| self.unit.is_some());
        number.of_point(own, self.unit, self.plausibility)
    }
}
