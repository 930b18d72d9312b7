//! MQTT over WebSocket, the server's side of the handshake (RFC 6455, section 4.2).
//!
//! Invariants:
//! * A request that is no good gets an HTTP answer that says why, whatever is wrong with it;
//!   neither the request nor the time for it is without bounds.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::linger::linger;
use super::origin::Origins;
use crate::net::websocket::{PROTOCOL, bytes_of};

/// Bytes of frame headers and of packets that share a frame, beyond one packet.
const FRAME_ROOM: usize = 64 << 10;
/// Bytes that wait for a write, so that many frames share one.
const WRITE_BUFFER: usize = 32 << 10;
/// Bytes of a request.
const REQUEST: usize = 16 << 10;
/// For an answer, and for its reader to read it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that are read away after an answer.
const LINGER_BYTES: usize = 64 << 10;
/// The subprotocol of clients that are older than MQTT 3.1.1.
const OLD_PROTOCOL: &str = "mqttv3.1";

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the connection ended during the handshake")]
    Gone,
    #[error("the request took too long")]
    Slow,
    #[error("the request is too large")]
    TooLarge,
    #[error("the request is not HTTP/1.1")]
    NotHttp,
    #[error("the method is not GET")]
    Method,
    #[error("the request does not ask for a WebSocket")]
    NoUpgrade,
    #[error("only WebSocket version 13 is supported")]
    Version,
    #[error("the Sec-WebSocket-Key is missing or wrong")]
    Key,
    #[error("the page {0:?} may not connect; add its origin to `broker.allow_origins`")]
    Origin(String),
    #[error("the subprotocol mqtt is not offered")]
    Subprotocol,
}

impl HandshakeError {
    /// Status line, and headers beside the usual ones.
    fn answer(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Gone => return None,
            Self::Slow => ("408 Request Timeout", ""),
            Self::TooLarge => ("431 Request Header Fields Too Large", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::Version => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::Origin(_) => ("403 Forbidden", ""),
            Self::NotHttp | Self::NoUpgrade | Self::Key | Self::Subprotocol => {
                ("400 Bad Request", "")
            }
        })
    }
}

/// Shakes hands; any path will do. A client that does not offer the subprotocol `mqtt` is refused
/// [MQTT-6.0.0-3].
pub(super) async fn accept<S>(
    mut stream: S,
    max_packet: usize,
    origins: &Origins,
    within: Duration,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let outcome = match timeout(within, read_request(&mut stream)).await {
        Ok(Ok((request, rest))) => accept_upgrade(&request, origins).map(|answer| (answer, rest)),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(HandshakeError::Slow),
    };
    match outcome {
        Ok((answer, rest)) => {
            stream
                .write_all(answer.as_bytes())
                .await
                .map_err(|_| HandshakeError::Gone)?;
            stream.flush().await.map_err(|_| HandshakeError::Gone)?;
            let limits = WebSocketConfig::default()
                .max_message_size(Some(max_packet + FRAME_ROOM))
                .max_frame_size(Some(max_packet + FRAME_ROOM))
                .read_buffer_size(16 << 10)
                .write_buffer_size(WRITE_BUFFER);
            Ok(bytes_of(
                WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(limits))
                    .await,
            ))
        }
        Err(refusal) => {
            if let Some((status, headers)) = refusal.answer() {
                let body = format!("This is MQTT over WebSocket: {refusal}.\n");
                // Whether it is read or not, the connection is over.
                let _ = timeout(ANSWER_WITHIN, refuse(&mut stream, status, headers, &body)).await;
            }
            Err(refusal)
        }
    }
}

/// Writes an answer and waits until it is read.
pub(super) async fn refuse<S>(
    stream: &mut S,
    status: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = body.len();
    let usual = format!(
        "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n"
    );
    stream
        .write_all(format!("HTTP/1.1 {status}\r\n{headers}{usual}\r\n{body}").as_bytes())
        .await?;
    linger(stream, LINGER_BYTES).await
}

/// The request, and what came behind it.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Request, Vec<u8>), HandshakeError> {
    let mut bytes = Vec::new();
    loop {
        let seen = bytes.len();
        if stream
            .read_buf(&mut bytes)
            .await
            .map_err(|_| HandshakeError::Gone)?
            == 0
        {
            return Err(HandshakeError::Gone);
        }
        // The end of the headers may be cut; before it, only the first bytes can show that this is
        // no HTTP.
        let news = bytes.get(seen.saturating_sub(3)..).unwrap_or_default();
        let may_be_whole = news.windows(2).any(|two| two == b"\n\n")
            || news.windows(3).any(|three| three == b"\n\r\n");
        if seen == 0 || may_be_whole {
            match Request::try_parse(&bytes) {
                Ok(Some((length, request))) => {
                    return Ok((request, bytes.split_off(length.min(bytes.len()))));
                }
                Ok(None) => {}
                Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => {
                    return Err(HandshakeError::Method);
                }
                Err(Error::Capacity(_)) => return Err(HandshakeError::TooLarge),
                Err(_) => return Err(HandshakeError::NotHttp),
            }
        }
        if bytes.len() >= REQUEST {
            return Err(HandshakeError::TooLarge);
        }
    }
}

/// The tokens of a header that may be repeated and may hold a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let texts = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}

/// The answer to a valid request.
fn accept_upgrade(request: &Request, origins: &Origins) -> Result<String, HandshakeError> {
    let headers = request.headers();
    let key = upgrade_key(headers)?;
    check_origins(headers, origins)?;
    // Other offers do not matter; `mqtt` goes before the name that old clients use.
    let offers = |name: &str| {
        tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == name)
    };
    let chosen = [PROTOCOL, OLD_PROTOCOL]
        .into_iter()
        .find(|name| offers(name))
        .ok_or(HandshakeError::Subprotocol)?;
    let accept = derive_accept_key(key);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
    ))
}

/// The key of a request that asks for a WebSocket of the supported version.
fn upgrade_key(headers: &HeaderMap) -> Result<&[u8], HandshakeError> {
    let has =
        |name, token: &str| tokens(headers, &name).any(|found| found.eq_ignore_ascii_case(token));
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if !tokens(headers, &header::SEC_WEBSOCKET_VERSION).eq(["13"]) {
        return Err(HandshakeError::Version);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(HandshakeError::Key);
    };
    // Sixteen bytes in Base64.
    if key.len() == 24 {
        Ok(key.as_bytes())
    } else {
        Err(HandshakeError::Key)
    }
}

fn check_origins(headers: &HeaderMap, origins: &Origins) -> Result<(), HandshakeError> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    for origin in headers.get_all(header::ORIGIN) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        if !origins.allow(&origin, host) {
            return Err(HandshakeError::Origin(origin.into_owned()));
        }
    }
    Ok(())
}
