//! The M-Bus as its master sees it: one request, one answer, over any stream of bytes.
//!
//! Invariants:
//! * Before a request everything that came is thrown away: no late answer is taken for this one.
//! * Own requests that an adapter echoes are no answers.
//! * An answer comes from the address that was asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frame::{
    FRAME_COUNT, FROM_MASTER, INITIALIZE, MbusFrame, MbusFramer, REQUEST_DATA, SELECTED, select,
    short,
};
use super::spec::{MeterAddress, SecondaryAddress};
use crate::field::PollError;
use crate::field::counts::LineCounts;
use crate::field::trace::Happening;
use crate::field::trouble::Came;
use crate::heartbeat::Heartbeat;
use crate::time::now;

/// What a meter answers to REQ_UD2, without its flow control bits.
const RESPOND_DATA: u8 = 0x08;
/// An answer that never ends is given up.
const LONGEST_ANSWER: Duration = Duration::from_secs(12);
/// The longest wait for a wire that never becomes silent.
const LONGEST_SETTLE: Duration = Duration::from_millis(50);
/// The silence before a request.
const SETTLE: Duration = Duration::from_millis(2);
/// Any address answers to it, also the one that was given to nobody.
const POINT_TO_POINT: u8 = 254;

/// An open wire.
pub(super) struct Bus<S> {
    stream: S,
    framer: MbusFramer,
    /// The time until a meter must have begun its answer, and between two parts of it.
    pub(super) answer_within: Duration,
    counts: Arc<LineCounts>,
    heartbeat: Option<Heartbeat>,
    /// What came since this was last taken.
    pub(super) came: Came,
}

/// What came as the answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MeterReply {
    /// E5.
    Acknowledged,
    /// The data of a frame, from its control information field on.
    Data(Vec<u8>),
    /// Nothing at all.
    Silence,
    /// Something that is no answer: several meters that speak at once, or noise.
    Garbage,
}

