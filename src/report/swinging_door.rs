//! The swinging door: keeps the readings that draw the same line. Pure.
//!
//! Source: E. H. Bristol, "Swinging door trending", ISA 1990. Straight lines between kept readings
//! come nearer than the bound to every reading that was left out.
//!
//! Invariants:
//! * The error of the line is never greater than the bound.
//! * At most one reading waits; it is given out before the reading that shows that it matters.

/// The doors of one point: slopes from the last shown value to the values that came since, a bound
/// above and below.
#[derive(Debug, Clone)]
pub struct SwingingDoor<T>(Option<Box<Open<T>>>);

#[derive(Debug, Clone)]
struct Open<T> {
    value: f64,
    at: f64,
    /// The steepest slope that passes below every value plus the bound, and the flattest above
    /// every value minus it.
    upper: f64,
    lower: f64,
    waits: Option<(T, f64, f64)>,
}

impl<T> Default for SwingingDoor<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> SwingingDoor<T> {
    /// Takes a value with its time in seconds; yields the waiting one if the new one leaves the
    /// doors. The first value is yielded itself.
    pub fn take(&mut self, item: T, value: f64, at: f64, bound: f64) -> Option<T> {
        let Some(open) = &mut self.0 else {
            self.0 = Some(Box::new(Open::at(value, at)));
            return Some(item);
        };
        if open.admits(value, at, bound) {
            open.waits = Some((item, value, at));
            return None;
        }
        let Some((kept, kept_value, kept_at)) = open.waits.take() else {
            // Nothing came between: the line goes straight to the new one.
            open.waits = Some((item, value, at));
            return None;
        };
        let mut next = Open::at(kept_value, kept_at);
        next.admits(value, at, bound);
        next.waits = Some((item, value, at));
        self.0 = Some(Box::new(next));
        Some(kept)
    }

    /// Yields the waiting value and begins there: after a silence that is too long, and before a
    /// reading that is no number.
    pub fn flush(&mut self) -> Option<T> {
        let open = self.0.as_mut()?;
        let (item, value, at) = open.waits.take()?;
        **open = Open::at(value, at);
        Some(item)
    }

    /// Starts over with the next value.
    pub fn close(&mut self) {
        self.0 = None;
    }
}

impl<T> Open<T> {
    fn at(value: f64, at: f64) -> Self {
        Self {
            value,
            at,
            upper: f64::INFINITY,
            lower: f64::NEG_INFINITY,
            waits: None,
        }
    }

    /// Narrows the doors to a value; false if no line from the last shown value to this one keeps
    /// the bound.
    fn admits(&mut self, value: f64, at: f64, bound: f64) -> bool {
        let seconds = (at - self.at).max(1e-9);
        let slope = (value - self.value) / seconds;
        let admitted = self.lower <= slope && slope <= self.upper;
        self.upper = self.upper.min((value + bound - self.value) / seconds);
        self.lower = self.lower.max((value - bound - self.value) / seconds);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The indices that are shown of values one second apart.
    fn shown(values: &[f64], bound: f64) -> Vec<usize> {
        let mut door = SwingingDoor::default();
        let mut shown: Vec<usize> = Vec::new();
        for (index, value) in values.iter().enumerate() {
            shown.extend(door.take(index, *value, index as f64, bound));
        }
        shown.extend(door.flush());
        shown
    }

    #[test]
    fn a_straight_line_needs_its_ends_only() {
        assert_eq!(shown(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.1), [0, 4]);
        assert_eq!(shown(&[0.0, 1.0, 2.0, 1.0, 0.0], 0.1), [0, 2, 4]);
        assert_eq!(shown(&[5.0, 5.0, 5.0, 9.0, 9.0], 0.5), [0, 2, 3, 4]);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn no_reading_is_farther_from_the_line_than_the_bound(values in prop::collection::vec(-100.0_f64..100.0, 2..60), bound in 0.1_f64..50.0) {
            let shown = shown(&values, bound);
            prop_assert_eq!(shown.last(), Some(&(values.len() - 1)));
            for pair in shown.windows(2) {
                let (from, to) = (pair[0], pair[1]);
                prop_assert!(from < to);
                for index in from..=to {
                    let part = (index - from) as f64 / (to - from) as f64;
                    let line = values[from] + (values[to] - values[from]) * part;
                    prop_assert!((line - values[index]).abs() <= bound + 1e-9, "{index}: {line} and {}", values[index]);
                }
            }
        }
    }
}
