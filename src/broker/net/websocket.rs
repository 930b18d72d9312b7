//! MQTT over WebSocket, the server's side of the handshake.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::websocket::{PROTOCOL, bytes_of};

/// Bytes of frame headers and of packets that share a frame, beyond one packet.
const FRAME_ROOM: usize = 64 << 10;

/// Shakes hands; any path will do. A client that does not offer the subprotocol `mqtt` is refused [MQTT-6.0.0-3].
pub(super) async fn accept<S>(stream: S, max_packet: usize) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin, Box<Error>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let limits = WebSocketConfig::default()
        .max_message_size(Some(max_packet + FRAME_ROOM))
        .max_frame_size(Some(max_packet + FRAME_ROOM))
        .max_write_buffer_size(max_packet + 4 * FRAME_ROOM)
        .read_buffer_size(16 << 10)
        .write_buffer_size(0);
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, choose_protocol, Some(limits)).await.map_err(Box::new)?;
    Ok(bytes_of(socket))
}

#[allow(clippy::result_large_err)]
fn choose_protocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    // `mqttv3.1` is what clients of MQTT 3.1 used to say.
    let known = |name: &&str| *name == PROTOCOL || *name == "mqttv3.1";
    let Some(chosen) =
        offered.flat_map(|names| names.split(',')).map(str::trim).find(known).and_then(|name| HeaderValue::from_str(name).ok())
    else {
        let mut refusal = ErrorResponse::new(Some("this is an MQTT broker; offer the WebSocket subprotocol mqtt\n".to_owned()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Err(refusal);
    };
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    Ok(response)
}
