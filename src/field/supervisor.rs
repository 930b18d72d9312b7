//! The task of one line: connects, does the jobs of the schedule, reports readings and the state of
//! devices, retries for ever. Requests from outside the plan (writes, diagnostics) are in `orders`.

mod orders;
mod report;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::counts::LineCounts;
use super::diagnostic::PendingDiagnostic;
use super::point_cache::{Now, PointCache};
use super::schedule::{NextStep, Schedule};
use super::write::Order;
use super::{Driver, Job, Line, PollError, Values};
use crate::backoff::Backoff;
use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::reading::{Event, Timestamp};
use crate::tasks::Stop;
use crate::time::{moment, now};

/// Writes that may pass a read that is due.
const WRITES_IN_A_ROW: u32 = 4;
/// Writes that may wait for a line; as many again wait in its queue.
const MOST_ORDERS: usize = 64;

/// The stop order came, or the receiver of the events is gone.
struct Stopped;

/// Why a line is polled no further.
enum Interrupt {
    Stopped,
    /// The wire cannot be opened, or breaks whatever is asked: the reason.
    LineLost(String),
}

impl From<Stopped> for Interrupt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Values of a job, or the failure of its request; the wire works.
type ReadOutcome = Result<Values, PollError>;

/// Whether the wire can be used while the line waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineState {
    Open,
    Closed,
}

/// Ends a wait.
enum Wakeup {
    Timer,
    /// `None`: the channel is closed.
    Order(Option<Order>),
    /// `None`: the channel is closed.
    Diagnostic(Option<PendingDiagnostic>),
    /// A device that talks by itself.
    Heard(Result<(usize, Values), PollError>),
}

/// The channels between a line and the rest of the gateway.
#[derive(Debug)]
pub(super) struct LineChannels {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counts: Arc<LineCounts>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) diagnostics: mpsc::Receiver<PendingDiagnostic>,
    pub(super) heartbeat: Heartbeat,
    pub(super) stop: Stop,
}

struct Supervisor<D> {
    line: Line,
    driver: D,
    jobs: Vec<Job>,
    schedule: Schedule,
    cache: PointCache,
    /// Writes that wait for the line.
    orders: VecDeque<Order>,
    /// Writes since a read that was due had its turn.
    writes_in_a_row: u32,
    /// A diagnostic request that waits until nothing else is due, and since when.
    diagnostic: Option<(PendingDiagnostic, Instant)>,
    channels: LineChannels,
    backoff: Backoff,
    /// The reason why the line is down, as logged.
    down: Option<String>,
    /// By device: the reason why it is offline, as logged.
    offline: Vec<String>,
    /// Some device has answered since the line was opened.
    is_up: bool,
    /// The overload was logged.
    is_overloaded: bool,
    /// Times the wire broke since a device answered.
    breaks: usize,
}

/// Polls `line` through `driver` until it is stopped.
pub(super) async fn run<D: Driver>(line: Line, driver: D, channels: LineChannels) {
    let jobs = driver.plan();
    let schedule = Schedule::new(&jobs, line.devices.len(), now());
    let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let cache = PointCache::new(&line.devices, line.answer_within.most, now());
    let offline = vec![String::new(); line.devices.len()];
    let mut supervisor = Supervisor {
        line,
        driver,
        jobs,
        schedule,
        cache,
        orders: VecDeque::new(),
        writes_in_a_row: 0,
        diagnostic: None,
        channels,
        backoff,
        down: None,
        offline,
        is_up: false,
        is_overloaded: false,
        breaks: 0,
    };
    let Err(Stopped) = supervisor.run().await;
    supervisor.driver.disconnect();
}

impl<D: Driver> Supervisor<D> {
    async fn run(&mut self) -> Result<std::convert::Infallible, Stopped> {
        loop {
            self.channels.heartbeat.beat(now());
            let why = match self.connect_and_poll().await {
                Ok(never) => match never {},
                Err(Interrupt::Stopped) => return Err(Stopped),
                Err(Interrupt::LineLost(why)) => why,
            };
            self.driver.disconnect();
            self.channels.counts.set_up(false);
            let pending = self.diagnostic.take().map(|(diagnostic, _)| diagnostic);
            self.no_line(pending, &why);
            if self.down.as_ref() != Some(&why) {
                tracing::warn!(
                    event = "line.down", line = %self.line.name, %why,
                    "line is down: its points are bad until it opens and a device answers; retrying"
                );
                self.all_offline(&why).await?;
                self.down = Some(why);
            }
            let delay = self.backoff.next_delay();
            self.stay_closed(now() + delay).await?;
        }
    }

