//! The last value of every point of a line: its quality while newer ones do not come, its age
//! limit, and the values derived from it. Pure.
//!
//! Invariants:
//! * No value is shown as good for longer than [`Slot::allowance`] after it was read, whatever the
//!   reason that no newer one came: its `stale_after`, or where that is not set [`MISSES`] of its
//!   intervals, as far as the load of the line has stretched them.
//! * Without `stale_after` a value is stale from the first attempt on that failed.
//! * A point that was never read is shown as bad after the same time.
//! * What is computed from something that is not good is bad.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::formula::Formula;
use super::{Device, DeviceProtocol, Point, PointSource, Sample, Values};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// Intervals without a newer value until the last one is stale.
pub(super) const MISSES: u32 = 3;
/// The largest load of a line by which the limits of its values are stretched.
const MOST_STRETCH: f64 = 1000.0;
/// However short the interval: one device may hold up the line for this long. Times
/// `answer_within`, or a time.
const HELD_UP: (u32, Duration) = (5, Duration::from_secs(5));

/// The state of a point.
#[derive(Debug, Clone)]
enum Standing {
    /// Not read since then.
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

impl Standing {
    /// After a sample.
    fn of(sample: &Sample, now: Instant) -> Self {
        match (&sample.value, &sample.quality) {
            (Err(why), _) | (_, Some(Quality::Bad(why))) => Self::None(Arc::clone(why)),
            // The device itself doubts it: nothing good is computed from it.
            (Ok(value), Some(Quality::Stale(why))) => Self::Old {
                value: value.clone(),
                at: now,
                why: Arc::clone(why),
                told: true,
                is_bad: false,
            },
            (Ok(value), None | Some(Quality::Good)) => Self::Good(value.clone(), now),
        }
    }
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
    /// The time for which a value is good by the interval of the point, on a line that is not
    /// overloaded.
    usual: Duration,
    /// `None` where nothing is ever read.
    standing: Option<Standing>,
}

impl Slot {
    /// The time after a read for which a value may be shown as good.
    fn allowance(&self, pace: PollPace) -> Duration {
        self.stale_after.unwrap_or_else(|| pace.of(self.usual))
    }

    /// When it is to be looked at although nothing came.
    fn fades_at(&self, pace: PollPace) -> Option<Instant> {
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

/// The speed of the line.
#[derive(Debug, Clone, Copy)]
struct PollPace {
    /// The factor by which its intervals are longer than configured.
    stretch: f64,
    /// No value is stale earlier, unless `stale_after` says so.
    least: Duration,
}

impl PollPace {
    fn of(self, usual: Duration) -> Duration {
        usual.mul_f64(self.stretch).max(self.least)
    }
}

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) now: Instant,
    pub(super) time: Timestamp,
}

/// A failed attempt to read some points of a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub(super) device: usize,
    pub(super) points: &'a [PointId],
    pub(super) why: &'a Arc<str>,
    /// The last value is not valid any longer.
    pub(super) is_bad: bool,
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
pub(super) struct PointCache {
    slots: Slots,
    pace: PollPace,
    /// Nothing grows too old before.
    fades_at: Option<Instant>,
    /// By device.
    derived: Vec<Vec<Derived>>,
}

impl PointCache {
    /// Of a line whose devices answer within `answer_within`, from `now` on.
    pub(super) fn new(devices: &[Arc<Device>], answer_within: Duration, now: Instant) -> Self {
        let slot = |device: &Device, point: &Point| Slot {
            point: point.id,
            stale_after: point.stale_after,
            usual: usual(device, point),
            standing: (point.is_read() && !device.is_broadcast).then_some(Standing::Unread(now)),
        };
        let points = devices
            .iter()
            .flat_map(|device| device.points.iter().map(move |point| slot(device, point)));
        let mut slots: Vec<Slot> = points.collect();
        slots.sort_by_key(|slot| slot.point);
        slots.shrink_to_fit();
        let pace = PollPace {
            stretch: 1.0,
            least: HELD_UP.1.max(answer_within.saturating_mul(HELD_UP.0)),
        };
        let derived = devices.iter().map(|device| derived(device)).collect();
        let mut cache = Self {
            slots: Slots(slots),
            pace,
            fades_at: None,
            derived,
        };
        cache.fades_at = cache.first_fading();
        cache
    }

