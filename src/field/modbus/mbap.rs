//! The byte filter between tokio-modbus and a Modbus TCP connection.
//!
//! Invariants:
//! * Only the frame with the transaction identifier of the outstanding request is let through; answers that come late are
//!   dropped, so that a time-out does not cost the connection.
//! * A header that cannot be one is an error at once, not a wait for bytes that never come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shim::hand_over;

const HEADER: usize = 6;

/// See the module.
#[derive(Debug)]
pub(super) struct MbapShim<S> {
    wire: S,
    transaction: Option<[u8; 2]>,
    incoming: Vec<u8>,
    frame: Vec<u8>,
}

impl<S> MbapShim<S> {
    pub(super) fn new(wire: S) -> Self {
        Self { wire, transaction: None, incoming: Vec::new(), frame: Vec::new() }
    }

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
            let frame: Vec<u8> = self.incoming.drain(..total).collect();
            if self.transaction == Some([high, low]) {
                self.transaction = None;
                self.frame = frame;
                return Ok(());
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MbapShim<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for MbapShim<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, request: &[u8]) -> Poll<io::Result<usize>> {
        self.transaction = request.first_chunk::<2>().copied();
        self.frame.clear();
        Pin::new(&mut self.wire).poll_write(context, request)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
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
        let mut context = tcp::attach_slave(MbapShim::new(ours), Slave(1));
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
