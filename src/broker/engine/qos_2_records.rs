//! The records of QoS 2 messages on their way in, as bytes: of clients and of remotes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::leb128;
use crate::mqtt::PacketId;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceivedProgress {
    /// A destination may not have it.
    pub(super) is_held: bool,
    /// Subscribers have it.
    pub(super) is_delivered: bool,
    /// 0 if it has none.
    pub(super) receipt: u64,
}

/// A message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceivedRecord {
    pub(super) session: u64,
    pub(super) packet_id: PacketId,
    pub(super) progress: ReceivedProgress,
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
    pub(super) progress: ReceivedProgress,
}

impl ReceivedProgress {
    /// Bit 0: it is held. Bit 1: its receipt follows. Bit 2: it is not delivered.
    fn put(self, out: &mut BytesMut) {
        let flags = u8::from(self.is_held)
            | u8::from(self.receipt != 0) << 1
            | u8::from(!self.is_delivered) << 2;
        out.put_u8(flags);
        if self.receipt != 0 {
            leb128::put(self.receipt, out);
        }
    }

    fn take(bytes: &mut Bytes) -> Option<Self> {
        let flags = bytes.try_get_u8().ok()?;
        Some(Self {
            is_held: flags & 1 != 0,
            is_delivered: flags & 4 == 0,
            receipt: if flags & 2 != 0 {
                leb128::take(bytes)?
            } else {
                0
            },
        })
    }
}

impl ReceivedRecord {
    /// What follows the kind and the session.
    pub(super) fn put(self, out: &mut BytesMut) {
        leb128::put(u64::from(self.packet_id.get()), out);
        self.progress.put(out);
    }

    /// The inverse of [`ReceivedRecord::put`].
    pub(super) fn take(session: u64, bytes: &mut Bytes) -> Option<Self> {
        Some(Self {
            session,
            packet_id: identifier(bytes)?,
            progress: ReceivedProgress::take(bytes)?,
        })
    }
}

impl InboundRecord {
    /// What follows the kind and the source.
    pub(super) fn put(self, out: &mut BytesMut) {
        leb128::put(u64::from(self.packet_id.get()), out);
        leb128::put(self.number, out);
        out.put_u32(self.digest);
        self.progress.put(out);
    }

    /// The inverse of [`InboundRecord::put`].
    pub(super) fn take(source: u64, bytes: &mut Bytes) -> Option<Self> {
        Some(Self {
            source,
            packet_id: identifier(bytes)?,
            number: leb128::take(bytes)?,
            digest: bytes.try_get_u32().ok()?,
            progress: ReceivedProgress::take(bytes)?,
        })
    }
}

fn identifier(bytes: &mut Bytes) -> Option<PacketId> {
    u16::try_from(leb128::take(bytes)?)
        .ok()
        .and_then(PacketId::new)
}
