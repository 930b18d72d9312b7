//! How a remote learns whether this gateway lives: a will, and a retained message that says
//! `online` or `offline`. Pure.
//!
//! Invariants:
//! * The will is `offline`. The first message on a connection is `online`, or `unsupervised` if the
//!   remote has no will to publish; the last one before DISCONNECT is `offline`. No `online` is
//!   retained unless a retained will replaces it.
//! * A part that a remote does not take is left out, logged once, and tried again an hour later,
//!   then more rarely; messages are sent without it. Before will or state are left out they are
//!   tried without the retain flag.
//! * A part is left out only if connections with it ended, one without it worked, and the next one
//!   with it ended again: an outage of the remote looks the same up to the second step.
//! * Nothing of this is in the outbox: a state that is old is worth nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::mqtt::{QoS, ReasonCode, TopicName};
use crate::payload::json;
use crate::time::{Moment, SinceBoot, rfc3339};

/// Why the remote says `offline` when this gateway has not said so itself.
const LOST: &str = "connection lost";
/// Connections that may end at the will, or at the state, before one is made without.
const MOST_ENDS: u32 = 3;
/// How long something is left out before it is tried again: the first time, how many times longer
/// after each attempt, and at most. An attempt may cost a connection.
const LEFT_OUT_FOR: Duration = Duration::from_secs(3600);
const LONGER: u32 = 6;
const LONGEST_LEFT_OUT: Duration = Duration::from_secs(86_400);
/// How long the first connection without a part lasts before the part is tried once more.
const PROOF_AFTER: Duration = Duration::from_secs(2);

/// How a remote learns whether this gateway lives, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The topic at the remote.
    pub topic: TopicName,
    /// How long a remote waits after a cut before it says `offline` (MQTT 5; others say it at
    /// once).
    pub offline_after: Duration,
    /// Whether the remote can retain will and state.
    pub retained: bool,
}

/// The message that the remote publishes when this gateway disappears without DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PresenceWill {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Seconds.
    pub(super) delay: u32,
}

#[derive(Serialize)]
struct StateMessage {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// Missing while the clock is not set, and in a will.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// The mark of `rivals`, while another client may use the client identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
}

/// The part of a retained state that is read.
#[derive(Deserialize)]
struct Marked {
    client: Option<String>,
}

/// The mark of a state or will.
pub(super) fn mark_of(state: &[u8]) -> Option<String> {
    serde_json::from_slice::<Marked>(state).ok()?.client
}

fn known(at: Moment) -> Option<String> {
    at.clock_set.then(|| rfc3339(at.unix_ms))
}

/// The state of a gateway that is connected since `at`. `boot` names this start of the machine.
pub(super) fn online(at: Moment, client: Option<String>) -> String {
    let boot = Some(format!("{:08x}", at.since_boot.boot));
    json::text(&StateMessage {
        state: "online",
        reason: None,
        version: Some(env!("CARGO_PKG_VERSION")),
        boot,
        since: known(at),
        client,
    })
}

/// The state of a gateway that is connected since `at` to a remote without a will: nobody says
/// `offline` when it is gone.
pub(super) fn unsupervised(at: Moment, client: Option<String>) -> String {
    let boot = Some(format!("{:08x}", at.since_boot.boot));
    json::text(&StateMessage {
        state: "unsupervised",
        reason: None,
        version: Some(env!("CARGO_PKG_VERSION")),
        boot,
        since: known(at),
        client,
    })
}

/// The state of a gateway that disconnects.
pub(super) fn offline(reason: &'static str, at: Moment) -> String {
    json::text(&StateMessage {
        state: "offline",
        reason: Some(reason),
        version: None,
        boot: None,
        since: known(at),
        client: None,
    })
}

/// The state that the remote publishes for a gateway that is gone without a word.
pub(super) fn lost(client: Option<String>) -> String {
    json::text(&StateMessage {
        state: "offline",
        reason: Some(LOST),
        version: None,
        boot: None,
        since: None,
        client,
    })
}

/// Bytes that it adds to a connection: the will in CONNECT, and the state as a message without its
/// acknowledgement.
pub(crate) fn bytes_of(presence: &Presence) -> usize {
    const FRAMES: usize = 2 + 2 + 6 + 2 + 2 + 3;
    let at = Moment {
        unix_ms: 1_800_000_000_000,
        clock_set: true,
        since_boot: SinceBoot { boot: 0, ms: 0 },
    };
    2 * presence.topic.as_str().len() + lost(None).len() + online(at, None).len() + FRAMES
}

