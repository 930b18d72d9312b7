//! Entries of messages that a sender hands over and repeats until it is answered. The hand-over
//! begins the entry, so that it is also found if a crash interrupts the commit. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::store::Handover;

/// The version and the kind with which such an entry begins.
const HANDED: [u8; 2] = [5, 3];

/// Puts the hand-over before the entry of its message.
pub(super) fn put_before(entry: &[u8], handover: Handover) -> Bytes {
    let mut out = BytesMut::with_capacity(24 + entry.len());
    out.put_slice(&HANDED);
    handover.put(&mut out);
    out.put_slice(entry);
    out.freeze()
}

/// The hand-over of an entry, if it has one.
pub fn handover(entry: &Bytes) -> Option<Handover> {
    strip(&mut entry.clone()).ok()?
}

/// Takes the hand-over off an entry, if it has one.
pub(super) fn strip(entry: &mut Bytes) -> Result<Option<Handover>, &'static str> {
    if !entry.starts_with(&HANDED) {
        return Ok(None);
    }
    entry.advance(HANDED.len());
    Handover::take(entry).map(Some).ok_or("a damaged hand-over")
}
