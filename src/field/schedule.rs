//! The order and times of the jobs of a line. Pure: non-preemptive earliest deadline first, offline
//! devices in the gaps.
//!
//! Invariants:
//! * A job that missed its time is done once, not as often as it was missed.
//! * Where jobs ask for more than the line has, every interval is stretched by the same factor.
//! * No job is due later than its interval (stretched) from now, whatever its interval was before.
//! * A device counts as offline after [`FAILURES_TO_OFFLINE`] requests in a row without an answer;
//!   then only a probe is sent, with growing pauses, when no job is due before it can be over, or
//!   when its pause has passed twice.
//! * The first answer of an offline device makes all its jobs due at once.
//! * A busy device is asked again within the interval, and costs its line no waiting.
//! * After a time-out another device has its turn first, if one is due.

use std::time::{Duration, Instant};

use super::Job;

/// Requests in a row without an answer until a device is offline.
pub const FAILURES_TO_OFFLINE: u32 = 2;
/// The weight of silence; garbage weighs 1, because a noisy device lives.
const SILENCE_WEIGHS: u32 = 3;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// After which a busy device is asked again; doubled each time.
const FIRST_AGAIN: Duration = Duration::from_millis(50);
const MOST_AGAIN: u32 = 10;
/// The divisor of a new measurement in the moving average.
const SMOOTHING: u32 = 8;

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer, even "no".
    Answer,
    /// A "busy" exception: the job is repeated within its interval, with growing pauses.
    Busy,
    /// Something that is no answer.
    Garbage,
    /// Nothing.
    Nothing,
}

/// The next step of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Do this job now.
    Run(usize),
    /// Try an offline device.
    Probe {
        /// The device.
        device: usize,
        /// The number of probes since it is offline.
        turn: usize,
    },
    /// Nothing is due before then.
    WaitUntil(Instant),
}

#[derive(Debug, Clone)]
struct Planned {
    device: usize,
    every: Duration,
    /// The measured duration.
    takes: Duration,
    /// A moment of its rhythm: its place among the others.
    phase: Instant,
    due: Instant,
    /// When it was done last.
    done: Option<Instant>,
    /// The time from the start until it is due first.
    delay: Duration,
    /// Busy answers in a row, in this interval.
    busy: u32,
}

#[derive(Debug, Clone, Copy)]
enum Health {
    /// Not asked yet.
    Unknown,
    Online,
    Offline {
        retry_at: Instant,
        pause: Duration,
        tries: usize,
    },
}

/// A try to reach an offline device.
#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Instant,
    /// The pause before it.
    pause: Duration,
    device: usize,
    /// The number of probes since it is offline.
    turn: usize,
}

/// The jobs of one line and the health of its devices.
#[derive(Debug)]
pub struct Schedule {
    jobs: Vec<Planned>,
    health: Vec<Health>,
    failures: Vec<u32>,
    /// The device whose last request was not answered.
    avoid: Option<usize>,
}

impl Schedule {
    /// Every job is due at `now`, and keeps to its own phase from then on.
    pub fn new(jobs: &[Job], devices: usize, now: Instant) -> Self {
        let planned = planned(jobs, now);
        Self {
            jobs: planned,
            health: vec![Health::Unknown; devices],
            failures: vec![0; devices],
            avoid: None,
        }
    }

    /// Other jobs take the place of the old ones; what `before` knew of the same points is kept:
    /// how soon they are due. A job whose interval is another one is due one such interval after it
    /// was done last.
    pub fn replace(&mut self, before: &[Job], jobs: &[Job], now: Instant) {
        let mut planned = planned(jobs, now);
        for (new, job) in planned.iter_mut().zip(jobs) {
            let sharing = before
                .iter()
                .zip(&self.jobs)
                .filter(|(old, _)| old.points.iter().any(|point| job.points.contains(point)));
            let same = before
                .iter()
                .zip(&self.jobs)
                .find(|(old, _)| old.points == job.points);
            if let Some((_, old)) = same {
                (new.due, new.phase, new.takes, new.done) =
                    (old.due, old.phase, old.takes, old.done);
                if let Some(done) = old.done.filter(|_| old.every != new.every) {
                    new.due = (done + new.every).max(now);
                    new.phase = new.due;
                }
            } else if let Some(phase) = sharing.map(|(_, old)| old.phase).min() {
                // The parts of a split job are due at once.
                new.phase = phase;
            }
        }
        self.jobs = planned;
    }

