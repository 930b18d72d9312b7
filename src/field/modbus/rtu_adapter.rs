//! The framed transport adapter between tokio-modbus and a wire with RTU or ASCII frames.
//!
//! Invariants:
//! * Nothing but one whole frame that answers the request is let through (`frames`).
//! * A flush never waits for the wire to drain: the answer cannot come before the request has left,
//!   and waiting would block the runtime.
//! * The wire is shared with the driver, so that an error of the codec, whose stream is over then,
//!   does not close it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::ascii::Ascii;
use super::frames::{Echo, Late, MAX_FRAME, Receiver, Seen};
use super::manners::Accept;
use super::mode::TransmissionMode;
use crate::time::now;

/// A stream that carries frames.
pub(super) trait FrameStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> FrameStream for T {}

struct RtuState {
    wire: Box<dyn FrameStream>,
    receiver: Receiver,
    ascii: Option<Ascii>,
    outgoing: Vec<u8>,
    frame: Vec<u8>,
    /// When the last byte came or was given to the wire.
    last_byte: Instant,
    /// Silence after which a whole frame with a wrong checksum is the answer.
    silence: Duration,
    verdict: Option<Pin<Box<Sleep>>>,
    is_condemned: bool,
    /// The wire itself failed: how.
    fault: Option<String>,
}

/// The end of a wire.
pub(super) const CLOSED: &str =
    "the connection was closed by the other side, or the adapter was unplugged";

/// An error of a wire.
pub(super) fn broken(error: &io::Error) -> String {
    format!("the connection broke: {error}")
}

/// See the module. Clones share the wire.
#[derive(Clone)]
pub(super) struct RtuAdapter(Arc<Mutex<RtuState>>);

impl std::fmt::Debug for RtuAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtuAdapter").finish_non_exhaustive()
    }
}

/// Gives the codec as much of a frame as it has room for; false if there is none.
pub(super) fn hand_over(frame: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) -> bool {
    if frame.is_empty() {
        return false;
    }
    let count = frame.len().min(buffer.remaining());
    buffer.put_slice(frame.get(..count).unwrap_or_default());
    frame.drain(..count);
    true
}

impl RtuAdapter {
    pub(super) fn new(
        wire: Box<dyn FrameStream>,
        framing: TransmissionMode,
        silence: Duration,
    ) -> Self {
        let ascii = (framing == TransmissionMode::Ascii).then(Ascii::default);
        let receiver = Receiver::default();
        let (outgoing, frame) = (Vec::new(), Vec::new());
        let last_byte = now();
        Self(Arc::new(Mutex::new(RtuState {
            wire,
            receiver,
            ascii,
            outgoing,
            frame,
            last_byte,
            silence,
            verdict: None,
            is_condemned: false,
            fault: None,
        })))
    }

    /// The same, comparing less.
    pub(super) fn accepting(self, accept: Accept) -> Self {
        self.with(|state| state.receiver = Receiver::accepting(accept));
        self
    }

    fn with<R>(&self, action: impl FnOnce(&mut RtuState) -> R) -> R {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the last byte came or was given to the wire.
    pub(super) fn last_byte(&self) -> Instant {
        self.with(|state| state.last_byte)
    }

    /// The outstanding request is waited for no longer.
    pub(super) fn give_up(&self) {
        self.with(|state| {
            state.receiver.give_up(now());
            state.receiver.broken_off(now());
        });
    }

    /// Why the answer was not taken, if something came.
    pub(super) fn rejected(&self) -> Option<&'static str> {
        self.with(|state| state.receiver.rejected())
    }

    /// True if the error of the last call was a wrong checksum: the wire is as good as before.
    pub(super) fn take_condemned(&self) -> bool {
        self.with(|state| std::mem::take(&mut state.is_condemned))
    }

    /// The failure of the wire itself, as opposed to bad bytes on it.
    pub(super) fn fault(&self) -> Option<String> {
        self.with(|state| state.fault.clone())
    }

    pub(super) fn echo(&self) -> Echo {
        self.with(|state| state.receiver.echo())
    }

    /// The counters since the last call, and late answers.
    pub(super) fn take_seen(&self) -> (Seen, Vec<Late>) {
        self.with(|state| {
            let junk = state.ascii.as_mut().map_or(0, Ascii::take_junk);
            let seen = std::mem::take(&mut state.receiver.seen);
            (
                Seen {
                    junk: seen.junk + junk,
                    ..seen
                },
                state.receiver.take_late(),
            )
        })
    }

