//! A line without time and wire: plan, schedule and last values together, as the task of a line
//! uses them, through whatever can happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::counts::LineCounts;
use super::decode::{DataType, Register, Table};
use super::formula::Formula;
use super::modbus::block::Block;
use super::modbus::manners::Manners;
use super::modbus::plan::{Costs, TURNAROUND, plan};
use super::modbus::timeout_estimator::AnswerWithin;
use super::modbus::unreadable::UnreadableRanges;
use super::point_cache::{Failure, MISSES, Now, PointCache};
use super::schedule::{Heard, NextStep, Schedule};
use super::signal::Signal;
use super::write::{WriteRequest, Written};
use super::{
    Device, Driver, Job, Line, Point, PointSource, PollError, Sample, Values, Wire, supervisor,
};
use crate::reading::{DeviceId, PointId, Quality, Reading, Timestamp, Value};
use crate::tasks::stop_token;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = SECOND;
/// As documented.
const LEAST: Duration = Duration::from_secs(5);

fn at(now: Instant) -> Now {
    let time = Timestamp::at(0);
    Now { now, time }
}

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Comes {
    Answer,
    /// Without the last of its points.
    Part,
    Refusal,
    Silence,
    Garbage,
}

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// The next step of the schedule, with what comes of it and how long it takes.
    NextStep(Comes, Duration),
    /// The same for each step of so many.
    Steps(u8, Comes),
    LineDown,
    /// Nothing but time: the driver hangs, or somebody else has the line.
    Hang(Duration),
    /// What silence has taught is forgotten.
    Forget,
}

struct World {
    device_list: Vec<Arc<Device>>,
    unreadable: Vec<UnreadableRanges>,
    blocks: Vec<Block>,
    jobs: Vec<Job>,
    schedule: Schedule,
    cache: PointCache,
    now: Instant,
    /// When each point was read last.
    read: BTreeMap<PointId, Instant>,
    /// What subscribers see.
    shown: BTreeMap<PointId, Quality>,
    /// The requests that were sent: when, and for what.
    asked: Vec<(Instant, Vec<PointId>)>,
}

/// A device with points at these addresses, each with its interval and `stale_after`; the last
/// point is the sum of the first two.
fn device(index: u32, first: u32, points: &[(u16, Duration, Option<Duration>)]) -> Device {
    let point =
        |(address, every, stale_after): &(u16, Duration, Option<Duration>), id: u32| Point {
            id: PointId(id),
            every: *every,
            stale_after: *stale_after,
            source: PointSource::Register {
                register: Arc::new(Register::new(Table::Holding, *address, DataType::U16)),
                exponent: None,
            },
            ..Point::simulated(format!("p{}", id - first), Signal::default())
        };
    let mut all: Vec<Point> = points
        .iter()
        .zip(first..)
        .map(|(spec, id)| point(spec, id))
        .collect();
    let id = PointId(first + u32::try_from(points.len()).unwrap());
    all.push(Point {
        id,
        source: PointSource::Derived(Formula::new("p0 + p1").unwrap()),
        ..Point::simulated("sum".to_owned(), Signal::default())
    });
    Device {
        points: all,
        ..Device::new(
            DeviceId(index),
            &format!("d{index}"),
            1 + u8::try_from(index).unwrap(),
        )
    }
}

impl World {
    fn new(devices: Vec<Device>) -> Self {
        let now = crate::time::now();
        let device_list: Vec<Arc<Device>> = devices.into_iter().map(Arc::new).collect();
        let unreadable = vec![UnreadableRanges::default(); device_list.len()];
        let cache = PointCache::new(&device_list, ANSWER_WITHIN, now);
        let schedule = Schedule::new(&[], device_list.len(), now);
        let (blocks, jobs, asked) = (Vec::new(), Vec::new(), Vec::new());
        let (read, shown) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self {
            device_list,
            unreadable,
            blocks,
            jobs,
            schedule,
            cache,
            now,
            read,
            shown,
            asked,
        };
        world.plan();
        world.schedule = Schedule::new(&world.jobs, world.device_list.len(), now);
        world
    }

    fn plan(&mut self) {
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let devices = self.device_list.iter().zip(&self.unreadable).enumerate();
        self.blocks = devices
            .flat_map(|(index, (device, unreadable))| plan(index, device, costs, unreadable))
            .collect();
        let job = |block: &Block| Job {
            device: block.device,
            every: block.every,
            takes: costs.time(block.table, block.count),
            delay: Duration::ZERO,
            points: block.points.iter().map(|point| point.id).collect(),
        };
        self.jobs = self.blocks.iter().map(job).collect();
    }

