//! The whole state as records, a bounded piece a turn, so that everything older can be forgotten.
//!
//! Invariants: a session stands in one batch with everything it has, and so does a retained message; what changes meanwhile is
//! recorded as always. Whoever reads from the first batch of a checkpoint on ends with the state, whatever came before.

use std::collections::HashSet;
use std::time::Duration;

use super::record::{Deadline, Record, SessionRecord, TargetRecord};
use super::session::{Delivery, Exchange};
use super::{Engine, SessionKey};
use crate::message::Origin;
use crate::mqtt::TopicName;

/// A checkpoint under way.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    /// Sessions that are not written yet.
    sessions: Vec<SessionKey>,
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
        self.checkpoint = Some(Checkpoint {
            sessions,
            ..Checkpoint::default()
        });
    }

    /// Writes on until about `bytes` are in the batch of this turn; true when the checkpoint is done.
    pub fn go_on_with_checkpoint(&mut self, bytes: usize) -> bool {
        let Some(mut checkpoint) = self.checkpoint.take() else {
            return true;
        };
        while self.records.len() < bytes {
            if let Some(key) = checkpoint.sessions.pop() {
                self.write_session(key, &mut checkpoint);
                continue;
            }
            let Some(kept) = self.retained.after(checkpoint.last_topic.as_ref()) else {
                return true;
            };
            checkpoint.last_topic = Some(kept.topic.clone());
            if matches!(kept.origin, Origin::Client | Origin::Uplink(_)) {
                self.records.put(&Record::Retained(kept), self.clock);
            }
        }
        self.checkpoint = Some(checkpoint);
        false
    }

    fn write_session(&mut self, key: SessionKey, checkpoint: &mut Checkpoint) {
        let clock = self.clock;
        let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded) else {
            return;
        };
        let number = session.number;
        self.records.put(&Record::Gone { session: number }, clock);
        let record = SessionRecord {
            number,
            client_id: session.client_id.clone(),
            user: session.user.clone(),
            outlives_ms: session
                .outlives
                .map(|outlives| u64::try_from(Duration::as_millis(&outlives)).unwrap_or(u64::MAX)),
            ends: session.expires_at.map(|at| Deadline::of(at, clock)),
            last_number: session.last_number,
        };
        self.records.put(&Record::Session(&record), clock);
        if !session.is_kept() {
            // It is here for its will only.
            self.record_will(key);
            return;
        }
        for (filter, subscription) in session.filters.list() {
            let (options, identifier) = (subscription.options, subscription.identifier);
            self.records.put(
                &Record::Subscribed {
                    session: number,
                    filter,
                    options,
                    identifier,
                },
                clock,
            );
        }
        for replay in session.replays.iter() {
            self.records.put(
                &Record::Replay {
                    session: number,
                    filter: replay.filter(),
                    after: replay.after(),
                },
                clock,
            );
        }
        for (packet_id, incoming) in &session.incoming {
            let held = incoming.state != Exchange::Received;
            self.records.put(
                &Record::Received {
                    session: number,
                    packet_id: *packet_id,
                    held,
                },
                clock,
            );
        }
        for entry in session.in_flight.iter() {
            put_delivery(
                &mut self.records,
                clock,
                number,
                (&entry.delivery, true),
                checkpoint,
            );
            if entry.is_released() {
                self.records.put(
                    &Record::Released {
                        session: number,
                        number: entry.delivery.number,
                    },
                    clock,
                );
            }
        }
        for delivery in session.queue.iter().filter(|delivery| delivery.number > 0) {
            put_delivery(
                &mut self.records,
                clock,
                number,
                (delivery, false),
                checkpoint,
            );
        }
        self.record_will(key);
    }
}

fn put_delivery(
    records: &mut super::Records,
    clock: super::record::Clock,
    session: u64,
    (delivery, was_sent): (&Delivery, bool),
    checkpoint: &mut Checkpoint,
) {
    let targets = [TargetRecord::of(session, delivery, was_sent)];
    let message = &delivery.message;
    if checkpoint.messages.insert(message.id) {
        records.put(
            &Record::Message {
                id: message.id,
                retained: false,
                message,
                targets: &targets,
            },
            clock,
        );
    } else {
        records.put(
            &Record::Queued {
                id: message.id,
                targets: &targets,
            },
            clock,
        );
    }
}
