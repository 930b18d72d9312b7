//! What a line tells the gateway: readings, and devices that go online and offline.

use std::sync::Arc;
use std::time::Duration;

use super::{ReadOutcome, Stopped, Supervisor};
use crate::field::point_cache::{Failure, Now};
use crate::field::schedule::Heard;
use crate::field::{Device, Driver, PollError, Values};
use crate::reading::{Event, PointId, Timestamp};
use crate::time::{moment, now};

impl<D: Driver> Supervisor<D> {
    /// Takes the outcome of a job into the schedule, and publishes the readings that follow from
    /// it.
    pub(super) async fn report(
        &mut self,
        job: usize,
        outcome: ReadOutcome,
        took: Duration,
    ) -> Result<(), Stopped> {
        self.log(job, &outcome, took);
        let time = Timestamp::from(moment());
        let heard = heard_in(&outcome);
        let has_answered = matches!(heard, Heard::Answer | Heard::Busy);
        if has_answered {
            self.answered();
        }
        let change = self.schedule.done(job, heard, took, now());
        let device = self.jobs.get(job).map_or(0, |job| job.device);
        let asked = self.points_of_job(job);
        let is_split = self.is_split_by(&outcome, &asked);
        if let Some(online) = change {
            let why = outcome.as_ref().err().map(ToString::to_string);
            self.device_changed(device, online, &why.unwrap_or_default())
                .await?;
        }
        // A busy device is asked again within the interval: until then its values are what they
        // were.
        if is_split || self.schedule.asks_again(job) {
            return Ok(());
        }
        let error = match outcome {
            Ok(values) => return self.emit_values(device, values, time).await,
            Err(error) => error,
        };
        let has_died = change == Some(false);
        let failure = Failure {
            device,
            points: &if has_died {
                self.points_of(device)
            } else {
                asked
            },
            why: &error.to_string().into(),
            // One missed answer leaves the last value valid; a refusal or a dead device does not.
            is_bad: has_answered || has_died,
        };
        self.emit_failure(failure, time).await
    }

    /// True if the driver has learned from a refusal to read these points in parts: it says nothing
    /// about them yet.
    fn is_split_by(&mut self, outcome: &ReadOutcome, points: &[PointId]) -> bool {
        matches!(outcome, Err(PollError::Refused(_)))
            && self.replan()
            && self.jobs.iter().all(|job| job.points != points)
    }

    /// Takes the outcome of a probe into the schedule.
    pub(super) async fn probed(
        &mut self,
        device: usize,
        outcome: &Result<(), PollError>,
    ) -> Result<(), Stopped> {
        if outcome.is_ok() {
            self.answered();
        }
        if self.schedule.probed(device, outcome.is_ok(), now()) == Some(true) {
            self.device_changed(device, true, "").await?;
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.still_offline(device, &error.to_string()).await,
        }
    }

    /// The reason why a device is offline may change: other bytes come, or none any more.
    async fn still_offline(&mut self, device: usize, why: &str) -> Result<(), Stopped> {
        let Some(reported) = self
            .offline
            .get_mut(device)
            .filter(|reported| **reported != *why && self.schedule.is_offline(device))
        else {
            return Ok(());
        };
        why.clone_into(reported);
        if let Some(spec) = self.line.devices.get(device) {
            tracing::info!(
                event = "device.still_offline", line = %self.line.name, device = %spec.name, why,
                "device still does not answer, for another reason"
            );
        }
        self.emit_offline(device, &why.into(), Timestamp::from(moment()))
            .await
    }

