//! The byte filter between tokio-modbus and a Modbus TCP connection.
//!
//! Invariants:
//! * Only the frame with the transaction identifier of the outstanding request is let through; answers that come late are
//!   dropped, so that a time-out does not cost the connection.
//! * Transaction identifiers are given here, so that they go on when the codec is made anew.
//! * A header that cannot be one is an error at once, not a wait for bytes that never come.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::Late;
use super::shim::hand_over;
use crate::time::now;

const HEADER: usize = 6;
/// Requests whose late answers are recognised.
const REMEMBERED: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Sent {
    transaction: [u8; 2],
    /// As the codec has it.
    asked_as: [u8; 2],
    unit: u8,
    at: Instant,
}

#[derive(Debug)]
struct Inner<S> {
    wire: S,
    outstanding: Option<Sent>,
    /// Requests that were given up.
    owed: VecDeque<Sent>,
    late: Vec<Late>,
    stale: u64,
    next_transaction: u16,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    frame: Vec<u8>,
}

/// See the module. Clones share the connection.
#[derive(Debug)]
pub(super) struct MbapShim<S = TcpStream>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for MbapShim<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> MbapShim<S> {
    pub(super) fn new(wire: S) -> Self {
        let (outgoing, incoming, frame) = (Vec::new(), Vec::new(), Vec::new());
        let (owed, late) = (VecDeque::new(), Vec::new());
        let inner = Inner { wire, outstanding: None, owed, late, stale: 0, next_transaction: 0, outgoing, incoming, frame };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn with<R>(&self, action: impl FnOnce(&mut Inner<S>) -> R) -> R {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Late answers dropped since this was asked last, and how late they were.
    pub(super) fn take_late(&self) -> (u64, Vec<Late>) {
        self.with(|inner| (std::mem::take(&mut inner.stale), std::mem::take(&mut inner.late)))
    }
}

impl<S> Inner<S> {
    /// Moves the answer to `frame` if it is there; drops whole frames that are not it.
    fn find_frame(&mut self) -> io::Result<()> {
        while let Some(&[high, low, protocol_high, protocol_low, length_high, length_low]) = self.incoming.first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            if protocol_high != 0 || protocol_low != 0 || !(2..=254).contains(&length) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let total = HEADER + length;
            if self.incoming.len() < total {
                return Ok(());
            }
            if let Some(sent) = self.outstanding.take_if(|sent| sent.transaction == [high, low]) {
                self.frame.clear();
                self.frame.extend(sent.asked_as);
                self.frame.extend(self.incoming.drain(..total).skip(2));
                return Ok(());
            }
            self.incoming.drain(..total);
            self.stale += 1;
            if let Some(index) = self.owed.iter().position(|sent| sent.transaction == [high, low])
                && let Some(sent) = self.owed.remove(index)
            {
                self.late.push(Late { unit: sent.unit, after: now().saturating_duration_since(sent.at) });
            }
        }
        Ok(())
    }

    fn ask(&mut self, request: &[u8]) {
        if let Some(sent) = self.outstanding.take() {
            if self.owed.len() == REMEMBERED {
                self.owed.pop_front();
            }
            self.owed.push_back(sent);
        }
        self.frame.clear();
        self.outgoing.clear();
        let [high, low, rest @ ..] = request else { return };
        self.next_transaction = self.next_transaction.wrapping_add(1);
        let transaction = self.next_transaction.to_be_bytes();
        let unit = request.get(HEADER).copied().unwrap_or_default();
        self.outstanding = Some(Sent { transaction, asked_as: [*high, *low], unit, at: now() });
        self.outgoing.extend(transaction);
        self.outgoing.extend_from_slice(rest);
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
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

impl<S: AsyncRead + Unpin> Inner<S> {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if hand_over(&mut self.frame, buffer) {
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; 300];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.wire).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.incoming.extend_from_slice(chunk.filled());
            self.find_frame()?;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MbapShim<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|inner| inner.poll_read(context, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MbapShim<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, request: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|inner| inner.ask(request));
        Poll::Ready(Ok(request.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|inner| inner.poll_flush(context))
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
        let shim = MbapShim::new(ours);
        let mut context = tcp::attach_slave(shim.clone(), Slave(1));
        let play = async move {
            let mut first = [0; 12];
            theirs.read_exact(&mut first).await.unwrap();
            let mut second = [0; 12];
            theirs.read_exact(&mut second).await.unwrap();
            let answer = |request: &[u8; 12], value: u8| vec![request[0], request[1], 0, 0, 0, 5, 1, 3, 2, 0, value];
            theirs.write_all(&answer(&first, 7)).await.unwrap();
            theirs.write_all(&answer(&second, 8)).await.unwrap();
            theirs
        };
        let ask = || Request::ReadHoldingRegisters(0, 1);
        let calls = async {
            assert!(tokio::time::timeout(Duration::from_millis(30), context.call(ask())).await.is_err(), "the first answer is late");
            assert_eq!(context.call(ask()).await.unwrap().unwrap(), Response::ReadHoldingRegisters(vec![8]));
        };
        let (_theirs, ()) = tokio::join!(play, calls);
        let (stale, late) = shim.take_late();
        assert!(stale == 1 && late.first().is_some_and(|late| late.unit == 1 && late.after >= Duration::from_millis(30)), "{late:?}");
    }

    #[tokio::test]
    async fn rubbish_is_an_error_at_once() {
        let (ours, mut theirs) = duplex(4096);
        let mut context = tcp::attach_slave(MbapShim::new(ours), Slave(1));
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let call = tokio::time::timeout(Duration::from_secs(5), context.call(Request::ReadHoldingRegisters(0, 1)));
        assert!(call.await.unwrap().is_err());
    }
}
