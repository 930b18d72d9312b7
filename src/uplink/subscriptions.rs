//! Subscriptions at the remote: in small SUBSCRIBE packets, without filters at which the remote
//! closes. Pure.
//!
//! Invariants:
//! * At most eight filters a packet: AWS IoT Core closes on more.
//! * A filter is left out when three connections ended at its SUBSCRIBE, the last of them at a
//!   packet with no other filter. From the first such end on, filters are asked for one by one, and
//!   messages wait until they are answered: no message is blamed for them. An end counts if the
//!   remote gave a reason that does not speak of itself, or had answered something on that
//!   connection before: a link that is cut blames no filter. A filter that is left out is asked for
//!   again once an hour, alone.
//! * Filters of which one matches topics of another one are asked for with the highest QoS of those
//!   that they meet, so that whichever copy comes first is as sure as the file says.
//! * A filter that another one covers, at the same QoS or a higher one, is not asked for: its
//!   messages would come twice. A filter that the remote refused, or that is left out, covers
//!   nothing.
//! * Filters of which one matches topics of another one are asked for one by one, each with an
//!   identifier if the remote takes them: it may send a copy of a message for each, and the
//!   identifiers tell copies from messages that were published again. Shared subscriptions are none
//!   of them: what they bring is for another queue.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::Receive;
use super::suspicion::speaks_of_itself;
use crate::mqtt::{QoS, ReasonCode, TopicName};

/// Filters in a packet.
pub(super) const MOST_FILTERS: usize = 8;
/// Connections that may end at the SUBSCRIBE of a filter.
const MOST_CLOSES: u32 = 3;
/// How long a filter is left out before it is asked for again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(3600);

/// The outcome of one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(Receive),
    /// With a lower QoS than it was asked for.
    Lowered(Receive, QoS),
    Refused(Receive),
}

/// The state of an uplink's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// The session of the remote has everything that was asked for in this run.
    is_known: bool,
    /// The filters of the file, as far as the remote can grant them.
    wanted: Vec<Receive>,
    /// Those of them that the session has, or that were asked for on this connection.
    asked_for: HashSet<String>,
    /// Refused on this session.
    denied: HashSet<String>,
    /// Asked on this connection and not answered, the oldest first.
    asked: VecDeque<Vec<Receive>>,
    /// Still to be asked on this connection.
    waiting: VecDeque<Vec<Receive>>,
    /// Packets asked on this connection.
    packets: u16,
    /// How many connections ended at each filter.
    closes: HashMap<String, u32>,
    /// A connection has ended at a SUBSCRIBE, and not everything was answered since.
    is_careful: bool,
    /// The last of them without a reason: it may have been the link.
    is_unexplained: bool,
    /// The remote has answered something on this connection.
    is_heard: bool,
    /// With when each was asked for last.
    left_out: Vec<(String, Instant)>,
    /// One that was left out is asked for again.
    is_trying: bool,
    refused: HashSet<String>,
    lowered: HashSet<String>,
    /// The remote takes subscription identifiers.
    has_identifiers: bool,
    /// Filters that the session has, or is asked for, of which one matches topics of another one.
    overlapping: Vec<Receive>,
    /// The filters that no other one covers, without those that the remote does not grant: of
    /// `wanted`, `denied` and `left_out`.
    needed: Vec<Receive>,
}

/// A SUBSCRIBE packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubscribeRequest {
    /// On this connection.
    pub(super) number: u16,
    pub(super) filters: Vec<Receive>,
    /// The subscription identifier that messages for these filters carry.
    pub(super) identifier: Option<u32>,
}

fn name_of(receive: &Receive) -> String {
    receive.filter.as_str().to_owned()
}

