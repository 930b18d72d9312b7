//! The task of one line: connect, do what the schedule says, report readings and the state of devices, retry for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::schedule::{Schedule, Step};
use super::{Driver, Job, Line, ReadError, Values};
use crate::backoff::Backoff;
use crate::reading::{Event, PointId, Quality, Reading, Timestamp, Value};
use crate::tasks::Stop;
use crate::time::{now, unix_ms};

/// Gone: the stop order came, or nobody listens any more.
struct Ended;

struct Supervisor<D> {
    line: Line,
    driver: D,
    jobs: Vec<Job>,
    schedule: Schedule,
    last: HashMap<PointId, Value>,
    events: mpsc::Sender<Event>,
    stop: Stop,
    backoff: Backoff,
    /// Why the line is down, as it was told.
    down: Option<String>,
    /// Some device has answered since the line was opened.
    is_up: bool,
    /// Times the wire broke since a device answered.
    breaks: usize,
}

/// Polls `line` through `driver` until the stop order.
pub(super) async fn run<D: Driver>(line: Line, driver: D, events: mpsc::Sender<Event>, stop: Stop) {
    let jobs = driver.jobs();
    let schedule = Schedule::new(&jobs, line.devices.len(), now());
    let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let mut supervisor =
        Supervisor { line, driver, jobs, schedule, last: HashMap::new(), events, stop, backoff, down: None, is_up: false, breaks: 0 };
    let Err(Ended) = supervisor.run().await;
    supervisor.driver.disconnect();
}

impl<D: Driver> Supervisor<D> {
    async fn run(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            let why = match self.connect().await? {
                Ok(()) => self.poll().await?,
                Err(why) => why,
            };
            self.driver.disconnect();
            if self.down.as_ref() != Some(&why) {
                tracing::warn!(line = %self.line.name, %why, "line is down; trying again");
                self.all_offline(&why).await?;
                self.down = Some(why);
            }
            let delay = self.backoff.next_delay();
            self.pause(delay).await?;
        }
    }

    /// A device has answered, so the line is up.
    fn answered(&mut self) {
        if self.down.take().is_some() || !self.is_up {
            tracing::info!(line = %self.line.name, "line is up");
        }
        self.is_up = true;
        self.breaks = 0;
        self.backoff.reset();
    }

    async fn connect(&mut self) -> Result<Result<(), String>, Ended> {
        tokio::select! {
            connected = self.driver.connect() => Ok(connected),
            () = self.stop.wait() => Err(Ended),
        }
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Ended> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.wait() => Err(Ended),
        }
    }

    /// Polls until the line is lost, and returns why.
    async fn poll(&mut self) -> Result<String, Ended> {
        loop {
            match self.schedule.next(now()) {
                Step::WaitUntil(at) => self.pause(at.saturating_duration_since(now())).await?,
                Step::Run(job) => match self.attempt(job).await? {
                    Ok(outcome) => self.report(job, outcome).await?,
                    Err(why) => return Ok(why),
                },
            }
        }
    }

    /// Does a job; if the wire breaks, once more on a new one. `Err` tells why the line is lost: it cannot be opened again, or
    /// it breaks whatever is asked. A wire that breaks for some requests only is their device's fault.
    async fn attempt(&mut self, job: usize) -> Result<Result<Result<Values, ReadError>, String>, Ended> {
        let first = self.read(job).await?;
        let Err(ReadError::LineDown(_)) = first else { return Ok(Ok(first)) };
        self.driver.disconnect();
        if let Err(why) = self.connect().await? {
            return Ok(Err(why));
        }
        let second = self.read(job).await?;
        if let Err(ReadError::LineDown(why)) = &second {
            self.driver.disconnect();
            self.breaks += 1;
            let lost = self.breaks > self.jobs.len();
            return match (lost, self.connect().await?) {
                (false, Ok(())) => Ok(Ok(second)),
                (true, _) => Ok(Err(why.clone())),
                (_, Err(why)) => Ok(Err(why)),
            };
        }
        Ok(Ok(second))
    }

    async fn read(&mut self, job: usize) -> Result<Result<Values, ReadError>, Ended> {
        tokio::select! {
            outcome = self.driver.read(job) => Ok(outcome),
            () = self.stop.wait() => Err(Ended),
        }
    }

    async fn report(&mut self, job: usize, outcome: Result<Values, ReadError>) -> Result<(), Ended> {
        let time = Timestamp::at(unix_ms());
        let answered = matches!(outcome, Ok(_) | Err(ReadError::Refused(_)));
        if answered {
            self.answered();
        }
        let change = self.schedule.done(job, answered, now());
        let device = self.jobs.get(job).map_or(0, |job| job.device);
        if let Some(online) = change {
            let why = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            self.device_changed(device, online, &why).await?;
        }
        match outcome {
            Ok(values) => {
                for (point, value) in values {
                    self.measured(point, value, time).await?;
                }
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                // One missed answer leaves the last value standing; a refusal or a dead device does not.
                let is_bad = answered || change == Some(false);
                let points = if change == Some(false) {
                    self.points_of(device)
                } else {
                    self.jobs.get(job).map(|job| job.points.clone()).unwrap_or_default()
                };
                for point in points {
                    self.missed(point, &why, is_bad, time).await?;
                }
            }
        }
        Ok(())
    }

    fn points_of(&self, device: usize) -> Vec<PointId> {
        self.line.devices.get(device).map(|device| device.points.iter().map(|point| point.id).collect()).unwrap_or_default()
    }

    async fn measured(&mut self, point: PointId, value: Result<Value, Arc<str>>, time: Timestamp) -> Result<(), Ended> {
        let reading = match value {
            Ok(value) => {
                self.last.insert(point, value.clone());
                Reading { point, value: Some(value), time, quality: Quality::Good }
            }
            Err(why) => {
                self.last.remove(&point);
                Reading { point, value: None, time, quality: Quality::Bad(why) }
            }
        };
        self.emit(Event::Reading(reading)).await
    }

    async fn missed(&mut self, point: PointId, why: &Arc<str>, is_bad: bool, time: Timestamp) -> Result<(), Ended> {
        if is_bad {
            self.last.remove(&point);
        }
        let reading = match self.last.get(&point) {
            Some(value) => Reading { point, value: Some(value.clone()), time, quality: Quality::Stale(why.clone()) },
            None => Reading { point, value: None, time, quality: Quality::Bad(why.clone()) },
        };
        self.emit(Event::Reading(reading)).await
    }

    async fn device_changed(&mut self, device: usize, online: bool, why: &str) -> Result<(), Ended> {
        let Some(spec) = self.line.devices.get(device) else { return Ok(()) };
        if online {
            tracing::info!(line = %self.line.name, device = %spec.name, "device answers");
        } else {
            tracing::warn!(line = %self.line.name, device = %spec.name, why, "device does not answer");
        }
        let event = Event::Device { device: spec.id, online };
        self.emit(event).await
    }

    async fn all_offline(&mut self, why: &str) -> Result<(), Ended> {
        let why: Arc<str> = why.into();
        let time = Timestamp::at(unix_ms());
        for device in self.schedule.line_down(now()) {
            self.device_changed(device, false, &why).await?;
            for point in self.points_of(device) {
                self.missed(point, &why, true, time).await?;
            }
        }
        Ok(())
    }

    async fn emit(&mut self, event: Event) -> Result<(), Ended> {
        tokio::select! {
            sent = self.events.send(event) => sent.map_err(|_| Ended),
            () = self.stop.wait() => Err(Ended),
        }
    }
}
