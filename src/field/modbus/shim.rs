//! The byte filter between tokio-modbus and an RTU wire.
//!
//! RTU frames carry no transaction number: an answer that comes late looks like the answer to the next question. The filter
//! knows the outstanding request, throws away what came before it, and lets through only a frame of that unit and function, of
//! the length asked for, with a right checksum.
//!
//! Invariants:
//! * What was in the line before a request never reaches the codec.
//! * Nothing but one whole matching frame per request is let through.
//! * A flush never waits for the wire to drain: the answer cannot come before the request has left, and waiting would block
//!   the runtime.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);
/// Longest RTU frame.
const MAX_FRAME: usize = 256;

/// The checksum of an RTU frame, as its last two bytes.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    CRC.checksum(bytes).to_le_bytes()
}

/// Gives the codec as much of a frame as it has room for; false if there is none.
pub(super) fn hand_over(frame: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) -> bool {
    if frame.is_empty() {
        return false;
    }
    let count = frame.len().min(buffer.remaining());
    let part: Vec<u8> = frame.drain(..count).collect();
    buffer.put_slice(&part);
    true
}

/// The frame that would answer the outstanding request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    unit: u8,
    function: u8,
    /// Bytes of data a right answer announces.
    byte_count: u8,
}

impl Expected {
    /// For the requests that read; `None` for others, which are not made here.
    fn of(request: &[u8]) -> Option<Self> {
        let [unit, function, _, _, high, low, ..] = *request else { return None };
        let count = u16::from_be_bytes([high, low]);
        let bytes = match function {
            1 | 2 => count.div_ceil(8),
            3 | 4 => count.checked_mul(2)?,
            _ => return None,
        };
        Some(Self { unit, function, byte_count: u8::try_from(bytes).ok()? })
    }

