//! One connection: reads packets for the engine, writes what the engine has for it. The same for every transport.
//!
//! Invariants:
//! * While it writes it does not read: a client that does not take its answers is not asked for more.
//! * A batch of packets is one write.
//! * After the last packet the write side is shut down and what still comes in is read away for a moment, so that the peer can
//!   read the reason before its own data meets a reset.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::broker::engine::{ConnectionId, Input};
use crate::broker::{Broker, ToConnection};
use crate::mqtt::{Decoder, Packet, Progress, Version, encode};

const WRITE_BATCH: usize = 256;
/// A write that makes no progress for this long ends the connection.
const WRITE_STALL: Duration = Duration::from_secs(30);
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

struct Connection<'a, S> {
    id: ConnectionId,
    stream: S,
    broker: &'a Broker,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    /// False after bytes that are no packet.
    readable: bool,
}

/// Serves one client until either side is done.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, broker: &Broker, max_packet: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some((id, mut orders)) = broker.opened().await else { return };
    tracing::debug!(connection = id, %peer, "connection opened");
    let decoder = Decoder::server(max_packet);
    let mut connection = Connection { id, stream, broker, decoder, input: BytesMut::new(), output: BytesMut::new(), readable: true };
    if connection.run(&mut orders).await.is_some() {
        connection.linger().await;
    }
    broker.input(Input::Closed(id)).await;
    tracing::debug!(connection = id, %peer, "connection closed");
}

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// `Some` if the engine ended it, `None` if the peer or the network did.
    async fn run(&mut self, orders: &mut mpsc::Receiver<ToConnection>) -> Option<()> {
        let mut batch = Vec::with_capacity(8);
        loop {
            tokio::select! {
                biased;
                count = orders.recv_many(&mut batch, WRITE_BATCH) => {
                    let closing = self.write(&mut batch).await?;
                    if closing || count == 0 {
                        return Some(());
                    }
                }
                read = self.stream.read_buf(&mut self.input), if self.readable => {
                    if read.ok()? == 0 {
                        return None;
                    }
                    self.decode().await?;
                }
            }
        }
    }

    /// Writes a batch; true if it ends with the order to close.
    async fn write(&mut self, batch: &mut Vec<ToConnection>) -> Option<bool> {
        let mut closing = false;
        let mut publishes = 0;
        let version = self.decoder.version().unwrap_or(Version::V311);
        for order in batch.drain(..) {
            match order {
                ToConnection::Packet(packet) => {
                    publishes += u32::from(matches!(packet, Packet::Publish(_)));
                    encode(&packet, version, &mut self.output);
                }
                ToConnection::Close => closing = true,
            }
        }
        while self.output.has_remaining() {
            timeout(WRITE_STALL, self.stream.write_buf(&mut self.output)).await.ok()?.ok()?;
        }
        if publishes > 0 && !closing {
            self.broker.input(Input::Written(self.id, publishes)).await.then_some(())?;
        }
        Some(closing)
    }

    async fn decode(&mut self) -> Option<()> {
        loop {
            let input = match self.decoder.decode(&mut self.input) {
                Ok(Progress::NeedMore) => return Some(()),
                Ok(Progress::Packet(packet)) => Input::Packet(self.id, packet),
                Err(error) => {
                    tracing::debug!(connection = self.id, %error, "not MQTT");
                    self.readable = false;
                    Input::Invalid(self.id, error)
                }
            };
            self.broker.input(input).await.then_some(())?;
            if !self.readable {
                return Some(());
            }
        }
    }

    async fn linger(&mut self) {
        let drain = async {
            self.stream.shutdown().await?;
            let mut drained = 0;
            while drained < LINGER_BYTES {
                self.input.clear();
                match self.stream.read_buf(&mut self.input).await? {
                    0 => break,
                    count => drained += count,
                }
            }
            Ok::<_, std::io::Error>(())
        };
        // Whatever goes wrong now, the connection is over.
        let _ = timeout(LINGER, drain).await;
    }
}
