//! When to do which job of a line. Pure: earliest deadline first, one job at a time, dead devices in the gaps.
//!
//! Invariants:
//! * A job that missed its time is done once, not as often as it was missed.
//! * A device counts as offline after [`FAILURES_TO_OFFLINE`] requests in a row without an answer; then only one of its jobs is
//!   tried at a time, each in its turn, with growing pauses, and only when no other job is due or its pause has passed twice.
//! * The first answer of an offline device makes all its jobs due at once.

use std::time::{Duration, Instant};

use super::Job;

/// Requests in a row without an answer until a device is offline.
pub const FAILURES_TO_OFFLINE: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Do this job now.
    Run(usize),
    /// Nothing is due before then.
    WaitUntil(Instant),
}

#[derive(Debug)]
struct Planned {
    device: usize,
    every: Duration,
    due: Instant,
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

#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Instant,
    pause: Duration,
    job: usize,
}

/// The jobs of one line and the health of its devices.
#[derive(Debug)]
pub struct Schedule {
    jobs: Vec<Planned>,
    health: Vec<Health>,
    failures: Vec<u32>,
}

impl Schedule {
    /// Every job is due at `now`.
    pub fn new(jobs: &[Job], devices: usize, now: Instant) -> Self {
        let jobs =
            jobs.iter().map(|job| Planned { device: job.device, every: job.every.max(Duration::from_millis(1)), due: now }).collect();
        Self { jobs, health: vec![Health::Unknown; devices], failures: vec![0; devices] }
    }

    /// The next step.
    pub fn next(&self, now: Instant) -> Step {
        let live = |job: &(usize, &Planned)| !matches!(self.health_of(job.1.device), Health::Offline { .. });
        let earliest = self.jobs.iter().enumerate().filter(live).min_by_key(|(_, job)| job.due);
        let due = earliest.filter(|(_, job)| job.due <= now).map(|(index, _)| index);
        let probe = self.next_probe();
        if let Some(probe) = probe.filter(|probe| probe.at <= now && (due.is_none() || probe.at + probe.pause <= now)) {
            return Step::Run(probe.job);
        }
        if let Some(index) = due {
            return Step::Run(index);
        }
        let times = earliest.map(|(_, job)| job.due).into_iter().chain(probe.map(|probe| probe.at));
        Step::WaitUntil(times.min().unwrap_or(now + LONGEST_RETRY))
    }

    /// A job was done; `answered` tells whether its device said anything, even "no". Returns the device's new state if it
    /// changed: true is online.
    pub fn done(&mut self, job: usize, answered: bool, now: Instant) -> Option<bool> {
        let device = self.jobs.get(job)?.device;
        if let Some(job) = self.jobs.get_mut(job) {
            job.due = next_period(job.due, job.every, now);
        }
        if answered { self.came(device, job, now) } else { self.missed(device, now) }
    }

    /// The wire is gone: every device is, until it answers again. Returns those that were online or not asked yet.
    pub fn line_down(&mut self, now: Instant) -> Vec<usize> {
        let mut changed = Vec::new();
        for (device, health) in self.health.iter_mut().enumerate() {
            if !matches!(health, Health::Offline { .. }) {
                changed.push(device);
                *health = Health::Offline { retry_at: now, pause: FIRST_RETRY, tries: 0 };
            }
        }
        changed
    }

    fn health_of(&self, device: usize) -> Health {
        self.health.get(device).copied().unwrap_or(Health::Unknown)
    }

    /// The offline device whose turn is next, with the job to try.
    fn next_probe(&self) -> Option<Probe> {
        let probes = self.health.iter().enumerate().filter_map(|(device, health)| {
            let Health::Offline { retry_at, pause, tries } = *health else { return None };
            let jobs: Vec<usize> = self.jobs.iter().enumerate().filter(|(_, job)| job.device == device).map(|(index, _)| index).collect();
            let job = *jobs.get(tries % jobs.len().max(1))?;
            Some(Probe { at: retry_at, pause, job })
        });
        probes.min_by_key(|probe| probe.at)
    }

    fn came(&mut self, device: usize, job: usize, now: Instant) -> Option<bool> {
        let was = self.health_of(device);
        *self.failures.get_mut(device)? = 0;
        *self.health.get_mut(device)? = Health::Online;
        if matches!(was, Health::Online) {
            return None;
        }
        if matches!(was, Health::Offline { .. }) {
            for (index, other) in self.jobs.iter_mut().enumerate() {
                if other.device == device && index != job {
                    other.due = now;
                }
            }
        }
        Some(true)
    }

    fn missed(&mut self, device: usize, now: Instant) -> Option<bool> {
        let failures = self.failures.get_mut(device)?;
        *failures = failures.saturating_add(1);
        let enough = *failures >= FAILURES_TO_OFFLINE;
        let health = self.health.get_mut(device)?;
        match *health {
            Health::Offline { pause, tries, .. } => {
                let pause = (pause * 2).min(LONGEST_RETRY);
                *health = Health::Offline { retry_at: now + pause, pause, tries: tries + 1 };
                None
            }
            _ if enough => {
                *health = Health::Offline { retry_at: now + FIRST_RETRY, pause: FIRST_RETRY, tries: 0 };
                Some(false)
            }
            _ => None,
        }
    }
}