    /// Never returns `Ok`: a line is polled until it is lost or stopped.
    async fn connect_and_poll(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        self.connect().await?;
        self.poll().await
    }

    /// A device has answered, so the line is up.
    fn answered(&mut self) {
        if self.down.take().is_some() || !self.is_up {
            tracing::info!(event = "line.up", line = %self.line.name, "line is up");
        }
        self.is_up = true;
        self.channels.counts.set_up(true);
        self.breaks = 0;
        self.backoff.reset();
    }

    async fn connect(&mut self) -> Result<(), Interrupt> {
        beside(self.driver.connect(), &mut self.cache, &mut self.channels)
            .await?
            .map_err(Interrupt::LineLost)
    }

    /// Waits on an open line until `until`, a write, a diagnostic request, or a device that talks
    /// by itself.
    async fn pause(&mut self, until: Instant) -> Result<(), Interrupt> {
        loop {
            match self.wake(until, LineState::Open).await? {
                Wakeup::Timer => {}
                Wakeup::Order(order) => {
                    self.orders.extend(order);
                    return Ok(());
                }
                Wakeup::Diagnostic(diagnostic) => {
                    self.diagnostic = diagnostic.map(|diagnostic| (diagnostic, now()));
                    return Ok(());
                }
                Wakeup::Heard(heard) => {
                    let (device, values) =
                        heard.map_err(|error| Interrupt::LineLost(error.to_string()))?;
                    self.heard(device, values).await?;
                }
            }
            self.expire().await?;
            if now() >= until {
                return Ok(());
            }
        }
    }

    /// Waits on a closed line until `until`: writes are queued, diagnostic requests refused.
    async fn stay_closed(&mut self, until: Instant) -> Result<(), Stopped> {
        loop {
            match self.wake(until, LineState::Closed).await? {
                Wakeup::Order(order) => self.orders.extend(order),
                Wakeup::Diagnostic(diagnostic) => {
                    let why = self
                        .down
                        .clone()
                        .unwrap_or_else(|| "the line is being opened".to_owned());
                    self.no_line(diagnostic, &why);
                }
                Wakeup::Timer | Wakeup::Heard(_) => {}
            }
            self.expire().await?;
            if now() >= until {
                return Ok(());
            }
        }
    }

    /// The next event, at the latest when a value grows old, a write expires or a heartbeat is due.
    async fn wake(&mut self, until: Instant, state: LineState) -> Result<Wakeup, Stopped> {
        let expiry = self.orders.iter().map(|order| order.deadline).min();
        let next_beat = Some(now() + BEAT_INTERVAL);
        let wake = [self.cache.next_fading(), expiry, next_beat]
            .into_iter()
            .flatten()
            .fold(until, Instant::min);
        let channels = &mut self.channels;
        let has_room = self.orders.len() < MOST_ORDERS && !channels.orders.is_closed();
        let may_ask = self.diagnostic.is_none() && !channels.diagnostics.is_closed();
        Ok(tokio::select! {
            () = tokio::time::sleep_until(wake.into()) => Wakeup::Timer,
            order = channels.orders.recv(), if has_room => Wakeup::Order(order),
            diagnostic = channels.diagnostics.recv(), if may_ask => Wakeup::Diagnostic(diagnostic),
            heard = self.driver.listen(), if state == LineState::Open => Wakeup::Heard(heard),
            () = channels.stop.wait() => return Err(Stopped),
        })
    }

    /// Drops writes whose deadline has passed, and reports values that have grown too old.
    async fn expire(&mut self) -> Result<(), Stopped> {
        self.channels.heartbeat.beat(now());
        self.give_up_orders();
        self.fade().await
    }

    /// A device talked by itself.
    async fn heard(&mut self, device: usize, values: Values) -> Result<(), Stopped> {
        self.answered();
        if self.schedule.probed(device, true, now()) == Some(true) {
            self.device_changed(device, true, "").await?;
        }
        self.emit_values(device, values, Timestamp::from(moment()))
            .await
    }

    async fn fade(&mut self) -> Result<(), Stopped> {
        fade(&mut self.cache, &mut self.channels).await
    }

