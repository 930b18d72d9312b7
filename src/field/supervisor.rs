//! The task of one line: connect, do what the schedule says, report readings and the state of devices, retry for ever. What others
//! want of the line, writes and questions, is in `orders`.

mod orders;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::ask::Inquiry;
use super::counts::LineCounts;
use super::last::Last;
use super::schedule::{Heard, Schedule, Step};
use super::write::Order;
use super::{Driver, Job, Line, ReadError, Values};
use crate::backoff::Backoff;
use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::reading::{Event, PointId, Timestamp};
use crate::tasks::Stop;
use crate::time::{moment, now};

/// Writes that may pass a read that is due.
const WRITES_IN_A_ROW: u32 = 4;
/// Writes that may wait for a line; as many again wait in its queue.
const MOST_ORDERS: usize = 64;

/// Gone: the stop order came, or nobody listens any more.
struct Ended;

/// What connects a line with the rest.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counts: Arc<LineCounts>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) inquiries: mpsc::Receiver<Inquiry>,
    pub(super) heartbeat: Heartbeat,
    pub(super) stop: Stop,
}

struct Supervisor<D> {
    line: Line,
    driver: D,
    jobs: Vec<Job>,
    schedule: Schedule,
    last: Last,
    /// Writes that wait for the line.
    orders: VecDeque<Order>,
    /// Writes since a read that was due had its turn.
    writes_in_a_row: u32,
    /// A question of a person that waits for the line to have nothing else to do, and since when.
    inquiry: Option<(Inquiry, Instant)>,
    ends: Ends,
    backoff: Backoff,
    /// Why the line is down, as it was told.
    down: Option<String>,
    /// Why each device is offline, as it was told.
    offline: Vec<String>,
    /// Some device has answered since the line was opened.
    is_up: bool,
    /// The line was told to be asked for too much.
    is_overloaded: bool,
    /// Times the wire broke since a device answered.
    breaks: usize,
}

/// Polls `line` through `driver` until the stop order.
pub(super) async fn run<D: Driver>(line: Line, driver: D, ends: Ends) {
    let jobs = driver.jobs();
    let schedule = Schedule::new(&jobs, line.devices.len(), now());
    let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let last = Last::new(&line.devices, line.answer_within.most, now());
    let offline = vec![String::new(); line.devices.len()];
    let mut supervisor = Supervisor {
        line,
        driver,
        jobs,
        schedule,
        last,
        orders: VecDeque::new(),
        writes_in_a_row: 0,
        inquiry: None,
        ends,
        backoff,
        down: None,
        offline,
        is_up: false,
        is_overloaded: false,
        breaks: 0,
    };
    let Err(Ended) = supervisor.run().await;
    supervisor.driver.disconnect();
}

