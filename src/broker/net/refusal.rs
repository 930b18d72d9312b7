//! Answers to clients whose connections are refused: the reason in CONNACK, where its protocol has
//! one, or an HTTP answer.
//!
//! Invariants:
//! * It is cheap and bounded: at most [`MOST`] clients get an answer at a time, each within
//!   [`WITHIN`]; the others see the end of their connection. A TLS handshake costs more than a
//!   place would: at most [`MOST_ENCRYPTED`] in [`ENCRYPTED_EVERY`] get one.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::linger::linger;
use super::tls::Tls;
use super::{Transport, websocket};
use crate::broker::admission::Refused;
use crate::mqtt::{ConnAck, Packet, Properties, ReasonCode, Version, claimed_version, encode};
use crate::tasks::detach;

/// Clients that get an answer at a time.
const MOST: usize = 64;
const WITHIN: Duration = Duration::from_secs(2);
/// The same with TLS.
const MOST_ENCRYPTED: usize = 2;
/// How long each of them keeps its turn at least.
const ENCRYPTED_EVERY: Duration = Duration::from_millis(500);
/// Bytes of a CONNECT that hold its version.
const BEGINNING: usize = 32;
/// Bytes that are read away.
const DRAINED: usize = 64 << 10;

/// Tells clients why their connections are refused.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    plain: Arc<Semaphore>,
    encrypted: Arc<Semaphore>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            plain: Arc::new(Semaphore::new(MOST)),
            encrypted: Arc::new(Semaphore::new(MOST_ENCRYPTED)),
        }
    }

    /// Tells one client, if that can be done now. An encrypted transport needs `tls`.
    pub(super) fn answer(
        &self,
        stream: TcpStream,
        transport: Transport,
        tls: Option<&Arc<Tls>>,
        refused: Refused,
    ) {
        let (turns, tls) = match (transport.is_encrypted(), tls) {
            (false, _) => (&self.plain, None),
            (true, Some(tls)) => (&self.encrypted, Some(tls.clone())),
            (true, None) => return,
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else {
            return;
        };
        // Whether it listens or not, the connection is over.
        detach(async move {
            let _turn = turn;
            let Some(tls) = tls else {
                let _ = timeout(WITHIN, send_refusal(stream, transport, refused)).await;
                return;
            };
            let told = async {
                let (stream, _) = tls.accept(stream).await?;
                send_refusal(stream, transport, refused).await
            };
            let _ = tokio::join!(timeout(WITHIN, told), sleep(ENCRYPTED_EVERY));
        });
    }
}

fn reason(refused: Refused) -> ReasonCode {
    match refused {
        Refused::Full => ReasonCode::SERVER_BUSY,
        Refused::AddressFull => ReasonCode::QUOTA_EXCEEDED,
        Refused::TooFast => ReasonCode::CONNECTION_RATE_EXCEEDED,
        Refused::ShutOut => ReasonCode::BANNED,
    }
}

async fn send_refusal<S>(
    mut stream: S,
    transport: Transport,
    refused: Refused,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut begun = BytesMut::with_capacity(BEGINNING);
    if matches!(transport, Transport::WebSocket | Transport::SecureWebSocket) {
        stream.read_buf(&mut begun).await?;
        return websocket::refuse(
            &mut stream,
            "503 Service Unavailable",
            "Retry-After: 1\r\n",
            &format!("{}\n", reason(refused).name()),
        )
        .await;
    }
    let Some(version) = version(&mut stream, &mut begun).await? else {
        return Ok(());
    };
    let mut answer = BytesMut::new();
    let connack = ConnAck {
        session_present: false,
        reason: reason(refused),
        properties: Properties::default(),
    };
    encode(&Packet::ConnAck(connack), version, &mut answer);
    stream.write_all(&answer).await?;
    linger(&mut stream, DRAINED).await
}

/// The version that a CONNECT names; `None` if this is none.
async fn version(
    stream: &mut (impl AsyncRead + Unpin),
    begun: &mut BytesMut,
) -> std::io::Result<Option<Version>> {
    loop {
        match claimed_version(begun) {
            Ok(Some(version)) => return Ok(Some(version)),
            Ok(None) if begun.len() < BEGINNING => {}
            _ => return Ok(None),
        }
        if stream.read_buf(begun).await? == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn told(connect: &[u8], refused: Refused) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        Refusals::new().answer(stream, Transport::Tcp, None, refused);
        client.write_all(connect).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_version_is_told_as_it_understands() {
        let newest = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a";
        for (refused, code) in [
            (Refused::TooFast, 0x9F),
            (Refused::AddressFull, 0x97),
            (Refused::Full, 0x89),
            (Refused::ShutOut, 0x8A),
        ] {
            assert_eq!(
                told(newest, refused).await,
                [0x20, 3, 0, code, 0],
                "{refused}"
            );
        }
        assert_eq!(
            told(
                b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
                Refused::TooFast
            )
            .await,
            [0x20, 2, 0, 3]
        );
        assert_eq!(
            told(
                b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a",
                Refused::TooFast
            )
            .await,
            [0x20, 2, 0, 3]
        );
        assert!(told(b"\xc0\x00", Refused::TooFast).await.is_empty());
    }
}
