//! The median of the newest values: single outliers vanish, edges stay. Pure.

use std::collections::VecDeque;

use crate::reading::{Quality, Reading, Value};

/// The newest numbers of one point.
#[derive(Debug, Clone, Default)]
pub(super) struct Median(VecDeque<f64>);

impl Median {
    /// The reading with the median of the newest `width` values in place of its own. Text and bad
    /// readings pass; a bad reading clears the window.
    pub(super) fn take(&mut self, mut reading: Reading, width: u8) -> Reading {
        let number = reading
            .value
            .as_ref()
            .and_then(Value::as_f64)
            .filter(|_| reading.quality == Quality::Good);
        let Some(number) = number else {
            if matches!(reading.quality, Quality::Bad(_)) {
                self.0.clear();
            }
            return reading;
        };
        if self.0.len() >= usize::from(width.max(1)) {
            self.0.pop_front();
        }
        self.0.push_back(number);
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        if let Some(middle) = sorted.get((sorted.len() - 1) / 2) {
            reading.value = reading.value.map(|value| like(&value, *middle));
        }
        reading
    }
}

/// `number` in the type of `value`, which it had when it came.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn like(value: &Value, number: f64) -> Value {
    match value {
        Value::Bool(_) => Value::Bool(number != 0.0),
        Value::Int(_) => Value::Int(number as i64),
        Value::UInt(_) => Value::UInt(number as u64),
        Value::F32(_) => Value::F32(number as f32),
        _ => Value::F64(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{PointId, Timestamp};
    use std::time::Duration;

    #[test]
    fn an_outlier_vanishes_and_an_edge_stays() {
        let mut median = Median::default();
        let good = |value| Reading {
            point: PointId(0),
            value: Some(Value::UInt(value)),
            time: Timestamp::at(0),
            quality: Quality::Good,
            age: Duration::ZERO,
        };
        let shown: Vec<String> = [5, 5, 900, 5, 5, 9, 9, 9]
            .map(|value| median.take(good(value), 3).value.unwrap().to_string())
            .into_iter()
            .collect();
        assert_eq!(shown, ["5", "5", "5", "5", "5", "5", "9", "9"]);
        let bad = Reading {
            quality: Quality::Bad("x".into()),
            value: None,
            ..good(0)
        };
        assert_eq!(median.take(bad.clone(), 3), bad);
        assert_eq!(
            median.take(good(70), 3).value,
            Some(Value::UInt(70)),
            "begun anew"
        );
    }
}
