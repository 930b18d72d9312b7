//! An open Modbus wire: one request at a time, with its duration and its faults.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::SlaveContext;
use tokio_modbus::{ProtocolError, Request, Response, Slave};

use super::frames::{Echo, Late, Seen};
use super::manners::{Accept, Pause};
use super::mbap_adapter::MbapAdapter;
use super::mode::TransmissionMode;
use super::rtu_adapter::RtuAdapter;
use super::words::FrameLengths;
use crate::field::counts::LineCounts;
use crate::field::timer::Timer;
use crate::field::trace::Happening;
use crate::field::traced_stream::TracedStream;
use crate::field::{Wire, serial};
use crate::time::now;

/// Between frames on a link whose speed is not known here (a terminal server).
const REMOTE_GAP: Duration = Duration::from_millis(5);
/// Adapters on USB hand over what they got in lumps: silence below this proves nothing.
const LEAST_SILENCE: Duration = Duration::from_millis(5);
/// A TCP connection may take this long, however fast its devices are to answer.
const SHORTEST_DIAL: Duration = Duration::from_secs(3);
const LONGEST_FRAME: u32 = 256;

/// The outcome of one request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The right answer.
    Response(Response),
    /// A Modbus exception.
    Exception(u8),
    /// Nothing in time.
    Nothing,
    /// Something that is no answer, in time: the reason.
    Garbage(&'static str),
    /// No answer in time, but other frames came: the reason.
    Foreign(&'static str),
    /// The wire is gone: how.
    Broken(String),
}

impl Answer {
    /// True if the right answer may still come.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Nothing | Self::Foreign(_) | Self::Garbage(_))
    }

    /// For people who watch the line.
    fn to_text(&self) -> String {
        match self {
            Self::Response(_) => "answered".to_owned(),
            Self::Exception(code) => explain(*code),
            Self::Nothing => "no answer".to_owned(),
            Self::Garbage(why) | Self::Foreign(why) => format!("no valid answer: {why}"),
            Self::Broken(why) => why.clone(),
        }
    }
}

/// A request with its answer.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) answer: Answer,
    /// The time until the device began its answer.
    pub(super) turnaround: Duration,
    /// Time the wire was in use.
    pub(super) busy: Duration,
}

impl Transaction {
    fn without_answer(answer: Answer, busy: Duration) -> Self {
        Self {
            answer,
            turnaround: Duration::ZERO,
            busy,
        }
    }
}

/// The time that bytes take on a wire.
#[derive(Clone, Copy)]
struct Timing {
    /// A byte; zero where that is not known.
    byte: Duration,
    /// Silence between frames.
    gap: Duration,
}

impl Timing {
    fn of(wire: &Wire) -> Self {
        let (byte, gap) = match wire {
            // Two characters each.
            Wire::Serial(port) if port.ascii => (port.speed.character() * 2, Duration::ZERO),
            Wire::Serial(port) => (port.speed.character(), port.speed.frame_gap()),
            Wire::RtuOverTcp(_) => (Duration::ZERO, REMOTE_GAP),
            _ => (Duration::ZERO, Duration::ZERO),
        };
        Self { byte, gap }
    }

    fn of_bytes(self, count: u32) -> Duration {
        self.byte * count
    }
}

enum Adapter {
    Rtu(RtuAdapter),
    Tcp(MbapAdapter<TracedStream<TcpStream>>),
}

/// See the module.
pub(super) struct Link {
    adapter: Adapter,
    /// Of its line; watchers are shown what came of each request.
    counts: Arc<LineCounts>,
    timing: Timing,
    timer: Timer,
    /// When the wire may be written to.
    free_at: Instant,
    opened: Instant,
    /// When the last answer ended, or was given up.
    used: Instant,
    accept: Accept,
    is_dirty: bool,
}

impl Link {
    /// Opens a wire. The error names the fault and the remedy.
    pub(super) async fn open(
        wire: &Wire,
        accept: Accept,
        patience: Duration,
        counts: &Arc<LineCounts>,
    ) -> Result<Self, String> {
        let adapter = Adapter::open(wire, accept, patience, counts).await?;
        let is_dirty = matches!(adapter, Adapter::Rtu(_));
        let opened = now();
        counts.watchers.tell(|| Happening::Opened);
        Ok(Self {
            adapter,
            counts: Arc::clone(counts),
            timing: Timing::of(wire),
            timer: Timer::new(),
            free_at: opened,
            opened,
            used: opened,
            accept,
            is_dirty,
        })
    }