/// The first moment of the job's own rhythm that is still to come.
fn next_period(due: Instant, every: Duration, now: Instant) -> Instant {
    let late = now.saturating_duration_since(due).as_nanos();
    let periods = late / every.as_nanos().max(1) + 1;
    due + every.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn job(device: usize, every: Duration) -> Job {
        Job { device, every, points: Vec::new() }
    }

    /// Plays `seconds` of a line where a request of a live device takes `cost` and one of a dead device `timeout`.
    fn play(jobs: &[Job], dead: &[usize], devices: usize, cost: Duration, timeout: Duration, seconds: u64) -> Vec<(usize, Duration)> {
        let start = crate::time::now();
        let mut schedule = Schedule::new(jobs, devices, start);
        let mut now = start;
        let mut done = Vec::new();
        while now < start + SECOND * u32::try_from(seconds).unwrap() {
            match schedule.next(now) {
                Step::Run(index) => {
                    let alive = !dead.contains(&jobs[index].device);
                    done.push((index, now - start));
                    now += if alive { cost } else { timeout };
                    schedule.done(index, alive, now);
                }
                Step::WaitUntil(at) => {
                    assert!(at > now, "it must not spin");
                    now = at;
                }
            }
        }
        done
    }

    #[test]
    fn every_job_keeps_its_rhythm() {
        let jobs = [job(0, SECOND), job(0, SECOND * 5)];
        let done = play(&jobs, &[], 1, Duration::from_millis(10), SECOND, 60);
        assert_eq!(done.iter().filter(|(index, _)| *index == 0).count(), 60);
        assert_eq!(done.iter().filter(|(index, _)| *index == 1).count(), 12);
    }

    #[test]
    fn missed_periods_are_skipped_not_queued() {
        let start = crate::time::now();
        let mut schedule = Schedule::new(&[job(0, SECOND)], 1, start);
        assert_eq!(schedule.next(start), Step::Run(0));
        schedule.done(0, true, start + Duration::from_millis(3500));
        assert_eq!(schedule.next(start + Duration::from_millis(3500)), Step::WaitUntil(start + SECOND * 4));
    }

    #[test]
    fn a_dead_device_hardly_costs_the_live_ones_anything() {
        let jobs: Vec<Job> = (0..10).map(|device| job(device, SECOND)).collect();
        let done = play(&jobs, &[3], 10, Duration::from_millis(60), Duration::from_millis(150), 600);
        for device in (0..10).filter(|device| *device != 3) {
            let times: Vec<Duration> = done.iter().filter(|(index, _)| *index == device).map(|(_, at)| *at).collect();
            assert!(times.len() >= 598, "device {device} was read {} times in 600 s", times.len());
        }
        let tries = done.iter().filter(|(index, _)| *index == 3).count();
        assert!((5..20).contains(&tries), "{tries} tries of a dead device");
    }

    #[test]
    fn a_line_that_is_overloaded_still_finds_a_device_that_is_back() {
        let start = crate::time::now();
        let jobs: Vec<Job> = (0..11).map(|device| job(device, SECOND)).collect();
        let mut schedule = Schedule::new(&jobs, 11, start);
        schedule.done(10, false, start);
        assert_eq!(schedule.done(10, false, start), Some(false));
        let mut now = start;
        let found = (0..1000).any(|_| {
            let Step::Run(index) = schedule.next(now) else { panic!("there is no slack") };
            now += Duration::from_millis(120);
            schedule.done(index, true, now) == Some(true) && index == 10
        });
        assert!(found);
    }

    #[test]
    fn every_job_of_an_offline_device_is_tried_in_its_turn() {
        let start = crate::time::now();
        let jobs = [job(0, SECOND), job(0, SECOND * 60)];
        let mut schedule = Schedule::new(&jobs, 1, start);
        let mut now = start;
        let mut tried = Vec::new();
        for _ in 0..6 {
            loop {
                match schedule.next(now) {
                    Step::WaitUntil(at) => now = at,
                    Step::Run(index) => {
                        schedule.done(index, false, now);
                        tried.push(index);
                        break;
                    }
                }
            }
        }
        assert!(tried[2..].contains(&0) && tried[2..].contains(&1), "{tried:?}");
    }

    #[test]
    fn an_offline_device_that_answers_is_read_whole_at_once() {
        let start = crate::time::now();
        let jobs = [job(0, SECOND), job(0, SECOND * 60)];
        let mut schedule = Schedule::new(&jobs, 1, start);
        assert_eq!(schedule.done(0, false, start), None);
        assert_eq!(schedule.done(0, false, start), Some(false));
        let later = start + SECOND;
        assert_eq!(schedule.next(later), Step::Run(0));
        assert_eq!(schedule.done(0, true, later), Some(true));
        assert_eq!(schedule.next(later), Step::Run(1));
    }
}