/// Whether something is left out that the remote may answer by ending the connection.
#[derive(Debug, Default)]
struct Doubt {
    ends: u32,
    /// Ends after which a connection without it worked.
    works_without: bool,
    /// After that one with it ended again.
    left_out: Option<Omission>,
    is_told: bool,
}

/// The remote does not take something.
#[derive(Debug, Clone, Copy)]
struct Omission {
    since: Instant,
    pause: Duration,
}

impl Omission {
    fn until(self) -> Instant {
        self.since + self.pause
    }
}

impl Doubt {
    fn is_wanted(&self, now: Instant) -> bool {
        match self.left_out {
            Some(left_out) => now >= left_out.until(),
            None => self.works_without || self.ends < MOST_ENDS,
        }
    }

    /// A connection with it ended there.
    fn ended(&mut self, ends: u32, now: Instant) {
        self.ends = self.ends.saturating_add(ends);
        let pause = match self.left_out {
            Some(before) => (before.pause * LONGER).min(LONGEST_LEFT_OUT),
            None if self.works_without => LEFT_OUT_FOR,
            None => return,
        };
        self.left_out = Some(Omission { since: now, pause });
    }

    /// A connection without it works. True if it is known for the first time that the remote does
    /// not take it.
    fn works_without(&mut self) -> bool {
        self.works_without |= self.ends >= MOST_ENDS;
        self.left_out.is_some() && !std::mem::replace(&mut self.is_told, true)
    }

    /// A connection without it failed too.
    fn fails_without(&mut self) {
        if !self.works_without {
            self.ends = 0;
        }
    }

    /// When it is to be tried again after a connection without it that began at this time.
    fn due(&self, began: Instant) -> Option<Instant> {
        self.left_out
            .map(Omission::until)
            .or(self.works_without.then(|| began + PROOF_AFTER))
    }
}

/// How far one remote supports will and state.
#[derive(Debug)]
struct RemoteAbilities {
    qos: QoS,
    retain: bool,
    will: Doubt,
    state: Doubt,
    /// That will and state are retained.
    retained: Doubt,
    /// Whether the last CONNECT had a will.
    has_will: bool,
    /// Whether that was to be retained; then the state is, too.
    offers_retained: bool,
    /// It has answered the state with an error.
    refuses_state: bool,
}

impl Default for RemoteAbilities {
    fn default() -> Self {
        Self {
            qos: QoS::AtLeastOnce,
            retain: true,
            will: Doubt::default(),
            state: Doubt::default(),
            retained: Doubt::default(),
            has_will: false,
            offers_retained: false,
            refuses_state: false,
        }
    }
}

impl RemoteAbilities {
    /// The culprit of a connection that ended at the will or the state: a remote that keeps nothing
    /// for this gateway may take both without the retain flag, so that is what changes first.
    /// `ends` is how many ends this one counts for.
    fn blame(&mut self, part: fn(&mut Self) -> &mut Doubt, ends: u32, now: Instant) {
        if self.offers_retained {
            self.retained.ended(ends, now);
        } else {
            let has_changed = self.retained.ends >= MOST_ENDS && !self.retained.works_without;
            part(self).ended(if has_changed { MOST_ENDS } else { ends }, now);
        }
    }
}

/// The outcome of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateAnswer {
    /// Nothing that was not known.
    Nothing,
    /// It may be taken without the retain flag.
    NotAsItWas,
    /// For the first time: it is taken without the retain flag only.
    NotRetained,
    /// For the first time: it is not taken at all.
    Refused,
}

/// How far the remotes of an uplink support will and state, by their names.
#[derive(Debug, Default)]
pub(super) struct RemotesSeen {
    remotes: HashMap<u32, RemoteAbilities>,
}

impl RemotesSeen {
    fn of(&mut self, remote: u32) -> &mut RemoteAbilities {
        self.remotes.entry(remote).or_default()
    }

    /// The will of the next connection to a remote, if it may take one, with the mark of `rivals`.
    pub(super) fn will(
        &mut self,
        remote: u32,
        presence: &Presence,
        mark: Option<String>,
        now: Instant,
    ) -> Option<PresenceWill> {
        let taken = self.of(remote);
        let is_wanted = taken.will.is_wanted(now);
        taken.has_will = is_wanted;
        taken.offers_retained =
            is_wanted && presence.retained && taken.retain && taken.retained.is_wanted(now);
        is_wanted.then(|| PresenceWill {
            topic: presence.topic.clone(),
            payload: lost(mark).into(),
            qos: taken.qos,
            retain: taken.offers_retained,
            delay: u32::try_from(presence.offline_after.as_secs()).unwrap_or(u32::MAX),
        })
    }

