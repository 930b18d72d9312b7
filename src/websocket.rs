//! MQTT over WebSocket, both sides: binary frames, and a byte stream out of them [MQTT-6.0.0-1..4].

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The subprotocol.
pub const PROTOCOL: &str = "mqtt";

/// The bytes in the binary frames of a WebSocket, however they are cut. A text frame is an error; a close ends the stream.
pub fn bytes_of<S>(socket: WebSocketStream<S>) -> impl AsyncRead + AsyncWrite + Send + Unpin
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (sink, frames) = socket.split();
    let bytes = frames.filter_map(|frame| async move {
        match frame {
            Ok(Frame::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Frame::Text(_)) => Some(Err(io::Error::other("a text frame"))),
            // Pings are answered by the library; the stream ends after a close.
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        }
    });
    let sink = sink.sink_map_err(io::Error::other).with(|bytes: Bytes| async move { Ok::<_, io::Error>(Frame::Binary(bytes)) });
    let reader = StreamReader::new(Box::pin(bytes));
    let writer = SinkWriter::new(CopyToBytes::new(Box::pin(sink)));
    tokio::io::join(reader, writer)
}