    fn replan(&mut self) {
        let before = std::mem::take(&mut self.jobs);
        self.plan();
        self.schedule.replace(&before, &self.jobs, self.now);
    }

    fn show(&mut self, readings: Vec<Reading>) {
        self.shown.extend(
            readings
                .into_iter()
                .map(|reading| (reading.point, reading.quality)),
        );
    }

    /// Time passes, and values grow old when it is their time.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.cache.next_fading().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let readings = self.cache.faded(at(self.now));
            self.show(readings);
            self.check();
        }
        self.now = until;
    }

    fn allowance(&self, point: &Point) -> Duration {
        let stretch = self.schedule.load().max(1.0);
        // Small changes of the load are not followed at once.
        point
            .stale_after
            .unwrap_or_else(|| (point.every * MISSES).mul_f64(stretch * 1.06).max(LEAST))
    }

    fn is_fresh(&self, point: &Point) -> bool {
        self.read
            .get(&point.id)
            .is_some_and(|at| self.now.saturating_duration_since(*at) <= self.allowance(point))
    }

    /// Nothing is shown as good that was not read lately.
    fn check(&self) {
        for device in &self.device_list {
            for point in &device.points {
                if self.shown.get(&point.id) != Some(&Quality::Good) {
                    continue;
                }
                let parts: Vec<&Point> = if point.is_derived() {
                    device.points.iter().take(2).collect()
                } else {
                    vec![point]
                };
                for part in parts {
                    let age = self
                        .read
                        .get(&part.id)
                        .map(|at| self.now.saturating_duration_since(*at));
                    assert!(
                        self.is_fresh(part),
                        "{:?} is good, {:?} was read {age:?} ago",
                        point.id,
                        part.id
                    );
                }
            }
        }
    }

    /// As the supervisor and the driver do it.
    fn step(&mut self, outcome: Comes, took: Duration) {
        self.settle();
        match self.schedule.next(self.now, |_| ANSWER_WITHIN) {
            NextStep::WaitUntil(at) => self.pass(at.saturating_duration_since(self.now)),
            NextStep::Probe { device, .. } => {
                self.pass(took);
                self.schedule
                    .probed(device, outcome == Comes::Answer, self.now);
            }
            NextStep::Run(job) => {
                self.pass(took);
                self.run(job, outcome, took);
            }
        }
        self.settle();
    }

    /// What the task of a line does between two steps.
    fn settle(&mut self) {
        self.cache.stretched(self.schedule.load().max(1.0));
        self.pass(Duration::ZERO);
        self.check();
    }

    fn run(&mut self, job: usize, outcome: Comes, took: Duration) {
        let block = self.blocks[job].clone();
        let points = self.jobs[job].points.clone();
        self.asked.push((self.now, points.clone()));
        let unreadable = &mut self.unreadable[block.device];
        let is_new = match outcome {
            Comes::Answer | Comes::Part => unreadable.answered(&block, self.now),
            Comes::Refusal => unreadable.refused(&block, self.now),
            Comes::Silence | Comes::Garbage => {
                unreadable.not_answered(&block);
                false
            }
        };
        let heard = match outcome {
            Comes::Answer | Comes::Part | Comes::Refusal => Heard::Answer,
            Comes::Garbage => Heard::Garbage,
            Comes::Silence => Heard::Nothing,
        };
        let change = self.schedule.done(job, heard, took, self.now);
        if is_new {
            self.replan();
        }
        if outcome == Comes::Refusal && is_new && self.jobs.iter().all(|job| job.points != points) {
            return;
        }
        let readings = match outcome {
            Comes::Answer | Comes::Part => {
                let brought = if outcome == Comes::Part {
                    &points[..points.len() - 1]
                } else {
                    &points[..]
                };
                self.read
                    .extend(brought.iter().map(|point| (*point, self.now)));
                let values = brought
                    .iter()
                    .map(|point| Sample::new(*point, Ok(Value::UInt(1))))
                    .collect();
                self.cache.measured(block.device, values, at(self.now))
            }
            _ => {
                let device = &self.device_list[block.device];
                let all = device
                    .points
                    .iter()
                    .filter(|point| !point.is_derived())
                    .map(|point| point.id)
                    .collect();
                let missed: Vec<PointId> = if change == Some(false) { all } else { points };
                let failure = Failure {
                    device: block.device,
                    points: &missed,
                    why: &"no".into(),
                    is_bad: outcome == Comes::Refusal || change == Some(false),
                };
                self.cache.missed(&failure, at(self.now))
            }
        };
        self.show(readings);
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::NextStep(outcome, took) => self.step(*outcome, *took),
            Event::Steps(count, outcome) => (0..*count).for_each(|_| self.step(*outcome, 20 * MS)),
            Event::Hang(time) => self.pass(*time),
            Event::LineDown => {
                for device in self.schedule.line_down(self.now) {
                    let points: Vec<PointId> = self.device_list[device]
                        .points
                        .iter()
                        .map(|point| point.id)
                        .collect();
                    let failure = Failure {
                        device,
                        points: &points,
                        why: &"down".into(),
                        is_bad: true,
                    };
                    let readings = self.cache.missed(&failure, at(self.now));
                    self.show(readings);
                }
            }
            Event::Forget => {
                if self
                    .unreadable
                    .iter_mut()
                    .fold(false, |any, unreadable| unreadable.forget(self.now) | any)
                {
                    self.replan();
                }
            }
        }
        self.settle();
    }

    fn is_all_good(&self) -> bool {
        let mut points = self.device_list.iter().flat_map(|device| &device.points);
        points.all(|point| self.shown.get(&point.id) == Some(&Quality::Good))
    }
}