    /// Polls until the line is lost.
    async fn poll(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        loop {
            self.channels.heartbeat.beat(now());
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
                NextStep::WaitUntil(at) => self.pause(at).await?,
                NextStep::Run(job) => self.run_job(job).await?,
                NextStep::Probe { device, turn } => self.run_probe(device, turn).await?,
            }
            while let Some((device, values)) = self.driver.overheard() {
                self.heard(device, values).await?;
            }
        }
    }

    async fn run_job(&mut self, job: usize) -> Result<(), Interrupt> {
        self.writes_in_a_row = 0;
        self.channels
            .counts
            .jitter(self.schedule.lateness(job, now()));
        let began = now();
        let outcome = self.attempt(job).await?;
        let took = now().saturating_duration_since(began);
        Ok(self.report(job, outcome, took).await?)
    }

    async fn run_probe(&mut self, device: usize, turn: usize) -> Result<(), Interrupt> {
        let outcome = beside(
            self.driver.probe(device, turn),
            &mut self.cache,
            &mut self.channels,
        )
        .await?;
        self.probed(device, &outcome).await?;
        // A device that breaks the wire whenever it is asked must not take the others with it.
        match outcome {
            Err(PollError::LineDown(why)) => self.reconnect(why).await,
            _ => Ok(()),
        }
    }

    /// Takes over what the driver has learned to ask differently; true if there was something.
    fn replan(&mut self) -> bool {
        let has_learned = self.driver.replanned();
        if has_learned {
            let jobs = self.driver.plan();
            self.schedule.replace(&self.jobs, &jobs, now());
            self.jobs = jobs;
        }
        has_learned
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn watch_load(&mut self) {
        let load = self.schedule.load();
        self.cache.stretched(load.max(1.0));
        self.channels
            .counts
            .load_permille
            .set((load * 1000.0) as u64);
        let is_overloaded = load > 1.0;
        if is_overloaded && !self.is_overloaded {
            let factor = format!("{load:.2}");
            tracing::warn!(
                event = "line.overloaded", line = %self.line.name, factor,
                "line overloaded: polling intervals multiplied by `factor`; read fewer points or read them less often"
            );
        }
        // A load that hovers around 1 is logged once.
        self.is_overloaded = is_overloaded || (self.is_overloaded && load > 0.9);
    }

    /// Does a job; if the wire breaks, once more on a new one. A wire that breaks for some requests
    /// only is their device's fault.
    async fn attempt(&mut self, job: usize) -> Result<ReadOutcome, Interrupt> {
        let first = self.read(job).await?;
        let Err(PollError::LineDown(_)) = first else {
            return Ok(first);
        };
        self.driver.disconnect();
        self.connect().await?;
        let second = self.read(job).await?;
        if let Err(PollError::LineDown(why)) = &second {
            self.reconnect(why.clone()).await?;
        }
        Ok(second)
    }

    /// Opens a broken wire again, unless it breaks whatever is asked.
    async fn reconnect(&mut self, why: String) -> Result<(), Interrupt> {
        self.driver.disconnect();
        self.breaks += 1;
        if self.breaks > self.jobs.len() + self.line.devices.len() {
            return Err(Interrupt::LineLost(why));
        }
        self.connect().await
    }

    async fn read(&mut self, job: usize) -> Result<ReadOutcome, Stopped> {
        beside(self.driver.read(job), &mut self.cache, &mut self.channels).await
    }

    async fn emit(&mut self, event: Event) -> Result<(), Stopped> {
        self.channels.emit(event).await
    }
}

impl LineChannels {
    async fn emit(&mut self, event: Event) -> Result<(), Stopped> {
        tokio::select! {
            sent = self.heartbeat.through(self.events.send(event)) => sent.map_err(|_| Stopped),
            () = self.stop.wait() => Err(Stopped),
        }
    }
}

/// Publishes values that have grown too old.
async fn fade(cache: &mut PointCache, channels: &mut LineChannels) -> Result<(), Stopped> {
    let now = Now {
        now: now(),
        time: Timestamp::from(moment()),
    };
    for reading in cache.faded(now) {
        channels.emit(Event::Reading(reading)).await?;
    }
    Ok(())
}

/// Waits for the driver, and publishes values that grow old meanwhile: a driver that hangs leaves
/// no value good. Gives no heartbeat.
async fn beside<T>(
    work: impl Future<Output = T>,
    cache: &mut PointCache,
    channels: &mut LineChannels,
) -> Result<T, Stopped> {
    let mut work = pin!(work);
    loop {
        let fading = cache.next_fading();
        let grown_old = async {
            match fading {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work.as_mut() => return Ok(done),
            () = channels.stop.wait() => return Err(Stopped),
            () = grown_old => fade(cache, channels).await?,
        }
    }
}
