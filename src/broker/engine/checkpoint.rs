//! The whole state as records, a bounded piece a turn, so that everything older can be forgotten.
//!
//! Invariants: a session is in one batch with everything it has, and so does a retained message;
//! what changes meanwhile is recorded as always. Reading from the first batch of a checkpoint on
//! gives the state, whatever came before.

use std::collections::HashSet;

use super::delivery::SharedMessage;
use super::qos_2_records::ReceivedRecord;
use super::record::{Deadline, Record, Records, TargetRecord};
use super::session::Session;
use super::{Engine, SessionKey};
use crate::message::Origin;
use crate::mqtt::TopicName;

/// A checkpoint under way.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    /// Sessions that are not written yet.
    sessions: Vec<SessionKey>,
    /// Wills that are not, by their numbers.
    late_wills: Vec<u64>,
    /// The last retained message that is.
    last_topic: Option<TopicName>,
    /// Messages whose content is.
    messages: HashSet<u64>,
}

impl Checkpoint {
    /// The next delivery of this message brings its content along.
    pub(super) fn forget(&mut self, id: u64) {
        self.messages.remove(&id);
    }
}

impl Engine {
    /// Begins a checkpoint: the batches from the next one on are enough, once it is done.
    pub fn begin_checkpoint(&mut self) {
        let sessions = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_recorded)
            .map(|(key, _)| key)
            .collect();
        self.remotes.record(|record| {
            self.records.put(record);
        });
        self.checkpoint = Some(Checkpoint {
            sessions,
            late_wills: self.late_wills.numbers().collect(),
            ..Checkpoint::default()
        });
    }

    /// Continues the checkpoint until about `bytes` are in the batch of this turn; true when it is
    /// done.
    pub fn continue_checkpoint(&mut self, bytes: usize) -> bool {
        let Some(mut checkpoint) = self.checkpoint.take() else {
            return true;
        };
        while self.records.len() < bytes {
            if let Some(key) = checkpoint.sessions.pop() {
                self.write_session(key, &mut checkpoint);
                continue;
            }
            if let Some(number) = checkpoint.late_wills.pop() {
                if let Some(message) = self.late_wills.get(number) {
                    self.records.put(Record::LateWill { number, message });
                }
                continue;
            }
            let Some(kept) = self.retained.after(checkpoint.last_topic.as_ref()) else {
                // After the sessions: a receipt that counts as known has its message in them.
                let last = self.receipts.last();
                self.records.put(Record::Receipts { last });
                return true;
            };
            checkpoint.last_topic = Some(kept.topic.clone());
            if matches!(kept.origin, Origin::Client | Origin::Uplink(_)) {
                self.records.put(Record::Retained(kept));
            }
        }
        self.checkpoint = Some(checkpoint);
        false
    }

    /// Writes a session with everything it has: its record begins with one that removes what
    /// earlier batches say.
    fn write_session(&mut self, key: SessionKey, checkpoint: &mut Checkpoint) {
        let clock = self.records.clock();
        let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded) else {
            return;
        };
        let records = &mut self.records;
        records.put(Record::Gone {
            session: session.number,
        });
        let ends = session.expires_at.map(|at| Deadline::of(at, clock));
        records.put(Record::Session(&session.record(ends)));
        // Some are recorded for their wills only.
        if session.is_kept() {
            put_subscriptions(records, session);
            put_received(records, session);
            put_deliveries(records, session, checkpoint);
        }
        self.record_will(key);
    }
}

fn put_subscriptions(records: &mut Records, session: &Session) {
    for (filter, subscription) in session.filters.list() {
        records.put(Record::Subscribed {
            session: session.number,
            filter,
            options: subscription.options,
            identifier: subscription.identifier,
        });
    }
    for replay in session.replays.iter() {
        records.put(Record::Replay {
            session: session.number,
            filter: replay.filter(),
            after: replay.after(),
        });
    }
}

fn put_received(records: &mut Records, session: &Session) {
    for (packet_id, incoming) in &*session.incoming {
        records.put(Record::Received(ReceivedRecord {
            session: session.number,
            packet_id: *packet_id,
            progress: incoming.progress(),
        }));
    }
}

fn put_deliveries(records: &mut Records, session: &Session, checkpoint: &mut Checkpoint) {
    for entry in session.in_flight.iter() {
        let target = TargetRecord::of(session.number, &entry.delivery, true);
        put_delivery(records, target, &entry.delivery.message, checkpoint);
        if entry.is_released() {
            records.put(Record::Released {
                session: session.number,
                number: entry.delivery.number,
            });
        }
    }
    for delivery in session.queue.iter().filter(|delivery| delivery.number > 0) {
        let target = TargetRecord::of(session.number, delivery, false);
        put_delivery(records, target, &delivery.message, checkpoint);
    }
}

/// Writes a delivery; the first one of a message brings its content along.
fn put_delivery(
    records: &mut Records,
    target: TargetRecord,
    message: &SharedMessage,
    checkpoint: &mut Checkpoint,
) {
    let (id, targets) = (message.id, &[target]);
    records.put(if checkpoint.messages.insert(id) {
        Record::Message {
            id,
            retained: false,
            message,
            targets,
        }
    } else {
        Record::Queued { id, targets }
    });
}