    /// The line polls more slowly than configured, by this factor.
    pub(super) fn stretched(&mut self, stretch: f64) {
        // Small changes are not worth a look at every point.
        if (stretch - self.pace.stretch).abs() > 0.05 * self.pace.stretch {
            self.pace.stretch = stretch.clamp(1.0, MOST_STRETCH);
            self.fades_at = self.first_fading();
        }
    }

    /// Values came.
    pub(super) fn measured(&mut self, device: usize, values: Values, at: Now) -> Vec<Reading> {
        let Now { now, time } = at;
        let mut readings = Vec::with_capacity(values.len());
        for sample in values {
            let point = sample.point;
            if let Some(slot) = self.slots.place(point) {
                slot.standing = Some(Standing::of(&sample, now));
                self.fades_at = self
                    .fades_at
                    .into_iter()
                    .chain(slot.fades_at(self.pace))
                    .min();
            }
            let time = sample.source_time.unwrap_or(time);
            let (value, quality) = match (sample.value, sample.quality) {
                (Err(why), _) | (_, Some(Quality::Bad(why))) => (None, Quality::Bad(why)),
                (Ok(value), quality) => (Some(value), quality.unwrap_or(Quality::Good)),
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

    /// An attempt to read some points failed.
    pub(super) fn missed(&mut self, failure: &Failure<'_>, at: Now) -> Vec<Reading> {
        let mut readings = Vec::new();
        for point in failure.points {
            if let Some(slot) = self.slots.place(*point) {
                slot.fail(failure.why, failure.is_bad);
                readings.extend(slot.told(at));
            }
        }
        self.computed(failure.device, &mut readings);
        readings
    }

    /// The readings of values that have grown too old.
    pub(super) fn faded(&mut self, at: Now) -> Vec<Reading> {
        let now = at.now;
        if self.fades_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let pace = self.pace;
        let old = self
            .slots
            .0
            .iter_mut()
            .filter(|slot| slot.fades_at(pace).is_some_and(|at| at <= now));
        let mut readings: Vec<Reading> = old.filter_map(|slot| slot.fade(pace, at)).collect();
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

    /// The moment when the next value grows too old, if nothing newer comes; or an earlier one.
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
    /// An attempt to read it failed.
    fn fail(&mut self, why: &Arc<str>, is_bad: bool) {
        self.standing = Some(match self.standing.take() {
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
    }

    /// Its time is over.
    fn fade(&mut self, pace: PollPace, at: Now) -> Option<Reading> {
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
        self.told(at)
    }

    /// The reading that reports a failure, once it is due.
    fn told(&mut self, at: Now) -> Option<Reading> {
        let Now { now, time } = at;
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

/// The time for which a value is good by the interval of its point.
fn usual(device: &Device, point: &Point) -> Duration {
    match &device.protocol {
        DeviceProtocol::Modbus | DeviceProtocol::Mbus(_) => point.every.saturating_mul(MISSES),
        DeviceProtocol::Text(protocol) if protocol.is_polled() => {
            protocol.every.saturating_mul(MISSES)
        }
        // That it may be silent for; a little more, so that it is offline before.
        DeviceProtocol::Text(protocol) => protocol.every + protocol.every / 2,
        DeviceProtocol::Sml(meter) => point.every.max(meter.silent_after) * 3 / 2,
    }
}

fn derived(device: &Device) -> Vec<Derived> {
    let formulas = device
        .points
        .iter()
        .filter_map(|point| match &point.source {
            PointSource::Derived(formula) => Some((point.id, formula.clone())),
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
    use crate::field::signal::Signal;
    use crate::reading::DeviceId;

    const A: PointId = PointId(0);

    fn at(now: Instant) -> Now {
        let time = Timestamp::at(0);
        Now { now, time }
    }

    fn failure(why: &Arc<str>, is_bad: bool) -> Failure<'_> {
        Failure {
            device: 0,
            points: &[A],
            why,
            is_bad,
        }
    }

    fn last_of(stale_after: Option<Duration>) -> PointCache {
        let point = |id, name: &str| Point {
            id: PointId(id),
            stale_after,
            ..Point::simulated(name.to_owned(), Signal::default())
        };
        let sum = Point {
            source: PointSource::Derived(Formula::new("a + b").unwrap()),
            ..point(2, "sum")
        };
        let points = vec![point(0, "a"), point(1, "b"), sum];
        PointCache::new(
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
        let now = crate::time::now();
        let mut cache = last_of(None);
        let both = vec![
            Sample::new(A, Ok(Value::UInt(1))),
            Sample::new(PointId(1), Ok(Value::UInt(2))),
        ];
        assert_eq!(
            told(&cache.measured(0, both, at(now))),
            ["0 1 good", "1 2 good", "2 3 good"]
        );
        let why: Arc<str> = "no answer".into();
        assert_eq!(
            told(&cache.missed(&failure(&why, false), at(now))),
            ["0 1 stale", "2 - bad"]
        );
        assert_eq!(
            told(&cache.missed(&failure(&why, true), at(now))),
            ["0 - bad", "2 - bad"]
        );
        let readings = cache.measured(0, vec![Sample::new(A, Ok(Value::UInt(5)))], at(now));
        assert_eq!(told(&readings), ["0 5 good", "2 7 good"]);
    }

    #[test]
    fn with_patience_a_value_stands_until_it_is_too_old() {
        let now = crate::time::now();
        let patience = Duration::from_secs(30);
        let both = || {
            vec![
                Sample::new(A, Ok(Value::UInt(1))),
                Sample::new(PointId(1), Err("broken".into())),
            ]
        };
        let mut cache = last_of(Some(patience));
        cache.measured(0, both(), at(now));
        let why: Arc<str> = "no answer".into();
        let later = now + Duration::from_secs(10);
        assert!(cache.missed(&failure(&why, true), at(later)).is_empty());
        assert_eq!(cache.next_fading(), Some(now + patience));
        let mut unheard = last_of(Some(patience));
        unheard.measured(0, both(), at(now));
        assert_eq!(
            told(&unheard.faded(at(now + patience))),
            ["0 1 stale", "2 - bad"],
            "without any failure"
        );
        assert!(cache.faded(at(later)).is_empty());
        let readings = cache.faded(at(now + patience));
        assert_eq!(told(&readings), ["0 1 stale", "2 - bad"]);
        assert_eq!(readings[0].age, patience);
        assert_eq!(cache.next_fading(), None);
    }

    #[test]
    fn without_patience_a_value_that_is_not_read_again_is_stale_after_some_intervals() {
        let now = crate::time::now();
        let both = || {
            vec![
                Sample::new(A, Ok(Value::UInt(1))),
                Sample::new(PointId(1), Ok(Value::UInt(2))),
            ]
        };
        let mut cache = last_of(None);
        cache.measured(0, both(), at(now));
        assert!(
            cache
                .faded(at(now + Duration::from_millis(4999)))
                .is_empty(),
            "another device may hold up the line"
        );
        assert_eq!(
            told(&cache.faded(at(now + Duration::from_secs(5)))),
            ["0 1 stale", "1 2 stale", "2 - bad"]
        );
        cache.measured(0, both(), at(now));
        cache.stretched(10.0);
        assert_eq!(
            cache.next_fading(),
            Some(now + Duration::from_secs(30)),
            "an overloaded line comes round more seldom"
        );
        cache.stretched(1.0);
        assert_eq!(cache.next_fading(), Some(now + Duration::from_secs(5)));
    }

    #[test]
    fn a_point_that_is_never_read_is_bad() {
        let mut cache = last_of(Some(Duration::from_secs(1)));
        let due = cache.next_fading().unwrap();
        assert_eq!(
            told(&cache.faded(at(due))),
            ["0 - bad", "1 - bad", "2 - bad"]
        );
        assert_eq!(cache.next_fading(), None);
    }
}