/// Those that no other one covers.
fn uncovered(wanted: Vec<Receive>) -> Vec<Receive> {
    let covers = |one: &Receive, other: &Receive| {
        one.qos >= other.qos
            && !one.filter.is_shared()
            && !other.filter.is_shared()
            && one.filter.covers(&other.filter)
    };
    let is_needless = |index: usize, receive: &Receive| {
        wanted.iter().enumerate().any(|(other, by)| {
            // Of two that are the same the first one stays.
            other != index && covers(by, receive) && (other < index || !covers(receive, by))
        })
    };
    wanted
        .iter()
        .enumerate()
        .filter(|(index, receive)| !is_needless(*index, receive))
        .map(|(_, receive)| receive.clone())
        .collect()
}

/// True if a message may come for both.
fn meets(one: &Receive, other: &Receive) -> bool {
    !one.filter.is_shared() && !other.filter.is_shared() && one.filter.overlaps(&other.filter)
}

/// Those of which one matches topics of another one.
fn overlapping(needed: &[Receive]) -> Vec<Receive> {
    let meets_other = |one: &&Receive| {
        needed
            .iter()
            .any(|other| one.filter != other.filter && meets(one, other))
    };
    needed.iter().filter(meets_other).cloned().collect()
}

/// The same filters, each with the highest QoS of those that it meets.
pub(super) fn raised(wanted: &[Receive]) -> Vec<Receive> {
    let highest = |one: &Receive| {
        wanted
            .iter()
            .filter(|other| meets(one, other))
            .map(|other| other.qos)
            .max()
            .unwrap_or(one.qos)
    };
    wanted
        .iter()
        .map(|one| Receive {
            filter: one.filter.clone(),
            qos: highest(one).max(one.qos),
        })
        .collect()
}

impl Subscriptions {
    /// A new connection; the remote has forgotten everything unless `is_kept`.
    pub(super) fn begin(&mut self, is_kept: bool) {
        self.is_known &= is_kept;
        if !self.is_known {
            self.denied.clear();
        }
        self.asked.clear();
        self.waiting.clear();
        self.packets = 0;
        self.is_heard = false;
        self.is_trying = false;
    }

    /// It is not sure any more what the remote's session has.
    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    /// Whether the remote takes subscription identifiers.
    pub(super) fn identify(&mut self, has_identifiers: bool) {
        self.has_identifiers = has_identifiers;
    }

    /// How many subscriptions may each bring a copy of a message on this topic.
    pub(super) fn matching(&self, topic: &TopicName) -> usize {
        self.overlapping
            .iter()
            .filter(|receive| receive.filter.matches(topic))
            .count()
    }

    /// The file is another one: everything is tried again.
    pub(super) fn start_over(&mut self) {
        *self = Self::default();
    }

    /// Chooses the filters to subscribe to, of `wanted`; the session of the remote has those of
    /// `granted`.
    pub(super) fn want(&mut self, wanted: Vec<Receive>, granted: HashSet<String>) {
        self.wanted = wanted;
        self.withhold();
        self.asked_for = if self.is_known {
            self.needed.iter().map(name_of).collect()
        } else {
            granted
        };
        self.plan();
        self.answered_all();
    }

    fn answered_all(&mut self) {
        self.is_known = !self.is_waiting();
        if self.is_known {
            self.is_careful = false;
            self.is_trying = false;
        }
    }

    /// Asks again for a filter that has been left out for long enough, if nothing else is asked
    /// for.
    pub(super) fn try_left_out(&mut self, at: Instant) -> bool {
        if self.is_waiting() {
            return false;
        }
        let is_due = |tried: &Instant| at.saturating_duration_since(*tried) >= LEFT_OUT_FOR;
        let Some((name, tried)) = self.left_out.iter_mut().find(|(_, tried)| is_due(tried)) else {
            return false;
        };
        *tried = at;
        let receive = self
            .wanted
            .iter()
            .find(|receive| *receive.filter.as_str() == **name)
            .cloned();
        self.asked_for.extend(receive.as_ref().map(name_of));
        self.waiting
            .extend(receive.clone().map(|receive| vec![receive]));
        self.identify_again(receive.as_ref());
        self.is_trying = self.is_waiting();
        self.is_trying
    }

