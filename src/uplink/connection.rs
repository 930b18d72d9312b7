//! One connection of an uplink: asks whether another client has been here (`question`), says that
//! this gateway is here (`state`), sends queued messages (`batching`, `sending`), takes those of
//! the remote (`receive`), judges whether the link lives, ends with DISCONNECT (`ending`), or finds
//! out why the remote ended it (`blame`).

mod batching;
mod blame;
mod ending;
mod excess;
mod liveness;
mod question;
mod receive;
mod schemas;
mod sending;
mod state;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::client::{StopOrders, Uplink};
use super::failure::LinkError;
use super::link::{Accepted, Link};
use super::suspicion::Trial;
use crate::backoff::Backoff;
use crate::mqtt::QoS;
use crate::outbox::EntryId;
use crate::time::now;
use ending::Ending;
pub(super) use ending::LAST_WORDS;
use question::Question;
use state::PresenceState;

/// Entries brought from the outbox at a time.
const READ_BATCH: usize = 256;
/// Changes of the session that are saved at once, however short the last save is ago; at most a
/// sixteenth of the window.
const SAVE_BATCH: usize = 128;
pub(super) const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How many times longer than the remote may be silent it may owe one message an answer.
const LONGEST_DEBT: u32 = 10;
/// Dead letters that may wait for the disk.
const MAX_BURIALS: usize = 64;
/// First and longest pause after the remote said "not now".
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a connection ended gracefully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The stop order came and nothing waits any more, or the grace is over.
    Stopped,
    /// A backup that is not needed any more.
    NotNeeded,
    /// Its settings are different from here on.
    Changed,
    /// Its token ends soon.
    Renewed,
    /// It has no will, or none that is retained, and the next one is to have it.
    TriesWill,
    /// The next one repeats messages that the remote has left unanswered.
    Repeats,
}

pub(super) struct RemoteConnection<'a> {
    uplink: &'a mut Uplink,
    link: Link,
    keep_alive: Option<Duration>,
    /// A PINGREQ that is not answered.
    pinged: Option<Instant>,
    /// Since when the remote owes an answer without a break.
    owes_since: Option<Instant>,
    /// The message that has waited longest for its answer, and since when.
    oldest: Option<(EntryId, Instant)>,
    /// How long messages wait at most for the answers to SUBSCRIBE.
    hold_for_filters: Option<Instant>,
    /// UNSUBSCRIBE packets of this connection.
    unsubscribed: u16,
    /// Set by the stop order: when it is over.
    give_up: Option<Instant>,
    /// How long the stop order lets it send what waits.
    grace: Duration,
    is_hurried: bool,
    /// It ends as soon as what is in flight is acknowledged.
    ending: Option<Ending>,
    /// QoS 0 messages, each with the number of bytes written at which it is done.
    unwritten: VecDeque<(u64, EntryId)>,
    /// The remote said "not now".
    hold_until: Option<Instant>,
    hold: Backoff,
    /// The suspect that was sent alone.
    trial: Option<Trial>,
    /// The disk could not be read: when to try again.
    read_at: Option<Instant>,
    /// The state of this gateway, as published on this connection.
    state: PresenceState,
    /// The question before that: which state is retained.
    question: Option<Question>,
    /// A subscription that an earlier question left behind was ended.
    has_ended_stray: bool,
    began: Instant,
}

