//! What simulated instruments show: the waves of their points, or what was written to them. Pure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::field::{Device, Point};
use crate::reading::PointId;

/// The values that were written to the instruments of a line, however often it is connected.
pub type SharedHeld = Arc<Mutex<HeldValues>>;

/// See [`SharedHeld`].
#[derive(Debug, Default)]
pub struct HeldValues(HashMap<PointId, Held>);

/// What a point shows instead of its wave.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Held {
    Number(f64),
    Text(Arc<str>),
    /// Its wave without what it was when it was set to zero.
    Above(f64),
}

/// An instrument at one moment.
pub(super) struct Shown<'a> {
    pub(super) device: &'a Device,
    pub(super) held: &'a HeldValues,
    /// The time since it was started.
    pub(super) elapsed: Duration,
}

impl HeldValues {
    /// A value was written.
    pub(super) fn write(&mut self, point: &Point, value: Held) {
        self.0.insert(point.id, value);
    }

    /// A point shows 0 from now on, and what it differs from its present value later.
    pub(super) fn zero(&mut self, point: &Point, elapsed: Duration) {
        let zero = match self.0.get(&point.id) {
            Some(Held::Number(_)) => Held::Number(0.0),
            _ => Held::Above(point.signal.value(elapsed)),
        };
        self.0.insert(point.id, zero);
    }
}

impl Shown<'_> {
    /// The number that a point shows.
    pub(super) fn number(&self, point: &Point) -> f64 {
        match self.held.0.get(&point.id) {
            Some(Held::Number(number)) => *number,
            Some(Held::Above(zero)) => point.signal.value(self.elapsed) - zero,
            Some(Held::Text(_)) | None => point.signal.value(self.elapsed),
        }
    }

    /// The text that a point shows; `None`: its number.
    pub(super) fn text<'s>(&'s self, point: &'s Point) -> Option<&'s str> {
        match self.held.0.get(&point.id) {
            Some(Held::Text(text)) => Some(text),
            Some(_) => None,
            None => point.says,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::signal::{Signal, Waveform};
    use crate::reading::DeviceId;
    use crate::units::Span;

    #[test]
    fn a_point_shows_what_was_written_and_a_zero_is_the_weight_at_that_moment() {
        let signal = Signal {
            shape: Waveform::Ramp,
            from: 0.0,
            to: 100.0,
            period: Span(Duration::from_secs(100)),
        };
        let mut device = Device::new(DeviceId(0), "d", 0);
        device.points.push(Point::simulated("weight", signal));
        let mut held = HeldValues::default();
        let shows = |held: &HeldValues, seconds| {
            let shown = Shown {
                device: &device,
                held,
                elapsed: Duration::from_secs(seconds),
            };
            let point = &device.points[0];
            (
                shown.number(point).round(),
                shown.text(point).map(str::to_owned),
            )
        };
        assert_eq!(shows(&held, 10), (10.0, None));
        held.zero(&device.points[0], Duration::from_secs(10));
        assert_eq!(shows(&held, 25), (15.0, None));
        held.write(&device.points[0], Held::Number(7.0));
        assert_eq!(shows(&held, 25), (7.0, None));
        held.zero(&device.points[0], Duration::from_secs(25));
        assert_eq!(shows(&held, 30), (0.0, None));
        held.write(&device.points[0], Held::Text("run".into()));
        assert_eq!(shows(&held, 30), (30.0, Some("run".to_owned())));
    }
}
