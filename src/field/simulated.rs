//! A line without hardware: every point shows its wave.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decode::{DataType, Register, Table};
use super::modbus::request::{Action, requests};
use super::signal::Waveform;
use super::write::{WriteRequest, Written};
use super::{Device, Driver, Job, Point, PollError, Sample, Values};
use crate::reading::Value;
use crate::time::now;

/// The driver of a `simulated` line.
#[derive(Debug)]
pub struct Simulated {
    devices: Vec<Arc<Device>>,
    jobs: Vec<Job>,
    points: Vec<Vec<Point>>,
    /// Written values, by point; they are shown from then on.
    written: HashMap<(usize, Table, u16), u16>,
    started: Instant,
}

impl Simulated {
    /// One job per device and interval.
    pub fn new(devices: &[Arc<Device>]) -> Self {
        let mut jobs: Vec<Job> = Vec::new();
        let mut points: Vec<Vec<Point>> = Vec::new();
        for (device, spec) in devices.iter().enumerate() {
            for point in spec.points.iter().filter(|point| !point.is_derived()) {
                match jobs
                    .iter()
                    .position(|job| job.device == device && job.every == point.every)
                {
                    Some(index) => {
                        jobs.get_mut(index)
                            .into_iter()
                            .for_each(|job| job.points.push(point.id));
                        points
                            .get_mut(index)
                            .into_iter()
                            .for_each(|group| group.push(point.clone()));
                    }
                    None => {
                        jobs.push(Job {
                            device,
                            every: point.every,
                            takes: Duration::ZERO,
                            delay: Duration::ZERO,
                            points: vec![point.id],
                        });
                        points.push(vec![point.clone()]);
                    }
                }
            }
        }
        Self {
            devices: devices.to_vec(),
            jobs,
            points,
            written: HashMap::new(),
            started: now(),
        }
    }

    fn value(&self, device: usize, point: &Point, elapsed: Duration) -> Sample {
        let value = point.signal.value(elapsed);
        let shown = match point.register() {
            // Through the register and back, so that type, scale and words mean the same as on a
            // real line.
            Some(register) => {
                let mut words = words(point, register, elapsed, None);
                for (word, address) in words.iter_mut().zip(register.address..) {
                    *word = self
                        .written
                        .get(&(device, register.table, address))
                        .copied()
                        .unwrap_or(*word);
                }
                register.decode(&words, None)
            }
            None => Ok(Value::F64((value * 1000.0).round() / 1000.0)),
        };
        Sample::new(point.id, shown)
    }
}

impl Simulated {
    /// Shows from now on what a request writes.
    fn keep(&mut self, device: usize, action: &Action) {
        let (start, count) = action.span();
        let table = if matches!(action, Action::Bits { .. }) {
            Table::Coil
        } else {
            Table::Holding
        };
        let words: Vec<u16> = match action {
            Action::Words { words, .. } => words.clone(),
            Action::Bits { bits, .. } => bits.iter().map(|bit| u16::from(*bit)).collect(),
            Action::Mask { and, or, .. } => {
                let before = self
                    .written
                    .get(&(device, table, start))
                    .copied()
                    .unwrap_or(0);
                vec![(before & and) | (or & !and)]
            }
        };
        self.written.extend(
            (start..start.saturating_add(count))
                .zip(&words)
                .map(|(address, word)| ((device, table, address), *word)),
        );
    }
}

/// The registers of a point `elapsed` after the start of a simulator; `exponent` is the content of
/// the register with its power of ten.
pub(super) fn words(
    point: &Point,
    register: &Register,
    elapsed: Duration,
    exponent: Option<i16>,
) -> Vec<u16> {
    if let Some(text) = point
        .says
        .filter(|_| register.meaning.kind == DataType::Text)
    {
        return register.encode_text(text);
    }
    let value = point.signal.value(elapsed);
    let meaning = &register.meaning;
    let wraps =
        point.signal.shape == Waveform::Counter && meaning.kind.is_integer() && exponent.is_none();
    let value = match meaning.raw_range().filter(|_| wraps) {
        // A counter that is full starts again from zero, as in devices.
        Some((_, most)) => {
            ((value - meaning.offset) / meaning.scale).rem_euclid(most + 1.0) * meaning.scale
                + meaning.offset
        }
        None => value,
    };
    register.encode(value, exponent)
}

impl Driver for Simulated {
    fn plan(&self) -> Vec<Job> {
        self.jobs.clone()
    }

    async fn connect(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, PollError> {
        let elapsed = now().saturating_duration_since(self.started);
        let device = self.jobs.get(job).map_or(0, |job| job.device);
        Ok(self
            .points
            .get(job)
            .into_iter()
            .flatten()
            .map(|point| self.value(device, point, elapsed))
            .collect())
    }

    async fn probe(&mut self, _: usize, _: usize) -> Result<(), PollError> {
        Ok(())
    }

    async fn write(&mut self, request: &WriteRequest) -> Written {
        let Some(device) = self.devices.get(request.device).map(Arc::clone) else {
            return Written::NotSent("no such device".to_owned());
        };
        match requests(&device, &request.values) {
            Ok(actions) => actions
                .iter()
                .for_each(|action| self.keep(request.device, action)),
            Err(why) => return Written::NotSent(why),
        }
        let elapsed = now().saturating_duration_since(self.started);
        let is_written = |point: &&Point| request.values.iter().any(|(id, _)| *id == point.id);
        let points = device.points.iter().filter(is_written);
        Written::Done(
            points
                .map(|point| self.value(request.device, point, elapsed))
                .collect(),
        )
    }

    fn probe_takes(&self, _: usize) -> Duration {
        Duration::ZERO
    }

    fn disconnect(&mut self) {}
}