    /// The share of the line's time that the jobs ask for; dead devices ask for nothing.
    pub fn load(&self) -> f64 {
        self.live()
            .map(|(_, job)| job.takes.as_secs_f64() / job.every.as_secs_f64())
            .sum()
    }

    /// The next step; `probe_takes` is how long a probe of a device may take.
    pub fn next(&mut self, now: Instant, probe_takes: impl Fn(usize) -> Duration) -> NextStep {
        let avoid = self.avoid.take();
        let stretch = self.stretch();
        for job in &mut self.jobs {
            job.due = job.due.min(job.latest(now, stretch));
        }
        self.check_invariants(now);
        let first = self
            .due_job(now, stretch, avoid)
            .or_else(|| avoid.and_then(|_| self.due_job(now, stretch, None)));
        let next_due = self.live().map(|(_, job)| job.due).min();
        let probe = self.next_probe();
        if let Some(probe) = probe.filter(|probe| probe.at <= now) {
            let fits = first.is_none()
                && next_due.is_none_or(|due| now + probe_takes(probe.device) <= due);
            if fits || probe.at + probe.pause <= now {
                return NextStep::Probe {
                    device: probe.device,
                    turn: probe.turn,
                };
            }
        }
        if let Some(index) = first {
            return NextStep::Run(index);
        }
        // A probe that does not fit before the next job waits for the gap behind it.
        let probe_at = probe.map(|probe| {
            if probe.at <= now {
                probe.at + probe.pause
            } else {
                probe.at
            }
        });
        let wake = next_due.into_iter().chain(probe_at).min();
        NextStep::WaitUntil(wake.unwrap_or(now + LONGEST_RETRY))
    }

