//! The durable state of a session, as bytes: packet identifiers with their messages, and the
//! messages of the remote that are here. One memory a lane, written in the same commit as what is
//! settled in that lane. Pure.
//!
//! ```text
//! version 2 | the highest number of a message that was taken, LEB128; version 1: none was | base number 8 | runs 2 | runs x (number - base 4, packet identifier 2, length 2; its highest bits: released, lost)
//!           | runs of identifiers of the remote 2 | runs x (first 2, last 2), or 0xFFFF and a bit for each of the 65536
//!           | sessions known 1, x 4 | sessions left behind 1, x 4 | filters 1, x (length 2, text)
//! ```
//! A run is that many messages with consecutive numbers, consecutive identifiers and the same
//! state.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::leb128;
use crate::mqtt::PacketId;

/// Without a number of a message that was taken.
const VERSION: u8 = 1;
/// With one.
const VERSION_WITH_TAKEN: u8 = 2;
const RELEASED: u16 = 0x8000;
const LOST: u16 = 0x4000;
const LENGTH: u16 = 0x3FFF;
/// Remotes that are remembered.
const MAX_REMOTES: usize = 16;
/// Bytes of filters that are remembered.
const MAX_FILTERS: usize = 4096;

/// Most QoS 2 messages in flight, over all lanes: in the worst case each is a run of its own, and
/// they must fit a state of the store.
pub(super) const MAX_EXACT: usize = 1280;
/// More runs of identifiers take more room than a bit for each identifier.
const MAX_RECEIVED_RUNS: usize = 2000;
const AS_BITS: u16 = 0xFFFF;
const BITS_BYTES: usize = 8192;

/// A QoS 2 message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) seq: u64,
    pub(super) packet_id: PacketId,
    pub(super) stage: HeldStage,
}

/// How far a message in flight is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldStage {
    /// It may be at the remote.
    Sent,
    /// The remote has it (PUBREC came); only PUBREL and PUBCOMP are left.
    Released,
    /// It may have been at a remote that has forgotten it.
    Lost,
}

impl HeldStage {
    fn flag(self) -> u16 {
        match self {
            Self::Sent => 0,
            Self::Released => RELEASED,
            Self::Lost => LOST,
        }
    }

    fn of(length: u16) -> Self {
        match (length & RELEASED != 0, length & LOST != 0) {
            (true, _) => Self::Released,
            (false, true) => Self::Lost,
            (false, false) => Self::Sent,
        }
    }
}

/// The memory of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Memory {
    /// In the order in which they were sent.
    pub(super) held: Vec<Held>,
    /// Packet identifiers of messages of the remote that were taken and not released yet.
    pub(super) received: BTreeSet<u16>,
    /// The highest number of a message of the remote that was taken.
    pub(super) taken: u64,
    /// Remotes whose session is this gateway's.
    pub(super) known: BTreeSet<u32>,
    /// Remotes that may still keep a session which was given up for that of another one.
    pub(super) left_behind: BTreeSet<u32>,
    /// Filters that the remote was asked for with SUBSCRIBE.
    pub(super) subscribed: Vec<String>,
}

impl Memory {
    pub(super) fn encode(&self) -> Bytes {
        if *self == Self::default() {
            return Bytes::new();
        }
        let mut out = BytesMut::with_capacity(23 + 8 * self.held.len() + 2 * self.received.len());
        if self.taken == 0 {
            out.put_u8(VERSION);
        } else {
            out.put_u8(VERSION_WITH_TAKEN);
            leb128::put(self.taken, &mut out);
        }
        self.put_held(&mut out);
        put_identifiers(&self.received, &mut out);
        for remotes in [&self.known, &self.left_behind] {
            out.put_u8(u8::try_from(remotes.len().min(MAX_REMOTES)).unwrap_or(0));
            remotes
                .iter()
                .take(MAX_REMOTES)
                .for_each(|remote| out.put_u32(*remote));
        }
        self.put_filters(&mut out);
        out.freeze()
    }

    fn put_held(&self, out: &mut BytesMut) {
        let base = self.held.iter().map(|held| held.seq).min().unwrap_or(0);
        let mut runs: Vec<Run> = Vec::new();
        for held in &self.held {
            let offset = u32::try_from(held.seq - base).unwrap_or(u32::MAX);
            match runs.last_mut() {
                Some(run) if run.is_continued_by(offset, held) => run.length += 1,
                _ => runs.push(Run {
                    offset,
                    id: held.packet_id.get(),
                    length: 1,
                    flag: held.stage.flag(),
                }),
            }
        }
        out.put_u64(base);
        out.put_u16(narrow(runs.len()));
        for run in runs {
            out.put_u32(run.offset);
            out.put_u16(run.id);
            out.put_u16(run.length | run.flag);
        }
    }

    /// As many filters as there is room for.
    fn put_filters(&self, out: &mut BytesMut) {
        let mut room = MAX_FILTERS;
        let fits = |filter: &&String| {
            room = room.saturating_sub(2 + filter.len());
            room > 0
        };
        let filters: Vec<&String> = self
            .subscribed
            .iter()
            .take_while(fits)
            .take(usize::from(u8::MAX))
            .collect();
        out.put_u8(u8::try_from(filters.len()).unwrap_or(u8::MAX));
        for filter in filters {
            out.put_u16(narrow(filter.len()));
            out.put_slice(filter.as_bytes());
        }
    }

    /// The inverse of [`Memory::encode`]; `None` for bytes that are none.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let taken = match bytes.try_get_u8().ok()? {
            VERSION => 0,
            VERSION_WITH_TAKEN => leb128::take(&mut bytes)?,
            _ => return None,
        };
        Some(Self {
            taken,
            held: held(&mut bytes)?,
            received: identifiers(&mut bytes)?,
            known: remotes(&mut bytes)?,
            left_behind: remotes(&mut bytes)?,
            subscribed: filters(&mut bytes)?,
        })
    }
}