    /// A filter comes back: it, and those that overlapped with nothing so far, are to have
    /// identifiers.
    fn identify_again(&mut self, back: Option<&Receive>) {
        let Some(back) = back else { return };
        let mut there = self.needed.clone();
        there.push(back.clone());
        let overlapping = overlapping(&there);
        let is_new = |receive: &&Receive| {
            *receive != back && !self.overlapping.contains(receive) && self.has_identifiers
        };
        let partners: Vec<Vec<Receive>> = overlapping
            .iter()
            .filter(is_new)
            .map(|receive| vec![receive.clone()])
            .collect();
        self.overlapping = overlapping;
        self.waiting.extend(partners);
    }

    /// The remote has answered something: it is there, and filters can be blamed for what it does
    /// next.
    pub(super) fn heard(&mut self) {
        self.is_heard = true;
    }

    /// True if the remote is to answer something else before it is asked for filters.
    pub(super) fn needs_a_sign(&self) -> bool {
        self.is_careful && self.is_unexplained && !self.is_heard && self.is_waiting()
    }

    /// Plans to ask for everything that is needed and was not asked for.
    fn plan(&mut self) {
        let mut needed = self.needed.clone();
        needed.retain(|receive| self.asked_for.insert(name_of(receive)));
        // An identifier is that of a packet.
        let is_alone =
            |receive: &Receive| self.has_identifiers && self.overlapping.contains(receive);
        let (alone, together): (Vec<_>, Vec<_>) = needed.into_iter().partition(is_alone);
        let size = if self.is_careful { 1 } else { MOST_FILTERS };
        self.waiting
            .extend(together.chunks(size).map(<[Receive]>::to_vec));
        self.waiting
            .extend(alone.into_iter().map(|receive| vec![receive]));
    }

    /// The identifier of a packet with one filter that overlaps with others: its place in the file.
    fn identifier(&self, filters: &[Receive]) -> Option<u32> {
        let [receive] = filters else { return None };
        let place = self.wanted.iter().position(|wanted| wanted == receive);
        let place = place.filter(|_| self.has_identifiers && self.overlapping.contains(receive))?;
        u32::try_from(place + 1).ok()
    }

    /// `wanted`, `denied` or `left_out` are others.
    fn withhold(&mut self) {
        let is_granted = |receive: &&Receive| !self.is_withheld(receive.filter.as_str());
        self.needed = uncovered(self.wanted.iter().filter(is_granted).cloned().collect());
        self.overlapping = overlapping(&self.needed);
    }

    fn is_withheld(&self, filter: &str) -> bool {
        self.denied.contains(filter) || self.left_out.iter().any(|(name, _)| name == filter)
    }

    /// Filters whose messages come with another one, once everything is answered: what the session
    /// still has of them is to be unsubscribed from, or their messages come twice.
    pub(super) fn needless(&self) -> HashSet<String> {
        if self.is_waiting() {
            return HashSet::new();
        }
        let needed: HashSet<String> = self.needed.iter().map(name_of).collect();
        self.wanted
            .iter()
            .map(name_of)
            .filter(|name| !needed.contains(name) && !self.is_withheld(name))
            .collect()
    }

    /// The next packet to be sent.
    pub(super) fn next(&mut self) -> Option<SubscribeRequest> {
        if self.needs_a_sign() || self.is_careful && !self.asked.is_empty() {
            return None;
        }
        let filters = self.waiting.pop_front()?;
        let number = self.packets;
        self.packets = self.packets.wrapping_add(1);
        self.asked.push_back(filters.clone());
        Some(SubscribeRequest {
            number,
            identifier: self.identifier(&filters),
            filters,
        })
    }

    /// The last packet was not sent.
    pub(super) fn take_back(&mut self) {
        let filters = self.asked.pop_back().unwrap_or_default();
        self.denied.extend(filters.iter().map(name_of));
        self.withhold();
        self.plan();
    }

    /// True while an answer is owed, so that the end of the connection may be due to a filter.
    pub(super) fn is_waiting(&self) -> bool {
        !self.asked.is_empty() || !self.waiting.is_empty()
    }

