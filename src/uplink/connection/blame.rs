//! A connection that the remote closed: which SUBSCRIBE or which message made it do so, and how the
//! next connection finds out.

use std::collections::HashSet;

use super::RemoteConnection;
use crate::mqtt::{QoS, ReasonCode, TopicFilter};
use crate::outbox::{EntryId, LANES};
use crate::time::now;
use crate::uplink::Receive;
use crate::uplink::failure::LinkError;
use crate::uplink::lanes::Choice;
use crate::uplink::link::{Accepted, Command, time_to_pass};
use crate::uplink::subscriptions::{Answer, MOST_FILTERS, raised};
use crate::uplink::suspicion::Evidence;

/// Messages of higher lanes that go before a suspect at most.
const MOST_URGENT: usize = 64;

impl RemoteConnection<'_> {
    /// Finds out what the remote is to be asked for, and asks.
    pub(super) fn subscribe(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        uplink.subscriptions.begin(accepted.session_present);
        let asked_for = raised(&uplink.settings.asked_for());
        let in_file: HashSet<&str> = asked_for
            .iter()
            .map(|receive| receive.filter.as_str())
            .collect();
        // The remote keeps with the session what is not in the file any more.
        let unwanted = uplink
            .session
            .unsubscribe(|filter| !in_file.contains(filter));
        let (wanted, impossible): (Vec<_>, Vec<_>) = asked_for
            .iter()
            .cloned()
            .partition(|receive| accepted.wildcards_available || !has_wildcard(&receive.filter));
        for receive in impossible {
            tracing::error!(event = "uplink.wildcard_refused", uplink = %uplink.settings.name, filter = %receive.filter, "the remote supports no wildcards: no messages of this filter come in; name the topics in `receive` one by one");
        }
        // MQTT 3.1.1 sends everything retained again for a subscription that is asked for again.
        let is_there = |receive: &&Receive| {
            !accepted.keeps_retained_quiet && uplink.session.is_granted(receive)
        };
        let granted = wanted
            .iter()
            .filter(is_there)
            .map(|receive| receive.filter.as_str().to_owned())
            .collect();
        uplink
            .subscriptions
            .identify(accepted.identifiers_available);
        uplink.subscriptions.want(wanted, granted);
        self.hold_for_filters = Some(now() + uplink.settings.answer_within);
        self.unsubscribe(&unwanted)?;
        if self.uplink.subscriptions.needs_a_sign() {
            // A remote that answers this is there: if the connection ends at a SUBSCRIBE, that was
            // not the link.
            self.ping()?;
        }
        self.ask()
    }

    /// Something came from the remote.
    pub(super) fn heard(&mut self) -> Result<(), LinkError> {
        if self.is_asking() {
            return Ok(());
        }
        self.works_without_state();
        if self.waits_for_state() {
            return Ok(());
        }
        let needed_it = self.uplink.subscriptions.needs_a_sign();
        self.uplink.subscriptions.heard();
        if needed_it { self.ask() } else { Ok(()) }
    }

    /// Asks again for a filter that has been left out for long.
    pub(super) fn try_left_out(&mut self) -> Result<(), LinkError> {
        if self.ending.is_some()
            || self.is_asking()
            || self.waits_for_state()
            || !self.uplink.subscriptions.try_left_out(now())
        {
            return Ok(());
        }
        self.hold_for_filters = Some(now() + self.uplink.settings.answer_within);
        self.ask()
    }

    pub(super) fn unsubscribe(&mut self, unwanted: &[String]) -> Result<(), LinkError> {
        for filters in unwanted.chunks(MOST_FILTERS) {
            self.link
                .feed(Command::Unsubscribe(self.unsubscribed, filters.to_vec()))?;
            self.unsubscribed = self.unsubscribed.wrapping_add(1);
        }
        Ok(())
    }

    /// Sends the SUBSCRIBE packets that may go; when all are answered, UNSUBSCRIBE for what other
    /// filters bring.
    pub(super) fn ask(&mut self) -> Result<(), LinkError> {
        while let Some(asked) = self.uplink.subscriptions.next() {
            for receive in &asked.filters {
                self.uplink.session.subscribe(receive.filter.as_str());
            }
            if !self.link.feed(Command::Subscribe(asked))? {
                self.uplink.subscriptions.take_back();
                tracing::error!(event = "uplink.subscribe_too_large", uplink = %self.uplink.settings.name, "the subscriptions are larger than the remote takes; use fewer or shorter filters in `receive`");
            }
        }
        let needless = self.uplink.subscriptions.needless();
        let unwanted = self
            .uplink
            .session
            .unsubscribe(|filter| needless.contains(filter));
        self.unsubscribe(&unwanted)
    }

    /// SUBACK.
    pub(super) fn subscribed(&mut self, granted: &[Option<QoS>]) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        let name = &uplink.settings.name;
        for answer in uplink.subscriptions.answered(granted) {
            match answer {
                Answer::Granted(receive) => uplink.session.granted(&receive),
                Answer::Lowered(receive, granted) => {
                    let (wanted, granted) = (receive.qos as u8, granted as u8);
                    tracing::warn!(event = "uplink.subscription_lowered", uplink = %name, filter = %receive.filter, wanted, granted, "the remote grants this subscription with a lower QoS; at QoS 0 its messages can be lost, at QoS 1 they can come twice");
                }
                Answer::Refused(receive) => {
                    tracing::error!(event = "uplink.subscription_refused", uplink = %name, filter = %receive.filter, "the remote does not allow this subscription: no messages of this filter come in; change `receive` or the rights of this gateway");
                }
            }
        }
        uplink
            .status
            .filters_missing(uplink.subscriptions.missing());
        self.ask()
    }

    /// True while messages wait for the answers to SUBSCRIBE.
    pub(super) fn waits_for_filters(&self) -> bool {
        self.uplink.subscriptions.holds_messages()
            && self.hold_for_filters.is_some_and(|until| now() < until)
    }

    /// The remote ended the connection. What it had not answered is looked at: the state, a
    /// SUBSCRIBE, else the message that was first.
    pub(super) fn blame(&mut self, reason: Option<ReasonCode>) {
        if self.is_asking() {
            self.uplink.rivals.ended_at_question();
            return;
        }
        if reason.is_none() && self.uplink.rivals.are_there() {
            // It was the other client.
            return;
        }
        if self.blame_state(reason) {
            self.uplink.rivals.is_explained();
            return;
        }
        if self.uplink.subscriptions.is_waiting() {
            self.uplink.rivals.is_explained();
            self.blame_subscribe(reason);
            return;
        }
        let Some(place) = self.uplink.session.first_unanswered_message() else {
            return;
        };
        if reason == Some(ReasonCode::MESSAGE_RATE_TOO_HIGH) && self.slow_down(&[place]).is_empty()
        {
            return;
        }
        let evidence = self.evidence(place);
        let uplink = &mut *self.uplink;
        if evidence == Evidence::Alone {
            uplink.rivals.is_explained();
        }
        if !uplink.suspicion.closed(place, reason, evidence) {
            return;
        }
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        self.take_out(
            place,
            format!("the remote closes the connection when it gets this message{why}"),
        );
    }

    /// The remote ended the connection before it answered SUBSCRIBE.
    fn blame_subscribe(&mut self, reason: Option<ReasonCode>) {
        let uplink = &mut *self.uplink;
        let (asked, left_out) = uplink.subscriptions.closed(reason, now());
        if !asked.is_empty() {
            tracing::warn!(event = "uplink.closed_at_subscribe", uplink = %uplink.settings.name, filters = asked.join(" "), "the remote closed the connection at this SUBSCRIBE; the uplink subscribes to each filter alone to find the one that is refused");
        }
        if let Some(filter) = left_out {
            tracing::error!(event = "uplink.filter_left_out", uplink = %uplink.settings.name, %filter, "the remote closes the connection at a subscription to this filter: it is left out for an hour, or until the next start or reload; change `receive` or the rights of this gateway");
            uplink
                .status
                .filters_missing(uplink.subscriptions.missing());
        }
    }

    /// The remote has been silent for too long, or has answered other messages for long and not
    /// this one.
    pub(super) fn blame_silence(&mut self) {
        if self.is_asking() || self.waits_for_state() || self.uplink.subscriptions.is_waiting() {
            return;
        }
        let Some(place) = self.uplink.session.first_unanswered_message() else {
            return;
        };
        let is_alone = self.uplink.session.alone() == Some(place) && self.trial.is_some();
        let evidence = if is_alone {
            Evidence::Alone
        } else {
            Evidence::AmongOthers
        };
        let uplink = &mut *self.uplink;
        if uplink.session.is_overtaken(place) {
            if uplink.suspicion.overtaken(place) {
                self.take_out(
                    place,
                    "the remote answers messages behind this one, and never this one".to_owned(),
                );
            }
        } else if uplink.suspicion.silent(place, evidence) {
            self.take_out(
                place,
                "the remote falls silent whenever it gets this message".to_owned(),
            );
        }
    }

    /// The remote cannot take a message: it is tried with QoS 1 if the remote has never taken QoS
    /// 2, and is a dead letter otherwise.
    pub(super) fn take_out(&mut self, place: EntryId, why: String) {
        let uplink = &mut *self.uplink;
        if !uplink.has_shown_qos_2 && uplink.session.resend_with_qos_1(place) {
            // It may be the QoS, not the message.
            uplink.suspicion.changed();
            uplink.seems_without_qos_2(place);
            return;
        }
        uplink.suspicion.taken_out();
        uplink.takes_qos_2_again(place);
        if let Some(message) = uplink.session.give_up(place) {
            uplink.bury(place, message, why);
        }
    }

    /// The evidence of the close against the message that was first.
    fn evidence(&mut self, first: EntryId) -> Evidence {
        let written = self.link.written();
        let uplink = &*self.uplink;
        if uplink.session.alone() == Some(first) {
            let Some(trial) = &mut self.trial else {
                return Evidence::None;
            };
            trial.written(written, now());
            return trial.closed(now(), uplink.pace.usual().unwrap_or_default(), time_to_pass);
        }
        let has_left = uplink.pace.end_of(first).is_some_and(|end| end <= written);
        if has_left && !uplink.session.waits_for_ping() {
            Evidence::AmongOthers
        } else {
            Evidence::None
        }
    }

    /// Prepares a connection on which a suspect is sent alone: what is more urgent goes and is
    /// acknowledged before.
    pub(super) async fn isolate(&mut self) -> Result<(), LinkError> {
        let Some(place) = self.uplink.suspicion.suspect() else {
            return Ok(());
        };
        if self.uplink.session.continues().is_none() {
            for lane in 0..place.queue.min(LANES.len()) {
                for _ in 0..MOST_URGENT {
                    if !self.take_from(Choice::Only(lane)).await? {
                        break;
                    }
                }
            }
        }
        // The question has a PINGREQ of its own.
        if self.uplink.session.isolate(place) && !self.is_asking() {
            // Its answer shows that the remote reads what is sent on this connection.
            self.ping()?;
        }
        Ok(())
    }

    /// A message is at the remote.
    pub(super) fn has_taken(&mut self, place: EntryId) {
        self.uplink.status.counters.acknowledged.count();
        self.uplink.rates.throttle.answered(now());
        self.uplink.suspicion.acknowledged(place);
        if self.uplink.was_suspected_of_qos_2(place) {
            // It was the QoS: what was sent behind it need not find that out again.
            self.uplink.session.resend_all_with_qos_1();
        }
        if self.uplink.session.lacks_qos_2() {
            self.uplink.note_lack_of_qos_2();
        }
    }
}

fn has_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}