    pub(super) async fn device_changed(
        &mut self,
        device: usize,
        online: bool,
        why: &str,
    ) -> Result<(), Stopped> {
        let Some(spec) = self.line.devices.get(device) else {
            return Ok(());
        };
        if let Some((_, counts)) = self.channels.counts.devices.get(device) {
            counts.is_online.set(u64::from(online));
        }
        if online {
            tracing::info!(
                event = "device.online", line = %self.line.name, device = %spec.name,
                "device answers"
            );
        } else {
            tracing::warn!(
                event = "device.offline", line = %self.line.name, device = %spec.name, why,
                "device does not answer: its points are bad until a probe is answered"
            );
            if let Some(reported) = self.offline.get_mut(device) {
                why.clone_into(reported);
            }
        }
        let event = Event::Device {
            device: spec.id,
            online,
        };
        self.emit(event).await
    }

    pub(super) async fn all_offline(&mut self, why: &str) -> Result<(), Stopped> {
        let why: Arc<str> = why.into();
        let time = Timestamp::from(moment());
        for device in self.schedule.line_down(now()) {
            self.device_changed(device, false, &why).await?;
            self.emit_offline(device, &why, time).await?;
        }
        Ok(())
    }

    /// Publishes values that were read, and what is derived from them.
    pub(super) async fn emit_values(
        &mut self,
        device: usize,
        values: Values,
        time: Timestamp,
    ) -> Result<(), Stopped> {
        let now = Now { now: now(), time };
        for reading in self.cache.measured(device, values, now) {
            self.emit(Event::Reading(reading)).await?;
        }
        Ok(())
    }

    /// Publishes all points of a device as bad.
    async fn emit_offline(
        &mut self,
        device: usize,
        why: &Arc<str>,
        time: Timestamp,
    ) -> Result<(), Stopped> {
        let points = self.points_of(device);
        let failure = Failure {
            device,
            points: &points,
            why,
            is_bad: true,
        };
        self.emit_failure(failure, time).await
    }

    async fn emit_failure(&mut self, failure: Failure<'_>, time: Timestamp) -> Result<(), Stopped> {
        for reading in self.cache.missed(&failure, Now { now: now(), time }) {
            self.emit(Event::Reading(reading)).await?;
        }
        Ok(())
    }

    fn points_of_job(&self, job: usize) -> Vec<PointId> {
        self.jobs
            .get(job)
            .map(|job| job.points.clone())
            .unwrap_or_default()
    }

    /// Those that are read; the derived ones follow from them.
    fn points_of(&self, device: usize) -> Vec<PointId> {
        let points = self
            .line
            .devices
            .get(device)
            .map(|device| device.points.as_slice())
            .unwrap_or_default();
        points
            .iter()
            .filter(|point| point.is_read())
            .map(|point| point.id)
            .collect()
    }

    /// One log line for each request, at debug level.
    fn log(&self, job: usize, outcome: &ReadOutcome, took: Duration) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(device) = self
            .jobs
            .get(job)
            .and_then(|job| self.line.devices.get(job.device))
        else {
            return;
        };
        let points = names(device, &self.points_of_job(job));
        let ms = took.as_secs_f64() * 1000.0;
        match outcome {
            Ok(values) => {
                let bad = values.iter().filter(|sample| sample.value.is_err()).count();
                tracing::debug!(
                    event = "device.points_read", line = %self.line.name, device = %device.name, %points, ms, bad,
                    "points read"
                );
            }
            Err(why) => {
                tracing::debug!(
                    event = "device.points_not_read", line = %self.line.name, device = %device.name, %points, ms, %why,
                    "points not read"
                );
            }
        }
    }
}

fn heard_in(outcome: &ReadOutcome) -> Heard {
    match outcome {
        Ok(_) | Err(PollError::Refused(_)) => Heard::Answer,
        Err(PollError::Busy(_)) => Heard::Busy,
        Err(PollError::Garbled(_)) => Heard::Garbage,
        Err(PollError::NoAnswer | PollError::Missed(_) | PollError::LineDown(_)) => Heard::Nothing,
    }
}

/// Names of points for the log, separated by commas.
pub(super) fn names(device: &Device, points: &[PointId]) -> String {
    let names = device
        .points
        .iter()
        .filter(|point| points.contains(&point.id))
        .map(|point| &*point.name);
    names.collect::<Vec<_>>().join(",")
}