    /// The jobs of devices that are not offline.
    fn live(&self) -> impl Iterator<Item = (usize, &Planned)> {
        self.jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| !self.is_offline(job.device))
    }

    /// The due job with the earliest deadline, not of the device to `avoid`.
    fn due_job(&self, now: Instant, stretch: f64, avoid: Option<usize>) -> Option<usize> {
        let due = self
            .live()
            .filter(|(_, job)| job.due <= now && Some(job.device) != avoid);
        due.min_by_key(|(_, job)| (job.due + job.every.mul_f64(stretch), job.due))
            .map(|(index, _)| index)
    }

    /// True if a job is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.jobs
            .iter()
            .any(|job| job.due <= now && !self.is_offline(job.device))
    }

    /// A job is due now: its values were written.
    pub fn hurry(&mut self, job: usize, now: Instant) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.due = job.due.min(now);
        }
    }

    /// The delay of a job that begins now.
    pub fn lateness(&self, job: usize, now: Instant) -> Duration {
        self.jobs
            .get(job)
            .map_or(Duration::ZERO, |job| now.saturating_duration_since(job.due))
    }

    /// A job was done in so much time. Returns the device's new state if it changed: true is
    /// online.
    pub fn done(&mut self, job: usize, heard: Heard, took: Duration, now: Instant) -> Option<bool> {
        let stretch = self.stretch();
        let planned = self.jobs.get_mut(job)?;
        if heard == Heard::Answer {
            planned.takes = planned.takes - planned.takes / SMOOTHING + took / SMOOTHING;
        }
        let next = planned.next(now, stretch);
        let again = now + FIRST_AGAIN * 2_u32.saturating_pow(planned.busy.min(MOST_AGAIN));
        let asks_again = heard == Heard::Busy && again < next;
        planned.busy = if asks_again { planned.busy + 1 } else { 0 };
        planned.due = if asks_again { again } else { next };
        planned.done = Some(now);
        let device = planned.device;
        match heard {
            Heard::Answer | Heard::Busy => self.came(device, Some(job), now),
            Heard::Garbage => self.missed(device, 1, now),
            Heard::Nothing => self.missed(device, SILENCE_WEIGHS, now),
        }
    }

    /// True if a job is asked again within its interval, because the device was busy.
    pub fn asks_again(&self, job: usize) -> bool {
        self.jobs.get(job).is_some_and(|job| job.busy > 0)
    }

    /// A probe was answered or not. Returns the device's new state if it changed.
    pub fn probed(&mut self, device: usize, answered: bool, now: Instant) -> Option<bool> {
        if answered {
            self.came(device, None, now)
        } else {
            self.missed(device, SILENCE_WEIGHS, now)
        }
    }

    /// The wire is gone: every device is, until it answers again. Returns those that were online or
    /// not asked yet.
    pub fn line_down(&mut self, now: Instant) -> Vec<usize> {
        let mut changed = Vec::new();
        for (device, health) in self.health.iter_mut().enumerate() {
            if !matches!(health, Health::Offline { .. }) {
                changed.push(device);
                *health = Health::Offline {
                    retry_at: now,
                    pause: FIRST_RETRY,
                    tries: 0,
                };
            }
        }
        changed
    }

    /// True if a device did not answer lately.
    pub fn is_offline(&self, device: usize) -> bool {
        matches!(self.health.get(device), Some(Health::Offline { .. }))
    }

    /// Panics if a job would be forgotten.
    fn check_invariants(&self, now: Instant) {
        let stretch = self.stretch();
        debug_assert!(
            self.jobs
                .iter()
                .all(|job| job.due <= job.latest(now, stretch)),
            "a job waits for longer than its interval"
        );
        debug_assert_eq!(
            self.health.len(),
            self.failures.len(),
            "every device has its health and its failures"
        );
    }

    /// The factor by which every interval is longer than configured; at least 1.
    fn stretch(&self) -> f64 {
        self.load().max(1.0)
    }

    /// The probe of the offline device whose turn is next.
    fn next_probe(&self) -> Option<Probe> {
        let probes = self
            .health
            .iter()
            .enumerate()
            .filter_map(|(device, health)| match *health {
                Health::Offline {
                    retry_at,
                    pause,
                    tries,
                } if self.jobs.iter().any(|job| job.device == device) => Some(Probe {
                    at: retry_at,
                    pause,
                    device,
                    turn: tries,
                }),
                _ => None,
            });
        probes.min_by_key(|probe| probe.at)
    }

    fn came(&mut self, device: usize, job: Option<usize>, now: Instant) -> Option<bool> {
        let was_offline = self.is_offline(device);
        *self.failures.get_mut(device)? = 0;
        let health = self.health.get_mut(device)?;
        let was_online = matches!(health, Health::Online);
        *health = Health::Online;
        if was_offline {
            for (index, other) in self.jobs.iter_mut().enumerate() {
                if other.device == device && Some(index) != job {
                    other.due = now;
                }
            }
        }
        (!was_online).then_some(true)
    }

    fn missed(&mut self, device: usize, weight: u32, now: Instant) -> Option<bool> {
        self.avoid = Some(device);
        let failures = self.failures.get_mut(device)?;
        *failures = failures.saturating_add(weight);
        let enough = *failures >= FAILURES_TO_OFFLINE * SILENCE_WEIGHS;
        let health = self.health.get_mut(device)?;
        match *health {
            Health::Offline { pause, tries, .. } => {
                let pause = (pause * 2).min(LONGEST_RETRY);
                *health = Health::Offline {
                    retry_at: now + pause,
                    pause,
                    tries: tries + 1,
                };
                None
            }
            _ if enough => {
                *health = Health::Offline {
                    retry_at: now + FIRST_RETRY,
                    pause: FIRST_RETRY,
                    tries: 0,
                };
                Some(false)
            }
            _ => None,
        }
    }
}

impl Planned {
    /// When it is due at the latest.
    fn latest(&self, now: Instant, stretch: f64) -> Instant {
        let delay = if self.done.is_none() {
            self.delay
        } else {
            Duration::ZERO
        };
        now + self.every.mul_f64(stretch).max(delay)
    }

    /// The first moment of the job's own rhythm that is still to come.
    fn next(&self, now: Instant, stretch: f64) -> Instant {
        if stretch > 1.0 {
            // Nothing is skipped: the stretched rhythm is one that the line can keep.
            return (self.due + self.every.mul_f64(stretch)).max(now);
        }
        if self.phase > now {
            return self.phase;
        }
        grid(self.phase, self.every, now)
    }
}