    /// Reads and discards until nothing has come for `silence`, at most for `most`; safe to drop.
    pub(super) async fn drain(&self, silence: Duration, most: Duration) -> io::Result<()> {
        let until = now() + most;
        loop {
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(());
            }
            let more = std::future::poll_fn(|context| self.with(|state| state.receive(context)));
            match tokio::time::timeout(silence.min(left), more).await {
                Err(_) => {
                    self.with(|state| state.receiver.discard(now()));
                    return Ok(());
                }
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) => self.with(|state| state.receiver.discard(now())),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

impl RtuState {
    /// Takes what the wire has; the number of bytes.
    fn receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; 2 * MAX_FRAME];
        let mut buffer = ReadBuf::new(&mut space);
        let read = ready!(Pin::new(&mut self.wire).poll_read(context, &mut buffer));
        let bytes = buffer.filled();
        match &read {
            Err(error) => self.fault = Some(broken(error)),
            Ok(()) if bytes.is_empty() => self.fault = Some(CLOSED.to_owned()),
            Ok(()) => {}
        }
        read?;
        self.last_byte = now();
        let found = match &mut self.ascii {
            None => self.receiver.push(bytes, self.last_byte),
            Some(ascii) => ascii
                .frames(bytes)
                .into_iter()
                .find_map(|frame| self.receiver.push(&frame, self.last_byte)),
        };
        if let Some(found) = found {
            self.frame = found;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if hand_over(&mut self.frame, buffer) {
                self.verdict = None;
                return Poll::Ready(Ok(()));
            }
            match self.receive(context) {
                // An unplugged adapter reads as an end that repeats for ever: it must become an
                // error.
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {
                    let is_suspect = self.receiver.is_suspect();
                    self.verdict = is_suspect.then(|| Box::pin(tokio::time::sleep(self.silence)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        let Some(verdict) = &mut self.verdict else {
            return Poll::Pending;
        };
        ready!(verdict.as_mut().poll(context));
        self.verdict = None;
        self.receiver.condemn(now());
        self.is_condemned = true;
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, request: &[u8]) -> Poll<io::Result<usize>> {
        // Bounded: a line cannot bring in more between two requests than the kernel's buffer holds.
        for _ in 0..64 {
            match self.receive(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.frame.clear();
        self.verdict = None;
        self.is_condemned = false;
        self.receiver.ask(request, now());
        self.outgoing.clear();
        match &mut self.ascii {
            None => self.outgoing.extend_from_slice(request),
            Some(ascii) => {
                ascii.clear();
                Ascii::write(request, &mut self.outgoing);
            }
        }
        Poll::Ready(Ok(request.len()))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.wire).poll_write(context, &self.outgoing));
            if let Err(error) = &written {
                self.fault = Some(broken(error));
            }
            let count = written?;
            if count == 0 {
                self.fault = Some(CLOSED.to_owned());
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.drain(..count);
            self.last_byte = now();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for RtuAdapter {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|state| state.poll_read(context, buffer))
    }
}

impl AsyncWrite for RtuAdapter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        request: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|state| state.poll_write(context, request))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state| state.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The codec ends; the wire does not.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_modbus::client::{Client, rtu};
    use tokio_modbus::{Request, Response, Slave};

    const SILENCE: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn after_a_wrong_checksum_the_wire_goes_on_with_a_new_codec() {
        let (ours, mut theirs) = duplex(4096);
        let adapter = RtuAdapter::new(Box::new(ours), TransmissionMode::Rtu, SILENCE);
        let ask = || Request::ReadHoldingRegisters(0, 1);
        let mut request = [0; 8];
        let mut context = rtu::attach_slave(adapter.clone(), Slave(1));
        let play = async {
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(&[1, 3, 2, 0, 7, 0, 0]).await.unwrap();
        };
        let (_, called) = tokio::join!(
            play,
            tokio::time::timeout(Duration::from_secs(10), context.call(ask()))
        );
        assert!(called.expect("told before any time-out").is_err() && adapter.take_condemned());
        let mut context = rtu::attach_slave(adapter.clone(), Slave(1));
        let play = async {
            theirs.read_exact(&mut request).await.unwrap();
            theirs
                .write_all(
                    &[
                        &[1, 3, 2, 0, 7][..],
                        &super::super::frames::checksum(&[1, 3, 2, 0, 7]),
                    ]
                    .concat(),
                )
                .await
                .unwrap();
        };
        let (_, called) = tokio::join!(play, context.call(ask()));
        assert_eq!(
            called.unwrap().unwrap(),
            Response::ReadHoldingRegisters(vec![7])
        );
    }

    #[tokio::test]
    async fn ascii_frames_travel_as_text() {
        let (ours, mut theirs) = duplex(4096);
        let adapter = RtuAdapter::new(Box::new(ours), TransmissionMode::Ascii, SILENCE);
        let mut context = rtu::attach_slave(adapter, Slave(1));
        let play = async {
            let mut request = [0; 17];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b":010300000001FB\r\n");
            theirs.write_all(b"noise:0103020007F3\r\n").await.unwrap();
        };
        let (_, called) = tokio::join!(play, context.call(Request::ReadHoldingRegisters(0, 1)));
        assert_eq!(
            called.unwrap().unwrap(),
            Response::ReadHoldingRegisters(vec![7])
        );
    }

    #[tokio::test]
    async fn the_end_of_the_wire_is_an_error_at_once() {
        let (ours, theirs) = duplex(64);
        drop(theirs);
        let mut context = rtu::attach_slave(
            RtuAdapter::new(Box::new(ours), TransmissionMode::Rtu, SILENCE),
            Slave(1),
        );
        let call = tokio::time::timeout(
            Duration::from_secs(10),
            context.call(Request::ReadHoldingRegisters(0, 1)),
        );
        assert!(call.await.unwrap().is_err());
    }
}