    /// The length of the answer at the front of `bytes`, if one stands there whole and right.
    fn frame_at(self, bytes: &[u8]) -> Option<usize> {
        let [unit, function, third, ..] = *bytes else { return None };
        if unit != self.unit {
            return None;
        }
        let length = if function == self.function | 0x80 {
            5
        } else if function == self.function && third == self.byte_count {
            5 + usize::from(self.byte_count)
        } else {
            return None;
        };
        let (body, crc) = bytes.get(..length)?.split_last_chunk::<2>()?;
        (checksum(body) == *crc).then_some(length)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct RtuShim<S> {
    wire: S,
    expected: Option<Expected>,
    /// The request, while the wire may still bring it back (an adapter that hears itself).
    echo: Vec<u8>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    frame: Vec<u8>,
}

impl<S> RtuShim<S> {
    pub(super) fn new(wire: S) -> Self {
        Self { wire, expected: None, echo: Vec::new(), outgoing: Vec::new(), incoming: Vec::new(), frame: Vec::new() }
    }

    /// Moves the answer from what came in to `frame`, if it is there.
    fn find_frame(&mut self) {
        let Some(expected) = self.expected else { return };
        // Some requests look like an answer: the copy of the request must go before anything is looked for.
        if self.incoming.starts_with(&self.echo) {
            self.incoming.drain(..self.echo.len());
            self.echo.clear();
        } else if self.echo.starts_with(&self.incoming) {
            return;
        }
        let found = (0..self.incoming.len()).find_map(|start| Some((start, expected.frame_at(self.incoming.get(start..)?)?)));
        if let Some((start, length)) = found {
            self.frame.extend(self.incoming.drain(..start + length).skip(start));
            self.incoming.clear();
            self.expected = None;
        } else if self.incoming.len() > 4 * MAX_FRAME {
            // A line that babbles: only the newest frame's worth can still become an answer.
            self.incoming.drain(..self.incoming.len() - MAX_FRAME);
        }
    }
}

impl<S: AsyncRead + Unpin> RtuShim<S> {
    fn receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; MAX_FRAME];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.wire).poll_read(context, &mut buffer))?;
        self.incoming.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RtuShim<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if hand_over(&mut self.frame, buffer) {
                return Poll::Ready(Ok(()));
            }
            // An unplugged adapter reads as an end that repeats for ever: it must become an error.
            if ready!(self.receive(context))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.find_frame();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RtuShim<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, request: &[u8]) -> Poll<io::Result<usize>> {
        // Bounded: a line cannot bring in more between two requests than the kernel's buffer holds.
        for _ in 0..64 {
            match self.receive(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.incoming.clear();
        self.frame.clear();
        self.expected = Expected::of(request);
        self.echo = request.to_vec();
        self.outgoing.clear();
        self.outgoing.extend_from_slice(request);
        Poll::Ready(Ok(request.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let Self { wire, outgoing, .. } = &mut *self;
            let count = ready!(Pin::new(wire).poll_write(context, outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_modbus::client::{Client, rtu};
    use tokio_modbus::{Request, Response, Slave};

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &checksum(body)].concat()
    }

    fn answer(unit: u8, function: u8, values: &[u16]) -> Vec<u8> {
        let mut body = vec![unit, function, u8::try_from(values.len() * 2).unwrap()];
        body.extend(values.iter().flat_map(|value| value.to_be_bytes()));
        framed(&body)
    }

    /// Asks unit 1 for two registers; `wire` plays the line after the request has arrived.
    async fn ask<F, W>(before: &[u8], wire: F) -> Result<Vec<u16>, String>
    where
        F: FnOnce(DuplexStream) -> W,
        W: Future<Output = DuplexStream>,
    {
        let (ours, mut theirs) = duplex(4096);
        theirs.write_all(before).await.unwrap();
        let mut context = rtu::attach_slave(RtuShim::new(ours), Slave(1));
        let play = async {
            let mut request = [0; 8];
            theirs.read_exact(&mut request).await.unwrap();
            let _open = wire(theirs).await;
            std::future::pending::<()>().await;
        };
        let call = tokio::time::timeout(Duration::from_millis(100), context.call(Request::ReadHoldingRegisters(0, 2)));
        tokio::select! {
            () = play => unreachable!(),
            called = call => match called {
                Err(_) => Err("no answer".to_owned()),
                Ok(Ok(Ok(Response::ReadHoldingRegisters(words)))) => Ok(words),
                Ok(other) => Err(format!("{other:?}")),
            },
        }
    }

    async fn check(name: &str, before: &[u8], reply: Vec<Vec<u8>>, expected: Result<Vec<u16>, &str>) {
        let outcome = ask(before, |mut wire| async move {
            for piece in reply {
                wire.write_all(&piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            wire
        })
        .await;
        match expected {
            Ok(words) => assert_eq!(outcome, Ok(words), "{name}"),
            Err(part) => assert!(outcome.as_ref().is_err_and(|error| error.contains(part)), "{name}: {outcome:?}"),
        }
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_is_let_through() {
        let good = answer(1, 3, &[10, 20]);
        let right = || Ok(vec![10, 20]);
        check("plain", b"", vec![good.clone()], right()).await;
        check("late answer of another length in the buffer", &answer(1, 3, &[7]), vec![good.clone()], right()).await;
        check("late answer of the same length in the buffer", &answer(1, 3, &[7, 8]), vec![good.clone()], right()).await;
        check("late answer arriving first", b"", vec![answer(1, 3, &[7, 8, 9]), good.clone()], right()).await;
        check("foreign unit", b"", vec![answer(2, 3, &[7, 8]), good.clone()], right()).await;
        check("foreign function", b"", vec![answer(1, 4, &[7, 8]), good.clone()], right()).await;
        check("noise before", b"", vec![vec![0, 255, 3, 1, 1], good.clone()], right()).await;
        check("own echo", b"", vec![framed(&[1, 3, 0, 0, 0, 2]), good.clone()], right()).await;
        let lookalike = framed(&[1, 1, 3, 0, 0, 17]);
        assert!(Expected::of(&lookalike).unwrap().frame_at(&lookalike).is_some(), "a request that is a right answer to itself");
        check("in single bytes", b"", good.iter().map(|byte| vec![*byte]).collect(), right()).await;
        check("zeros after it", b"", vec![[&good[..], &[0, 0]].concat()], right()).await;
        check("truncated", b"", vec![good[..6].to_vec()], Err("no answer")).await;
        check("one register short", b"", vec![answer(1, 3, &[10])], Err("no answer")).await;
        let mut flipped = good.clone();
        flipped[4] ^= 1;
        check("bit flip", b"", vec![flipped], Err("no answer")).await;
        check("exception", b"", vec![framed(&[1, 0x83, 2])], Err("IllegalDataAddress")).await;
        check("noise only", b"", vec![vec![0xAA; 2000]], Err("no answer")).await;
        check("noise, then the answer", b"", vec![vec![0xAA; 2000], good], right()).await;
    }

    #[tokio::test]
    async fn the_end_of_the_wire_is_an_error_at_once() {
        let outcome = ask(b"", |wire| async move {
            drop(wire);
            duplex(1).0
        })
        .await;
        assert!(outcome.as_ref().is_err_and(|error| !error.contains("no answer")), "{outcome:?}");
    }
}