/// Messages with consecutive numbers, consecutive identifiers and the same state.
struct Run {
    /// The number of the first one, from the base number on.
    offset: u32,
    id: u16,
    length: u16,
    flag: u16,
}

impl Run {
    fn is_continued_by(&self, offset: u32, held: &Held) -> bool {
        self.flag == held.stage.flag()
            && self.length < LENGTH
            && u64::from(self.offset) + u64::from(self.length) == u64::from(offset)
            && u32::from(self.id) + u32::from(self.length) == u32::from(held.packet_id.get())
    }
}

fn narrow(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

fn held(bytes: &mut Bytes) -> Option<Vec<Held>> {
    let base = bytes.try_get_u64().ok()?;
    let mut found = Vec::new();
    for _ in 0..bytes.try_get_u16().ok()? {
        let offset = bytes.try_get_u32().ok()?;
        let id = bytes.try_get_u16().ok()?;
        let length = bytes.try_get_u16().ok()?;
        for n in 0..length & LENGTH {
            found.push(Held {
                seq: base.checked_add(u64::from(offset) + u64::from(n))?,
                packet_id: PacketId::new(id.checked_add(n)?)?,
                stage: HeldStage::of(length),
            });
        }
    }
    Some(found)
}

fn remotes(bytes: &mut Bytes) -> Option<BTreeSet<u32>> {
    let count = bytes.try_get_u8().ok()?;
    (0..count).map(|_| bytes.try_get_u32().ok()).collect()
}

fn filters(bytes: &mut Bytes) -> Option<Vec<String>> {
    let count = bytes.try_get_u8().ok()?;
    let filter = |_| {
        let length = usize::from(bytes.try_get_u16().ok()?);
        let text = (length <= bytes.len()).then(|| bytes.split_to(length))?;
        String::from_utf8(text.into()).ok()
    };
    (0..count).map(filter).collect()
}

fn put_identifiers(identifiers: &BTreeSet<u16>, out: &mut BytesMut) {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for id in identifiers {
        match runs.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(*id) => *last = *id,
            _ => runs.push((*id, *id)),
        }
    }
    if runs.len() <= MAX_RECEIVED_RUNS {
        out.put_u16(u16::try_from(runs.len()).unwrap_or(0));
        for (first, last) in runs {
            out.put_u16(first);
            out.put_u16(last);
        }
        return;
    }
    out.put_u16(AS_BITS);
    let mut bits = vec![0_u8; BITS_BYTES];
    for id in identifiers {
        if let Some(byte) = bits.get_mut(usize::from(id / 8)) {
            *byte |= 1 << (id % 8);
        }
    }
    out.put_slice(&bits);
}

fn identifiers(bytes: &mut Bytes) -> Option<BTreeSet<u16>> {
    let runs = bytes.try_get_u16().ok()?;
    let mut found = BTreeSet::new();
    if runs == AS_BITS {
        let bits = if bytes.len() < BITS_BYTES {
            return None;
        } else {
            bytes.split_to(BITS_BYTES)
        };
        found.extend((0..=u16::MAX).filter(|id| {
            bits.get(usize::from(id / 8))
                .is_some_and(|byte| byte & 1 << (id % 8) != 0)
        }));
        return Some(found);
    }
    for _ in 0..runs {
        found.extend(bytes.try_get_u16().ok()?..=bytes.try_get_u16().ok()?);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(seq: u64, id: u16, kind: u8) -> Held {
        let stage = [HeldStage::Sent, HeldStage::Released, HeldStage::Lost][usize::from(kind % 3)];
        Held {
            seq,
            packet_id: PacketId::new(id).unwrap(),
            stage,
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn it_comes_back_as_it_was_written(steps in prop::collection::vec((1_u64..3, 1_u16..3, any::<u8>()), 0..300), received in prop::collection::btree_set(any::<u16>(), 0..20), many in any::<bool>()) {
            let (mut seq, mut id) = (1 << 40, 500);
            let held = steps.into_iter().map(|(more, further, kind)| {
                seq += more;
                id += further;
                held(seq, id, kind)
            }).collect();
            let received = if many { received.into_iter().chain((0..60_000).step_by(3)).collect() } else { received };
            let memory = Memory { held, received, taken: if many { 1 << 20 } else { 0 }, known: [7, 9].into(), left_behind: [u32::MAX].into(), subscribed: vec!["cmd/#".to_owned(), String::new()] };
            prop_assert_eq!(Memory::decode(memory.encode()), Some(memory));
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Memory::decode(bytes.into());
        }
    }

    #[test]
    fn the_largest_fits_a_state_of_the_store_and_the_usual_is_tiny() {
        let worst = (0..MAX_EXACT as u64)
            .map(|n| held(1 + 2 * n, u16::try_from(1 + n).unwrap(), n.to_le_bytes()[0]))
            .collect();
        let received = (1..u16::MAX).step_by(2).collect();
        let subscribed = vec!["x".repeat(1000); 10];
        assert!(
            Memory {
                held: worst,
                received,
                subscribed,
                ..Memory::default()
            }
            .encode()
            .len()
                <= crate::store::STATE_BYTES
        );
        let usual = (0..1000)
            .map(|n| held(5000 + n, u16::try_from(100 + n).unwrap(), u8::from(n < 300)))
            .collect();
        assert!(
            Memory {
                held: usual,
                ..Memory::default()
            }
            .encode()
            .len()
                < 40
        );
    }
}
