//! An open Modbus wire: one question at a time, with the time it takes and what went wrong.

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
use super::mbap::MbapShim;
use super::shim::{Framing, RtuShim};
use crate::field::counts::LineCounts;
use crate::field::serial::Speed;
use crate::field::timer::Timer;
use crate::field::trace::{Happening, Watched};
use crate::field::{Wire, serial};
use crate::time::now;

/// Between frames on a link whose speed is not known here (a terminal server).
const REMOTE_GAP: Duration = Duration::from_millis(5);
/// Adapters on USB hand over what they got in lumps: silence below this proves nothing.
const LEAST_SILENCE: Duration = Duration::from_millis(5);
/// A TCP connection may take this long, however fast its devices are to answer.
const SHORTEST_DIAL: Duration = Duration::from_secs(3);
const LONGEST_FRAME: u32 = 256;

/// What came of one question.
#[derive(Debug)]
pub(super) enum Answer {
    /// The right answer.
    Response(Response),
    /// The device says no.
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
    /// For a person.
    fn told(&self) -> String {
        match self {
            Self::Response(_) => "answered".to_owned(),
            Self::Exception(code) => explain(*code),
            Self::Nothing => "no answer".to_owned(),
            Self::Garbage(why) | Self::Foreign(why) => format!("no valid answer: {why}"),
            Self::Broken(why) => why.clone(),
        }
    }
}

/// An answer, and how long the device took to begin it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) answer: Answer,
    pub(super) turnaround: Duration,
    /// Time the wire was in use.
    pub(super) busy: Duration,
}

enum Shim {
    Rtu(RtuShim),
    Tcp(MbapShim<Watched<TcpStream>>),
}

/// See the module.
pub(super) struct Link {
    shim: Shim,
    /// Of its line; watchers are shown what came of each request.
    counts: Arc<LineCounts>,
    speed: Option<Speed>,
    /// Characters that a byte takes.
    stretch: u32,
    gap: Duration,
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
    /// Opens a wire. The message says what is wrong and what to do.
    pub(super) async fn open(
        wire: &Wire,
        accept: Accept,
        patience: Duration,
        counts: &Arc<LineCounts>,
    ) -> Result<Self, String> {
        let dial = |address: String| async move {
            serial::dial(&address, patience.max(SHORTEST_DIAL)).await
        };
        let (shim, speed, framing) = match wire {
            Wire::Serial(port) => {
                let framing = if port.ascii {
                    Framing::Ascii
                } else {
                    Framing::Rtu
                };
                let silence = port.speed.frame_gap().max(LEAST_SILENCE);
                (
                    Shim::Rtu(
                        RtuShim::new(
                            Box::new(Watched::new(port.open()?, counts)),
                            framing,
                            silence,
                        )
                        .accepting(accept),
                    ),
                    Some(port.speed),
                    framing,
                )
            }
            Wire::RtuOverTcp(address) => {
                let stream = Watched::new(dial(address.clone()).await?, counts);
                (
                    Shim::Rtu(
                        RtuShim::new(Box::new(stream), Framing::Rtu, 4 * LEAST_SILENCE)
                            .accepting(accept),
                    ),
                    None,
                    Framing::Rtu,
                )
            }
            Wire::AsciiOverTcp(address) => {
                let stream = Watched::new(dial(address.clone()).await?, counts);
                (
                    Shim::Rtu(
                        RtuShim::new(Box::new(stream), Framing::Ascii, 4 * LEAST_SILENCE)
                            .accepting(accept),
                    ),
                    None,
                    Framing::Ascii,
                )
            }
            Wire::ModbusTcp(address) => {
                let stream = Watched::new(dial(address.clone()).await?, counts);
                (Shim::Tcp(MbapShim::new(stream, accept)), None, Framing::Rtu)
            }
            Wire::Tcp(_) | Wire::Simulated => return Err("no wire of Modbus".to_owned()),
        };
        let gap = match (speed, &shim) {
            (Some(_), _) if framing == Framing::Ascii => Duration::ZERO,
            (Some(speed), _) => speed.frame_gap(),
            (None, Shim::Rtu(_)) if framing == Framing::Rtu => REMOTE_GAP,
            _ => Duration::ZERO,
        };
        let stretch = if framing == Framing::Ascii { 2 } else { 1 };
        let is_dirty = matches!(shim, Shim::Rtu(_));
        let opened = now();
        counts.watchers.tell(|| Happening::Opened);
        Ok(Self {
            shim,
            counts: Arc::clone(counts),
            speed,
            stretch,
            gap,
            timer: Timer::new(),
            free_at: opened,
            opened,
            used: opened,
            accept,
            is_dirty,
        })
    }

    pub(super) fn is_rtu(&self) -> bool {
        matches!(self.shim, Shim::Rtu(_))
    }