    /// A connection with a will was refused, or, without a reason, closed before it was accepted.
    /// Returns what is different from here on, if the reason says it.
    pub(super) fn will_refused(
        &mut self,
        remote: u32,
        reason: Option<ReasonCode>,
        now: Instant,
    ) -> Option<&'static str> {
        let taken = self.of(remote);
        match reason {
            Some(ReasonCode::RETAIN_NOT_SUPPORTED) if taken.retain => {
                taken.retain = false;
                return Some(
                    "the remote does not retain the will message: subscribers that come later do not learn that this gateway is gone",
                );
            }
            Some(ReasonCode::QOS_NOT_SUPPORTED) if taken.qos > QoS::AtMostOnce => {
                taken.qos = QoS::AtMostOnce;
                return Some(
                    "the remote takes the will with QoS 0 only: subscribers may miss that this gateway is gone",
                );
            }
            Some(reason) if is_about_something_else(reason) => {}
            reason => taken.blame(
                |taken| &mut taken.will,
                if reason.is_some() { MOST_ENDS } else { 1 },
                now,
            ),
        }
        None
    }

    /// A connection was accepted. True if that shows for the first time that the remote takes no
    /// will.
    pub(super) fn accepted(&mut self, remote: u32, with_will: bool) -> bool {
        let taken = self.of(remote);
        if with_will {
            if taken.will.works_without {
                // It was another cause, and that is gone.
                taken.retained = Doubt::default();
            }
            taken.will = Doubt::default();
            return false;
        }
        taken.will.works_without()
    }

    /// A connection without a will was not accepted either.
    pub(super) fn fails_without_will(&mut self, remote: u32) {
        let taken = self.of(remote);
        taken.will.fails_without();
        taken.retained.fails_without();
    }

    /// True if the remote has a will of the present connection.
    pub(super) fn has_will(&self, remote: u32) -> bool {
        self.remotes
            .get(&remote)
            .is_some_and(|taken| taken.has_will)
    }

    /// When a connection that began at this time is to be replaced by one with a will, or with one
    /// that is retained.
    pub(super) fn will_due(&self, remote: u32, began: Instant) -> Option<Instant> {
        let taken = self.remotes.get(&remote)?;
        match (taken.has_will, taken.offers_retained) {
            (false, _) => taken.will.due(began),
            (true, false) if taken.retain => taken.retained.due(began),
            (true, _) => None,
        }
    }

    /// Whether the state is sent with the retain flag on this connection: as its will is, so that
    /// nothing stays that says `online`.
    pub(super) fn retains(&self, remote: u32) -> bool {
        self.remotes
            .get(&remote)
            .is_some_and(|taken| taken.offers_retained)
    }

    /// True if the remote may end connections at what it is to retain.
    pub(super) fn doubts_retained(&self, remote: u32, now: Instant) -> bool {
        self.remotes
            .get(&remote)
            .is_some_and(|taken| !taken.retained.is_wanted(now))
    }

    /// Whether the state is to be said to a remote.
    pub(super) fn wants_state(&mut self, remote: u32, now: Instant) -> bool {
        self.of(remote).state.is_wanted(now)
    }

    /// True if the state was left out for so long that it is to be tried again.
    pub(super) fn tries_state_again(&self, remote: u32, now: Instant) -> bool {
        self.remotes
            .get(&remote)
            .is_some_and(|taken| taken.state.works_without && taken.state.is_wanted(now))
    }

    /// A connection ended when the state was the first thing that the remote had not answered.
    pub(super) fn ended_at_state(&mut self, remote: u32, now: Instant) {
        self.of(remote).blame(|taken| &mut taken.state, 1, now);
    }

    /// True if an earlier connection ended at the state: what ends the next one must show.
    pub(super) fn doubts_state(&self, remote: u32) -> bool {
        self.remotes
            .get(&remote)
            .is_some_and(|taken| taken.state.ends > 0 || taken.retained.ends > 0)
    }

    /// The remote has answered the state, perhaps with an error.
    pub(super) fn state_answered(
        &mut self,
        remote: u32,
        is_error: bool,
        now: Instant,
    ) -> StateAnswer {
        let taken = self.of(remote);
        taken.state = Doubt::default();
        match (is_error, taken.offers_retained) {
            (true, true) => {
                taken.retained.ended(MOST_ENDS, now);
                taken.offers_retained = false;
                StateAnswer::NotAsItWas
            }
            (true, false) => {
                // It was not the flag.
                taken.retained = Doubt::default();
                if std::mem::replace(&mut taken.refuses_state, true) {
                    StateAnswer::Nothing
                } else {
                    StateAnswer::Refused
                }
            }
            (false, true) => {
                taken.retained = Doubt::default();
                StateAnswer::Nothing
            }
            // Without a will the state is not retained anyway: that shows nothing about the flag.
            (false, false) if taken.has_will && taken.retained.works_without() => {
                StateAnswer::NotRetained
            }
            (false, false) => StateAnswer::Nothing,
        }
    }

    /// The remote has answered something on a connection without the state. True if that shows for
    /// the first time that it does not take the state.
    pub(super) fn works_without_state(&mut self, remote: u32) -> bool {
        self.of(remote).state.works_without()
    }

    /// A connection without the state ended before the remote had answered anything.
    pub(super) fn fails_without_state(&mut self, remote: u32) {
        let taken = self.of(remote);
        taken.state.fails_without();
        taken.retained.fails_without();
    }
}

