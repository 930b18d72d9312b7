//! How a session resumes: after a restart, at another remote, and when the remote has forgotten it.
//! Pure.

use super::packet_ids::LAST_PACKET_ID;
use super::{Forgotten, InFlight, RECEIVED_IN, SendStage, Session};
use crate::message::SessionLost;
use crate::mqtt::QoS;
use crate::outbox::EntryId;
use crate::uplink::Receive;
use crate::uplink::memory::{Held, HeldStage};

impl Session {
    pub(super) fn recover(&mut self, place: EntryId, held: Held) {
        self.used_ids.insert(held.packet_id);
        self.last_packet_id = held.packet_id.get();
        if held.stage == HeldStage::Released {
            self.in_flight.push(InFlight::known(
                place,
                None,
                held.packet_id,
                SendStage::Released,
            ));
        } else {
            self.recovered.insert(place, (held.packet_id, held.stage));
        }
    }

    /// True if a session that the remote may keep under this name is not this one: from before the
    /// folder of the outbox was new, or from before another remote was used. Its identifiers would
    /// swallow messages [MQTT-3.2.2-4].
    pub(in crate::uplink) fn is_strange_to(&self, remote: u32) -> bool {
        self.known.is_empty() || self.left_behind.contains(&remote)
    }

    /// The remote keeps no session under this name any more: from here on one that it has is this
    /// one.
    pub(in crate::uplink) fn cleaned(&mut self, remote: u32) {
        self.left_behind.remove(&remote);
        self.known.insert(remote);
        self.change(RECEIVED_IN);
    }

    /// The remote has accepted; `is_known` if it resumes a session. To be called before
    /// [`Session::connected`].
    pub(in crate::uplink) fn reached(&mut self, remote: u32, is_known: bool) {
        let before = (self.known.clone(), self.left_behind.clone());
        if !is_known {
            self.left_behind.append(&mut self.known);
        }
        self.left_behind.remove(&remote);
        self.known.insert(remote);
        if before != (self.known.clone(), self.left_behind.clone()) {
            self.change(RECEIVED_IN);
        }
    }

    /// The remote is asked for this filter.
    pub(in crate::uplink) fn subscribe(&mut self, filter: &str) {
        if !self.subscribed.iter().any(|known| name_of(known) == filter) {
            self.subscribed.push(filter.to_owned());
            self.change(RECEIVED_IN);
        }
    }

    /// Forgets filters. Returns those of them that the remote was asked for.
    pub(in crate::uplink) fn unsubscribe(
        &mut self,
        is_unwanted: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let (unwanted, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.subscribed)
            .into_iter()
            .partition(|known| is_unwanted(name_of(known)));
        self.subscribed = kept;
        if !unwanted.is_empty() {
            self.change(RECEIVED_IN);
        }
        unwanted
            .iter()
            .map(|known| name_of(known).to_owned())
            .collect()
    }

    /// The remote may have begun a new session without this gateway hearing of it: what was granted
    /// may be gone. True if anything was.
    pub(in crate::uplink) fn doubt_subscriptions(&mut self) -> bool {
        let mut was_granted = false;
        for known in &mut self.subscribed {
            let name = name_of(known).to_owned();
            was_granted |= name != *known;
            *known = name;
        }
        if was_granted {
            self.change(RECEIVED_IN);
        }
        was_granted
    }

    /// The remote has granted a subscription.
    pub(in crate::uplink) fn granted(&mut self, receive: &Receive) {
        let Some(known) = self
            .subscribed
            .iter_mut()
            .find(|known| name_of(known) == receive.filter.as_str())
        else {
            return;
        };
        let mark = granted_mark(receive);
        if *known != mark {
            *known = mark;
            self.change(RECEIVED_IN);
        }
    }

    /// True if the session of the remote has this subscription.
    pub(in crate::uplink) fn is_granted(&self, receive: &Receive) -> bool {
        self.subscribed.contains(&granted_mark(receive))
    }

    /// Identifiers are given out from the one behind this on, if none was yet: gateways that share
    /// a session by mistake then hardly ever use the same ones, and the remote does not take a
    /// message of one for that of the other.
    pub(in crate::uplink) fn number_from(&mut self, seed: u32) {
        if self.last_packet_id == 0 {
            self.last_packet_id = u16::try_from(seed % u32::from(LAST_PACKET_ID)).unwrap_or(0);
        }
    }

    /// Another client may have ended or changed the session since: what the remote had, and has not
    /// confirmed to be done with, is sent once more under its identifier. A remote that still has
    /// it takes it for the repetition that it is. To be called before [`Session::connected`].
    ///
    /// ![MQTT-4.3.3-6] because the alternative is a message that both sides take for delivered, and
    /// that nobody gets.
    pub(in crate::uplink) fn distrust(&mut self) {
        for index in 0..self.in_flight.len() {
            let Some(entry) = self.in_flight.get(index) else {
                continue;
            };
            let queue = entry.place().queue;
            let never_twice = entry
                .message()
                .is_some_and(|message| message.if_session_lost == SessionLost::Drop);
            if !never_twice && self.in_flight.send_again(index) {
                self.change(queue);
            }
        }
    }

    /// The remote has no memory of this gateway.
    pub(super) fn forgotten(&mut self) -> Forgotten {
        let mut told = Forgotten::default();
        self.forget_inbound();
        self.subscribed.clear();
        let places: Vec<EntryId> = self.recovered.keys().copied().collect();
        for (_, stage) in self.recovered.values_mut() {
            *stage = HeldStage::Lost;
        }
        // Those that their class forbids to repeat are given up when the outbox brings them.
        told.resent += places.len();
        places
            .into_iter()
            .for_each(|place| self.change(place.queue));
        let mut index = 0;
        while let Some(entry) = self.in_flight.get_mut(index) {
            let never_twice = entry
                .message()
                .is_some_and(|message| message.if_session_lost == SessionLost::Drop);
            match entry.stage {
                SendStage::Released => told
                    .presumed
                    .extend(self.remove(index).map(|entry| entry.place())),
                SendStage::Sent if never_twice => told.dropped.extend(
                    self.remove(index)
                        .map(|entry| (entry.place(), entry.into_message())),
                ),
                SendStage::Sent => {
                    // To this session it is a new message.
                    entry.stage = SendStage::Unsent;
                    entry.is_resent = true;
                    told.resent += 1;
                    index += 1;
                }
                SendStage::Unsent => index += 1,
            }
        }
        told
    }

    /// Messages that were not sent on this session go with the QoS that the remote takes.
    pub(super) fn lower_qos(&mut self) {
        let max_qos = self.max_qos;
        if max_qos == QoS::ExactlyOnce {
            return;
        }
        for index in 0..self.in_flight.len() {
            let Some(entry) = self
                .in_flight
                .get(index)
                .filter(|entry| entry.stage == SendStage::Unsent)
            else {
                continue;
            };
            let (queue, is_noted) = (entry.place().queue, entry.is_noted());
            if !self.in_flight.lower_qos(index, max_qos) {
                continue;
            }
            if max_qos == QoS::AtMostOnce
                && let Some(id) = self.in_flight.set_packet_id(index, None)
            {
                self.free(id, is_noted);
            }
            if is_noted {
                self.change(queue);
            }
        }
    }
}

/// How a filter is noted that was granted: no filter holds a zero.
fn granted_mark(receive: &Receive) -> String {
    format!("\0{}{}", receive.qos as u8, receive.filter)
}

/// The filter of a note.
fn name_of(known: &str) -> &str {
    known
        .strip_prefix('\0')
        .and_then(|marked| marked.get(1..))
        .unwrap_or(known)
}
