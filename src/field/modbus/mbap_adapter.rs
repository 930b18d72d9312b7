//! The framed transport adapter between tokio-modbus and a Modbus TCP connection.
//!
//! Invariants:
//! * Only the frame with the transaction identifier of the outstanding request is let through;
//!   answers that come late are dropped, so that a time-out does not cost the connection.
//! * Transaction identifiers are assigned here, so that they continue when the codec is replaced.
//! * Where any transaction is accepted, what was in the connection before a request never answers
//!   it, and an answer is known by its unit (unless any is accepted), its function and its length.
//! * A header that cannot be one is an error at once, not a wait for bytes that never come.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::{Expected, Late, Seen};
use super::manners::Accept;
use super::rtu_adapter::{CLOSED, broken, hand_over};
use crate::time::now;

const HEADER: usize = 6;
/// Requests whose late answers are recognised.
const REMEMBERED: usize = 16;

#[derive(Debug, Clone)]
struct Sent {
    transaction: [u8; 2],
    /// As the codec has it.
    asked_as: [u8; 2],
    unit: u8,
    function: u8,
    at: Instant,
    /// The form of the answer; `None` for a request that has no answer.
    expected: Option<Expected>,
}

#[derive(Debug)]
struct MbapState<S> {
    wire: S,
    accept: Accept,
    outstanding: Option<Sent>,
    /// Requests that were given up.
    owed: VecDeque<Sent>,
    late: Vec<Late>,
    seen: Seen,
    /// The connection failed: how.
    fault: Option<String>,
    next_transaction: u16,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    frame: Vec<u8>,
}

/// See the module. Clones share the connection.
#[derive(Debug)]
pub(super) struct MbapAdapter<S = TcpStream>(Arc<Mutex<MbapState<S>>>);