    /// True while messages are to wait until the filters are answered.
    pub(super) fn holds_messages(&self) -> bool {
        (self.is_careful || self.is_trying) && self.is_waiting()
    }

    /// SUBACK: what was granted, in the order of the filters. Each change is returned once.
    pub(super) fn answered(&mut self, granted: &[Option<QoS>]) -> Vec<Answer> {
        let filters = self.asked.pop_front().unwrap_or_default();
        let mut answers = Vec::new();
        let withheld = (self.denied.len(), self.left_out.len());
        for (receive, granted) in filters.into_iter().zip(granted) {
            let name = name_of(&receive);
            self.closes.remove(&name);
            self.left_out.retain(|(out, _)| *out != name);
            if granted.is_none() {
                self.denied.insert(name.clone());
            }
            match granted {
                None if self.refused.insert(name.clone()) => answers.push(Answer::Refused(receive)),
                None => {}
                Some(qos) => {
                    self.refused.remove(&name);
                    let is_lower = *qos < receive.qos;
                    if is_lower && self.lowered.insert(name) {
                        answers.push(Answer::Lowered(receive.clone(), *qos));
                    }
                    answers.push(Answer::Granted(receive));
                }
            }
        }
        // Filters are compared with each other only where something is different: they may be many.
        if withheld != (self.denied.len(), self.left_out.len()) {
            self.withhold();
        }
        self.plan();
        self.answered_all();
        answers
    }

    /// The remote closed the connection while it owed an answer to SUBSCRIBE. Returns the filters
    /// that may be why, and the one that is left out from here on.
    pub(super) fn closed(
        &mut self,
        reason: Option<ReasonCode>,
        at: Instant,
    ) -> (Vec<String>, Option<String>) {
        self.is_known = false;
        let Some(filters) = self.asked.pop_front() else {
            return (Vec::new(), None);
        };
        if self.is_trying || reason.is_some_and(speaks_of_itself) {
            return (Vec::new(), None);
        }
        self.is_careful = true;
        self.is_unexplained = reason.is_none();
        let names: Vec<String> = filters.iter().map(name_of).collect();
        if reason.is_none() && !self.is_heard {
            return (names, None);
        }
        for name in &names {
            *self.closes.entry(name.clone()).or_default() += 1;
        }
        let culprit = match names.as_slice() {
            [name]
                if self
                    .closes
                    .get(name)
                    .is_some_and(|closes| *closes >= MOST_CLOSES) =>
            {
                Some(name.clone())
            }
            _ => None,
        };
        if let Some(name) = &culprit {
            self.closes.remove(name);
            self.left_out.push((name.clone(), at));
            self.withhold();
        }
        (names, culprit)
    }

    /// Filters that are in the file and not at the remote.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self
            .left_out
            .iter()
            .map(|(name, _)| name)
            .chain(&self.refused)
            .cloned()
            .collect();
        missing.sort();
        missing.dedup();
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicFilter;

    fn receive(filter: &str, qos: u8) -> Receive {
        Receive {
            filter: TopicFilter::new(filter.to_owned()).unwrap(),
            qos: QoS::from_bits(qos).unwrap(),
        }
    }

    fn names(filters: &[Receive]) -> Vec<&str> {
        filters
            .iter()
            .map(|receive| receive.filter.as_str())
            .collect()
    }