/// Refusals that no will is the cause of.
fn is_about_something_else(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::UNSUPPORTED_PROTOCOL_VERSION
            | R::CLIENT_IDENTIFIER_NOT_VALID
            | R::BAD_USER_NAME_OR_PASSWORD
            | R::SERVER_UNAVAILABLE
            | R::SERVER_BUSY
            | R::BANNED
            | R::BAD_AUTHENTICATION_METHOD
            | R::USE_ANOTHER_SERVER
            | R::SERVER_MOVED
            | R::CONNECTION_RATE_EXCEEDED
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    const REMOTE: u32 = 7;

    fn presence() -> Presence {
        Presence {
            topic: TopicName::new("x/gateway/state").unwrap(),
            offline_after: Duration::from_secs(60),
            retained: true,
        }
    }

    fn kind(known: &mut RemotesSeen, at: Instant) -> Option<(QoS, bool)> {
        known
            .will(REMOTE, &presence(), None, at)
            .map(|will| (will.qos, will.retain))
    }

    #[test]
    fn a_state_is_a_small_object_that_says_no_time_while_the_clock_is_not_set() {
        let mut at = Moment {
            unix_ms: 1_769_847_330_250,
            clock_set: true,
            since_boot: SinceBoot {
                boot: 0xBEEF,
                ms: 5,
            },
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            online(at, None),
            format!(
                "{{\"state\":\"online\",\"version\":\"{version}\",\"boot\":\"0000beef\",\"since\":\"2026-01-31T08:15:30.250Z\"}}"
            )
        );
        at.clock_set = false;
        assert_eq!(
            online(at, None),
            format!("{{\"state\":\"online\",\"version\":\"{version}\",\"boot\":\"0000beef\"}}")
        );
        assert_eq!(
            offline("stopped", at),
            "{\"state\":\"offline\",\"reason\":\"stopped\"}"
        );
        let marked = online(at, Some("5f3a9c01-1a2b3c4d".to_owned()));
        assert_eq!(
            mark_of(marked.as_bytes()).as_deref(),
            Some("5f3a9c01-1a2b3c4d"),
            "{marked}"
        );
        assert_eq!(
            mark_of(online(at, None).as_bytes())
                .or(mark_of(b"{"))
                .or(mark_of(b"{\"client\":7}")),
            None
        );
        assert_eq!(
            lost(None),
            "{\"state\":\"offline\",\"reason\":\"connection lost\"}"
        );
    }

    #[test]
    fn a_will_that_is_refused_by_its_code_becomes_a_smaller_one() {
        let (mut known, at) = (RemotesSeen::default(), now());
        assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, true)));
        assert!(
            known
                .will_refused(REMOTE, Some(ReasonCode::RETAIN_NOT_SUPPORTED), at)
                .is_some()
        );
        assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, false)));
        assert!(
            known
                .will_refused(REMOTE, Some(ReasonCode::QOS_NOT_SUPPORTED), at)
                .is_some()
        );
        assert_eq!(kind(&mut known, at), Some((QoS::AtMostOnce, false)));
        assert_eq!(
            known.will_refused(REMOTE, Some(ReasonCode::QOS_NOT_SUPPORTED), at),
            None
        );
        assert_eq!(kind(&mut known, at), None, "it may take none at all");
        assert!(!known.accepted(REMOTE, false));
        assert_eq!(
            kind(&mut known, at),
            Some((QoS::AtMostOnce, false)),
            "or it was an outage"
        );
        assert_eq!(
            known.will_refused(REMOTE, Some(ReasonCode::QOS_NOT_SUPPORTED), at),
            None
        );
        assert_eq!(kind(&mut known, at), None, "it takes none");
        assert!(
            known.accepted(REMOTE, false) && !known.accepted(REMOTE, false),
            "told once"
        );
        assert_eq!(
            kind(&mut known, at + LEFT_OUT_FOR),
            Some((QoS::AtMostOnce, false)),
            "tried again"
        );
    }

    #[test]
    fn a_remote_that_only_closes_is_tried_without_a_will_once_and_then_with_it_again() {
        let (mut known, at) = (RemotesSeen::default(), now());
        for _ in 0..2 {
            for _ in 0..MOST_ENDS {
                assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, true)));
                known.will_refused(REMOTE, None, at);
            }
            assert_eq!(
                kind(&mut known, at),
                Some((QoS::AtLeastOnce, false)),
                "it may be the retain flag"
            );
            known.will_refused(REMOTE, None, at);
            assert_eq!(kind(&mut known, at), None);
            known.fails_without_will(REMOTE);
        }
        assert!(kind(&mut known, at).is_some(), "it was not the will");
        assert!(!known.accepted(REMOTE, true));
        known.will_refused(REMOTE, Some(ReasonCode::BAD_USER_NAME_OR_PASSWORD), at);
        assert!(
            kind(&mut known, at).is_some(),
            "no will has to do with a password"
        );
        for expected in [Some((QoS::AtLeastOnce, false)), None] {
            known.will_refused(REMOTE, Some(ReasonCode::NOT_AUTHORIZED), at);
            assert_eq!(kind(&mut known, at), expected);
        }
    }

    /// AWS IoT Core wants a permission of its own for what is retained.
    #[test]
    fn a_remote_that_retains_nothing_for_this_gateway_gets_will_and_state_without_the_flag() {
        let (mut known, at) = (RemotesSeen::default(), now());
        let retained = Some((QoS::AtLeastOnce, true));
        assert_eq!(kind(&mut known, at), retained);
        assert!(known.retains(REMOTE) && !known.doubts_retained(REMOTE, at));
        known.will_refused(REMOTE, Some(ReasonCode::NOT_AUTHORIZED), at);
        assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, false)));
        assert!(!known.retains(REMOTE) && known.doubts_retained(REMOTE, at));
        assert!(!known.accepted(REMOTE, true));
        assert_eq!(
            known.state_answered(REMOTE, false, at),
            StateAnswer::Nothing,
            "it may have been an outage"
        );
        assert_eq!(known.will_due(REMOTE, at), Some(at + PROOF_AFTER));
        assert_eq!(kind(&mut known, at), retained, "tried once more");
        known.will_refused(REMOTE, Some(ReasonCode::NOT_AUTHORIZED), at);
        assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, false)));
        assert!(!known.accepted(REMOTE, true));
        assert_eq!(
            known.state_answered(REMOTE, false, at),
            StateAnswer::NotRetained
        );
        assert_eq!(
            known.state_answered(REMOTE, false, at),
            StateAnswer::Nothing,
            "told once"
        );
        assert_eq!(known.will_due(REMOTE, at), Some(at + LEFT_OUT_FOR));
        let later = at + LEFT_OUT_FOR;
        assert_eq!(kind(&mut known, later), retained, "tried again");
        assert!(
            known.accepted(REMOTE, true)
                || known.state_answered(REMOTE, false, later) == StateAnswer::Nothing
        );
        assert_eq!(kind(&mut known, later), retained, "the permission is there");
    }

    #[test]
    fn a_state_that_is_refused_is_sent_without_the_retain_flag_before_it_is_given_up() {
        let (mut known, at) = (RemotesSeen::default(), now());
        assert!(kind(&mut known, at).is_some_and(|(_, retain)| retain));
        assert_eq!(
            known.state_answered(REMOTE, true, at),
            StateAnswer::NotAsItWas
        );
        assert!(!known.retains(REMOTE));
        assert_eq!(known.state_answered(REMOTE, true, at), StateAnswer::Refused);
        assert_eq!(
            kind(&mut known, at),
            Some((QoS::AtLeastOnce, true)),
            "it was not the flag"
        );
        for _ in 0..MOST_ENDS {
            assert!(known.retains(REMOTE) && known.wants_state(REMOTE, at));
            known.ended_at_state(REMOTE, at);
        }
        assert_eq!(kind(&mut known, at), Some((QoS::AtLeastOnce, false)));
        known.ended_at_state(REMOTE, at);
        assert!(!known.wants_state(REMOTE, at));
        assert!(
            !known.works_without_state(REMOTE),
            "it may have been the link"
        );
        assert!(known.tries_state_again(REMOTE, at));
        known.ended_at_state(REMOTE, at);
        assert!(known.works_without_state(REMOTE) && !known.wants_state(REMOTE, at));
    }

    #[test]
    fn an_outage_that_ends_between_two_attempts_is_no_proof_against_the_will() {
        let (mut known, at) = (RemotesSeen::default(), now());
        let refused = |known: &mut RemotesSeen| {
            known.will_refused(REMOTE, Some(ReasonCode::NOT_AUTHORIZED), at)
        };
        for _ in 0..3 {
            for expected in [
                Some((QoS::AtLeastOnce, true)),
                Some((QoS::AtLeastOnce, false)),
            ] {
                assert_eq!(kind(&mut known, at), expected);
                refused(&mut known);
            }
            assert_eq!(kind(&mut known, at), None);
            known.fails_without_will(REMOTE);
        }
        // It is over when the gateway connects without a will.
        for _ in 0..2 {
            assert!(kind(&mut known, at).is_some());
            refused(&mut known);
        }
        assert!(kind(&mut known, at).is_none() && !known.accepted(REMOTE, false));
        assert_eq!(
            (known.has_will(REMOTE), known.will_due(REMOTE, at)),
            (false, Some(at + PROOF_AFTER))
        );
        known.will_refused(REMOTE, Some(ReasonCode::SERVER_BUSY), at);
        assert!(
            kind(&mut known, at).is_some(),
            "that says nothing about the will"
        );
        assert!(!known.accepted(REMOTE, true));
        assert_eq!(
            kind(&mut known, at),
            Some((QoS::AtLeastOnce, true)),
            "nothing is left out"
        );
    }

    #[test]
    fn what_costs_a_connection_is_tried_more_and_more_rarely() {
        let (mut known, mut at) = (RemotesSeen::default(), now());
        (0..MOST_ENDS).for_each(|_| known.ended_at_state(REMOTE, at));
        assert!(!known.works_without_state(REMOTE));
        known.ended_at_state(REMOTE, at);
        assert!(known.works_without_state(REMOTE));
        for hours in [1, 6, 24, 24] {
            let pause = Duration::from_secs(hours * 3600);
            assert!(
                !known.tries_state_again(REMOTE, at + pause - Duration::from_secs(1)),
                "{hours} h"
            );
            at += pause;
            assert!(known.tries_state_again(REMOTE, at), "{hours} h");
            known.ended_at_state(REMOTE, at);
        }
    }

    #[test]
    fn a_state_that_ends_connections_is_left_out_for_an_hour_at_first() {
        let (mut known, at) = (RemotesSeen::default(), now());
        for _ in 0..MOST_ENDS {
            assert!(known.wants_state(REMOTE, at));
            known.ended_at_state(REMOTE, at);
        }
        assert!(
            !known.wants_state(REMOTE, at) && !known.tries_state_again(REMOTE, at + LEFT_OUT_FOR),
            "not known yet"
        );
        known.fails_without_state(REMOTE);
        assert!(known.wants_state(REMOTE, at), "it was the link");
        known.ended_at_state(REMOTE, at);
        known.state_answered(REMOTE, false, at);
        (0..MOST_ENDS).for_each(|_| known.ended_at_state(REMOTE, at));
        assert!(
            !known.works_without_state(REMOTE) && known.wants_state(REMOTE, at),
            "tried once more"
        );
        known.ended_at_state(REMOTE, at);
        assert!(
            known.works_without_state(REMOTE) && !known.works_without_state(REMOTE),
            "told once"
        );
        let later = at + LEFT_OUT_FOR;
        assert!(known.tries_state_again(REMOTE, later));
        known.ended_at_state(REMOTE, later);
        assert!(!known.wants_state(REMOTE, later) && !known.works_without_state(REMOTE));
    }
}