impl<S> Clone for MbapAdapter<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> MbapAdapter<S> {
    pub(super) fn new(wire: S, accept: Accept) -> Self {
        let (outgoing, incoming, frame) = (Vec::new(), Vec::new(), Vec::new());
        let (owed, late) = (VecDeque::new(), Vec::new());
        let state = MbapState {
            wire,
            accept,
            outstanding: None,
            owed,
            late,
            seen: Seen::default(),
            fault: None,
            next_transaction: 0,
            outgoing,
            incoming,
            frame,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn with<R>(&self, action: impl FnOnce(&mut MbapState<S>) -> R) -> R {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The counters since the last call, and late answers.
    pub(super) fn take_seen(&self) -> (Seen, Vec<Late>) {
        self.with(|state| {
            (
                std::mem::take(&mut state.seen),
                std::mem::take(&mut state.late),
            )
        })
    }

    /// The outstanding request is waited for no longer.
    pub(super) fn give_up(&self) {
        self.with(|state| state.seen.incomplete += u64::from(!state.incoming.is_empty()));
    }

    /// The failure of the connection.
    pub(super) fn fault(&self) -> Option<String> {
        self.with(|state| state.fault.clone())
    }
}

impl<S> MbapState<S> {
    /// Moves the answer to `frame` if it is there; drops whole frames that are not it.
    fn find_frame(&mut self) -> io::Result<()> {
        while let Some(&[_, _, protocol_high, protocol_low, length_high, length_low]) =
            self.incoming.first_chunk::<HEADER>()
        {
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            if protocol_high != 0 || protocol_low != 0 || !(2..=254).contains(&length) {
                self.seen.junk += self.incoming.len() as u64;
                self.fault = Some(
                    "received bytes that are not a Modbus TCP header; if the device sends RTU frames, write `rtu_over_tcp:`".to_owned(),
                );
                return Err(io::ErrorKind::InvalidData.into());
            }
            let total = HEADER + length;
            if self.incoming.len() < total {
                return Ok(());
            }
            let frame: Vec<u8> = self.incoming.drain(..total).collect();
            let accept = self.accept;
            let answered = self
                .outstanding
                .take_if(|sent| sent.is_answered_by(&frame, accept));
            match answered {
                Some(sent) => {
                    self.pass_on(&sent, &frame);
                    return Ok(());
                }
                None => self.drop_frame(&frame),
            }
        }
        Ok(())
    }

    /// Gives the answer to the codec, under the identifiers that the codec knows.
    fn pass_on(&mut self, sent: &Sent, frame: &[u8]) {
        self.frame.clear();
        self.frame.extend(sent.asked_as);
        self.frame.extend(frame.iter().skip(2));
        if self.accept.any_unit
            && let Some(unit) = self.frame.get_mut(HEADER)
        {
            // The codec looks at it.
            *unit = sent.unit;
        }
        self.compare(sent);
    }

    /// Counts a frame that does not answer the outstanding request.
    fn drop_frame(&mut self, frame: &[u8]) {
        let late = self
            .owed
            .iter()
            .position(|sent| frame.starts_with(&sent.transaction));
        if let Some(sent) = late.and_then(|index| self.owed.remove(index)) {
            self.seen.stale += 1;
            self.late.push(Late {
                unit: sent.unit,
                after: now().saturating_duration_since(sent.at),
            });
        } else {
            self.seen.foreign += 1;
            self.seen.other_transactions += 1;
        }
    }

    /// The codec takes what answers another unit or function for an error; why is seen here.
    fn compare(&mut self, sent: &Sent) {
        let Some(&[unit, function]) = self.frame.get(HEADER..HEADER + 2) else {
            return;
        };
        if unit != sent.unit {
            (self.seen.unit, self.seen.other_units) = (unit, self.seen.other_units + 1);
        } else if function & 0x7F != sent.function {
            self.seen.other_functions += 1;
        }
    }

    fn ask(&mut self, request: &[u8]) {
        self.owed.extend(self.outstanding.take());
        if self.owed.len() > REMEMBERED {
            self.owed.pop_front();
        }
        self.frame.clear();
        self.outgoing.clear();
        let [high, low, rest @ ..] = request else {
            return;
        };
        self.next_transaction = self.next_transaction.wrapping_add(1);
        let transaction = self.next_transaction.to_be_bytes();
        let unit = request.get(HEADER).copied().unwrap_or_default();
        let function = request.get(HEADER + 1).copied().unwrap_or_default();
        let with_checksum = [request.get(HEADER..).unwrap_or_default(), &[0, 0]].concat();
        let expected =
            Expected::of_any(&with_checksum).map(|expected| expected.accepting(self.accept));
        self.outstanding = Some(Sent {
            transaction,
            asked_as: [*high, *low],
            unit,
            function,
            at: now(),
            expected,
        });
        self.outgoing.extend(transaction);
        self.outgoing.extend_from_slice(rest);
    }
}

impl Sent {
    fn is_answered_by(&self, frame: &[u8], accept: Accept) -> bool {
        if !accept.any_transaction {
            return frame.starts_with(&self.transaction);
        }
        let body = frame.get(HEADER..).unwrap_or_default();
        self.expected
            .as_ref()
            .is_some_and(|expected| expected.is_answered_by(body))
    }
}

impl<S: AsyncWrite + Unpin> MbapState<S> {
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.wire).poll_write(context, &self.outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.drain(..count);
        }
        Pin::new(&mut self.wire).poll_flush(context)
    }
}

impl<S: AsyncRead + Unpin> MbapState<S> {
    /// Takes what lies in the connection; what is no answer to the outstanding request is gone
    /// then.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 300];
        let mut chunk = ReadBuf::new(&mut space);
        if let Err(error) = ready!(Pin::new(&mut self.wire).poll_read(context, &mut chunk)) {
            self.fault = Some(broken(&error));
            return Poll::Ready(Err(error));
        }
        if chunk.filled().is_empty() {
            self.fault = Some(CLOSED.to_owned());
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.incoming.extend_from_slice(chunk.filled());
        Poll::Ready(self.find_frame())
    }