    /// True if nothing but the order of answers tells which request they belong to.
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
        matches!(&self.shim, Shim::Rtu(shim) if shim.echo() == Echo::Unknown)
    }

    /// Somebody may have asked before this wire was opened.
    pub(super) fn stay_silent_until(&mut self, at: Instant) {
        self.free_at = self.free_at.max(at);
    }

    fn characters(&self, bytes: u32) -> Duration {
        self.speed.map_or(Duration::ZERO, |speed| {
            speed.character() * bytes * self.stretch
        })
    }

    /// Asks, and waits as long as `patience` beyond the time that the bytes take. `out` and `back` are the lengths of the frames.
    pub(super) async fn ask(
        &mut self,
        unit: u8,
        request: Request<'static>,
        patience: Duration,
        lengths: (u32, u32),
    ) -> Told {
        let told = self.ask_silently(unit, request, patience, lengths).await;
        self.counts
            .watchers
            .tell(|| Happening::Ended(told.answer.told()));
        told
    }

    async fn ask_silently(
        &mut self,
        unit: u8,
        request: Request<'static>,
        patience: Duration,
        (out, back): (u32, u32),
    ) -> Told {
        if let Err(answer) = self.clean().await {
            return Told {
                answer,
                turnaround: Duration::ZERO,
                busy: Duration::ZERO,
            };
        }
        self.timer.sleep_until(self.free_at).await;
        // Made for each question: its buffers are large, and nothing is to be kept from one to the next.
        let mut context = self.shim.context();
        context.set_slave(Slave(unit));
        let sent = now();
        let on_wire = self.characters(out);
        if unit == 0 && self.is_rtu() {
            return self.broadcast(context, request, patience, on_wire).await;
        }
        let limit = patience + on_wire + self.characters(back);
        let called = timeout(limit, context.call(request)).await;
        let done = now();
        let heard = match &self.shim {
            Shim::Rtu(shim) => shim.last_byte(),
            Shim::Tcp(_) => done,
        };
        self.used = heard.max(sent + on_wire);
        self.free_at = self.used + self.gap;
        let turnaround = heard
            .saturating_duration_since(sent)
            .saturating_sub(on_wire + self.characters(back));
        let answer = self.judge(called);
        Told {
            answer,
            turnaround,
            busy: done.saturating_duration_since(sent),
        }
    }

    /// Nobody answers a broadcast; the devices get their time to act on it.
    async fn broadcast(
        &mut self,
        mut context: Context,
        request: Request<'static>,
        pause: Duration,
        on_wire: Duration,
    ) -> Told {
        let sent = now();
        // The codec waits for an answer; by then the request has left.
        if let Ok(Err(_)) = timeout(Duration::from_millis(1), context.call(request)).await {
            return Told {
                answer: Answer::Broken(self.fault()),
                turnaround: Duration::ZERO,
                busy: Duration::ZERO,
            };
        }
        self.used = sent + on_wire;
        self.free_at = self.used + pause.min(Duration::from_millis(100)) + self.gap;
        self.timer.sleep_until(self.free_at).await;
        Told {
            answer: Answer::Nothing,
            turnaround: Duration::ZERO,
            busy: now().saturating_duration_since(sent),
        }
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
            Ok(Err(tokio_modbus::Error::Transport(_))) => match &self.shim {
                Shim::Rtu(shim) if shim.take_condemned() => Answer::Garbage("wrong checksum"),
                Shim::Rtu(shim) if shim.fault().is_none() => Answer::Garbage("not a Modbus frame"),
                _ => Answer::Broken(self.fault()),
            },
        };
        self.is_dirty |=
            self.is_rtu() && !matches!(answer, Answer::Response(_) | Answer::Exception(_));
        answer
    }

    fn given_up(&self) -> Answer {
        match &self.shim {
            Shim::Rtu(shim) => {
                shim.give_up();
                shim.rejected().map_or(Answer::Nothing, Answer::Foreign)
            }
            Shim::Tcp(shim) => {
                shim.give_up();
                Answer::Nothing
            }
        }
    }

    /// How the wire failed.
    fn fault(&self) -> String {
        let fault = match &self.shim {
            Shim::Rtu(shim) => shim.fault(),
            Shim::Tcp(shim) => shim.fault(),
        };
        fault.unwrap_or_else(|| "the connection broke".to_owned())
    }

    /// After trouble: what is still coming is let pass, so that it is not taken for the next answer.
    async fn clean(&mut self) -> Result<(), Answer> {
        let Shim::Rtu(shim) = &self.shim else {
            return Ok(());
        };
        if !self.is_dirty {
            return Ok(());
        }
        let most = self.characters(LONGEST_FRAME).max(4 * LEAST_SILENCE);
        shim.drain(self.gap.max(LEAST_SILENCE), most)
            .await
            .map_err(|_: io::Error| Answer::Broken(self.fault()))?;
        self.is_dirty = false;
        Ok(())
    }

    /// What was seen on the wire since this was asked last.
    pub(super) fn take_seen(&self) -> (Seen, Vec<Late>) {
        match &self.shim {
            Shim::Rtu(shim) => shim.take_seen(),
            Shim::Tcp(shim) => shim.take_seen(),
        }
    }
}

impl Shim {
    fn context(&self) -> Context {
        match self {
            Self::Rtu(shim) => rtu::attach(shim.clone()),
            Self::Tcp(shim) => tcp::attach(shim.clone()),
        }
    }
}

/// What exceptions mean to whoever wired the device.
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