    pub(super) fn is_rtu(&self) -> bool {
        matches!(self.adapter, Adapter::Rtu(_))
    }

    /// True if only the order of answers shows which request they belong to.
    pub(super) fn has_only_order(&self) -> bool {
        self.is_rtu() || self.accept.any_transaction
    }

    /// When it was used last, or opened.
    pub(super) fn used(&self) -> Instant {
        self.used
    }

    /// The next request leaves no sooner than its device bears.
    pub(super) fn keep_silent(&mut self, pause: Pause) {
        self.stay_silent_until(pause.until(self.opened, self.used));
    }

    /// Whether a write could be taken for its own echo.
    pub(super) fn needs_echo_test(&self) -> bool {
        matches!(&self.adapter, Adapter::Rtu(adapter) if adapter.echo() == Echo::Unknown)
    }

    /// Delays the next request: an earlier master may have made one just before this wire was
    /// opened.
    pub(super) fn stay_silent_until(&mut self, at: Instant) {
        self.free_at = self.free_at.max(at);
    }

    /// Makes one request, and waits for `patience` beyond the time that the bytes take.
    pub(super) async fn ask(
        &mut self,
        unit: u8,
        request: Request<'static>,
        patience: Duration,
        lengths: FrameLengths,
    ) -> Transaction {
        let exchange = self.exchange(unit, request, patience, lengths).await;
        self.counts
            .watchers
            .tell(|| Happening::Ended(exchange.answer.to_text()));
        exchange
    }

    async fn exchange(
        &mut self,
        unit: u8,
        request: Request<'static>,
        patience: Duration,
        lengths: FrameLengths,
    ) -> Transaction {
        if let Err(answer) = self.clean().await {
            return Transaction::without_answer(answer, Duration::ZERO);
        }
        self.timer.sleep_until(self.free_at).await;
        // Made for each question: its buffers are large, and nothing is to be kept from one to the
        // next.
        let mut context = self.adapter.context();
        context.set_slave(Slave(unit));
        let sent = now();
        let on_wire = self.timing.of_bytes(lengths.request);
        if unit == 0 && self.is_rtu() {
            return self.broadcast(context, request, patience, on_wire).await;
        }
        let limit = patience + on_wire + self.timing.of_bytes(lengths.answer);
        let called = timeout(limit, context.call(request)).await;
        let done = now();
        let heard = match &self.adapter {
            Adapter::Rtu(adapter) => adapter.last_byte(),
            Adapter::Tcp(_) => done,
        };
        self.used = heard.max(sent + on_wire);
        self.free_at = self.used + self.timing.gap;
        let turnaround = heard
            .saturating_duration_since(sent)
            .saturating_sub(on_wire + self.timing.of_bytes(lengths.answer));
        let answer = self.judge(called);
        Transaction {
            answer,
            turnaround,
            busy: done.saturating_duration_since(sent),
        }
    }

    /// A broadcast has no answer; the devices get their time to act on it.
    async fn broadcast(
        &mut self,
        mut context: Context,
        request: Request<'static>,
        pause: Duration,
        on_wire: Duration,
    ) -> Transaction {
        let sent = now();
        // The codec waits for an answer; by then the request has left.
        if let Ok(Err(_)) = timeout(Duration::from_millis(1), context.call(request)).await {
            return Transaction::without_answer(Answer::Broken(self.fault()), Duration::ZERO);
        }
        self.used = sent + on_wire;
        self.free_at = self.used + pause.min(Duration::from_millis(100)) + self.timing.gap;
        self.timer.sleep_until(self.free_at).await;
        Transaction::without_answer(Answer::Nothing, now().saturating_duration_since(sent))
    }

    fn judge(
        &mut self,
        called: Result<tokio_modbus::Result<Response>, tokio::time::error::Elapsed>,
    ) -> Answer {
        let answer = match called {
            Ok(Ok(Ok(response))) => Answer::Response(response),
            Ok(Ok(Err(exception))) => Answer::Exception(u8::from(exception)),
            Err(_) => self.given_up(),
            // The codec has two names for functions that it does not know by themselves.
            Ok(Err(tokio_modbus::Error::Protocol(ProtocolError::FunctionCodeMismatch {
                request,
                result: Err(refused),
            }))) if request.value() == refused.function.value() => {
                Answer::Exception(u8::from(refused.exception))
            }
            Ok(Err(tokio_modbus::Error::Protocol(_))) => {
                Answer::Garbage("not an answer to the request")
            }
            Ok(Err(tokio_modbus::Error::Transport(_))) => match &self.adapter {
                Adapter::Rtu(adapter) if adapter.take_condemned() => {
                    Answer::Garbage("wrong checksum")
                }
                Adapter::Rtu(adapter) if adapter.fault().is_none() => {
                    Answer::Garbage("not a Modbus frame")
                }
                _ => Answer::Broken(self.fault()),
            },
        };
        self.is_dirty |=
            self.is_rtu() && !matches!(answer, Answer::Response(_) | Answer::Exception(_));
        answer
    }

