//! What the remote is asked for with SUBSCRIBE: in small packets, and without what the remote answers by closing. Pure.
//!
//! Invariants:
//! * At most eight filters a packet: AWS IoT Core closes on more.
//! * A filter is left out when three connections ended at its SUBSCRIBE, the last of them at a packet with no other filter. From the
//!   first such end on, filters are asked for one by one, and messages wait until they are answered: no message is blamed for them.
//! * A filter that another one covers, at the same QoS or a higher one, is not asked for: its messages would come twice. A filter that
//!   the remote refused, or that is left out, covers nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Receive;
use crate::mqtt::QoS;

/// Filters in a packet.
pub(super) const MOST_FILTERS: usize = 8;
/// Connections that may end at the SUBSCRIBE of a filter.
const MOST_CLOSES: u32 = 3;

/// What became of one filter.
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
    /// Asked on this connection and not answered, in order.
    asked: VecDeque<Vec<Receive>>,
    /// Still to be asked on this connection.
    waiting: VecDeque<Vec<Receive>>,
    /// Packets asked on this connection.
    packets: u16,
    /// How many connections ended at each filter.
    closes: HashMap<String, u32>,
    left_out: Vec<String>,
    refused: HashSet<String>,
    lowered: HashSet<String>,
}

fn name_of(receive: &Receive) -> String {
    receive.filter.as_str().to_owned()
}

