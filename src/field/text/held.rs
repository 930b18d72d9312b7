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
