//! MQTT over WebSocket, both sides: a byte stream out of binary frames, and a binary frame for each
//! packet [MQTT-6.0.0-1..4].
//!
//! Invariants:
//! * Incoming packets may be cut into frames in any way [MQTT-6.0.0-2]; outgoing frames hold one
//!   whole MQTT packet each, because some clients read no further than the first packet of a frame.
//! * Frames wait for a flush, so that many leave in one write; at most the library's write buffer
//!   and one packet wait here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

/// The subprotocol.
pub const PROTOCOL: &str = "mqtt";

/// The bytes in the binary frames of a WebSocket, however they are cut; MQTT packets that are
/// written become a frame each. A text frame is an error; a close ends the stream.
pub fn bytes_of<S>(socket: WebSocketStream<S>) -> impl AsyncRead + AsyncWrite + Send + Unpin
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    Packets {
        socket,
        input: Bytes::new(),
        cutter: Cutter::default(),
    }
}

struct Packets<S> {
    socket: WebSocketStream<S>,
    /// Of the frame that came last.
    input: Bytes,
    cutter: Cutter,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Packets<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.input.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Frame::Binary(bytes))) => self.input = bytes,
                Some(Ok(Frame::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other("a text frame")));
                }
                // Pings are answered by the library; the stream ends after a close.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.input.len().min(space.remaining());
        space.put_slice(self.input.get(..count).unwrap_or_default());
        self.input.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Packets<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Not ready while the write buffer is full.
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Ready(outcome) => outcome.map_err(io_error)?,
                Poll::Pending if rest.len() < bytes.len() => break,
                Poll::Pending => return Poll::Pending,
            }
            if let Some(packet) = self.cutter.take(&mut rest) {
                Pin::new(&mut self.socket)
                    .start_send(Frame::Binary(packet))
                    .map_err(io_error)?;
            }
        }
        Poll::Ready(Ok(bytes.len() - rest.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}

/// The error of a byte stream; distinguishes a peer that is gone from one that breaks the protocol.
fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            io::Error::new(io::ErrorKind::ConnectionReset, error)
        }
        error => io::Error::other(error),
    }
}

/// Cuts a stream of well-formed MQTT packets into packets.
#[derive(Debug, Default)]
struct Cutter {
    /// The beginning of a packet that is not complete.
    begun: BytesMut,
}

impl Cutter {
    /// Takes bytes off `rest`, as far as the end of a packet; the packet if it is complete.
    fn take(&mut self, rest: &mut &[u8]) -> Option<Bytes> {
        loop {
            let known = if self.begun.is_empty() {
                packet_len(rest)
            } else {
                packet_len(&self.begun)
            };
            // The length is in the first five bytes, which may come one by one.
            let missing = known.map_or(1, |length| length.saturating_sub(self.begun.len()));
            let (part, behind) = rest.split_at_checked(missing.min(rest.len()))?;
            *rest = behind;
            if self.begun.is_empty() && known == Some(part.len()) {
                return Some(Bytes::copy_from_slice(part));
            }
            self.begun.extend_from_slice(part);
            if packet_len(&self.begun) == Some(self.begun.len()) {
                return Some(std::mem::take(&mut self.begun).freeze());
            }
            if rest.is_empty() {
                return None;
            }
        }
    }
}

/// The length of the packet that begins with these bytes; `None` if they are too few to know.
fn packet_len(bytes: &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(2 + index + length);
        }
    }
    debug_assert!(bytes.len() < 5, "a packet has at most four bytes of length");
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_close_has_reset_the_connection() {
        let (near, far) = duplex(1024);
        let mut stream = bytes_of(WebSocketStream::from_raw_socket(near, Role::Client, None).await);
        drop(far);
        let kind = |outcome: io::Result<usize>| outcome.map_err(|error| error.kind());
        assert_eq!(
            kind(stream.read(&mut [0; 8]).await),
            Err(io::ErrorKind::ConnectionReset)
        );
        // An error of a write may surface at its flush.
        let written = stream.write(&[0xC0, 0]).await;
        let flushed = stream.flush().await.map(|()| 0);
        let error = written.and(flushed).expect_err("nobody is there");
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_peer_that_breaks_the_protocol_is_not_gone() {
        let (near, mut far) = duplex(1024);
        let mut stream = bytes_of(WebSocketStream::from_raw_socket(near, Role::Client, None).await);
        far.write_all(&[0xFF, 0]).await.unwrap();
        assert_eq!(
            stream.read(&mut [0; 8]).await.map_err(|error| error.kind()),
            Err(io::ErrorKind::Other)
        );
    }

    #[test]
    fn packets_are_cut_whole_however_they_are_written() {
        let long = [&[0x30, 0xAC, 0x02][..], &[7; 300]].concat();
        let packets: [&[u8]; 5] = [
            &[0xD0, 0],
            &[0x40, 2, 0, 1],
            &long,
            &[0x90, 3, 0, 1, 0],
            &[0x20, 2, 0, 0],
        ];
        let all = packets.concat();
        for piece in [1, 2, 3, 5, 7, 100, all.len()] {
            let mut cutter = Cutter::default();
            let mut found = Vec::new();
            for written in all.chunks(piece) {
                let mut rest = written;
                while !rest.is_empty() {
                    found.extend(cutter.take(&mut rest));
                }
            }
            assert!(
                found.iter().map(|packet| &packet[..]).eq(packets),
                "pieces of {piece}: {found:?}"
            );
            assert!(cutter.begun.is_empty());
        }
    }
}
