//! The last value of every point of a line: what stands when an attempt fails, how old it may grow, what is computed from it. Pure.
//!
//! Invariants:
//! * A value older than its `stale_after` is never shown as good; without one, a value is stale from the first failure on.
//! * What is computed from something that is not good is bad.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::formula::Formula;
use super::{Device, Source, Values};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// Where a point stands.
#[derive(Debug, Clone)]
enum Standing {
    /// Measured then.
    Good(Value, Instant),
    /// Measured then; attempts since then failed.
    Old { value: Value, at: Instant, why: Arc<str>, told: bool, is_bad: bool },
    /// No value.
    None(Arc<str>),
}

#[derive(Debug)]
struct Derived {
    point: PointId,
    formula: Formula,
    /// By name.
    parts: HashMap<String, PointId>,
}

/// Where each point stands, in the order of the points: a line has many, and there are many lines.
#[derive(Debug)]
struct Standings(Vec<(PointId, Option<Standing>)>);

impl Standings {
    fn new(points: impl Iterator<Item = PointId>) -> Self {
        let mut all: Vec<(PointId, Option<Standing>)> = points.map(|point| (point, None)).collect();
        all.sort_by_key(|(point, _)| *point);
        all.shrink_to_fit();
        Self(all)
    }

    fn place(&mut self, point: PointId) -> Option<&mut Option<Standing>> {
        let index = self.0.binary_search_by_key(&point, |(point, _)| *point).ok()?;
        self.0.get_mut(index).map(|(_, standing)| standing)
    }

    fn get(&self, point: &PointId) -> Option<&Standing> {
        let index = self.0.binary_search_by_key(point, |(point, _)| *point).ok()?;
        self.0.get(index).and_then(|(_, standing)| standing.as_ref())
    }

    fn get_mut(&mut self, point: &PointId) -> Option<&mut Standing> {
        self.place(*point).and_then(Option::as_mut)
    }

    fn insert(&mut self, point: PointId, standing: Standing) {
        if let Some(place) = self.place(point) {
            *place = Some(standing);
        }
    }

    fn remove(&mut self, point: &PointId) -> Option<Standing> {
        self.place(*point).and_then(Option::take)
    }