fn broken(error: &io::Error) -> PollError {
    PollError::LineDown(if error.kind() == io::ErrorKind::UnexpectedEof {
        "the connection was closed by the other side, or the adapter was unplugged".to_owned()
    } else {
        format!("the connection broke: {error}")
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bus<S> {
    /// Over a stream whose meters answer within `answer_within`.
    pub(super) fn new(
        stream: S,
        answer_within: Duration,
        counts: Arc<LineCounts>,
        heartbeat: Option<Heartbeat>,
    ) -> Self {
        Self {
            stream,
            framer: MbusFramer::default(),
            answer_within,
            counts,
            heartbeat,
            came: Came::default(),
        }
    }

    async fn receive(&mut self) -> Result<(), PollError> {
        let mut space = [0; 512];
        let count = self
            .stream
            .read(&mut space)
            .await
            .map_err(|error| broken(&error))?;
        // An unplugged adapter reads as an end that repeats for ever.
        if count == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat(now());
        }
        let bytes = space.get(..count).unwrap_or_default();
        let heard = || Happening::Received(bytes.to_vec());
        self.counts.watchers.tell(heard);
        self.framer.push(bytes);
        Ok(())
    }

    /// Throws away what came before a request.
    async fn settle(&mut self) -> Result<(), PollError> {
        let until = now() + LONGEST_SETTLE;
        while let Ok(received) = timeout(SETTLE, self.receive()).await {
            received?;
            if now() >= until {
                break;
            }
        }
        while self.framer.next_frame().is_some() {
            self.came.late += 1;
        }
        self.framer.clear();
        self.take_counts();
        Ok(())
    }

    fn take_counts(&mut self) {
        let junk = std::mem::take(&mut self.framer.junk);
        self.came.junk += junk;
        self.counts.junk_bytes.add(junk);
        self.came.bad_checksums += std::mem::take(&mut self.framer.bad_checksums);
    }

    /// Sends a request to an address and waits for its answer.
    pub(super) async fn ask(
        &mut self,
        request: &[u8],
        address: u8,
    ) -> Result<MeterReply, PollError> {
        self.settle().await?;
        let sent = self.stream.write_all(request).await;
        sent.map_err(|error| broken(&error))?;
        let told = || Happening::Sent(request.to_vec());
        self.counts.watchers.tell(told);
        let longest = now() + LONGEST_ANSWER;
        let mut has_heard = false;
        loop {
            while let Some(frame) = self.framer.next_frame() {
                match frame {
                    MbusFrame::Acknowledge => return Ok(self.heard(MeterReply::Acknowledged)),
                    MbusFrame::Short { .. } => self.came.echoes += 1,
                    MbusFrame::Long { control, .. } if control & FROM_MASTER != 0 => {
                        self.came.echoes += 1;
                    }
                    MbusFrame::Long {
                        control,
                        address: from,
                        data,
                    } => {
                        let is_asked =
                            from == address || address == SELECTED || address == POINT_TO_POINT;
                        if control & 0x0F == RESPOND_DATA && is_asked {
                            return Ok(self.heard(MeterReply::Data(data)));
                        }
                        self.came.other_units += 1;
                        self.came.unit = from;
                    }
                }
            }
            let left = longest.saturating_duration_since(now());
            match timeout(self.answer_within.min(left), self.receive()).await {
                Ok(received) => {
                    received?;
                    has_heard = true;
                }
                Err(_) => return Ok(self.gave_up(has_heard)),
            }
        }
    }

    fn heard(&mut self, reply: MeterReply) -> MeterReply {
        self.take_counts();
        reply
    }

    fn gave_up(&mut self, has_heard: bool) -> MeterReply {
        self.came.incomplete += u64::from(self.framer.has_begun());
        self.framer.clear();
        self.take_counts();
        let echoes_alone = Came {
            echoes: 0,
            ..self.came
        } == Came::default();
        self.counts
            .watchers
            .tell(|| Happening::Ended("no answer".to_owned()));
        if has_heard && !echoes_alone {
            MeterReply::Garbage
        } else {
            MeterReply::Silence
        }
    }

    /// Makes a meter start anew; what it answers does not matter, some answer nothing.
    pub(super) async fn initialize(&mut self, address: u8) -> Result<MeterReply, PollError> {
        self.ask(&short(INITIALIZE, address), address).await
    }

    /// Selects the meters that an address fits.
    pub(super) async fn select(
        &mut self,
        address: SecondaryAddress,
    ) -> Result<MeterReply, PollError> {
        self.ask(&select(address.0), SELECTED).await
    }

    /// Asks for data, with the frame count bit or without.
    pub(super) async fn request(
        &mut self,
        address: u8,
        frame_count: FrameCount,
    ) -> Result<MeterReply, PollError> {
        let bit = match frame_count {
            FrameCount::Set => FRAME_COUNT,
            FrameCount::Clear => 0,
        };
        self.ask(&short(REQUEST_DATA | bit, address), address).await
    }

    /// Makes a meter ready to be asked.
    pub(super) async fn open(&mut self, address: MeterAddress) -> Result<MeterReply, PollError> {
        match address {
            MeterAddress::Primary(address) => self.initialize(address).await,
            MeterAddress::Secondary(address) => {
                let heard = self.select(address).await?;
                // Once more: the meter may have missed the first after another was selected.
                match heard {
                    MeterReply::Silence => self.select(address).await,
                    other => Ok(other),
                }
            }
        }
    }
}

/// The bit that tells a new request from one that is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameCount {
    /// 1: of the first request after a meter was made to start anew.
    Set,
    /// 0.
    Clear,
}

impl FrameCount {
    /// Of the request after this.
    #[must_use]
    pub(super) fn next(self) -> Self {
        match self {
            Self::Set => Self::Clear,
            Self::Clear => Self::Set,
        }
    }
}