/// The first of `from`, `from + every`, ... behind `now`.
fn grid(from: Instant, every: Duration, now: Instant) -> Instant {
    let late = now.saturating_duration_since(from).as_nanos();
    let periods = late / every.as_nanos().max(1) + 1;
    from + every.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

fn planned(jobs: &[Job], now: Instant) -> Vec<Planned> {
    let planned = jobs.iter().zip(offsets(jobs)).map(|(job, offset)| Planned {
        device: job.device,
        every: interval(job),
        takes: job.takes,
        phase: now + offset.max(job.delay),
        due: now + job.delay,
        done: None,
        delay: job.delay,
        busy: 0,
    });
    planned.collect()
}

fn interval(job: &Job) -> Duration {
    job.every.max(Duration::from_millis(1))
}

/// The phase of each job: those of the shortest intervals one behind the other, the others spread
/// over their interval in steps of the shortest, so that the free time of a cycle stays in one
/// piece.
fn offsets(jobs: &[Job]) -> Vec<Duration> {
    let shortest = jobs.iter().map(interval).min();
    let shortest = shortest.unwrap_or(Duration::from_secs(1));
    let mut order: Vec<(usize, &Job)> = jobs.iter().enumerate().collect();
    order.sort_by_key(|(_, job)| interval(job));
    let mut offsets = vec![Duration::ZERO; jobs.len()];
    let mut packed = Duration::ZERO;
    for (place, (index, job)) in order.into_iter().enumerate() {
        let interval = interval(job);
        let offset = if interval < 2 * shortest {
            let offset = packed;
            packed += job.takes;
            offset
        } else {
            let cycles = (interval.as_nanos() / shortest.as_nanos().max(1)).max(1);
            let cycle = u32::try_from(place as u128 % cycles).unwrap_or(0);
            shortest * cycle + packed.min(shortest)
        };
        if let Some(slot) = offsets.get_mut(index) {
            *slot = offset;
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::PointId;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn job(device: usize, every: Duration) -> Job {
        Job {
            device,
            every,
            takes: 10 * MS,
            delay: Duration::ZERO,
            points: Vec::new(),
        }
    }

    /// Plays `seconds` of a line where a request of a live device takes `cost` and one of a dead
    /// device `timeout`. Gives the jobs with the time they began, and the time that dead devices
    /// took.
    fn play(
        jobs: &[Job],
        dead: &[usize],
        devices: usize,
        cost: Duration,
        timeout: Duration,
        seconds: u64,
    ) -> (Vec<(usize, Duration)>, Duration) {
        let start = crate::time::now();
        let mut schedule = Schedule::new(jobs, devices, start);
        let mut now = start;
        let (mut done, mut lost) = (Vec::new(), Duration::ZERO);
        while now < start + SECOND * u32::try_from(seconds).unwrap() {
            match schedule.next(now, |_| timeout) {
                NextStep::Run(index) => {
                    let alive = !dead.contains(&jobs[index].device);
                    done.push((index, now - start));
                    let took = if alive { cost } else { timeout };
                    lost += if alive { Duration::ZERO } else { timeout };
                    now += took;
                    schedule.done(
                        index,
                        if alive { Heard::Answer } else { Heard::Nothing },
                        took,
                        now,
                    );
                }
                NextStep::Probe { device, .. } => {
                    assert!(dead.contains(&device));
                    now += timeout;
                    lost += timeout;
                    schedule.probed(device, false, now);
                }
                NextStep::WaitUntil(at) => {
                    assert!(at > now, "it must not spin");
                    now = at;
                }
            }
        }
        (done, lost)
    }

    fn intervals(done: &[(usize, Duration)], job: usize) -> Vec<Duration> {
        let times: Vec<Duration> = done
            .iter()
            .filter(|(index, _)| *index == job)
            .map(|(_, at)| *at)
            .collect();
        let mut intervals: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        intervals.sort();
        intervals
    }

    #[test]
    fn every_job_keeps_its_rhythm() {
        let jobs = [job(0, SECOND), job(0, SECOND * 5)];
        let (done, _) = play(&jobs, &[], 1, 10 * MS, SECOND, 60);
        assert!((60..=61).contains(&done.iter().filter(|(index, _)| *index == 0).count()));
        assert!((12..=13).contains(&done.iter().filter(|(index, _)| *index == 1).count()));
    }

    #[test]
    fn slow_jobs_do_not_all_come_in_the_same_cycle() {
        let jobs: Vec<Job> = (0..10)
            .map(|_| job(0, SECOND * 10))
            .chain([job(0, SECOND)])
            .collect();
        let (done, _) = play(&jobs, &[], 1, 50 * MS, SECOND, 60);
        let busiest = (20..60)
            .map(|second| done.iter().filter(|(_, at)| at.as_secs() == second).count())
            .max();
        assert_eq!(busiest, Some(2));
    }

    #[test]
    fn missed_periods_are_skipped_not_queued() {
        let start = crate::time::now();
        let mut schedule = Schedule::new(&[job(0, SECOND)], 1, start);
        assert_eq!(schedule.next(start, |_| SECOND), NextStep::Run(0));
        schedule.done(0, Heard::Answer, 10 * MS, start + 3500 * MS);
        assert_eq!(
            schedule.next(start + 3500 * MS, |_| SECOND),
            NextStep::WaitUntil(start + SECOND * 4)
        );
    }

    #[test]
    fn dead_devices_hardly_cost_the_live_ones_anything() {
        let jobs: Vec<Job> = (0..10)
            .map(|device| Job {
                takes: 60 * MS,
                ..job(device, SECOND)
            })
            .collect();
        for (dead, most) in [(vec![3], 0.01), (vec![1, 4, 7], 0.03)] {
            let (done, lost) = play(&jobs, &dead, 10, 60 * MS, 150 * MS, 600);
            for device in (0..10).filter(|device| !dead.contains(device)) {
                let intervals = intervals(&done, device);
                let (median, p99) = (
                    intervals[intervals.len() / 2],
                    intervals[intervals.len() * 99 / 100],
                );
                assert!(
                    median == SECOND && p99 <= 1100 * MS,
                    "{dead:?}: device {device} every {median:?}, p99 {p99:?}"
                );
            }
            let share = lost.as_secs_f64() / 600.0;
            assert!(share < most, "{dead:?}: {share} of the time lost");
        }
    }

    #[test]
    fn an_overloaded_line_stretches_every_interval_alike() {
        let jobs: Vec<Job> = (0..10)
            .map(|device| Job {
                takes: 150 * MS,
                ..job(device, SECOND * if device < 5 { 1 } else { 2 })
            })
            .collect();
        let (done, _) = play(&jobs, &[], 10, 150 * MS, SECOND, 300);
        let mean = |device: usize| {
            let all = intervals(&done, device);
            all.iter().sum::<Duration>().as_secs_f64() / all.len() as f64
        };
        for device in 0..5 {
            assert!(
                (1.05..1.30).contains(&mean(device)),
                "asked for 1 s, got {}",
                mean(device)
            );
            assert!(
                (2.1..2.6).contains(&mean(device + 5)),
                "asked for 2 s, got {}",
                mean(device + 5)
            );
        }
    }

    #[test]
    fn a_line_that_is_overloaded_still_finds_a_device_that_is_back() {
        let start = crate::time::now();
        let jobs: Vec<Job> = (0..11).map(|device| job(device, SECOND)).collect();
        let mut schedule = Schedule::new(&jobs, 11, start);
        schedule.done(10, Heard::Nothing, MS, start);
        assert_eq!(schedule.done(10, Heard::Nothing, MS, start), Some(false));
        let mut now = start;
        let found = (0..1000).any(|_| {
            let step = schedule.next(now, |_| 100 * MS);
            now += 120 * MS;
            match step {
                NextStep::Run(index) => {
                    schedule.done(index, Heard::Answer, 120 * MS, now);
                    false
                }
                NextStep::Probe { device, .. } => schedule.probed(device, true, now) == Some(true),
                NextStep::WaitUntil(_) => false,
            }
        });
        assert!(found);
    }

    #[test]
    fn an_offline_device_that_answers_is_read_whole_at_once() {
        let start = crate::time::now();
        let jobs = [job(0, SECOND), job(0, SECOND * 60)];
        let mut schedule = Schedule::new(&jobs, 1, start);
        assert_eq!(schedule.done(0, Heard::Nothing, MS, start), None);
        assert_eq!(schedule.done(0, Heard::Nothing, MS, start), Some(false));
        assert_eq!(
            schedule.next(start, |_| SECOND),
            NextStep::WaitUntil(start + SECOND)
        );
        let later = start + SECOND;
        assert_eq!(
            schedule.next(later, |_| SECOND),
            NextStep::Probe { device: 0, turn: 0 }
        );
        assert_eq!(schedule.probed(0, false, later), None);
        assert_eq!(
            schedule.next(later + 2 * SECOND, |_| SECOND),
            NextStep::Probe { device: 0, turn: 1 }
        );
        assert_eq!(schedule.probed(0, true, later), Some(true));
        let NextStep::Run(first) = schedule.next(later, |_| SECOND) else {
            panic!("all is due")
        };
        schedule.done(first, Heard::Answer, MS, later);
        assert_eq!(schedule.next(later, |_| SECOND), NextStep::Run(1 - first));
    }

    #[test]
    fn a_busy_device_is_asked_again_within_its_interval() {
        let start = crate::time::now();
        let mut schedule = Schedule::new(&[job(0, SECOND), job(1, SECOND)], 2, start);
        let mut tries = Vec::new();
        let mut now = start;
        while now < start + SECOND * 2 {
            match schedule.next(now, |_| SECOND) {
                NextStep::Run(0) => {
                    tries.push((now - start).as_millis());
                    schedule.done(0, Heard::Busy, MS, now);
                }
                NextStep::Run(index) => drop(schedule.done(index, Heard::Answer, MS, now)),
                NextStep::WaitUntil(at) => now = at,
                NextStep::Probe { .. } => panic!("it lives"),
            }
        }
        assert_eq!(tries[..6], [0, 50, 150, 350, 750, 1000]);
        assert!(!schedule.is_offline(0) && !schedule.asks_again(1));
        schedule.done(0, Heard::Answer, MS, now);
        assert!(!schedule.asks_again(0), "it was answered");
    }

    #[test]
    fn a_noisy_device_is_not_a_dead_one() {
        let start = crate::time::now();
        let mut schedule = Schedule::new(&[job(0, SECOND)], 1, start);
        assert_eq!(schedule.done(0, Heard::Garbage, MS, start), None);
        assert_eq!(schedule.done(0, Heard::Garbage, MS, start), None);
        assert_eq!(schedule.done(0, Heard::Answer, MS, start), Some(true));
        let changes: Vec<Option<bool>> = (0..6)
            .map(|_| schedule.done(0, Heard::Garbage, MS, start))
            .collect();
        assert_eq!(
            changes.last(),
            Some(&Some(false)),
            "nothing but garbage for long"
        );
    }

    #[test]
    fn after_a_time_out_another_device_has_its_turn() {
        let start = crate::time::now();
        let jobs = [
            Job {
                every: SECOND / 2,
                ..job(0, SECOND)
            },
            Job {
                every: SECOND / 2,
                ..job(0, SECOND)
            },
            job(1, SECOND),
        ];
        let mut schedule = Schedule::new(&jobs, 2, start);
        assert_eq!(schedule.next(start, |_| SECOND), NextStep::Run(0));
        schedule.done(0, Heard::Nothing, MS, start);
        assert_eq!(
            schedule.next(start, |_| SECOND),
            NextStep::Run(2),
            "the other device, although its deadline is later"
        );
        schedule.done(2, Heard::Answer, MS, start);
        assert_eq!(schedule.next(start, |_| SECOND), NextStep::Run(1));
    }

    #[test]
    fn a_job_whose_interval_has_changed_is_due_by_the_new_one() {
        let start = crate::time::now();
        let with = |every| {
            [Job {
                points: vec![PointId(1)],
                ..job(0, every)
            }]
        };
        let (often, seldom) = (with(SECOND / 2), with(SECOND * 3600));
        let mut schedule = Schedule::new(&often, 1, start);
        schedule.done(0, Heard::Answer, MS, start);
        schedule.replace(&often, &seldom, start);
        assert_eq!(
            schedule.next(start, |_| SECOND),
            NextStep::WaitUntil(start + SECOND * 3600),
            "from when it was asked last"
        );
        schedule.done(0, Heard::Answer, MS, start + SECOND);
        schedule.replace(&seldom, &often, start + SECOND);
        assert_eq!(
            schedule.next(start + SECOND, |_| SECOND),
            NextStep::WaitUntil(start + SECOND * 3 / 2)
        );
    }

    #[test]
    fn the_halves_of_a_request_that_was_cut_are_due_at_once() {
        let start = crate::time::now();
        let points = |ids: &[u32]| Job {
            points: ids.iter().map(|id| PointId(*id)).collect(),
            ..job(0, SECOND)
        };
        let before = [points(&[1, 2]), points(&[3])];
        let mut schedule = Schedule::new(&before, 1, start);
        schedule.done(0, Heard::Answer, MS, start);
        schedule.done(1, Heard::Answer, MS, start);
        schedule.replace(&before, &[points(&[3]), points(&[1]), points(&[2])], start);
        assert!(matches!(
            schedule.next(start, |_| SECOND),
            NextStep::Run(1 | 2)
        ));
        schedule.done(1, Heard::Answer, MS, start);
        schedule.done(2, Heard::Answer, MS, start);
        assert!(matches!(schedule.next(start, |_| SECOND), NextStep::WaitUntil(at) if at > start));
    }
}
