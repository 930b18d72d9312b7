//! The stream of a line whose bytes a driver frames by itself: a serial port, or a connection to a
//! terminal server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_serial::{SerialPort, SerialStream};

use super::serial::{Speed, dial};
use super::{PollError, Wire};

/// A TCP connection may take this long, however fast its instruments are to answer.
const SHORTEST_DIAL: Duration = Duration::from_secs(3);

/// The medium of instruments that send bytes.
pub(super) enum Stream {
    Serial(Box<SerialStream>),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Serial(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Serial(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // tokio-serial's would wait for the wire to drain, on the runtime's thread.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The error of a wire that broke while it was used.
pub(super) fn broken(error: &io::Error) -> PollError {
    PollError::LineDown(if error.kind() == io::ErrorKind::UnexpectedEof {
        "the connection was closed by the other side, or the adapter was unplugged".to_owned()
    } else {
        format!("the connection broke: {error}")
    })
}

impl Stream {
    /// Opens a wire. The error names the fault and the remedy.
    pub(super) async fn open(wire: &Wire, answer_within: Duration) -> Result<Self, String> {
        match wire {
            Wire::Serial(port) => Ok(Self::Serial(Box::new(port.open()?))),
            Wire::Tcp(address) => Ok(Self::Tcp(
                dial(address, answer_within.max(SHORTEST_DIAL)).await?,
            )),
            _ => Err("no wire of these instruments".to_owned()),
        }
    }

    /// Changes the speed; a terminal server keeps its own.
    pub(super) fn set_speed(&mut self, speed: Speed) -> Result<(), String> {
        match self {
            Self::Serial(port) => speed.apply(port.as_mut() as &mut dyn SerialPort),
            Self::Tcp(_) => Ok(()),
        }
    }
}
