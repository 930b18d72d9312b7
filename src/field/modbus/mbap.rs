//! The byte filter between tokio-modbus and a Modbus TCP connection.
//!
//! Invariants:
//! * Only the frame with the transaction identifier of the outstanding request is let through; answers that come late are
//!   dropped, so that a time-out does not cost the connection.
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
        let (incoming, frame) = (Vec::new(), Vec::new());
        let inner = Inner { wire, outstanding: None, owed: VecDeque::new(), late: Vec::new(), stale: 0, incoming, frame };
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
            if self.outstanding.is_some_and(|sent| sent.transaction == [high, low]) {
                self.outstanding = None;
                self.frame = self.incoming.drain(..total).collect();
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

    fn sent(&mut self, request: &[u8]) {
        if let Some(sent) = self.outstanding.take() {
            if self.owed.len() == REMEMBERED {
                self.owed.pop_front();
            }
            self.owed.push_back(sent);
        }
        if let [high, low, _, _, _, _, unit, ..] = *request {
            self.outstanding = Some(Sent { transaction: [high, low], unit, at: now() });
        }
        self.frame.clear();
    }
}

impl<S: AsyncRead + Unpin> Inner<S> {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if hand_over(&mut self.frame, buffer) {
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; 512];
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
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, request: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|inner| {
            // A frame that did not fit is continued, and has no header then; requests are small, so that does not happen.
            inner.sent(request);
            Pin::new(&mut inner.wire).poll_write(context, request)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|inner| Pin::new(&mut inner.wire).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|inner| Pin::new(&mut inner.wire).poll_shutdown(context))
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