impl<D: Driver> Supervisor<D> {
    async fn run(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            self.ends.heartbeat.beat(now());
            let why = match self.connect().await? {
                Ok(()) => self.poll().await?,
                Err(why) => why,
            };
            self.driver.disconnect();
            self.ends.counts.set_up(false);
            let pending = self.inquiry.take().map(|(inquiry, _)| inquiry);
            self.no_line(pending, &why);
            if self.down.as_ref() != Some(&why) {
                tracing::warn!(line = %self.line.name, %why, "line is down; trying again");
                self.all_offline(&why).await?;
                self.down = Some(why);
            }
            let delay = self.backoff.next_delay();
            // Nothing is heard on a line that is closed, so nothing can be lost.
            let _ = self.pause(now() + delay, false).await?;
        }
    }

    /// A device has answered, so the line is up.
    fn answered(&mut self) {
        if self.down.take().is_some() || !self.is_up {
            tracing::info!(line = %self.line.name, "line is up");
        }
        self.is_up = true;
        self.ends.counts.set_up(true);
        self.breaks = 0;
        self.backoff.reset();
    }

    async fn connect(&mut self) -> Result<Result<(), String>, Ended> {
        beside(self.driver.connect(), &mut self.last, &mut self.ends).await
    }

    /// Waits, lets values grow old meanwhile, and gives up writes whose time is over. On a line that is open, a write and whoever
    /// talks by itself end it; the error is why the line is lost.
    async fn pause(&mut self, until: Instant, is_open: bool) -> Result<Result<(), String>, Ended> {
        loop {
            let expiry = self.orders.iter().map(|order| order.deadline).min();
            let next_beat = Some(now() + BEAT_INTERVAL);
            let wake = [self.last.next_fading(), expiry, next_beat]
                .into_iter()
                .flatten()
                .fold(until, Instant::min);
            let has_room = self.orders.len() < MOST_ORDERS && !self.ends.orders.is_closed();
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {}
                order = self.ends.orders.recv(), if has_room => {
                    self.orders.extend(order);
                    if is_open {
                        return Ok(Ok(()));
                    }
                }
                inquiry = self.ends.inquiries.recv(), if self.inquiry.is_none() && !self.ends.inquiries.is_closed() => {
                    if is_open {
                        self.inquiry = inquiry.map(|inquiry| (inquiry, now()));
                        return Ok(Ok(()));
                    }
                    let why = self.down.clone().unwrap_or_else(|| "the line is being opened".to_owned());
                    self.no_line(inquiry, &why);
                }
                heard = self.driver.listen(), if is_open => match heard {
                    Ok((device, values)) => self.heard(device, values).await?,
                    Err(error) => return Ok(Err(error.to_string())),
                },
                () = self.ends.stop.wait() => return Err(Ended),
            }
            self.ends.heartbeat.beat(now());
            self.give_up_orders();
            self.fade().await?;
            if now() >= until {
                return Ok(Ok(()));
            }
        }
    }

    /// A device talked by itself.
    async fn heard(&mut self, device: usize, values: Values) -> Result<(), Ended> {
        self.answered();
        if self.schedule.probed(device, true, now()) == Some(true) {
            self.device_changed(device, true, "").await?;
        }
        for reading in self
            .last
            .measured(device, values, now(), Timestamp::from(moment()))
        {
            self.emit(Event::Reading(reading)).await?;
        }
        Ok(())
    }

    async fn fade(&mut self) -> Result<(), Ended> {
        fade(&mut self.last, &mut self.ends).await
    }

    /// Polls until the line is lost, and returns why.
    async fn poll(&mut self) -> Result<String, Ended> {
        loop {
            self.ends.heartbeat.beat(now());
            // A write may have taught the driver something, too: jobs are its jobs from here on.
            self.replan();
            self.watch_load();
            self.fade().await?;
            if let Some(order) = self.next_order() {
                self.write(order).await?;
                continue;
            }
            let driver = &self.driver;
            let step = self
                .schedule
                .next(now(), |device| driver.probe_takes(device));
            if self.asks_now(&step).await? {
                continue;
            }
            match step {
                Step::WaitUntil(at) => {
                    if let Err(why) = self.pause(at, true).await? {
                        return Ok(why);
                    }
                }
                Step::Run(job) => {
                    self.writes_in_a_row = 0;
                    self.ends.counts.jitter(self.schedule.lateness(job, now()));
                    let began = now();
                    match self.attempt(job).await? {
                        Ok(outcome) => {
                            let took = now().saturating_duration_since(began);
                            self.report(job, outcome, took).await?;
                        }
                        Err(why) => return Ok(why),
                    }
                }
                Step::Probe { device, turn } => {
                    let outcome = self.probe(device, turn).await?;
                    self.probed(device, &outcome).await?;
                    // A device that breaks the wire whenever it is asked must not take the others with it.
                    if let Err(ReadError::LineDown(why)) = outcome
                        && let Err(why) = self.reconnected(why).await?
                    {
                        return Ok(why);
                    }
                }
            }
            while let Some((device, values)) = self.driver.overheard() {
                self.heard(device, values).await?;
            }
        }
    }

    /// Takes over what the driver has learned to ask differently; true if there was something.
    fn replan(&mut self) -> bool {
        let has_learned = self.driver.replanned();
        if has_learned {
            let jobs = self.driver.jobs();
            self.schedule.replace(&self.jobs, &jobs, now());
            self.jobs = jobs;
        }
        has_learned
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn watch_load(&mut self) {
        let load = self.schedule.load();
        self.last.stretched(load.max(1.0));
        self.ends.counts.load_permille.set((load * 1000.0) as u64);
        let is_overloaded = load > 1.0;
        if is_overloaded && !self.is_overloaded {
            let factor = format!("{load:.2}");
            tracing::warn!(line = %self.line.name, factor, "the line is asked for more than it can carry: every interval is stretched by this factor");
        }
        // Back and forth around 1 is told once.
        self.is_overloaded = is_overloaded || (self.is_overloaded && load > 0.9);
    }

    /// Does a job; if the wire breaks, once more on a new one. `Err` tells why the line is lost: it cannot be opened again, or
    /// it breaks whatever is asked. A wire that breaks for some requests only is their device's fault.
    async fn attempt(
        &mut self,
        job: usize,
    ) -> Result<Result<Result<Values, ReadError>, String>, Ended> {
        let first = self.read(job).await?;
        let Err(ReadError::LineDown(_)) = first else {
            return Ok(Ok(first));
        };
        self.driver.disconnect();
        if let Err(why) = self.connect().await? {
            return Ok(Err(why));
        }
        let second = self.read(job).await?;
        if let Err(ReadError::LineDown(why)) = &second
            && let Err(why) = self.reconnected(why.clone()).await?
        {
            return Ok(Err(why));
        }
        Ok(Ok(second))
    }

    /// Opens a wire again that broke; the error is why the line is lost: it cannot be opened, or breaks whatever is asked.
    async fn reconnected(&mut self, why: String) -> Result<Result<(), String>, Ended> {
        self.driver.disconnect();
        self.breaks += 1;
        if self.breaks > self.jobs.len() + self.line.devices.len() {
            return Ok(Err(why));
        }
        self.connect().await
    }

    async fn read(&mut self, job: usize) -> Result<Result<Values, ReadError>, Ended> {
        beside(self.driver.read(job), &mut self.last, &mut self.ends).await
    }

    async fn probe(&mut self, device: usize, turn: usize) -> Result<Result<(), ReadError>, Ended> {
        beside(
            self.driver.probe(device, turn),
            &mut self.last,
            &mut self.ends,
        )
        .await
    }

    async fn probed(
        &mut self,
        device: usize,
        outcome: &Result<(), ReadError>,
    ) -> Result<(), Ended> {
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

    /// What is seen of a device that is offline may change: other things come, or nothing any more.
    async fn still_offline(&mut self, device: usize, why: &str) -> Result<(), Ended> {
        let Some(told) = self
            .offline
            .get_mut(device)
            .filter(|told| **told != *why && self.schedule.is_offline(device))
        else {
            return Ok(());
        };
        why.clone_into(told);
        if let Some(spec) = self.line.devices.get(device) {
            tracing::info!(line = %self.line.name, device = %spec.name, why, event = "device.still_offline", "device still does not answer");
        }
        let points = self.points_of(device);
        for reading in self.last.missed(
            device,
            &points,
            &why.into(),
            true,
            (now(), Timestamp::from(moment())),
        ) {
            self.emit(Event::Reading(reading)).await?;
        }
        Ok(())
    }

    /// A line of the log for a request and its answer, for those who want to see each.
    fn log(&self, job: usize, outcome: &Result<Values, ReadError>, took: Duration) {
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
        let points = self.points_of_job(job);
        let names: Vec<&str> = device
            .points
            .iter()
            .filter(|point| points.contains(&point.id))
            .map(|point| &*point.name)
            .collect();
        let bad = outcome.as_ref().map_or(0, |values| {
            values.iter().filter(|(_, value)| value.is_err()).count()
        });
        let (points, ms) = (names.join(","), took.as_secs_f64() * 1000.0);
        match outcome {
            Ok(_) => {
                tracing::debug!(line = %self.line.name, device = %device.name, %points, ms, bad, "points read");
            }
            Err(why) => {
                tracing::debug!(line = %self.line.name, device = %device.name, %points, ms, %why, "points not read");
            }
        }
    }

    async fn report(
        &mut self,
        job: usize,
        outcome: Result<Values, ReadError>,
        took: Duration,
    ) -> Result<(), Ended> {
        self.log(job, &outcome, took);
        let time = Timestamp::from(moment());
        let answered = matches!(
            outcome,
            Ok(_) | Err(ReadError::Refused(_) | ReadError::Busy(_))
        );
        if answered {
            self.answered();
        }
        let heard = match &outcome {
            Ok(_) | Err(ReadError::Refused(_)) => Heard::Answer,
            Err(ReadError::Busy(_)) => Heard::Busy,
            Err(ReadError::Garbled(_)) => Heard::Garbage,
            Err(_) => Heard::Nothing,
        };
        let change = self.schedule.done(job, heard, took, now());
        let device = self.jobs.get(job).map_or(0, |job| job.device);
        let asked = self.points_of_job(job);
        // The device refused what stands between its points: they are asked for at once in another way, and are not bad until then.
        let is_cut = |jobs: &[Job]| jobs.iter().all(|job| job.points != asked);
        let is_lesson =
            matches!(outcome, Err(ReadError::Refused(_))) && self.replan() && is_cut(&self.jobs);
        if let Some(online) = change {
            let why = outcome
                .as_ref()
                .err()
                .map(ToString::to_string)
                .unwrap_or_default();
            self.device_changed(device, online, &why).await?;
        }
        // A busy device is asked again within the interval: until then its values are what they were.
        if is_lesson || self.schedule.asks_again(job) {
            return Ok(());
        }
        let readings = match outcome {
            Ok(values) => self.last.measured(device, values, now(), time),
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                // One missed answer leaves the last value standing; a refusal or a dead device does not.
                let is_bad = answered || change == Some(false);
                let points = if change == Some(false) {
                    self.points_of(device)
                } else {
                    asked
                };
                self.last
                    .missed(device, &points, &why, is_bad, (now(), time))
            }
        };
        for reading in readings {
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

    /// Those that are read; what is derived from them follows.
    fn points_of(&self, device: usize) -> Vec<PointId> {
        let points = self
            .line
            .devices
            .get(device)
            .map(|device| device.points.as_slice())
            .unwrap_or_default();
        points
            .iter()
            .filter(|point| !point.is_derived())
            .map(|point| point.id)
            .collect()
    }

    async fn device_changed(
        &mut self,
        device: usize,
        online: bool,
        why: &str,
    ) -> Result<(), Ended> {
        let Some(spec) = self.line.devices.get(device) else {
            return Ok(());
        };
        self.ends
            .counts
            .devices
            .get(device)
            .into_iter()
            .for_each(|(_, counts)| counts.is_online.set(u64::from(online)));
        if online {
            tracing::info!(line = %self.line.name, device = %spec.name, "device answers");
        } else {
            tracing::warn!(line = %self.line.name, device = %spec.name, why, "device does not answer");
            self.offline
                .get_mut(device)
                .into_iter()
                .for_each(|told| why.clone_into(told));
        }
        let event = Event::Device {
            device: spec.id,
            online,
        };
        self.emit(event).await
    }

    async fn all_offline(&mut self, why: &str) -> Result<(), Ended> {
        let why: Arc<str> = why.into();
        let time = Timestamp::from(moment());
        for device in self.schedule.line_down(now()) {
            self.device_changed(device, false, &why).await?;
            let points = self.points_of(device);
            for reading in self.last.missed(device, &points, &why, true, (now(), time)) {
                self.emit(Event::Reading(reading)).await?;
            }
        }
        Ok(())
    }

    async fn emit(&mut self, event: Event) -> Result<(), Ended> {
        self.ends.emit(event).await
    }
}

impl Ends {
    async fn emit(&mut self, event: Event) -> Result<(), Ended> {
        tokio::select! {
            sent = self.heartbeat.through(self.events.send(event)) => sent.map_err(|_| Ended),
            () = self.stop.wait() => Err(Ended),
        }
    }
}

/// Tells which values have grown too old.
async fn fade(last: &mut Last, ends: &mut Ends) -> Result<(), Ended> {
    for reading in last.faded(now(), Timestamp::from(moment())) {
        ends.emit(Event::Reading(reading)).await?;
    }
    Ok(())
}

/// Waits for the driver. Values grow old meanwhile, however long it takes: a driver that hangs shows nothing as good. It gives no sign
/// of life for it.
async fn beside<T>(
    work: impl Future<Output = T>,
    last: &mut Last,
    ends: &mut Ends,
) -> Result<T, Ended> {
    let mut work = pin!(work);
    loop {
        let fading = last.next_fading();
        let grown_old = async {
            match fading {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work.as_mut() => return Ok(done),
            () = ends.stop.wait() => return Err(Ended),
            () = grown_old => fade(last, ends).await?,
        }
    }
}
