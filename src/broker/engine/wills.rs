//! Wills: from CONNECT to the end of the connection, and to the end of their delay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::BudgetPart;
use super::held::{HeldFor, HeldWill};
use super::lifecycle::End;
use super::notice::NoticeKind;
use super::record::{Deadline, Record, WillRecord};
use super::session::{PendingWill, Rest};
use super::{ByNumber, Engine, SessionKey, Timer};
use crate::message::{Class, Message, Origin};
use crate::mqtt::Will;
use crate::outbox::Handover;

/// Wills that may wait for a destination with room, and their bytes.
const MOST_LATE: usize = 1000;
const MOST_LATE_BYTES: usize = 4 << 20;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Wills on their way to destinations, by their numbers: they survive a crash. `bytes` is what all
/// of them weigh.
#[derive(Debug, Default)]
pub(super) struct LateWills {
    wills: ByNumber<u64, Message>,
    bytes: usize,
}

impl LateWills {
    fn has_room_for(&self, will: &Message) -> bool {
        self.wills.len() < MOST_LATE && self.bytes + will.weight() <= MOST_LATE_BYTES
    }

    fn insert(&mut self, number: u64, will: Message) {
        self.bytes += will.weight();
        let replaced = self.wills.insert(number, will);
        debug_assert_eq!(replaced, None, "every will has a number of its own");
    }

    pub(super) fn get(&self, number: u64) -> Option<&Message> {
        self.wills.get(&number)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.wills.keys().copied()
    }

    fn remove(&mut self, number: u64) {
        self.bytes -= self.wills.remove(&number).map_or(0, |will| will.weight());
    }

    /// Panics if the total is not what the wills say. For tests.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.bytes,
            self.wills.values().map(Message::weight).sum::<usize>(),
            "bytes of wills on their way to destinations"
        );
    }
}

/// A will of an earlier run that these destinations, a bit each, may not have.
#[derive(Debug)]
pub(super) struct RestoredWill {
    pub(super) message: Message,
    pub(super) missing: u64,
}

impl Engine {
    /// A connection ends: the will of its session is published, delayed or dropped [MQTT-3.1.2-8],
    /// [MQTT-3.1.2-10].
    pub(super) fn settle_will(&mut self, key: SessionKey, end: End, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(will) = session.will.as_mut() else {
            return;
        };
        let delay = session
            .outlives
            .map_or(will.delay, |outlives| will.delay.min(outlives));
        match end {
            End::Orderly => self.forget_will(key), // [MQTT-3.14.4-3]
            End::TakenOver if delay > Duration::ZERO => self.forget_will(key),
            End::Lost if delay > Duration::ZERO => self.delay_will(key, now + delay),
            End::Lost | End::TakenOver => self.publish_will(key, now),
        }
    }