fn outcome() -> impl Strategy<Value = Comes> {
    prop_oneof![
        3 => Just(Comes::Answer),
        1 => Just(Comes::Part),
        3 => Just(Comes::Refusal),
        1 => Just(Comes::Silence),
        1 => Just(Comes::Garbage),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (outcome(), prop_oneof![4 => 1_u64..50, 1 => 50_u64..20_000]).prop_map(|(outcome, ms)| Event::NextStep(outcome, MS * u32::try_from(ms).unwrap())),
        5 => (1_u8..30, outcome()).prop_map(|(count, outcome)| Event::Steps(count, outcome)),
        1 => Just(Event::LineDown),
        2 => (1_u32..600).prop_map(|seconds| Event::Hang(SECOND * seconds)),
        1 => Just(Event::Forget),
    ]
}

fn points() -> impl Strategy<Value = Vec<(u16, Duration, Option<Duration>)>> {
    let every = prop::sample::select(vec![100 * MS, 500 * MS, SECOND, 10 * SECOND, MINUTE]);
    let stale_after = prop::option::of(prop::sample::select(vec![
        MS,
        SECOND,
        30 * SECOND,
        5 * MINUTE,
    ]));
    prop::collection::btree_map(0_u16..300, (every, stale_after), 2..6).prop_map(|map| {
        map.into_iter()
            .map(|(address, (every, stale_after))| (address, every, stale_after))
            .collect()
    })
}

