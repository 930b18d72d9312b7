//! One connection: packets to the engine, and its output to the socket. The same for every
//! transport.
//!
//! Invariants:
//! * Packets are read while writing is slow, so that a client with much to receive is not taken for
//!   dead.
//! * What waits together leaves in one write; a read brings many packets, and they reach the engine
//!   together.
//! * A socket that takes nothing for [`WRITE_STALL`] ends the connection; an ordered end takes at
//!   most [`CLOSE_WITHIN`].
//! * After the last packet the write side is shut down and what still comes in is read away for a
//!   moment, so that the peer can read the reason before its own data meets a reset.
//! * Of a burst of messages with an acknowledgement, the engine gets as many as it allows in
//!   flight, and then its turn, before it gets more: a client is read more slowly before it is too
//!   much.
//! * An idle connection holds no buffers.

use std::future::Future;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::linger::linger;
use crate::broker::admission::ConnectionPlace;
use crate::broker::engine::{OutputBuffer, Peer};
use crate::broker::inbox::{ConnectionHandle, Inbox, InboxEvent};
use crate::mqtt::{DecodeError, Decoder, Packet, Progress, ReasonCode};

/// Bytes read at a time.
const READ_CHUNK: usize = 16 * 1024;
/// Reads in one go, before others have their turn.
const READS: usize = 4;
/// Bytes of all packets that are larger than a read and not complete.
const MOST_PARTIAL: usize = 32 << 20;
/// Pieces written at a time.
const PIECES: usize = 16;
const WRITE_STALL: Duration = Duration::from_secs(30);
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// The side that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndedBy {
    /// The engine; everything is written.
    Engine,
    /// The peer or the network.
    Peer,
}

/// Bytes on their way from a client and to it.
#[derive(Debug, Default)]
struct Buffers {
    input: BytesMut,
    output: OutputBuffer,
}

pub(super) struct ConnectionTask<S> {
    stream: S,
    inbox: Arc<Inbox>,
    wire: Arc<ConnectionHandle>,
    decoder: Decoder,
    /// There while something is in them.
    buffers: Option<Box<Buffers>>,
    /// Bytes of the input that count among the large packets that are not complete.
    held: usize,
    burst: u16,
    /// PUBLISH packets of QoS 1 and 2 handed to the engine since `turn`, the last of its turns that
    /// is known here.
    ahead: u16,
    turn: u64,
    /// Bytes that are no packet came: nothing more is read.
    is_over: bool,
    /// The transport may hold bytes back.
    needs_flush: bool,
    closes: bool,
    /// Runs while the socket takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    _place: ConnectionPlace,
}

/// The parts that a connection gets from its listener.
pub(super) struct ConnectionContext {
    pub(super) inbox: Arc<Inbox>,
    pub(super) place: ConnectionPlace,
    /// Largest packet and largest CONNECT, in bytes.
    pub(super) sizes: (usize, usize),
    /// PUBLISH packets of QoS 1 and 2 that the engine is given before it says whether to read on.
    pub(super) burst: u16,
}

/// Serves one client until either side ends the connection. The future is all the memory that an
/// idle connection takes.
pub(super) fn serve<S>(stream: S, peer: Peer, context: ConnectionContext) -> ServedClient<S> {
    let ConnectionContext {
        inbox,
        place,
        sizes: (max_packet, max_connect),
        burst,
    } = context;
    let connection = inbox.open(peer).map(|wire| ConnectionTask {
        stream,
        inbox,
        wire,
        decoder: Decoder::server(max_packet).with_first(max_connect),
        buffers: None,
        held: 0,
        burst: burst.max(1),
        ahead: 0,
        turn: 0,
        is_over: false,
        needs_flush: false,
        closes: false,
        stall: None,
        _place: place,
    });
    connection.map_or(ServedClient::Over, ServedClient::Talks)
}

/// One client being served. Written by hand: the compiler would make it larger.
pub(super) enum ServedClient<S> {
    Talks(ConnectionTask<S>),
    /// Everything is written, and the peer may read it.
    Lingers(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl<S> Future for ServedClient<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let service = self.get_mut();
        if let Self::Talks(connection) = service {
            let ended = ready!(connection.poll(cx));
            let Self::Talks(connection) = std::mem::replace(service, Self::Over) else {
                return Poll::Ready(());
            };
            if ended == EndedBy::Engine {
                *service = Self::Lingers(Box::pin(connection.linger()));
            }
        }
        match service {
            Self::Lingers(rest) => rest.as_mut().poll(cx),
            _ => Poll::Ready(()),
        }
    }
}

impl<S> Drop for ConnectionTask<S> {
    /// However a connection ends, the engine learns of it.
    fn drop(&mut self) {
        self.inbox
            .partial_bytes
            .fetch_sub(self.held, Ordering::Relaxed);
        self.inbox.push(InboxEvent::Closed(self.wire.id));
    }
}