/// Ready when a save is done; false if it never will be.
async fn saved(saving: &mut Option<oneshot::Receiver<()>>) -> bool {
    match saving {
        Some(saving) => saving.await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Ready at `at`; never without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl<'a> RemoteConnection<'a> {
    pub(super) fn new(uplink: &'a mut Uplink, link: Link, accepted: Accepted) -> Self {
        let keep_alive = accepted
            .keep_alive
            .map_or(uplink.settings.keep_alive, |seconds| {
                Duration::from_secs(u64::from(seconds))
            });
        Self {
            uplink,
            link,
            // The remote may switch it off.
            keep_alive: Some(keep_alive).filter(|keep_alive| *keep_alive > Duration::ZERO),
            pinged: None,
            owes_since: None,
            oldest: None,
            hold_for_filters: None,
            unsubscribed: 0,
            give_up: None,
            grace: Duration::ZERO,
            is_hurried: false,
            ending: None,
            unwritten: VecDeque::new(),
            hold_until: None,
            hold: Backoff::new(HOLD.0, HOLD.1),
            trial: None,
            read_at: None,
            state: PresenceState::new(accepted.max_qos),
            question: None,
            has_ended_stray: false,
            began: now(),
        }
    }

    /// Runs until the link breaks, or until a graceful end.
    pub(super) async fn run(
        mut self,
        accepted: Accepted,
        orders: StopOrders,
    ) -> Result<Done, LinkError> {
        let done = self.carry(accepted, orders).await;
        if let Err(LinkError::Closed { reason, .. }) = &done
            && self.ending.is_none()
        {
            if self.uplink.schemas.is_publishing() {
                self.uplink.schema_refused("it closed the connection");
            }
            self.blame(*reason);
        }
        // QoS 0 may be lost on the way; it is not sent twice.
        let rest: Vec<EntryId> = self.unwritten.drain(..).map(|(_, place)| place).collect();
        self.uplink.settle(&rest);
        done
    }

    // One list of everything that a connection waits for.
    async fn carry(
        &mut self,
        accepted: Accepted,
        mut orders: StopOrders,
    ) -> Result<Done, LinkError> {
        self.grace = orders.grace;
        self.begin(accepted)?;
        self.isolate().await?;
        let mut status = tokio::time::interval(STATUS_EVERY);
        loop {
            self.uplink.heartbeat.beat(now());
            self.send_waiting().await?;
            let save_at = self.save();
            if let Some(done) = self.is_done() {
                self.say_goodbye(done).await;
                return Ok(done);
            }
            let is_open = self.ending.is_none();
            let wants_more =
                self.link.has_room() && self.uplink.session.room() > 0 && !self.is_held();
            let ends_at = self.ends_at();
            let holds_back = self.uplink.lanes.holds_back();
            let passes_at = self.uplink.rates.ready_at(now(), holds_back);
            let catches_up_at = self.uplink.turns.ready_at(now());
            let batch_at = self.uplink.batches.next_due(now());
            tokio::select! {
                incoming = self.link.next() => self.receive(incoming?).await?,
                changed = self.uplink.newest.changed(), if wants_more => {
                    changed.map_err(|_| LinkError::Broken("the outbox is closed".to_owned()))?;
                    self.uplink.lanes.look_again();
                }
                is_durable = saved(&mut self.uplink.saving) => self.uplink.saved(is_durable)?,
                () = due(save_at) => {}
                () = due(passes_at) => {}
                () = due(catches_up_at) => {}
                () = due(batch_at) => {}
                // After everything else had its turn.
                () = tokio::task::yield_now(), if self.uplink.lanes.reads_on() => {}
                () = due(self.hold_until) => self.hold_until = None,
                () = due(self.hold_for_filters), if self.uplink.subscriptions.holds_messages() => self.hold_for_filters = None,
                delivery = self.uplink.deliveries.next() => self.delivered(delivery)?,
                buried = self.uplink.burials.next() => self.uplink.outbox.settle(&[buried]),
                Some(order) = self.uplink.purges.recv() => {
                    let being_written = self.unwritten.iter().map(|(_, place)| *place).collect();
                    self.uplink.purge_except(order, &being_written).await;
                }
                _ = status.tick() => self.tick()?,
                Ok(()) = self.uplink.updates.changed(), if is_open && self.give_up.is_none() => {
                    // Looked at before the next connection.
                    self.uplink.updates.mark_changed();
                    self.end(Done::Changed);
                }
                () = due(ends_at) => {}
                () = orders.stop.wait(), if self.give_up.is_none() => self.stop_within(orders.grace),
                () = orders.hurry.wait(), if !self.is_hurried => self.hurry(),
            }
        }
    }

    /// Checks everything that only time changes.
    fn tick(&mut self) -> Result<(), LinkError> {
        self.uplink.status.show();
        self.uplink.save_schemas();
        self.check_excess()?;
        self.check_life()?;
        self.check_question()?;
        self.check_state()?;
        self.try_left_out()?;
        self.renew_token();
        self.try_will();
        self.uplink.has_lasted(now() - self.began);
        Ok(())
    }

    /// Reconciles the sessions of both sides.
    fn begin(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        uplink.rivals.begin(uplink.current);
        uplink.schemas.begin(accepted.session_present);
        uplink.pace.begin(self.link.round_trip());
        uplink.rates.throttle.begin();
        let limits = accepted.max_packet.into_iter();
        let limits = limits.chain(uplink.settings.max_packet);
        uplink.batches.limit_packets(limits.min());
        let forgotten = uplink.session.connected(
            accepted.session_present,
            accepted.receive_maximum,
            accepted.max_qos,
        );
        uplink.status.session(&forgotten);
        let is_new = accepted.max_qos < QoS::ExactlyOnce && !uplink.is_without_qos_2();
        if uplink.settings.cloud.is_none() && (is_new || !accepted.retain_available) {
            let (max_qos, retain) = (accepted.max_qos as u8, accepted.retain_available);
            tracing::warn!(event = "uplink.remote_limited", uplink = %uplink.settings.name, max_qos, retain, "the remote does not support every QoS, or no retained messages: messages are sent with the highest QoS that it supports, or without the retain flag");
        }
        for (place, message) in &forgotten.dropped {
            uplink.lose(*place, message.as_ref());
        }
        uplink.outbox.settle(&forgotten.presumed);
        if self.asks_for_state(accepted)? {
            Ok(())
        } else {
            self.introduce(accepted)
        }
    }

    /// Says that this gateway is here, and asks for what it is to receive.
    fn introduce(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        self.say_online()?;
        if self.waits_for_answer_to_state(accepted) {
            Ok(())
        } else {
            self.subscribe(accepted)
        }
    }

    /// Hands changes of the session to the disk. Returns when to ask again.
    fn save(&mut self) -> Option<Instant> {
        let uplink = &mut *self.uplink;
        let unsaved = uplink.session.unsaved();
        if unsaved == 0 || uplink.saving.is_some() {
            return None;
        }
        let many = SAVE_BATCH.min(usize::from(uplink.settings.window) / 16 + 1);
        let due = uplink.last_save + uplink.settings.save_every;
        // More to save will come soon, or nothing will before this is saved.
        if unsaved < many && now() < due && uplink.session.awaits_answers() {
            return Some(due);
        }
        uplink.begin_save();
        None
    }
}