proptest! {
    #![proptest_config(crate::testing::cases(48, module_path!()))]

    /// Whatever happens, a value is good only while it is read; and once everything is answered
    /// again, everything becomes good again.
    #[test]
    fn no_value_is_good_for_longer_than_it_may_be(
        first in points(),
        second in points(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let slow = |points: Vec<(u16, Duration, Option<Duration>)>| -> Vec<(u16, Duration, Option<Duration>)> {
            // A value that is stale before it is read again is never good for long.
            points.into_iter().map(|(address, every, after)| (address, every, after.filter(|after| *after > every * 4))).collect()
        };
        let mut world = World::new(vec![device(0, 0, &first), device(1, 100, &second)]);
        events.iter().for_each(|event| world.happens(event));
        // The same without `stale_after` below the interval, and then an hour and more without any
        // fault.
        let mut world = World::new(vec![device(0, 0, &slow(first)), device(1, 100, &slow(second))]);
        events.iter().for_each(|event| world.happens(event));
        let healthy_from = world.now;
        while !world.is_all_good() {
            world.step(Comes::Answer, 5 * MS);
            prop_assert!(world.now < healthy_from + 62 * MINUTE, "something is never read again: {:?}", world.shown);
        }
    }
}

/// A point alone in its request beside others that are healthy; it is refused so many times.
fn refused(times: usize) -> World {
    let mut world = World::new(vec![device(
        0,
        0,
        &[
            (0, SECOND / 2, None),
            (1, SECOND / 2, None),
            (250, SECOND / 2, None),
        ],
    )]);
    let start = world.now;
    let mut left = times;
    while world.now < start + 200 * MINUTE && (left > 0 || world.now < start + MINUTE) {
        let alone = world
            .jobs
            .iter()
            .position(|job| job.points == [PointId(2)])
            .expect("it is far from the others");
        let is_it = matches!(world.schedule.next(world.now, |_| SECOND), NextStep::Run(job) if job == alone);
        let outcome = if is_it && left > 0 {
            Comes::Refusal
        } else {
            Comes::Answer
        };
        left -= usize::from(outcome == Comes::Refusal);
        world.step(outcome, 20 * MS);
    }
    world
}

#[test]
fn a_point_that_was_refused_for_a_moment_is_read_at_its_own_pace_again() {
    for times in 1..=6 {
        let mut world = refused(times);
        let healthy_from = world.now;
        while !world.is_all_good() {
            world.step(Comes::Answer, 20 * MS);
            assert!(
                world.now < healthy_from + 17 * MINUTE,
                "{times} refusals: {:?}",
                world.shown
            );
        }
        let from = world.now;
        while world.now < from + 3 * MINUTE {
            world.step(Comes::Answer, 20 * MS);
            assert!(
                world.is_all_good(),
                "{times} refusals, {:?} later: {:?}",
                world.now - from,
                world.shown
            );
        }
        let reads = world
            .asked
            .iter()
            .filter(|(at, points)| *at > from && points == &[PointId(2)])
            .count();
        assert!(
            (350..=362).contains(&reads),
            "{times} refusals: {reads} requests in three minutes"
        );
    }
}

#[test]
fn a_point_that_is_refused_is_asked_for_after_1_2_4_minutes_up_to_an_hour() {
    let world = refused(9);
    let asked: Vec<Instant> = world
        .asked
        .iter()
        .filter(|(_, points)| points == &[PointId(2)])
        .map(|(at, _)| *at)
        .collect();
    let minutes: Vec<u64> = asked
        .windows(2)
        .map(|pair| (pair[1] - pair[0] + SECOND).as_secs() / 60)
        .collect();
    assert_eq!(minutes[..8], [0, 1, 2, 4, 8, 16, 32, 60], "{minutes:?}");
}

/// A driver that brings one value, and then hangs.
struct Hanging(bool);

impl Driver for Hanging {
    fn plan(&self) -> Vec<Job> {
        vec![Job {
            device: 0,
            every: 10 * MS,
            takes: MS,
            delay: Duration::ZERO,
            points: vec![PointId(0)],
        }]
    }

    async fn connect(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&mut self, _: usize) -> Result<Values, PollError> {
        if std::mem::replace(&mut self.0, true) {
            std::future::pending::<()>().await;
        }
        Ok(vec![Sample::new(PointId(0), Ok(Value::UInt(1)))])
    }

    async fn probe(&mut self, _: usize, _: usize) -> Result<(), PollError> {
        Ok(())
    }

    fn probe_takes(&self, _: usize) -> Duration {
        MS
    }

    async fn write(&mut self, _: &WriteRequest) -> Written {
        Written::NotSent("not here".to_owned())
    }

    fn disconnect(&mut self) {}
}

#[tokio::test]
async fn a_driver_that_hangs_shows_nothing_as_good() {
    let (events, mut reported) = mpsc::channel(64);
    let (_orders, orders) = mpsc::channel(1);
    let (_diagnostics, diagnostics) = mpsc::channel(1);
    let (_switch, stop) = stop_token();
    let point = Point {
        stale_after: Some(50 * MS),
        ..Point::simulated("p".to_owned(), Signal::default())
    };
    let device = Device {
        points: vec![point],
        ..Device::new(DeviceId(0), "d", 1)
    };
    let line = Line {
        name: "bus".to_owned(),
        wire: Wire::Simulated,
        answer_within: AnswerWithin::at_most(SECOND),
        manners: Manners::default(),
        devices: vec![Arc::new(device)],
    };
    let counts = Arc::new(LineCounts::new("bus", std::iter::once("d".to_owned())));
    let heartbeat = line.heartbeat(crate::time::now());
    let task = supervisor::run(
        line,
        Hanging(false),
        supervisor::LineChannels {
            events,
            counts,
            orders,
            diagnostics,
            heartbeat,
            stop,
        },
    );
    let stale = async {
        while let Some(event) = reported.recv().await {
            if let crate::reading::Event::Reading(Reading {
                quality: Quality::Stale(why),
                ..
            }) = event
            {
                return why;
            }
        }
        panic!("the line ended");
    };
    let why = tokio::time::timeout(30 * SECOND, async {
        tokio::select! { why = stale => why, () = task => panic!("it ended") }
    })
    .await;
    assert!(why.expect("told while the driver hangs").contains("50ms"));
}