    /// The will is published at `due`, unless its client comes back before [MQTT-3.1.3-9].
    pub(super) fn delay_will(&mut self, key: SessionKey, due: Instant) {
        if let Some(will) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.will.as_mut())
        {
            will.due = Some(due);
            self.timers.set(due, Timer::Will(key));
            self.record_will(key);
        }
    }

    /// The client is back, or has taken its will back [MQTT-3.1.3-9].
    pub(super) fn forget_will(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(will) = session.will.take() else {
            return;
        };
        if let Some(due) = will.due {
            self.timers.cancel(due, Timer::Will(key));
        }
        if session.is_recorded {
            let session = session.number;
            self.records.put(Record::NoWill { session });
        }
        self.refund(key, BudgetPart::Will, 0);
    }

    /// Publishes the will of a session, if it has one and may publish it.
    pub(super) fn publish_will(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let Some(will) = session.will.as_deref().cloned() else {
            return;
        };
        let authorized = self.may_publish_will(session, &will.message);
        let source = session.number;
        self.forget_will(key);
        if let Err(refusal) = authorized {
            self.traffic.refused += 1;
            self.receipts.end(will.receipt, self.records.newest());
            let topic = Some(&will.message.topic);
            let kind = NoticeKind::RefusedWill;
            self.notice(kind, Some(key), topic, refusal.why, now);
            return;
        }
        let mut message = Message {
            expires_at: will.expiry.map(|expiry| now + expiry),
            ..will.message
        };
        self.never_retain_command(key, &mut message, now);
        let (receipt, missing) = (will.receipt, will.missing);
        let handover = self.handover(source, 0, receipt);
        let rest = Rest {
            missing,
            is_delivered: false,
        };
        if !self.route_will(message, handover, rest, now) {
            self.receipts.end(receipt, self.records.newest());
        }
    }

    /// Hands a will to subscribers and destinations. False if it waits for no destination.
    fn route_will(
        &mut self,
        message: Message,
        handover: Option<Handover>,
        rest: Rest,
        now: Instant,
    ) -> bool {
        let number = handover.map_or_else(|| self.receipts.draw(), |handover| handover.receipt);
        let held = self
            .late_wills
            .has_room_for(&message)
            .then_some(HeldFor::Will(HeldWill { number, handover }));
        let (ticket, _) = self.route(message.clone(), None, held, rest, now);
        if ticket.is_some() {
            self.keep_until_stored(number, message.detached());
        }
        ticket.is_some()
    }

    /// A command to an instrument goes on without the retain flag.
    fn never_retain_command(&mut self, key: SessionKey, message: &mut Message, now: Instant) {
        let is_guarded = self.routes.is_command(&message.topic);
        if is_guarded && message.retain && !message.payload.is_empty() {
            message.retain = false;
            let kind = NoticeKind::RetainedCommand;
            self.notice(kind, Some(key), Some(&message.topic), "", now);
        }
    }

    /// Records a will in the batch that says that its session has none any more.
    fn keep_until_stored(&mut self, number: u64, will: Message) {
        self.records.put(Record::LateWill {
            number,
            message: &will,
        });
        self.late_wills.insert(number, will);
    }

    /// Wills of an earlier run that destinations may not have: they are offered to these.
    pub(super) fn resume_late_wills(&mut self, wills: BTreeMap<u64, RestoredWill>, now: Instant) {
        for (number, RestoredWill { message, missing }) in wills {
            self.late_wills.insert(number, message);
            let refused = missing;
            self.timers.set(now, Timer::LateWill { number, refused });
        }
    }

    /// No destination waits for a will any more.
    fn forget_late_will(&mut self, number: u64) {
        self.late_wills.remove(number);
        let after = self.records.put(Record::WillStored { number });
        self.receipts.end(number, after);
    }

    /// Every destination has a will, or can never take it, or the `refused` ones had no room for
    /// it: it is offered to these again.
    pub(super) fn will_stored(&mut self, number: u64, refused: u64, now: Instant) {
        if refused == 0 {
            self.forget_late_will(number);
        } else {
            let timer = Timer::LateWill { number, refused };
            self.timers.set(now + AGAIN_AFTER, timer);
        }
    }

    pub(super) fn offer_will_again(&mut self, number: u64, refused: u64, now: Instant) {
        let Some(message) = self.late_wills.get(number).cloned() else {
            return;
        };
        let handover = self.handover(0, 0, number);
        let held = Some(HeldFor::Will(HeldWill { number, handover }));
        let rest = Rest::to_destinations(refused);
        let (ticket, _) = self.route(message, None, held, rest, now);
        if ticket.is_none() {
            self.forget_late_will(number);
        }
    }

    pub(super) fn will_is_due(&mut self, key: SessionKey, due: Instant, now: Instant) {
        let waits = self
            .sessions
            .get(key)
            .and_then(|session| session.will.as_ref())
            .is_some_and(|will| will.due == Some(due));
        if waits {
            self.publish_will(key, now);
        }
    }

    /// Records the will of a session.
    pub(super) fn record_will(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded) else {
            return;
        };
        let Some(will) = &session.will else { return };
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let record = WillRecord {
            message: will.message.clone(),
            delay_ms: ms(will.delay),
            expiry_ms: will.expiry.map(ms),
            due: will.due.map(|due| Deadline::of(due, self.records.clock())),
        };
        self.records.put(Record::Will {
            session: session.number,
            will: &record,
        });
    }
}

/// The will of a CONNECT.
pub(super) fn pending(will: &Will) -> PendingWill {
    let mut properties = will.properties.clone();
    let seconds =
        |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
    let (delay, expiry) = (
        seconds(properties.will_delay),
        seconds(properties.message_expiry),
    );
    if !properties.is_empty() {
        let fields = properties.edit();
        fields.will_delay = None;
        fields.message_expiry = None;
    }
    let message = Message {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        properties,
        expires_at: None,
        origin: Origin::Client,
        class: Class::default(),
        publisher: None,
    };
    // A copy: the packet it came in is not to be kept for it.
    let payload = Bytes::copy_from_slice(&message.payload);
    PendingWill {
        message: Message {
            payload,
            ..message.detached()
        },
        expiry,
        delay: delay.unwrap_or_default(),
        due: None,
        receipt: 0,
        missing: u64::MAX,
    }
}