    fn given_up(&self) -> Answer {
        match &self.adapter {
            Adapter::Rtu(adapter) => {
                adapter.give_up();
                adapter.rejected().map_or(Answer::Nothing, Answer::Foreign)
            }
            Adapter::Tcp(adapter) => {
                adapter.give_up();
                Answer::Nothing
            }
        }
    }

    /// The failure of the wire.
    fn fault(&self) -> String {
        let fault = match &self.adapter {
            Adapter::Rtu(adapter) => adapter.fault(),
            Adapter::Tcp(adapter) => adapter.fault(),
        };
        fault.unwrap_or_else(|| "the connection broke".to_owned())
    }

    /// After trouble: what is still coming is let pass, so that it is not taken for the next
    /// answer.
    async fn clean(&mut self) -> Result<(), Answer> {
        let Adapter::Rtu(adapter) = &self.adapter else {
            return Ok(());
        };
        if !self.is_dirty {
            return Ok(());
        }
        let most = self.timing.of_bytes(LONGEST_FRAME).max(4 * LEAST_SILENCE);
        adapter
            .drain(self.timing.gap.max(LEAST_SILENCE), most)
            .await
            .map_err(|_: io::Error| Answer::Broken(self.fault()))?;
        self.is_dirty = false;
        Ok(())
    }

    /// The counters since the last call, and late answers.
    pub(super) fn take_seen(&self) -> (Seen, Vec<Late>) {
        match &self.adapter {
            Adapter::Rtu(adapter) => adapter.take_seen(),
            Adapter::Tcp(adapter) => adapter.take_seen(),
        }
    }
}

impl Adapter {
    /// Opens a wire, with the filter that its frames need.
    async fn open(
        wire: &Wire,
        accept: Accept,
        patience: Duration,
        counts: &Arc<LineCounts>,
    ) -> Result<Self, String> {
        let dial = async |address: &str| {
            let stream = serial::dial(address, patience.max(SHORTEST_DIAL)).await?;
            Ok::<_, String>(TracedStream::new(stream, counts))
        };
        let over_tcp = async |address: &str, framing| {
            let stream = Box::new(dial(address).await?);
            Ok(RtuAdapter::new(stream, framing, 4 * LEAST_SILENCE))
        };
        let adapter = match wire {
            Wire::ModbusTcp(address) => {
                return Ok(Self::Tcp(MbapAdapter::new(dial(address).await?, accept)));
            }
            Wire::RtuOverTcp(address) => over_tcp(address, TransmissionMode::Rtu).await,
            Wire::AsciiOverTcp(address) => over_tcp(address, TransmissionMode::Ascii).await,
            Wire::Serial(port) => {
                let framing = if port.ascii {
                    TransmissionMode::Ascii
                } else {
                    TransmissionMode::Rtu
                };
                let silence = port.speed.frame_gap().max(LEAST_SILENCE);
                let stream = Box::new(TracedStream::new(port.open()?, counts));
                Ok(RtuAdapter::new(stream, framing, silence))
            }
            Wire::Tcp(_) | Wire::Simulated => Err("no wire of Modbus".to_owned()),
        };
        Ok(Self::Rtu(adapter?.accepting(accept)))
    }

    fn context(&self) -> Context {
        match self {
            Self::Rtu(adapter) => rtu::attach(adapter.clone()),
            Self::Tcp(adapter) => tcp::attach(adapter.clone()),
        }
    }
}

/// An exception in words, with advice for the person who wired the device.
pub fn explain(code: u8) -> String {
    let why = match code {
        1 => "the device does not know this kind of register; check `at`",
        2 => "no such register in the device; check `at`",
        3 => "the device does not accept this length or value",
        4 => "the device has failed",
        5 => "the device accepted the request and needs more time",
        6 => "the device is busy",
        8 => "the device reports a memory error",
        10 => "the gateway cannot reach the line of the device",
        11 => "the device behind the gateway does not answer",
        _ => "a manufacturer-specific code; see the manual",
    };
    format!("exception {code}: {why}")
}