    fn iter(&self) -> impl Iterator<Item = (&PointId, &Standing)> {
        self.0.iter().filter_map(|(point, standing)| Some((point, standing.as_ref()?)))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Last {
    standing: Standings,
    stale_after: HashMap<PointId, Duration>,
    /// Nothing grows too old before.
    fades_at: Option<Instant>,
    /// By device.
    derived: Vec<Vec<Derived>>,
}

impl Last {
    pub(super) fn new(devices: &[Arc<Device>]) -> Self {
        let points = || devices.iter().flat_map(|device| &device.points);
        let stale_after = points().filter_map(|point| Some((point.id, point.stale_after?))).collect();
        Self {
            standing: Standings::new(points().map(|point| point.id)),
            stale_after,
            fades_at: None,
            derived: devices.iter().map(|device| derived(device)).collect(),
        }
    }

    /// Values came.
    pub(super) fn measured(&mut self, device: usize, values: Values, now: Instant, time: Timestamp) -> Vec<Reading> {
        let mut readings = Vec::with_capacity(values.len());
        for (point, value) in values {
            let (value, quality) = match value {
                Ok(value) => {
                    self.standing.insert(point, Standing::Good(value.clone(), now));
                    if let Some(after) = self.stale_after.get(&point) {
                        let at = now + *after;
                        self.fades_at = Some(self.fades_at.map_or(at, |first| first.min(at)));
                    }
                    (Some(value), Quality::Good)
                }
                Err(why) => {
                    self.standing.insert(point, Standing::None(why.clone()));
                    (None, Quality::Bad(why))
                }
            };
            readings.push(Reading { point, value, time, quality, age: Duration::ZERO });
        }
        self.computed(device, &mut readings);
        readings
    }

    /// An attempt to read these points failed; `is_bad`: the last value does not stand for now.
    pub(super) fn missed(
        &mut self,
        device: usize,
        points: &[PointId],
        why: &Arc<str>,
        is_bad: bool,
        (now, time): (Instant, Timestamp),
    ) -> Vec<Reading> {
        let mut readings = Vec::new();
        for point in points {
            let standing = match self.standing.remove(point) {
                Some(Standing::Good(value, at)) => Standing::Old { value, at, why: why.clone(), told: false, is_bad },
                Some(Standing::Old { value, at, told, is_bad: was_bad, .. }) => {
                    Standing::Old { value, at, why: why.clone(), told: told && was_bad == is_bad, is_bad: is_bad || was_bad }
                }
                Some(Standing::None(_)) | None => Standing::None(why.clone()),
            };
            self.standing.insert(*point, standing);
            readings.extend(self.told(*point, now, time));
        }
        self.computed(device, &mut readings);
        readings
    }

    /// What has grown too old since the attempts fail.
    pub(super) fn faded(&mut self, now: Instant, time: Timestamp) -> Vec<Reading> {
        if self.fades_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.fades_at = self.first_fading();
        if self.fades_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let silent = |(point, after): (&PointId, &Duration)| match self.standing.get(point) {
            Some(Standing::Good(_, at)) if now.saturating_duration_since(*at) >= *after => Some(*point),
            _ => None,
        };
        // Its device may talk, but not of this.
        let unheard: Vec<PointId> = self.stale_after.iter().filter_map(silent).collect();
        for point in unheard {
            if let Some(Standing::Good(value, at)) = self.standing.remove(&point) {
                self.standing.insert(point, Standing::Old { value, at, why: "nothing newer came".into(), told: false, is_bad: false });
            }
        }
        let waiting: Vec<PointId> = self
            .standing
            .iter()
            .filter(|(_, standing)| matches!(standing, Standing::Old { told: false, .. }))
            .map(|(point, _)| *point)
            .collect();
        let mut readings: Vec<Reading> = waiting.into_iter().filter_map(|point| self.told(point, now, time)).collect();
        for device in 0..self.derived.len() {
            self.computed(device, &mut readings);
        }
        self.fades_at = self.first_fading();
        readings
    }

    /// When the next value grows too old, if its device stays silent; or earlier, when newer values have put that off.
    pub(super) fn next_fading(&self) -> Option<Instant> {
        self.fades_at
    }

    fn first_fading(&self) -> Option<Instant> {
        let fading = self.stale_after.iter().filter_map(|(point, after)| match self.standing.get(point) {
            Some(Standing::Old { at, told: false, .. } | Standing::Good(_, at)) => Some(*at + *after),
            _ => None,
        });
        fading.min()
    }

    /// The reading that tells of a failure, once it is time to tell.
    fn told(&mut self, point: PointId, now: Instant, time: Timestamp) -> Option<Reading> {
        let patience = self.stale_after.get(&point).copied();
        let bad = |why: &Arc<str>| Reading { point, value: None, time, quality: Quality::Bad(why.clone()), age: Duration::ZERO };
        match self.standing.get_mut(&point)? {
            Standing::Good(..) => None,
            Standing::None(why) => Some(bad(why)),
            Standing::Old { value, at, why, told, is_bad } => {
                let age = now.saturating_duration_since(*at);
                if patience.is_some_and(|patience| age < patience) {
                    return None;
                }
                *told = true;
                if *is_bad && patience.is_none() {
                    let reading = bad(why);
                    let why = why.clone();
                    self.standing.insert(point, Standing::None(why));
                    return Some(reading);
                }
                Some(Reading { point, value: Some(value.clone()), time, quality: Quality::Stale(why.clone()), age })
            }
        }
    }

    /// Computes what depends on the points of `readings`, and adds it.
    fn computed(&self, device: usize, readings: &mut Vec<Reading>) {
        let Some(derived) = self.derived.get(device).filter(|derived| !derived.is_empty()) else { return };
        let mut computed = Vec::new();
        for derived in derived {
            let Some(newest) = readings.iter().find(|reading| derived.parts.values().any(|part| *part == reading.point)) else { continue };
            let value = derived.formula.value(|name| match derived.parts.get(name).and_then(|part| self.standing.get(part)) {
                Some(Standing::Good(value, _) | Standing::Old { value, told: false, .. }) => Ok(value.clone()),
                Some(Standing::Old { why, told: true, .. } | Standing::None(why)) => Err(format!("{name}: {why}").into()),
                None => Err(format!("{name} was not read yet").into()),
            });
            let (value, quality) = match value {
                Ok(value) => (Some(value), Quality::Good),
                Err(why) => (None, Quality::Bad(why)),
            };
            computed.push(Reading { point: derived.point, value, time: newest.time, quality, age: Duration::ZERO });
        }
        readings.extend(computed);
    }
}

fn derived(device: &Device) -> Vec<Derived> {
    let formulas = device.points.iter().filter_map(|point| match &point.source {
        Source::Derived(formula) => Some((point.id, formula.clone())),
        _ => None,
    });
    let id_of = |name: &String| device.points.iter().find(|point| *point.name == **name).map(|point| (name.clone(), point.id));
    formulas.map(|(point, formula)| Derived { point, parts: formula.names().iter().filter_map(id_of).collect(), formula }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Point;
    use crate::field::wave::Wave;
    use crate::reading::DeviceId;

    const A: PointId = PointId(0);

    fn last_of(stale_after: Option<Duration>) -> Last {
        let point = |id, name: &str| Point { id: PointId(id), stale_after, ..Point::made(name.to_owned(), Wave::default()) };
        let sum = Point { source: Source::Derived(Formula::new("a + b").unwrap()), ..point(2, "sum") };
        let points = vec![point(0, "a"), point(1, "b"), sum];
        Last::new(&[Arc::new(Device { points, ..Device::new(DeviceId(0), "d", 1) })])
    }

    fn told(readings: &[Reading]) -> Vec<String> {
        let value = |reading: &Reading| reading.value.as_ref().map_or("-".to_owned(), ToString::to_string);
        readings.iter().map(|reading| format!("{} {} {}", reading.point.0, value(reading), reading.quality.name())).collect()
    }

    #[test]
    fn a_value_is_stale_from_the_first_failure_and_gone_with_its_device() {
        let (now, time) = (crate::time::now(), Timestamp::at(0));
        let mut last = last_of(None);
        let both = vec![(A, Ok(Value::UInt(1))), (PointId(1), Ok(Value::UInt(2)))];
        assert_eq!(told(&last.measured(0, both, now, time)), ["0 1 good", "1 2 good", "2 3 good"]);
        let why: Arc<str> = "no answer".into();
        assert_eq!(told(&last.missed(0, &[A], &why, false, (now, time))), ["0 1 stale", "2 - bad"]);
        assert_eq!(told(&last.missed(0, &[A], &why, true, (now, time))), ["0 - bad", "2 - bad"]);
        let readings = last.measured(0, vec![(A, Ok(Value::UInt(5)))], now, time);
        assert_eq!(told(&readings), ["0 5 good", "2 7 good"]);
        assert_eq!(last.next_fading(), None);
    }

    #[test]
    fn with_patience_a_value_stands_until_it_is_too_old() {
        let (now, time) = (crate::time::now(), Timestamp::at(0));
        let patience = Duration::from_secs(30);
        let mut last = last_of(Some(patience));
        last.measured(0, vec![(A, Ok(Value::UInt(1)))], now, time);
        let why: Arc<str> = "no answer".into();
        let later = now + Duration::from_secs(10);
        assert!(last.missed(0, &[A], &why, true, (later, time)).is_empty());
        assert_eq!(last.next_fading(), Some(now + patience));
        let mut unheard = last_of(Some(patience));
        unheard.measured(0, vec![(A, Ok(Value::UInt(1)))], now, time);
        assert_eq!(told(&unheard.faded(now + patience, time)), ["0 1 stale", "2 - bad"], "without any failure");
        assert!(last.faded(later, time).is_empty());
        let readings = last.faded(now + patience, time);
        assert_eq!(told(&readings), ["0 1 stale", "2 - bad"]);
        assert_eq!(readings[0].age, patience);
        assert_eq!(last.next_fading(), None);
    }
}