    /// Discards bytes that came before a request: they are no answer to it, though they may look
    /// like one.
    fn forget_the_past(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.accept.any_transaction {
            return Ok(());
        }
        self.owed.extend(self.outstanding.take());
        self.find_frame()?;
        // Bounded: a connection cannot bring in more between two requests than the kernel's buffer
        // holds.
        for _ in 0..64 {
            match self.poll_receive(context) {
                Poll::Ready(received) => received?,
                Poll::Pending => break,
            }
        }
        self.frame.clear();
        Ok(())
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if hand_over(&mut self.frame, buffer) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(context))?;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MbapAdapter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|state| state.poll_read(context, buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MbapAdapter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        request: &[u8],
    ) -> Poll<io::Result<usize>> {
        let asked = self.with(|state| {
            state.forget_the_past(context)?;
            state.ask(request);
            Ok(request.len())
        });
        Poll::Ready(asked)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state| state.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The codec ends; the connection does not.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_modbus::client::{Client, tcp};
    use tokio_modbus::{Request, Response, Slave};

    #[tokio::test]
    async fn late_answers_are_dropped_and_the_connection_goes_on() {
        let (ours, mut theirs) = duplex(4096);
        let adapter = MbapAdapter::new(ours, Accept::default());
        let mut context = tcp::attach_slave(adapter.clone(), Slave(1));
        let play = async move {
            let mut first = [0; 12];
            theirs.read_exact(&mut first).await.unwrap();
            let mut second = [0; 12];
            theirs.read_exact(&mut second).await.unwrap();
            let answer = |request: &[u8; 12], value: u8| {
                vec![request[0], request[1], 0, 0, 0, 5, 1, 3, 2, 0, value]
            };
            theirs.write_all(&answer(&first, 7)).await.unwrap();
            theirs.write_all(&answer(&second, 8)).await.unwrap();
            theirs
        };
        let ask = || Request::ReadHoldingRegisters(0, 1);
        let calls = async {
            assert!(
                tokio::time::timeout(Duration::from_millis(30), context.call(ask()))
                    .await
                    .is_err(),
                "the first answer is late"
            );
            assert_eq!(
                context.call(ask()).await.unwrap().unwrap(),
                Response::ReadHoldingRegisters(vec![8])
            );
        };
        let (_theirs, ()) = tokio::join!(play, calls);
        let (seen, late) = adapter.take_seen();
        assert!(
            seen.stale == 1
                && late
                    .first()
                    .is_some_and(|late| late.unit == 1 && late.after >= Duration::from_millis(30)),
            "{late:?}"
        );
    }

    #[tokio::test]
    async fn answers_under_other_identifiers_count_where_that_is_accepted() {
        let (ours, mut theirs) = duplex(4096);
        let adapter = MbapAdapter::new(
            ours,
            Accept {
                any_unit: true,
                any_transaction: true,
            },
        );
        let mut context = tcp::attach_slave(adapter.clone(), Slave(1));
        // Something of the right form that was there before the request.
        theirs
            .write_all(&[9, 9, 0, 0, 0, 5, 7, 3, 2, 0, 1])
            .await
            .unwrap();
        let play = async move {
            let mut request = [0; 12];
            theirs.read_exact(&mut request).await.unwrap();
            let frames = [
                &[0, 0, 0, 0, 0, 7, 7, 3, 4, 0, 2, 0, 2][..],
                &[0, 0, 0, 0, 0, 5, 7, 4, 2, 0, 3],
                &[0, 0, 0, 0, 0, 5, 7, 3, 2, 0, 8],
                // The answer twice.
                &[0, 0, 0, 0, 0, 5, 7, 3, 2, 0, 8],
            ];
            theirs.write_all(&frames.concat()).await.unwrap();
            theirs.read_exact(&mut request).await.unwrap();
            theirs
                .write_all(&[0, 0, 0, 0, 0, 5, 7, 3, 2, 0, 9])
                .await
                .unwrap();
            theirs
        };
        let calls = async {
            let ask = || Request::ReadHoldingRegisters(0, 1);
            assert_eq!(
                context.call(ask()).await.unwrap().unwrap(),
                Response::ReadHoldingRegisters(vec![8]),
                "of its form, and new"
            );
            assert_eq!(
                context.call(ask()).await.unwrap().unwrap(),
                Response::ReadHoldingRegisters(vec![9]),
                "not the same twice"
            );
        };
        let (_theirs, ()) = tokio::join!(play, calls);
        let seen = adapter.take_seen().0;
        assert_eq!(seen.stale + seen.foreign, 4);
    }

    #[tokio::test]
    async fn rubbish_is_an_error_at_once() {
        let (ours, mut theirs) = duplex(4096);
        let mut context = tcp::attach_slave(MbapAdapter::new(ours, Accept::default()), Slave(1));
        theirs
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let call = tokio::time::timeout(
            Duration::from_secs(5),
            context.call(Request::ReadHoldingRegisters(0, 1)),
        );
        assert!(call.await.unwrap().is_err());
    }
}
