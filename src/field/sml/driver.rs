//! The driver of a line with a meter that sends SML by itself, several times a minute: an optical
//! head on a serial port, or behind a terminal server.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::frame::SmlFramer;
use super::list::{ListEntry, entries};
use super::spec::SmlSpec;
use crate::field::counts::LineCounts;
use crate::field::stream::{Stream, broken};
use crate::field::trace::Happening;
use crate::field::trouble::{Came, Trouble};
use crate::field::write::{WriteRequest, Written};
use crate::field::{
    Device, Driver, Job, Line, Point, PointSource, PollError, Sample, Values, Wire,
};
use crate::heartbeat::Heartbeat;
use crate::reading::PointId;
use crate::time::now;

/// See the module.
pub struct Sml {
    wire: Wire,
    answer_within: Duration,
    stream: Option<Stream>,
    framer: SmlFramer,
    device: Option<(Arc<Device>, SmlSpec)>,
    /// When its last right frame came.
    heard: Option<Instant>,
    /// When points were reported last.
    reported: HashMap<PointId, Instant>,
    trouble: Trouble,
    counts: Arc<LineCounts>,
    heartbeat: Heartbeat,
}

impl std::fmt::Debug for Sml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sml")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

impl Sml {
    /// The meter of a line.
    pub fn new(line: &Line, counts: Arc<LineCounts>, heartbeat: Heartbeat) -> Self {
        let mut devices = line.devices.iter();
        Self {
            wire: line.wire.clone(),
            answer_within: line.answer_within.most,
            stream: None,
            framer: SmlFramer::default(),
            device: devices.find_map(|device| Some((Arc::clone(device), *device.protocol.sml()?))),
            heard: None,
            reported: HashMap::new(),
            trouble: Trouble::default(),
            counts,
            heartbeat,
        }
    }

    async fn receive(&mut self) -> Result<(), PollError> {
        let Some(stream) = self.stream.as_mut() else {
            return Err(PollError::LineDown("not connected".to_owned()));
        };
        let mut space = [0; 512];
        let count = stream.read(&mut space).await;
        let count = count.map_err(|error| broken(&error))?;
        // An unplugged adapter reads as an end that repeats for ever.
        if count == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        self.heartbeat.beat(now());
        let bytes = space.get(..count).unwrap_or_default();
        let heard = || Happening::Received(bytes.to_vec());
        self.counts.watchers.tell(heard);
        self.framer.push(bytes);
        Ok(())
    }

    /// The values of the next frame that is there already, as far as they are due.
    fn talked(&mut self) -> Option<Values> {
        loop {
            let frame = self.framer.next_frame();
            let junk = std::mem::take(&mut self.framer.junk);
            let bad_checksums = std::mem::take(&mut self.framer.bad_checksums);
            self.counts.junk_bytes.add(junk);
            self.counts
                .count(0, |counts| counts.bad_checksums.add(bad_checksums));
            self.trouble.note(&Came {
                junk,
                bad_checksums,
                ..Came::default()
            });
            let entries = entries(&frame?);
            // Frames without values only say that the meter is there.
            if !entries.is_empty() {
                self.heard = Some(now());
                self.trouble.answered();
                self.counts.count(0, |counts| counts.answers.count());
                let values = self.due(&entries);
                if !values.is_empty() {
                    return Some(values);
                }
            }
        }
    }

    fn due(&mut self, entries: &[ListEntry]) -> Values {
        let Some((device, _)) = &self.device else {
            return Values::new();
        };
        let at = now();
        let mut values = Values::new();
        for point in &device.points {
            let PointSource::Obis(selector) = &point.source else {
                continue;
            };
            if is_due(point, self.reported.get(&point.id), at) {
                self.reported.insert(point.id, at);
                values.push(Sample::new(point.id, selector.value(entries)));
            }
        }
        values
    }
}

/// A meter sends every second or two; a point is reported as often as its `every` says. A tenth is
/// left for a meter that is a little early.
fn is_due(point: &Point, last: Option<&Instant>, at: Instant) -> bool {
    last.is_none_or(|last| at.saturating_duration_since(*last) >= point.every * 9 / 10)
}

impl Driver for Sml {
    fn plan(&self) -> Vec<Job> {
        let job = |(device, spec): &(Arc<Device>, SmlSpec)| {
            let points = device.points.iter().filter(|point| !point.is_derived());
            Job {
                device: 0,
                // Only noticed: two misses make it offline.
                every: spec.silent_after / 4,
                takes: Duration::ZERO,
                delay: spec.silent_after,
                points: points.map(|point| point.id).collect(),
            }
        };
        self.device.iter().map(job).collect()
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.stream = None;
        self.framer.clear();
        self.stream = Some(Stream::open(&self.wire, self.answer_within).await?);
        self.counts.opened.count();
        self.counts.watchers.tell(|| Happening::Opened);
        Ok(())
    }

    async fn read(&mut self, _: usize) -> Result<Values, PollError> {
        let longest = self.device.as_ref().map(|(_, spec)| spec.silent_after);
        let silent = self.heard.map(|at| now().saturating_duration_since(at));
        let is_heard = silent
            .zip(longest)
            .is_some_and(|(silent, longest)| silent < longest * 3 / 4);
        if is_heard {
            return Ok(Values::new());
        }
        self.reported.clear();
        let incomplete = u64::from(self.framer.has_begun());
        self.trouble.note(&Came {
            incomplete,
            ..Came::default()
        });
        let reason = self.trouble.reason();
        Err(reason.map_or(PollError::NoAnswer, PollError::Missed))
    }

    async fn probe(&mut self, _: usize, _: usize) -> Result<(), PollError> {
        self.read(0).await.map(drop)
    }

    fn probe_takes(&self, _: usize) -> Duration {
        Duration::ZERO
    }

    async fn write(&mut self, _: &WriteRequest) -> Written {
        Written::NotSent("meters are only read".to_owned())
    }

    fn overheard(&mut self) -> Option<(usize, Values)> {
        self.talked().map(|values| (0, values))
    }

    async fn listen(&mut self) -> Result<(usize, Values), PollError> {
        loop {
            if let Some(values) = self.talked() {
                return Ok((0, values));
            }
            self.receive().await?;
        }
    }

    fn disconnect(&mut self) {
        self.stream = None;
    }
}
