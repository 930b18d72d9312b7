//! A line without hardware: every point shows its wave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Device, Driver, Job, Point, ReadError, Values};
use crate::reading::{PointId, Value};
use crate::time::now;

/// The driver of a `simulated` line.
#[derive(Debug)]
pub struct Simulated {
    jobs: Vec<Job>,
    points: Vec<Vec<Point>>,
    started: Instant,
}

impl Simulated {
    /// One job per device and interval.
    pub fn new(devices: &[Device]) -> Self {
        let mut jobs: Vec<Job> = Vec::new();
        let mut points: Vec<Vec<Point>> = Vec::new();
        for (device, spec) in devices.iter().enumerate() {
            for point in spec.points.iter().filter(|point| !point.is_derived()) {
                match jobs.iter().position(|job| job.device == device && job.every == point.every) {
                    Some(index) => {
                        jobs.get_mut(index).into_iter().for_each(|job| job.points.push(point.id));
                        points.get_mut(index).into_iter().for_each(|group| group.push(point.clone()));
                    }
                    None => {
                        jobs.push(Job { device, every: point.every, takes: Duration::ZERO, points: vec![point.id] });
                        points.push(vec![point.clone()]);
                    }
                }
            }
        }
        Self { jobs, points, started: now() }
    }

    fn value(point: &Point, elapsed: Duration) -> (PointId, Result<Value, Arc<str>>) {
        let value = point.wave.value(elapsed);
        let shown = match point.register() {
            // Through the register and back, so that type, scale and words mean the same as on a real line.
            Some(register) => register.decode(&register.encode(value), None),
            None => Ok(Value::F64((value * 1000.0).round() / 1000.0)),
        };
        (point.id, shown)
    }
}

impl Driver for Simulated {
    fn jobs(&self) -> Vec<Job> {
        self.jobs.clone()
    }

    async fn connect(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, ReadError> {
        let elapsed = now().saturating_duration_since(self.started);
        Ok(self.points.get(job).into_iter().flatten().map(|point| Self::value(point, elapsed)).collect())
    }

    async fn probe(&mut self, _: usize, _: usize) -> Result<(), ReadError> {
        Ok(())
    }

    fn probe_takes(&self, _: usize) -> Duration {
        Duration::ZERO
    }

    fn disconnect(&mut self) {}
}
