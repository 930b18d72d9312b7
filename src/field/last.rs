//! The last value of every point of a line: what is shown of it when newer ones do not come, how old it may grow, what is computed from
//! it. Pure.
//!
//! Invariants:
//! * No value is shown as good for longer than [`Slot::allowance`] after it was read, whatever the reason that no newer one came: its
//!   `stale_after`, or where that is not set [`MISSES`] of its intervals, as far as the load of the line has stretched them.
//! * Without `stale_after` a value is stale from the first attempt on that failed.
//! * A point that was never read is shown as bad after the same time.
//! * What is computed from something that is not good is bad.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::formula::Formula;
use super::{Device, Point, Source, Values};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// Intervals without a newer value until the last one is stale.
pub(super) const MISSES: u32 = 3;
/// A line that is asked for more than this many times what it can carry is not waited for any longer.
const MOST_STRETCH: f64 = 1000.0;
/// However short the interval: one device may hold up the line for this long. Times `answer_within`, or a time.
const HELD_UP: (u32, Duration) = (5, Duration::from_secs(5));

/// Where a point stands.
#[derive(Debug, Clone)]
enum Standing {
    /// Nobody has tried to read it; since then.
    Unread(Instant),
    /// Measured then.
    Good(Value, Instant),
    /// Measured then; attempts since then failed.
    Old {
        value: Value,
        at: Instant,
        why: Arc<str>,
        told: bool,
        is_bad: bool,
    },
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

/// One point.
#[derive(Debug)]
struct Slot {
    point: PointId,
    /// As in the YAML.
    stale_after: Option<Duration>,
    /// How long a value is good by the interval of the point, on a line with time for everything.
    usual: Duration,
    /// `None` where nothing is ever read.
    standing: Option<Standing>,
}

impl Slot {
    /// How long after it was read a value may be shown as good.
    fn allowance(&self, pace: Pace) -> Duration {
        self.stale_after.unwrap_or_else(|| pace.of(self.usual))
    }

    /// When it is to be looked at although nothing came.
    fn fades_at(&self, pace: Pace) -> Option<Instant> {
        match self.standing.as_ref()? {
            Standing::Good(_, at)
            | Standing::Old {
                at, told: false, ..
            } => Some(*at + self.allowance(pace)),
            // `stale_after` may be shorter than the time until the first reading.
            Standing::Unread(since) => Some(*since + self.allowance(pace).max(pace.of(self.usual))),
            Standing::Old { .. } | Standing::None(_) => None,
        }
    }
}

/// How fast the line comes round.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// By how much its intervals are longer than asked for.
    stretch: f64,
    /// No value is stale earlier, unless `stale_after` says so.
    least: Duration,
}

impl Pace {
    fn of(self, usual: Duration) -> Duration {
        usual.mul_f64(self.stretch).max(self.least)
    }
}

/// In the order of the points: a line has many, and there are many lines.
#[derive(Debug)]
struct Slots(Vec<Slot>);

impl Slots {
    fn place(&mut self, point: PointId) -> Option<&mut Slot> {
        let index = self
            .0
            .binary_search_by_key(&point, |slot| slot.point)
            .ok()?;
        self.0.get_mut(index)
    }