    #[test]
    fn packets_hold_eight_filters() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(
            (0..20)
                .map(|number| receive(&format!("cmd/{number}"), 1))
                .collect(),
            HashSet::new(),
        );
        let sizes: Vec<(u16, usize)> = std::iter::from_fn(|| subscriptions.next())
            .map(|asked| (asked.number, asked.filters.len()))
            .collect();
        assert_eq!(sizes, [(0, 8), (1, 8), (2, 4)]);
    }

    #[test]
    fn what_another_filter_covers_is_not_asked_for() {
        let check = |wanted: &[(&str, u8)], expected: &[&str]| {
            let wanted = wanted
                .iter()
                .map(|(filter, qos)| receive(filter, *qos))
                .collect();
            assert_eq!(names(&uncovered(wanted)), expected);
        };
        check(&[("cmd/x", 1), ("cmd/#", 1), ("cmd/+", 0)], &["cmd/#"]);
        check(&[("cmd/x", 2), ("cmd/#", 1)], &["cmd/x", "cmd/#"]);
        check(&[("cmd/x", 1), ("cmd/x", 1), ("cmd/x", 2)], &["cmd/x"]);
        check(
            &[("$share/g/cmd/x", 1), ("cmd/#", 1)],
            &["$share/g/cmd/x", "cmd/#"],
        );
        check(&[("cmd/+", 1), ("+/x", 1)], &["cmd/+", "+/x"]);
    }

    #[test]
    fn filters_that_overlap_are_asked_for_with_the_highest_qos_of_those_that_they_meet() {
        let check = |wanted: &[(&str, u8)], expected: &[u8]| {
            let wanted: Vec<Receive> = wanted
                .iter()
                .map(|(filter, qos)| receive(filter, *qos))
                .collect();
            assert_eq!(
                raised(&wanted)
                    .iter()
                    .map(|receive| receive.qos as u8)
                    .collect::<Vec<u8>>(),
                expected,
                "{wanted:?}"
            );
        };
        check(
            &[("a/#", 0), ("+/b", 2), ("c/#", 1), ("d", 0)],
            &[2, 2, 2, 0],
        );
        check(&[("a/#", 0), ("$share/g/a/b", 2)], &[0, 2]);
        check(&[("cmd/x", 2), ("cmd/#", 1)], &[2, 2]);
    }

    #[test]
    fn a_filter_that_comes_back_has_an_identifier_and_its_partners_have_one_too() {
        let (mut subscriptions, start) = (Subscriptions::default(), crate::time::now());
        while end(&mut subscriptions, true, None, start).is_none() {}
        subscriptions.begin(true);
        subscriptions.identify(true);
        subscriptions.want(
            vec![receive("a", 1), receive("+", 0), receive("b", 1)],
            HashSet::new(),
        );
        subscriptions.heard();
        let asked = |subscriptions: &mut Subscriptions| {
            let mut asked = Vec::new();
            while let Some(next) = subscriptions.next() {
                asked.push((names(&next.filters).join(" "), next.identifier));
                subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
            }
            asked
        };
        assert_eq!(
            asked(&mut subscriptions),
            [("+".to_owned(), Some(2)), ("b".to_owned(), Some(3))]
        );
        subscriptions.begin(true);
        subscriptions.want(vec![receive("a", 1), receive("+", 0)], HashSet::new());
        assert!(
            asked(&mut subscriptions).is_empty()
                && subscriptions.try_left_out(start + LEFT_OUT_FOR)
        );
        assert_eq!(
            asked(&mut subscriptions),
            [("a".to_owned(), Some(1)), ("+".to_owned(), Some(2))]
        );
        assert_eq!(subscriptions.matching(&TopicName::new("a").unwrap()), 2);
    }

    #[test]
    fn a_filter_that_ends_the_connection_three_times_is_left_out_and_the_others_stay() {
        let mut subscriptions = Subscriptions::default();
        let wanted: Vec<Receive> = ["a", "bad", "c"]
            .iter()
            .map(|name| receive(name, 1))
            .collect();
        let (mut connections, at) = (0, crate::time::now());
        loop {
            connections += 1;
            subscriptions.begin(true);
            subscriptions.want(wanted.clone(), HashSet::new());
            assert_eq!(subscriptions.needs_a_sign(), connections > 1);
            subscriptions.heard();
            let mut is_closed = false;
            while let Some(SubscribeRequest { filters, .. }) = subscriptions.next() {
                if names(&filters).contains(&"bad") {
                    assert!(subscriptions.is_waiting());
                    let (asked, culprit) = subscriptions.closed(None, at);
                    assert!(asked.contains(&"bad".to_owned()));
                    assert_eq!(culprit.is_some(), connections == 3);
                    is_closed = true;
                    break;
                }
                subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
            }
            if !is_closed {
                break;
            }
        }
        assert_eq!(
            (connections, subscriptions.missing()),
            (4, vec!["bad".to_owned()])
        );
        assert!(!subscriptions.is_waiting() && !subscriptions.holds_messages());
    }

    /// A connection on which the only filter is asked for, and that ends.
    fn end(
        subscriptions: &mut Subscriptions,
        is_heard: bool,
        reason: Option<u8>,
        at: Instant,
    ) -> Option<String> {
        subscriptions.begin(true);
        subscriptions.want(vec![receive("a", 1)], HashSet::new());
        if is_heard {
            subscriptions.heard();
        }
        subscriptions.next();
        subscriptions.closed(reason.map(ReasonCode), at).1
    }

    #[test]
    fn a_link_that_is_cut_and_a_remote_that_stops_blame_no_filter() {
        let (mut subscriptions, at) = (Subscriptions::default(), crate::time::now());
        assert!(
            (0..20).all(|_| end(&mut subscriptions, false, None, at).is_none()),
            "it may be the link"
        );
        for code in [0x88, 0x89, 0x8B, 0x8E, 0x98, 0x9C] {
            assert!(
                (0..20).all(|_| end(&mut subscriptions, true, Some(code), at).is_none()),
                "{code:#x}"
            );
        }
        let closes = (1..10).find(|_| end(&mut subscriptions, true, Some(0x87), at).is_some());
        assert_eq!(
            (closes, subscriptions.missing()),
            (Some(3), vec!["a".to_owned()])
        );
    }

    #[test]
    fn a_filter_that_is_left_out_is_asked_for_again_alone_once_an_hour() {
        let (mut subscriptions, start) = (Subscriptions::default(), crate::time::now());
        while end(&mut subscriptions, true, None, start).is_none() {}
        let (minute, hour) = (Duration::from_secs(60), LEFT_OUT_FOR);
        let wanted = vec![receive("a", 1), receive("b", 1)];
        let connect = |subscriptions: &mut Subscriptions| {
            subscriptions.begin(true);
            subscriptions.want(wanted.clone(), HashSet::new());
            subscriptions.heard();
            assert_eq!(asks(subscriptions), ["b"]);
        };
        connect(&mut subscriptions);
        assert!(
            !subscriptions.try_left_out(start + hour),
            "the others go first"
        );
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert!(!subscriptions.try_left_out(start + hour - minute));
        assert!(subscriptions.try_left_out(start + hour) && subscriptions.holds_messages());
        assert_eq!(asks(&mut subscriptions), ["a"]);
        assert_eq!(
            subscriptions.closed(None, start + hour),
            (Vec::new(), None),
            "that is known"
        );
        connect(&mut subscriptions);
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert!(!subscriptions.try_left_out(start + 2 * hour - minute));
        assert!(subscriptions.try_left_out(start + 2 * hour));
        assert_eq!(asks(&mut subscriptions), ["a"]);
        assert_eq!(
            subscriptions.answered(&[Some(QoS::AtLeastOnce)]),
            [Answer::Granted(wanted[0].clone())]
        );
        assert!(subscriptions.missing().is_empty() && !subscriptions.holds_messages());
        assert!(!subscriptions.try_left_out(start + 9 * hour), "it is there");
    }

    #[test]
    fn a_lower_qos_and_a_refusal_are_each_returned_once() {
        let mut subscriptions = Subscriptions::default();
        let wanted = vec![receive("a", 2), receive("b", 1)];
        for round in 0..2 {
            subscriptions.begin(false);
            subscriptions.want(wanted.clone(), HashSet::new());
            while subscriptions.next().is_some() {}
            let answers = subscriptions.answered(&[Some(QoS::AtLeastOnce), None]);
            let granted = Answer::Granted(wanted[0].clone());
            if round == 0 {
                let lowered = Answer::Lowered(wanted[0].clone(), QoS::AtLeastOnce);
                assert_eq!(
                    answers,
                    [lowered, granted, Answer::Refused(wanted[1].clone())]
                );
            } else {
                assert_eq!(answers, [granted]);
            }
        }
        assert_eq!(subscriptions.missing(), ["b"]);
        subscriptions.begin(true);
        subscriptions.want(wanted, HashSet::new());
        assert!(subscriptions.next().is_none(), "the session has them");
    }

    /// The filters of the next packets.
    fn asks(subscriptions: &mut Subscriptions) -> Vec<String> {
        std::iter::from_fn(|| subscriptions.next())
            .flat_map(|asked| asked.filters)
            .map(|receive| name_of(&receive))
            .collect()
    }

    fn set(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_refused_filter_covers_nothing_and_what_it_covered_is_asked_for_at_once() {
        let mut subscriptions = Subscriptions::default();
        let wanted = vec![
            receive("#", 1),
            receive("plant/#", 1),
            receive("plant/cmd/+", 1),
        ];
        subscriptions.begin(false);
        subscriptions.want(wanted.clone(), HashSet::new());
        assert_eq!(asks(&mut subscriptions), ["#"]);
        subscriptions.answered(&[None]);
        assert_eq!(asks(&mut subscriptions), ["plant/#"]);
        assert!(subscriptions.needless().is_empty(), "it is not granted yet");
        subscriptions.answered(&[None]);
        assert_eq!(asks(&mut subscriptions), ["plant/cmd/+"]);
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert!(!subscriptions.is_waiting() && subscriptions.needless().is_empty());
        // The session is kept: what was refused still covers nothing.
        subscriptions.begin(true);
        subscriptions.want(wanted.clone(), HashSet::new());
        assert!(asks(&mut subscriptions).is_empty() && subscriptions.needless().is_empty());
        // It is not: everything is tried again.
        subscriptions.begin(false);
        subscriptions.want(wanted, HashSet::new());
        assert_eq!(asks(&mut subscriptions), ["#"]);
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert_eq!(subscriptions.needless(), set(&["plant/#", "plant/cmd/+"]));
    }

    #[test]
    fn what_the_session_has_covers_others_and_is_not_asked_for() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.begin(true);
        subscriptions.want(
            vec![
                receive("cmd/x", 1),
                receive("cmd/#", 1),
                receive("other", 1),
            ],
            set(&["cmd/#"]),
        );
        assert_eq!(asks(&mut subscriptions), ["other"]);
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert_eq!(subscriptions.needless(), set(&["cmd/x"]));
    }

    #[test]
    fn filters_that_overlap_have_identifiers_of_their_own() {
        let wanted: Vec<Receive> = ["x", "a/+", "y", "+/b", "$share/g/a/b"]
            .iter()
            .map(|name| receive(name, 1))
            .collect();
        for (has_identifiers, expected) in [
            (
                true,
                vec![
                    ("x y $share/g/a/b", None),
                    ("a/+", Some(2)),
                    ("+/b", Some(4)),
                ],
            ),
            (false, vec![("x a/+ y +/b $share/g/a/b", None)]),
        ] {
            let mut subscriptions = Subscriptions::default();
            subscriptions.begin(false);
            subscriptions.identify(has_identifiers);
            subscriptions.want(wanted.clone(), HashSet::new());
            let asked: Vec<SubscribeRequest> =
                std::iter::from_fn(|| subscriptions.next()).collect();
            let told: Vec<(String, Option<u32>)> = asked
                .iter()
                .map(|asked| (names(&asked.filters).join(" "), asked.identifier))
                .collect();
            assert_eq!(
                told,
                expected
                    .into_iter()
                    .map(|(names, identifier)| (names.to_owned(), identifier))
                    .collect::<Vec<_>>()
            );
            let matching =
                |topic: &str| subscriptions.matching(&TopicName::new(topic.to_owned()).unwrap());
            assert_eq!((matching("a/b"), matching("a/c"), matching("x")), (2, 1, 0));
        }
    }
}
