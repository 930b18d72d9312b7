//! The records of QoS 2 messages on their way in, as bytes: of clients and of remotes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::read_record::{identifier, number};
use super::record::put_number;
use crate::mqtt::PacketId;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// A destination may not have it.
    pub(super) is_held: bool,
    /// 0 if it has none.
    pub(super) receipt: u64,
}

/// A message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceivedRecord {
    pub(super) session: u64,
    pub(super) packet_id: PacketId,
    pub(super) progress: Progress,
}

/// A message of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InboundRecord {
    /// Names its uplink.
    pub(super) source: u64,
    pub(super) packet_id: PacketId,
    pub(super) number: u64,
    /// Of the content; 0 if it is not known.
    pub(super) digest: u32,
    pub(super) progress: Progress,
}

impl Progress {
    /// Bit 0: it is held. Bit 1: its receipt follows.
    fn put(self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.is_held) | u8::from(self.receipt != 0) << 1);
        if self.receipt != 0 {
            put_number(out, self.receipt);
        }
    }

    fn take(bytes: &mut Bytes) -> Option<Self> {
        let flags = bytes.try_get_u8().ok()?;
        Some(Self {
            is_held: flags & 1 != 0,
            receipt: if flags & 2 != 0 { number(bytes)? } else { 0 },
        })
    }
}

impl ReceivedRecord {
    /// What follows the kind and the session.
    pub(super) fn put(self, out: &mut BytesMut) {
        put_number(out, u64::from(self.packet_id.get()));
        self.progress.put(out);
    }

    /// The inverse of [`ReceivedRecord::put`].
    pub(super) fn take(session: u64, bytes: &mut Bytes) -> Option<Self> {
        Some(Self {
            session,
            packet_id: identifier(bytes)?,
            progress: Progress::take(bytes)?,
        })
    }
}

impl InboundRecord {
    /// What follows the kind and the source.
    pub(super) fn put(self, out: &mut BytesMut) {
        put_number(out, u64::from(self.packet_id.get()));
        put_number(out, self.number);
        out.put_u32(self.digest);
        self.progress.put(out);
    }

    /// The inverse of [`InboundRecord::put`].
    pub(super) fn take(source: u64, bytes: &mut Bytes) -> Option<Self> {
        Some(Self {
            source,
            packet_id: identifier(bytes)?,
            number: number(bytes)?,
            digest: bytes.try_get_u32().ok()?,
            progress: Progress::take(bytes)?,
        })
    }
}
