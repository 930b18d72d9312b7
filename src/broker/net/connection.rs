//! One connection: reads packets for the engine, writes what the engine has for it. The same for every transport.
//!
//! Invariants:
//! * Reading goes on while writing is slow, so that a client with much to receive is not taken for dead; what is taken from the
//!   engine ahead of the socket is bounded by [`WRITE_AHEAD`].
//! * Packets that wait together leave in one write.
//! * A socket that takes nothing for [`WRITE_STALL`] ends the connection; an ordered end takes at most [`CLOSE_WITHIN`].
//! * After the last packet the write side is shut down and what still comes in is read away for a moment, so that the peer can
//!   read the reason before its own data meets a reset.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::broker::engine::{ConnectionId, Input};
use crate::broker::{Broker, ToConnection};
use crate::mqtt::{Decoder, Packet, Progress, Version, encode};
use crate::time::now;

/// Bytes encoded before the socket has taken them; one packet may exceed it.
const WRITE_AHEAD: usize = 64 * 1024;
/// Bytes read at a time.
const READ_CHUNK: usize = 16 * 1024;
/// Packets handed to the engine before its answers are looked at.
const DECODE_BATCH: usize = 128;
const WRITE_STALL: Duration = Duration::from_secs(30);
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

struct Connection<'a, S> {
    id: ConnectionId,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    broker: &'a Broker,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    /// PUBLISH packets in `output`.
    publishes: u32,
    /// False after bytes that are no packet, and while the engine asks for a pause.
    readable: bool,
    is_over: bool,
    /// Whole packets may stand in `input` although nothing new was read.
    undecoded: bool,
    closing: bool,
    /// When a socket that takes nothing is given up.
    give_up: Instant,
}

/// Serves one client until either side is done.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, broker: &Broker, max_packet: usize)
where
    S: AsyncRead + AsyncWrite,
{
    let Some((id, mut orders)) = broker.opened().await else { return };
    tracing::debug!(connection = id, %peer, "connection opened");
    let (reader, writer) = tokio::io::split(stream);
    let mut connection = Connection {
        id,
        reader,
        writer,
        broker,
        decoder: Decoder::server(max_packet),
        input: BytesMut::new(),
        output: BytesMut::new(),
        publishes: 0,
        readable: true,
        is_over: false,
        undecoded: false,
        closing: false,
        give_up: now() + WRITE_STALL,
    };
    if connection.run(&mut orders).await.is_some() {
        connection.linger().await;
    }
    broker.input(Input::Closed(id)).await;
    tracing::debug!(connection = id, %peer, "connection closed");
}

/// Reads a bounded piece; safe to drop.
async fn read_some(reader: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> std::io::Result<usize> {
    reader.read_buf(&mut input.limit(READ_CHUNK)).await
}

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite,
{
    /// `Some` if the engine ended it, `None` if the peer or the network did.
    async fn run(&mut self, orders: &mut mpsc::Receiver<ToConnection>) -> Option<()> {
        loop {
            if self.closing && self.output.is_empty() {
                return Some(());
            }
            let reads = self.readable && !self.is_over && !self.closing;
            tokio::select! {
                order = orders.recv(), if !self.closing && self.output.len() < WRITE_AHEAD => self.obey(order, orders),
                written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => self.written(written.ok()?).await?,
                () = std::future::ready(()), if reads && self.undecoded => self.decode().await?,
                read = read_some(&mut self.reader, &mut self.input), if reads => {
                    if read.ok()? == 0 {
                        return None;
                    }
                    self.decode().await?;
                }
                () = sleep_until(self.give_up.into()), if !self.output.is_empty() => return None,
            }
        }
    }

    /// Encodes what the engine has, as far as it goes.
    fn obey(&mut self, order: Option<ToConnection>, orders: &mut mpsc::Receiver<ToConnection>) {
        if self.output.is_empty() {
            self.give_up = now() + WRITE_STALL;
        }
        let version = self.decoder.version().unwrap_or(Version::V311);
        let mut next = Some(order.unwrap_or(ToConnection::Close));
        while let Some(order) = next {
            match order {
                ToConnection::Packet(packet) => {
                    self.publishes += u32::from(matches!(packet, Packet::Publish(_)));
                    encode(&packet, version, &mut self.output);
                }
                ToConnection::Pause => self.readable = false,
                ToConnection::Resume => self.readable = true,
                ToConnection::Close => {
                    self.closing = true;
                    self.give_up = now() + CLOSE_WITHIN;
                    return;
                }
            }
            next = if self.output.len() < WRITE_AHEAD { orders.try_recv().ok() } else { None };
        }
    }

    async fn written(&mut self, count: usize) -> Option<()> {
        if count == 0 {
            return None;
        }
        if !self.closing {
            self.give_up = now() + WRITE_STALL;
        }
        if self.output.is_empty() {
            self.writer.flush().await.ok()?;
            if self.output.capacity() > WRITE_AHEAD {
                self.output = BytesMut::new();
            }
            let publishes = std::mem::take(&mut self.publishes);
            if publishes > 0 && !self.closing {
                self.broker.input(Input::Written(self.id, publishes)).await.then_some(())?;
            }
        }
        Some(())
    }

    async fn decode(&mut self) -> Option<()> {
        self.undecoded = true;
        for _ in 0..DECODE_BATCH {
            let input = match self.decoder.decode(&mut self.input) {
                Ok(Progress::NeedMore) => {
                    self.undecoded = false;
                    if self.input.is_empty() && self.input.capacity() > WRITE_AHEAD {
                        self.input = BytesMut::new();
                    }
                    return Some(());
                }
                Ok(Progress::Packet(packet)) => Input::Packet(self.id, packet),
                Err(error) => {
                    tracing::debug!(connection = self.id, %error, "not MQTT");
                    self.is_over = true;
                    Input::Invalid(self.id, error)
                }
            };
            self.broker.input(input).await.then_some(())?;
            if self.is_over {
                return Some(());
            }
        }
        Some(())
    }

    async fn linger(&mut self) {
        let drain = async {
            self.writer.shutdown().await?;
            let mut drained = 0;
            while drained < LINGER_BYTES {
                self.input.clear();
                match read_some(&mut self.reader, &mut self.input).await? {
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