impl<S> ConnectionTask<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// The connection is over, whether this works or not.
    async fn linger(mut self) {
        let _ = timeout(LINGER, linger(&mut self.stream, LINGER_BYTES)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndedBy> {
        let mut buffers = self.buffers.take().unwrap_or_default();
        let ended = self.poll_both(&mut buffers, cx);
        let is_empty = buffers.input.is_empty() && buffers.output.is_empty();
        self.buffers = Some(buffers).filter(|_| !is_empty);
        ended
    }

    /// Ready only when the connection is over.
    fn poll_both(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<EndedBy> {
        let Buffers { input, output } = buffers;
        self.wire.register(cx);
        let (is_paused, closes) = self.wire.collect(output);
        if closes && !self.closes {
            self.closes = true;
            self.stall = Some(Box::pin(sleep(CLOSE_WITHIN)));
        }
        if let Poll::Ready(ended) = self.poll_write(output, cx) {
            return Poll::Ready(ended);
        }
        if self.closes || is_paused || self.is_over {
            return Poll::Pending;
        }
        self.poll_read(input, cx)
    }

    /// Ready only when the connection is over.
    fn poll_write(&mut self, output: &mut OutputBuffer, cx: &mut Context<'_>) -> Poll<EndedBy> {
        let mut written = 0;
        let is_done = loop {
            if output.is_empty() {
                break true;
            }
            match self.poll_write_some(output, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(EndedBy::Peer),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Pending => break false,
            }
        };
        if written > 0 {
            self.needs_flush = true;
            self.inbox.push(InboxEvent::Written(self.wire.id, written));
            if !self.closes {
                self.stall = None;
            }
        }
        let is_flushed = is_done && self.poll_flush(cx).is_ready();
        if is_done && is_flushed {
            if self.closes {
                return Poll::Ready(EndedBy::Engine);
            }
            self.stall = None;
            return Poll::Pending;
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(sleep(WRITE_STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(EndedBy::Peer)
    }

    fn poll_write_some(
        &mut self,
        output: &mut OutputBuffer,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let mut space = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slot, piece) in space.iter_mut().zip(output.pieces()) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        let pieces = space.get(..count).unwrap_or_default();
        let stream = Pin::new(&mut self.stream);
        let written = match pieces {
            [one] => ready!(stream.poll_write(cx, one))?,
            many if stream.is_write_vectored() => ready!(stream.poll_write_vectored(cx, many))?,
            many => ready!(stream.poll_write(cx, many.first().map_or(&[], |piece| piece)))?,
        };
        output.advance(written);
        if output.is_empty() {
            output.release();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.needs_flush {
            // An error is met again by the next read.
            let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
            self.needs_flush = false;
        }
        Poll::Ready(())
    }

    /// Ready only when the connection is over.
    fn poll_read(&mut self, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<EndedBy> {
        for _ in 0..READS {
            if self.ahead >= self.burst {
                // A burst: the engine sees it first, and may say that this client must wait. What
                // is left of it comes before new bytes.
                self.turn = ready!(self.inbox.poll_turn(cx, self.turn));
                self.ahead = 0;
                self.decode(input);
                if self.is_over {
                    return Poll::Pending;
                }
                continue;
            }
            ready!(self.inbox.poll_room(cx));
            match ready!(self.poll_read_some(input, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(EndedBy::Peer),
                Ok(count) => self.inbox.bytes_received.add(count as u64),
            }
            self.decode(input);
            if self.is_over {
                return Poll::Pending;
            }
        }
        // Others have their turn before the next read.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads to the stack: what is kept takes as much memory as has come, and a connection without
    /// a part of a packet keeps nothing.
    fn poll_read_some(
        &mut self,
        input: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_CHUNK];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Large packets that are not complete take memory that all connections share; the last one
    /// finds none.
    fn account(&mut self, input: &BytesMut) -> Result<(), DecodeError> {
        let held = if input.len() > READ_CHUNK {
            input.capacity()
        } else {
            0
        };
        let before = self.inbox.partial_bytes.fetch_add(held, Ordering::Relaxed);
        self.inbox
            .partial_bytes
            .fetch_sub(self.held, Ordering::Relaxed);
        let grows = held > self.held;
        self.held = held;
        if grows && before > MOST_PARTIAL {
            let what = "too many large packets at a time";
            return Err(DecodeError {
                reason: ReasonCode::QUOTA_EXCEEDED,
                what,
                version: None,
            });
        }
        Ok(())
    }

    /// Hands every whole packet to the engine. What is more than a read brings is decoded before
    /// anybody has to wait for it.
    fn decode(&mut self, input: &mut BytesMut) {
        let is_large = input.len() > READ_CHUNK;
        let id = self.wire.id;
        // Packets that the engine has taken are no burst any more.
        if self.ahead > 0
            && let Some(turn) = self.inbox.turn_after(self.turn)
        {
            (self.turn, self.ahead) = (turn, 0);
        }
        let inbox = Arc::clone(&self.inbox);
        let mut decode = |events: &mut Vec<InboxEvent>| {
            if let Err(error) = self.take_packets(input, events) {
                self.is_over = true;
                events.push(InboxEvent::Invalid(id, error));
            }
        };
        let turn = if is_large {
            let mut decoded = Vec::new();
            decode(&mut decoded);
            inbox.push_all(|events| events.append(&mut decoded))
        } else {
            inbox.push_all(decode)
        };
        if let Some(turn) = turn {
            self.turn = turn;
        }
        if input.is_empty() {
            *input = BytesMut::new();
        }
    }

    fn take_packets(
        &mut self,
        input: &mut BytesMut,
        events: &mut Vec<InboxEvent>,
    ) -> Result<(), DecodeError> {
        while self.ahead < self.burst
            && let Progress::Packet(packet) = self.decoder.decode(input)?
        {
            self.ahead += u16::from(
                matches!(&packet, Packet::Publish(publish) if publish.packet_id.is_some()),
            );
            events.push(InboxEvent::Packet(self.wire.id, packet));
        }
        self.account(input)
    }
}
