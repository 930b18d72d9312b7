//! The driver of a line with meters on an M-Bus: a level converter on a serial port, or a gateway
//! that passes its bytes through TCP.

use std::sync::Arc;
use std::time::Duration;

use super::bus::Bus;
use super::readout::Readout;
use super::spec::MeterSpec;
use super::telegram::Trust;
use crate::field::counts::LineCounts;
use crate::field::stream::Stream;
use crate::field::trace::Happening;
use crate::field::trouble::{Came, Trouble};
use crate::field::write::{WriteRequest, Written};
use crate::field::{Device, Driver, Job, Line, PointSource, PollError, Sample, Values, Wire};
use crate::heartbeat::Heartbeat;
use crate::reading::Quality;
use crate::time::now;

/// Bytes of a readout, as it is planned.
const PLANNED_BYTES: u32 = 200;
/// What a meter takes to answer, as it is planned.
const PLANNED_WAIT: Duration = Duration::from_millis(150);

/// One meter of a line.
struct Meter {
    device: Arc<Device>,
    spec: MeterSpec,
    /// The bytes that came from it instead of telegrams.
    trouble: Trouble,
}

/// See the module.
pub struct Mbus {
    wire: Wire,
    answer_within: Duration,
    bus: Option<Bus<Stream>>,
    meters: Vec<Meter>,
    jobs: Vec<Job>,
    counts: Arc<LineCounts>,
    heartbeat: Heartbeat,
}

impl std::fmt::Debug for Mbus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbus")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

impl Mbus {
    /// The meters of a line; its devices are all meters.
    pub fn new(line: &Line, counts: Arc<LineCounts>, heartbeat: Heartbeat) -> Self {
        let meters = line.devices.iter().filter_map(|device| {
            Some(Meter {
                device: Arc::clone(device),
                spec: *device.protocol.meter()?,
                trouble: Trouble::default(),
            })
        });
        Self {
            wire: line.wire.clone(),
            answer_within: line.answer_within.most,
            bus: None,
            meters: meters.collect(),
            jobs: readouts(line),
            counts,
            heartbeat,
        }
    }

    async fn readout(&mut self, device: usize) -> Result<Readout, PollError> {
        let Some(meter) = self.meters.get_mut(device) else {
            return Err(PollError::NoAnswer);
        };
        let Some(bus) = self.bus.as_mut() else {
            return Err(PollError::LineDown("not connected".to_owned()));
        };
        self.counts.count(device, |counts| counts.requests.count());
        bus.came = Came::default();
        let began = now();
        let outcome = bus.readout(meter.spec).await;
        let came = bus.came;
        meter.trouble.note(&came);
        self.counts.count(device, |counts| {
            counts.bad_checksums.add(came.bad_checksums);
        });
        match &outcome {
            Ok(_) => {
                meter.trouble.answered();
                let took = now().saturating_duration_since(began).as_micros();
                let took = u64::try_from(took).unwrap_or(u64::MAX);
                self.counts.answered(device, took);
            }
            Err(PollError::NoAnswer) => {
                self.counts.count(device, |counts| counts.timeouts.count());
                let reason = meter.trouble.reason();
                return Err(reason.map_or(PollError::NoAnswer, PollError::Missed));
            }
            Err(PollError::LineDown(_)) => self.bus = None,
            Err(_) => {}
        }
        outcome
    }
}

/// The readouts of the meters of a line: one for each device and interval, which brings everything.
pub fn readouts(line: &Line) -> Vec<Job> {
    let takes = match &line.wire {
        Wire::Serial(port) => port.speed.character() * PLANNED_BYTES + PLANNED_WAIT,
        _ => PLANNED_WAIT,
    };
    let mut jobs: Vec<Job> = Vec::new();
    for (device, spec) in line.devices.iter().enumerate() {
        for point in spec.points.iter().filter(|point| !point.is_derived()) {
            let known = jobs
                .iter_mut()
                .find(|job| job.device == device && job.every == point.every);
            match known {
                Some(job) => job.points.push(point.id),
                None => jobs.push(Job {
                    device,
                    every: point.every,
                    takes,
                    delay: Duration::ZERO,
                    points: vec![point.id],
                }),
            }
        }
    }
    jobs
}

/// The values of the points of a job.
fn samples(meter: &Meter, job: &Job, readout: &Readout) -> Values {
    let trust = if meter.spec.ignore_status {
        Trust::Good
    } else {
        readout.status.trust()
    };
    let points = meter.device.points.iter();
    let sample = |point: &crate::field::Point| {
        let PointSource::Record(selector) = &point.source else {
            return None;
        };
        let value = selector.value(&readout.records);
        let value = value.map_err(|why| match readout.broken {
            Some(broken) => format!("{why}; {broken}").into(),
            None => why,
        });
        let mut sample = Sample::new(point.id, value);
        match trust {
            Trust::Good => {}
            Trust::Doubtful(why) => sample.quality = Some(Quality::Stale(why.into())),
            Trust::Wrong(why) => sample.quality = Some(Quality::Bad(why.into())),
        }
        Some(sample)
    };
    points
        .filter(|point| job.points.contains(&point.id))
        .filter_map(sample)
        .collect()
}

impl Driver for Mbus {
    fn plan(&self) -> Vec<Job> {
        self.jobs.clone()
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.bus = None;
        let stream = Stream::open(&self.wire, self.answer_within).await?;
        self.counts.opened.count();
        self.counts.watchers.tell(|| Happening::Opened);
        self.bus = Some(Bus::new(
            stream,
            self.answer_within,
            Arc::clone(&self.counts),
            Some(self.heartbeat.clone()),
        ));
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, PollError> {
        let Some(job) = self.jobs.get(job).cloned() else {
            return Err(PollError::NoAnswer);
        };
        let readout = self.readout(job.device).await?;
        let meter = self.meters.get(job.device);
        Ok(meter.map_or_else(Values::new, |meter| samples(meter, &job, &readout)))
    }

    async fn probe(&mut self, device: usize, _: usize) -> Result<(), PollError> {
        self.readout(device).await.map(drop)
    }

    fn probe_takes(&self, _: usize) -> Duration {
        self.answer_within * 2
    }

    async fn write(&mut self, _: &WriteRequest) -> Written {
        Written::NotSent("meters are only read".to_owned())
    }

    fn disconnect(&mut self) {
        self.bus = None;
    }
}