    fn get(&self, point: PointId) -> Option<&Standing> {
        let index = self
            .0
            .binary_search_by_key(&point, |slot| slot.point)
            .ok()?;
        self.0.get(index).and_then(|slot| slot.standing.as_ref())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Last {
    slots: Slots,
    pace: Pace,
    /// Nothing grows too old before.
    fades_at: Option<Instant>,
    /// By device.
    derived: Vec<Vec<Derived>>,
}

impl Last {
    /// Of a line whose devices answer within `answer_within`, from `now` on.
    pub(super) fn new(devices: &[Arc<Device>], answer_within: Duration, now: Instant) -> Self {
        let slot = |device: &Device, point: &Point| Slot {
            point: point.id,
            stale_after: point.stale_after,
            usual: usual(device, point),
            standing: (!point.is_derived() && !device.is_broadcast)
                .then_some(Standing::Unread(now)),
        };
        let points = devices
            .iter()
            .flat_map(|device| device.points.iter().map(move |point| slot(device, point)));
        let mut slots: Vec<Slot> = points.collect();
        slots.sort_by_key(|slot| slot.point);
        slots.shrink_to_fit();
        let pace = Pace {
            stretch: 1.0,
            least: HELD_UP.1.max(answer_within.saturating_mul(HELD_UP.0)),
        };
        let derived = devices.iter().map(|device| derived(device)).collect();
        let mut last = Self {
            slots: Slots(slots),
            pace,
            fades_at: None,
            derived,
        };
        last.fades_at = last.first_fading();
        last
    }

    /// The line has come to ask by this factor more slowly than it is asked to.
    pub(super) fn stretched(&mut self, stretch: f64) {
        // Small changes are not worth a look at every point.
        if (stretch - self.pace.stretch).abs() > 0.05 * self.pace.stretch {
            self.pace.stretch = stretch.clamp(1.0, MOST_STRETCH);
            self.fades_at = self.first_fading();
        }
    }

    /// Values came.
    pub(super) fn measured(
        &mut self,
        device: usize,
        values: Values,
        now: Instant,
        time: Timestamp,
    ) -> Vec<Reading> {
        let mut readings = Vec::with_capacity(values.len());
        for (point, value) in values {
            let standing = match &value {
                Ok(value) => Standing::Good(value.clone(), now),
                Err(why) => Standing::None(why.clone()),
            };
            if let Some(slot) = self.slots.place(point) {
                slot.standing = Some(standing);
                self.fades_at = self
                    .fades_at
                    .into_iter()
                    .chain(slot.fades_at(self.pace))
                    .min();
            }
            let (value, quality) = match value {
                Ok(value) => (Some(value), Quality::Good),
                Err(why) => (None, Quality::Bad(why)),
            };
            readings.push(Reading {
                point,
                value,
                time,
                quality,
                age: Duration::ZERO,
            });
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
            let Some(slot) = self.slots.place(*point) else {
                continue;
            };
            slot.standing = Some(match slot.standing.take() {
                Some(Standing::Good(value, at)) => Standing::Old {
                    value,
                    at,
                    why: why.clone(),
                    told: false,
                    is_bad,
                },
                Some(Standing::Old {
                    value,
                    at,
                    told,
                    is_bad: was_bad,
                    ..
                }) => Standing::Old {
                    value,
                    at,
                    why: why.clone(),
                    told: told && was_bad == is_bad,
                    is_bad: is_bad || was_bad,
                },
                Some(Standing::None(_) | Standing::Unread(_)) | None => Standing::None(why.clone()),
            });
            readings.extend(slot.told(now, time));
        }
        self.computed(device, &mut readings);
        readings
    }

    /// What has grown too old since nothing newer came.
    pub(super) fn faded(&mut self, now: Instant, time: Timestamp) -> Vec<Reading> {
        if self.fades_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let pace = self.pace;
        let old = self
            .slots
            .0
            .iter_mut()
            .filter(|slot| slot.fades_at(pace).is_some_and(|at| at <= now));
        let mut readings: Vec<Reading> =
            old.filter_map(|slot| slot.fade(pace, now, time)).collect();
        for device in 0..self.derived.len() {
            self.computed(device, &mut readings);
        }
        self.fades_at = self.first_fading();
        debug_assert!(
            self.fades_at.is_none_or(|at| at > now),
            "a value would be good for too long"
        );
        readings
    }

    /// When the next value grows too old, if nothing newer comes; or earlier, when newer values have put that off.
    pub(super) fn next_fading(&self) -> Option<Instant> {
        self.fades_at
    }

    fn first_fading(&self) -> Option<Instant> {
        self.slots
            .0
            .iter()
            .filter_map(|slot| slot.fades_at(self.pace))
            .min()
    }

    /// Computes what depends on the points of `readings`, and adds it.
    fn computed(&self, device: usize, readings: &mut Vec<Reading>) {
        let Some(derived) = self
            .derived
            .get(device)
            .filter(|derived| !derived.is_empty())
        else {
            return;
        };
        let mut computed = Vec::new();
        for derived in derived {
            let Some(newest) = readings
                .iter()
                .find(|reading| derived.parts.values().any(|part| *part == reading.point))
            else {
                continue;
            };
            let value = derived.formula.value(|name| {
                match derived
                    .parts
                    .get(name)
                    .and_then(|part| self.slots.get(*part))
                {
                    Some(
                        Standing::Good(value, _)
                        | Standing::Old {
                            value, told: false, ..
                        },
                    ) => Ok(value.clone()),
                    Some(
                        Standing::Old {
                            why, told: true, ..
                        }
                        | Standing::None(why),
                    ) => Err(format!("{name}: {why}").into()),
                    Some(Standing::Unread(_)) | None => {
                        Err(format!("{name} was not read yet").into())
                    }
                }
            });
            let (value, quality) = match value {
                Ok(value) => (Some(value), Quality::Good),
                Err(why) => (None, Quality::Bad(why)),
            };
            computed.push(Reading {
                point: derived.point,
                value,
                time: newest.time,
                quality,
                age: Duration::ZERO,
            });
        }
        readings.extend(computed);
    }
}

impl Slot {
    /// Its time is over.
    fn fade(&mut self, pace: Pace, now: Instant, time: Timestamp) -> Option<Reading> {
        let within = humantime::format_duration(whole_seconds(self.allowance(pace)));
        self.standing = Some(match self.standing.take()? {
            Standing::Good(value, at) => Standing::Old {
                value,
                at,
                why: format!("nothing newer was read within {within}").into(),
                told: false,
                is_bad: false,
            },
            Standing::Unread(_) => Standing::None("not read since the line was started".into()),
            other => other,
        });
        self.told(now, time)
    }

    /// The reading that tells of a failure, once it is time to tell.
    fn told(&mut self, now: Instant, time: Timestamp) -> Option<Reading> {
        let (point, patience) = (self.point, self.stale_after);
        let bad = |why: &Arc<str>| Reading {
            point,
            value: None,
            time,
            quality: Quality::Bad(why.clone()),
            age: Duration::ZERO,
        };
        match self.standing.as_mut()? {
            Standing::Good(..) | Standing::Unread(_) => None,
            Standing::None(why) => Some(bad(why)),
            Standing::Old {
                value,
                at,
                why,
                told,
                is_bad,
            } => {
                let age = now.saturating_duration_since(*at);
                if patience.is_some_and(|patience| age < patience) {
                    return None;
                }
                *told = true;
                if *is_bad && patience.is_none() {
                    let reading = bad(why);
                    self.standing = Some(Standing::None(why.clone()));
                    return Some(reading);
                }
                Some(Reading {
                    point,
                    value: Some(value.clone()),
                    time,
                    quality: Quality::Stale(why.clone()),
                    age,
                })
            }
        }
    }
}

/// For people: no fractions where they say nothing.
fn whole_seconds(time: Duration) -> Duration {
    if time < Duration::from_secs(1) {
        time
    } else {
        Duration::from_secs(time.as_secs())
    }
}

/// How long a value is good by the interval of its point.
fn usual(device: &Device, point: &Point) -> Duration {
    match &device.talk {
        None => point.every.saturating_mul(MISSES),
        Some(talk) if talk.is_polled() => talk.every.saturating_mul(MISSES),
        // That it may be silent for; a little more, so that it is offline before.
        Some(talk) => talk.every + talk.every / 2,
    }
}

fn derived(device: &Device) -> Vec<Derived> {
    let formulas = device
        .points
        .iter()
        .filter_map(|point| match &point.source {
            Source::Derived(formula) => Some((point.id, formula.clone())),
            _ => None,
        });
    let id_of = |name: &String| {
        device
            .points
            .iter()
            .find(|point| *point.name == **name)
            .map(|point| (name.clone(), point.id))
    };
    formulas
        .map(|(point, formula)| Derived {
            point,
            parts: formula.names().iter().filter_map(id_of).collect(),
            formula,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Point;
    use crate::field::wave::Wave;
    use crate::reading::DeviceId;

    const A: PointId = PointId(0);

    fn last_of(stale_after: Option<Duration>) -> Last {
        let point = |id, name: &str| Point {
            id: PointId(id),
            stale_after,
            ..Point::made(name.to_owned(), Wave::default())
        };
        let sum = Point {
            source: Source::Derived(Formula::new("a + b").unwrap()),
            ..point(2, "sum")
        };
        let points = vec![point(0, "a"), point(1, "b"), sum];
        Last::new(
            &[Arc::new(Device {
                points,
                ..Device::new(DeviceId(0), "d", 1)
            })],
            Duration::from_secs(1),
            crate::time::now(),
        )
    }

    fn told(readings: &[Reading]) -> Vec<String> {
        let value = |reading: &Reading| {
            reading
                .value
                .as_ref()
                .map_or("-".to_owned(), ToString::to_string)
        };
        readings
            .iter()
            .map(|reading| {
                format!(
                    "{} {} {}",
                    reading.point.0,
                    value(reading),
                    reading.quality.name()
                )
            })
            .collect()
    }

    #[test]
    fn a_value_is_stale_from_the_first_failure_and_gone_with_its_device() {
        let (now, time) = (crate::time::now(), Timestamp::at(0));
        let mut last = last_of(None);
        let both = vec![(A, Ok(Value::UInt(1))), (PointId(1), Ok(Value::UInt(2)))];
        assert_eq!(
            told(&last.measured(0, both, now, time)),
            ["0 1 good", "1 2 good", "2 3 good"]
        );
        let why: Arc<str> = "no answer".into();
        assert_eq!(
            told(&last.missed(0, &[A], &why, false, (now, time))),
            ["0 1 stale", "2 - bad"]
        );
        assert_eq!(
            told(&last.missed(0, &[A], &why, true, (now, time))),
            ["0 - bad", "2 - bad"]
        );
        let readings = last.measured(0, vec![(A, Ok(Value::UInt(5)))], now, time);
        assert_eq!(told(&readings), ["0 5 good", "2 7 good"]);
    }

    #[test]
    fn with_patience_a_value_stands_until_it_is_too_old() {
        let (now, time) = (crate::time::now(), Timestamp::at(0));
        let patience = Duration::from_secs(30);
        let both = || vec![(A, Ok(Value::UInt(1))), (PointId(1), Err("broken".into()))];
        let mut last = last_of(Some(patience));
        last.measured(0, both(), now, time);
        let why: Arc<str> = "no answer".into();
        let later = now + Duration::from_secs(10);
        assert!(last.missed(0, &[A], &why, true, (later, time)).is_empty());
        assert_eq!(last.next_fading(), Some(now + patience));
        let mut unheard = last_of(Some(patience));
        unheard.measured(0, both(), now, time);
        assert_eq!(
            told(&unheard.faded(now + patience, time)),
            ["0 1 stale", "2 - bad"],
            "without any failure"
        );
        assert!(last.faded(later, time).is_empty());
        let readings = last.faded(now + patience, time);
        assert_eq!(told(&readings), ["0 1 stale", "2 - bad"]);
        assert_eq!(readings[0].age, patience);
        assert_eq!(last.next_fading(), None);
    }

    #[test]
    fn without_patience_a_value_that_is_not_read_again_is_stale_after_some_intervals() {
        let (now, time) = (crate::time::now(), Timestamp::at(0));
        let both = || vec![(A, Ok(Value::UInt(1))), (PointId(1), Ok(Value::UInt(2)))];
        let mut last = last_of(None);
        last.measured(0, both(), now, time);
        assert!(
            last.faded(now + Duration::from_millis(4999), time)
                .is_empty(),
            "another device may hold up the line"
        );
        assert_eq!(
            told(&last.faded(now + Duration::from_secs(5), time)),
            ["0 1 stale", "1 2 stale", "2 - bad"]
        );
        last.measured(0, both(), now, time);
        last.stretched(10.0);
        assert_eq!(
            last.next_fading(),
            Some(now + Duration::from_secs(30)),
            "an overloaded line comes round more seldom"
        );
        last.stretched(1.0);
        assert_eq!(last.next_fading(), Some(now + Duration::from_secs(5)));
    }

    #[test]
    fn a_point_that_is_never_read_is_bad() {
        let time = Timestamp::at(0);
        let mut last = last_of(Some(Duration::from_secs(1)));
        let at = last.next_fading().unwrap();
        assert_eq!(
            told(&last.faded(at, time)),
            ["0 - bad", "1 - bad", "2 - bad"]
        );
        assert_eq!(last.next_fading(), None);
    }
}