/// Those that no other one covers.
fn uncovered(wanted: Vec<Receive>) -> Vec<Receive> {
    let covers = |one: &Receive, other: &Receive| {
        one.qos >= other.qos && !one.filter.is_shared() && !other.filter.is_shared() && one.filter.covers(&other.filter)
    };
    let is_needless = |index: usize, receive: &Receive| {
        wanted.iter().enumerate().any(|(other, by)| {
            // Of two that are the same the first one stays.
            other != index && covers(by, receive) && (other < index || !covers(receive, by))
        })
    };
    wanted.iter().enumerate().filter(|(index, receive)| !is_needless(*index, receive)).map(|(_, receive)| receive.clone()).collect()
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
    }

    /// It is not sure any more what the remote's session has.
    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    /// The file is another one: everything is tried again.
    pub(super) fn start_over(&mut self) {
        *self = Self::default();
    }

    /// What the remote is to be asked for, of `wanted`; its session has those of `granted`.
    pub(super) fn want(&mut self, wanted: Vec<Receive>, granted: HashSet<String>) {
        self.wanted = wanted;
        self.asked_for = if self.is_known { self.needed().iter().map(name_of).collect() } else { granted };
        self.plan();
        self.is_known = !self.is_waiting();
    }

    /// Plans to ask for everything that is needed and was not asked for.
    fn plan(&mut self) {
        let mut needed = self.needed();
        needed.retain(|receive| self.asked_for.insert(name_of(receive)));
        let size = if self.is_careful() { 1 } else { MOST_FILTERS };
        self.waiting.extend(needed.chunks(size).map(<[Receive]>::to_vec));
    }

    /// The filters that no other one covers, without those that the remote does not grant.
    fn needed(&self) -> Vec<Receive> {
        let is_granted = |receive: &&Receive| !self.is_withheld(receive.filter.as_str());
        uncovered(self.wanted.iter().filter(is_granted).cloned().collect())
    }

    fn is_withheld(&self, filter: &str) -> bool {
        self.denied.contains(filter) || self.left_out.iter().any(|name| name == filter)
    }

    /// Filters whose messages come with another one, once everything is answered: what the session still has of them is to be
    /// unsubscribed from, or their messages come twice.
    pub(super) fn needless(&self) -> HashSet<String> {
        if self.is_waiting() {
            return HashSet::new();
        }
        let needed: HashSet<String> = self.needed().iter().map(name_of).collect();
        self.wanted.iter().map(name_of).filter(|name| !needed.contains(name) && !self.is_withheld(name)).collect()
    }

    /// True if a connection has ended at a SUBSCRIBE.
    fn is_careful(&self) -> bool {
        !self.closes.is_empty()
    }

    /// The next packet to be sent, with its number on this connection.
    pub(super) fn next(&mut self) -> Option<(u16, Vec<Receive>)> {
        if self.is_careful() && !self.asked.is_empty() {
            return None;
        }
        let filters = self.waiting.pop_front()?;
        let number = self.packets;
        self.packets = self.packets.wrapping_add(1);
        self.asked.push_back(filters.clone());
        Some((number, filters))
    }

    /// The last packet was not sent.
    pub(super) fn take_back(&mut self) {
        let filters = self.asked.pop_back().unwrap_or_default();
        self.denied.extend(filters.iter().map(name_of));
        self.plan();
    }

    /// True while an answer is owed, so that the end of the connection may be due to a filter.
    pub(super) fn is_waiting(&self) -> bool {
        !self.asked.is_empty() || !self.waiting.is_empty()
    }

    /// True while messages are to wait until the filters are answered.
    pub(super) fn holds_messages(&self) -> bool {
        self.is_careful() && self.is_waiting()
    }

    /// SUBACK: what was granted, in the order of the filters. Each change is returned once.
    pub(super) fn answered(&mut self, granted: &[Option<QoS>]) -> Vec<Answer> {
        let filters = self.asked.pop_front().unwrap_or_default();
        let mut answers = Vec::new();
        for (receive, granted) in filters.into_iter().zip(granted) {
            let name = name_of(&receive);
            self.closes.remove(&name);
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
        self.plan();
        self.is_known = !self.is_waiting();
        answers
    }

    /// The remote closed the connection while it owed an answer to SUBSCRIBE. Returns the filters it was asked for, and the one that is
    /// left out from here on.
    pub(super) fn closed(&mut self) -> (Vec<String>, Option<String>) {
        self.is_known = false;
        let Some(filters) = self.asked.pop_front() else { return (Vec::new(), None) };
        let names: Vec<String> = filters.iter().map(name_of).collect();
        for name in &names {
            *self.closes.entry(name.clone()).or_default() += 1;
        }
        let culprit = match names.as_slice() {
            [name] if self.closes.get(name).is_some_and(|closes| *closes >= MOST_CLOSES) => Some(name.clone()),
            _ => None,
        };
        if let Some(name) = &culprit {
            self.closes.remove(name);
            self.left_out.push(name.clone());
        }
        (names, culprit)
    }

    /// Filters that are in the file and not at the remote.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.left_out.iter().chain(&self.refused).cloned().collect();
        missing.sort();
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicFilter;

    fn receive(filter: &str, qos: u8) -> Receive {
        Receive { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos: QoS::from_bits(qos).unwrap() }
    }

    fn names(filters: &[Receive]) -> Vec<&str> {
        filters.iter().map(|receive| receive.filter.as_str()).collect()
    }

    #[test]
    fn packets_hold_eight_filters() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want((0..20).map(|number| receive(&format!("cmd/{number}"), 1)).collect(), HashSet::new());
        let sizes: Vec<(u16, usize)> =
            std::iter::from_fn(|| subscriptions.next()).map(|(number, filters)| (number, filters.len())).collect();
        assert_eq!(sizes, [(0, 8), (1, 8), (2, 4)]);
    }

    #[test]
    fn what_another_filter_covers_is_not_asked_for() {
        let check = |wanted: &[(&str, u8)], expected: &[&str]| {
            let wanted = wanted.iter().map(|(filter, qos)| receive(filter, *qos)).collect();
            assert_eq!(names(&uncovered(wanted)), expected);
        };
        check(&[("cmd/x", 1), ("cmd/#", 1), ("cmd/+", 0)], &["cmd/#"]);
        check(&[("cmd/x", 2), ("cmd/#", 1)], &["cmd/x", "cmd/#"]);
        check(&[("cmd/x", 1), ("cmd/x", 1), ("cmd/x", 2)], &["cmd/x"]);
        check(&[("$share/g/cmd/x", 1), ("cmd/#", 1)], &["$share/g/cmd/x", "cmd/#"]);
        check(&[("cmd/+", 1), ("+/x", 1)], &["cmd/+", "+/x"]);
    }

    #[test]
    fn a_filter_that_ends_the_connection_three_times_is_left_out_and_the_others_stay() {
        let mut subscriptions = Subscriptions::default();
        let wanted: Vec<Receive> = ["a", "bad", "c"].iter().map(|name| receive(name, 1)).collect();
        let mut connections = 0;
        loop {
            connections += 1;
            subscriptions.begin(true);
            subscriptions.want(wanted.clone(), HashSet::new());
            let mut is_closed = false;
            while let Some((_, filters)) = subscriptions.next() {
                if names(&filters).contains(&"bad") {
                    assert!(subscriptions.is_waiting());
                    let (asked, culprit) = subscriptions.closed();
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
        assert_eq!((connections, subscriptions.missing()), (4, vec!["bad".to_owned()]));
        assert!(!subscriptions.is_waiting() && !subscriptions.holds_messages());
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
                assert_eq!(answers, [lowered, granted, Answer::Refused(wanted[1].clone())]);
            } else {
                assert_eq!(answers, [granted]);
            }
        }
        assert_eq!(subscriptions.missing(), ["b"]);
        subscriptions.begin(true);
        subscriptions.want(wanted, HashSet::new());
        assert!(subscriptions.next().is_none(), "the session has them");
    }

    /// What the next packets ask for.
    fn asks(subscriptions: &mut Subscriptions) -> Vec<String> {
        std::iter::from_fn(|| subscriptions.next()).flat_map(|(_, filters)| filters).map(|receive| name_of(&receive)).collect()
    }

    fn set(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_refused_filter_covers_nothing_and_what_it_covered_is_asked_for_at_once() {
        let mut subscriptions = Subscriptions::default();
        let wanted = vec![receive("#", 1), receive("plant/#", 1), receive("plant/cmd/+", 1)];
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
        subscriptions.want(vec![receive("cmd/x", 1), receive("cmd/#", 1), receive("other", 1)], set(&["cmd/#"]));
        assert_eq!(asks(&mut subscriptions), ["other"]);
        subscriptions.answered(&[Some(QoS::AtLeastOnce)]);
        assert_eq!(subscriptions.needless(), set(&["cmd/x"]));
    }
}
