//! The routes between the local broker and one remote: which topics are forwarded, and their names
//! on each side. Pure.
//!
//! Invariants:
//! * The first `send` rule that matches a message, its condition included, decides its topic at the
//!   remote; the first `receive` filter that matches decides its topic here. A message goes each
//!   way once, however many of them match.
//! * A command at the name of a point (or group) at the remote, with `/set` behind it, becomes a
//!   command to that point. That is so for points of this gateway only, and only where the file
//!   asks for it: with `commands`, or where a `receive` filter without a mapping of its own covers
//!   it.
//! * A response topic is mapped so that the answer comes back, where that is possible: for the
//!   remote to a topic that comes in as the local one, for local clients to a topic that goes out
//!   as the one of the remote.
//! * A point has one name at the remote: that of its readings, by the first rule that takes all of
//!   them; without one, by the first that takes some. Commands to a name that several points share
//!   reach none of them.
//! * A command that came from a remote goes to no other one, and a command of a local client goes
//!   to no remote that would send it back; their results go to the remote.
//! * A retained message that is a command here keeps the retain flag: instruments refuse retained
//!   commands.
//! * Messages about losses of this uplink go to its remote in any case.
//! * A response topic of the remote never becomes a command, a point or a result of a command, nor
//!   a topic of the local broker.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{CatchUp, Condition, Rule, Subject};
use crate::message::{Class, Lane, Message, Origin};
use crate::mqtt::{Mapping, TopicError, TopicName};
use crate::payload::{NamesOfPoints, ReadingFormat};
use crate::units::Rate;

/// The suffix of commands to a point.
pub const SET: &str = "/set";
/// The suffix of their results.
const RESULT: &str = "/set/result";

/// One `receive` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inward {
    /// Remote topics to local ones.
    pub mapping: Mapping,
    /// What must be true of a message; without one it is for all.
    pub condition: Option<Condition>,
    /// False takes the retain flag off.
    pub keeps_retained: bool,
}

/// The rules of one uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Local messages that go to the remote.
    pub send: Vec<Rule>,
    /// Messages of the remote that come in.
    pub receive: Vec<Inward>,
    /// Limit for all messages to the remote.
    pub rate: Option<Rate>,
    /// How what has waited is sent when the link is back.
    pub catch_up: CatchUp,
    /// How readings are written, where their rule does not say it.
    pub format: ReadingFormat,
    /// The names of points, for formats that write them.
    pub point_names: Arc<NamesOfPoints>,
    /// Whether the remote may send commands to points under the names that they have there.
    pub commands: bool,
    /// The topics of points and groups.
    points: Arc<Points>,
    /// The topic of messages about losses of this uplink and a rule for them, where no `send` rule
    /// takes them: its remote learns of them all the same.
    pub losses: Option<(TopicName, Rule)>,
    /// The identifiers of the `send` rules, in their order.
    ids: Vec<u32>,
    /// The points by their names at the remote; made from the rules and the points. Empty where
    /// nothing comes in.
    names: HashMap<TopicName, Named>,
}

/// The topics of points and groups, with the class of their messages.
pub type Points = HashMap<TopicName, Class>;

/// The meaning of a name at the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    /// This point only.
    Point(TopicName),
    /// Several points, by rules that each have a way back.
    Several(TopicName, TopicName),
    /// Whatever a rule without a way back sends there.
    Unclear,
}

/// A message of the remote as it is published here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The local topic; the error says why there is none.
    pub topic: Result<TopicName, TopicError>,
    /// False takes the retain flag off.
    pub keeps_retained: bool,
}

/// `topic` with `suffix` behind it.
fn with(topic: &TopicName, suffix: &str) -> Option<TopicName> {
    TopicName::new(format!("{topic}{suffix}")).ok()
}

/// `topic` without `suffix`.
fn without(topic: &TopicName, suffix: &str) -> Option<TopicName> {
    TopicName::new(topic.as_str().strip_suffix(suffix)?.to_owned()).ok()
}

/// True for topics that only the local broker itself writes.
pub fn is_of_broker(topic: &str) -> bool {
    ["$SYS", "$share"].contains(&topic.split('/').next().unwrap_or_default())
}

fn has_way_back(rule: &Rule, point: &TopicName, name: &TopicName) -> bool {
    rule.mapping.back(name).as_ref() == Some(point)
}

impl Routes {
    /// The rules, and the points that they may be about.
    pub fn new(send: Vec<Rule>, receive: Vec<Inward>, commands: bool, points: Arc<Points>) -> Self {
        let ids = send.iter().map(Rule::id).collect();
        let mut routes = Self {
            send,
            receive,
            rate: None,
            catch_up: CatchUp::default(),
            format: ReadingFormat::default(),
            point_names: Arc::default(),
            commands,
            points,
            losses: None,
            ids,
            names: HashMap::new(),
        };
        if commands || !routes.receive.is_empty() {
            routes.names = routes.names();
        }
        routes
    }

    fn names(&self) -> HashMap<TopicName, Named> {
        let mut names: HashMap<TopicName, Named> = HashMap::new();
        let mut points: Vec<(&TopicName, &Class)> = self.points.iter().collect();
        points.sort_by_key(|(point, _)| *point);
        for (point, class) in points {
            let Some((rule, Ok(name))) = self.name(point, *class) else {
                continue;
            };
            let is_certain = has_way_back(rule, point, &name);
            match names.entry(name) {
                Entry::Vacant(free) => drop(free.insert(if is_certain {
                    Named::Point(point.clone())
                } else {
                    Named::Unclear
                })),
                Entry::Occupied(mut taken) => {
                    let both = match taken.get() {
                        Named::Point(first) | Named::Several(first, _) if is_certain => {
                            Named::Several(first.clone(), point.clone())
                        }
                        _ => Named::Unclear,
                    };
                    taken.insert(both);
                }
            }
        }
        names
    }

    /// The rule that names a topic at the remote, whatever is in its messages: the first for all
    /// messages, else the first for some.
    pub fn naming(&self, topic: &TopicName, class: Class) -> Option<&Rule> {
        let mut covering = self.send.iter().filter(|rule| rule.covers(topic, class));
        let first = covering.clone().next();
        covering.find(|rule| rule.condition.is_none()).or(first)
    }

    /// Where a command of a local client may go, by which `send` rule, whatever is in it.
    pub fn ways_of_command(&self, command: &TopicName) -> Vec<(usize, TopicName)> {
        let mut ways = Vec::new();
        if self.commands && self.is_command(command) {
            return ways;
        }
        for (number, rule) in self.send.iter().enumerate() {
            if !rule.covers(command, Class::default()) {
                continue;
            }
            let there = rule.mapping.apply(command).and_then(Result::ok);
            ways.extend(there.map(|there| (number, there)));
            if rule.condition.is_none() {
                break;
            }
        }
        ways.retain(|(_, there)| !self.comes_in_as(there, command));
        ways
    }

    /// The name of a topic at the remote, and the rule that gives it.
    fn name(
        &self,
        topic: &TopicName,
        class: Class,
    ) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let rule = self.naming(topic, class)?;
        rule.mapping.apply(topic).map(|topic| (rule, topic))
    }

    /// The rule for a local message, and its topic at the remote; `None` if no rule takes it.
    pub fn outward(&self, subject: &Subject<'_>) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let message = subject.message();
        if let Some(found) = self.result(subject) {
            return Some(found);
        }
        let is_command = self.is_command(&message.topic);
        // Two uplinks to one remote would pass it round for ever, and the instrument would be
        // written each time.
        if is_command && (self.commands || matches!(message.origin, Origin::Uplink(_))) {
            return None;
        }
        let is_own = message.origin == Origin::Field;
        let loss = || self.loss(&message.topic).filter(|_| is_own);
        let sent = self.send.iter().find(|rule| rule.takes(subject));
        let sent = sent.and_then(|rule| Some((rule, rule.mapping.apply(&message.topic)?)));
        let (rule, there) = sent.or_else(loss)?;
        // The remote would send it back where it has no "no local", and the instrument would do it
        // twice.
        let comes_back = |there: &TopicName| self.comes_in_as(there, &message.topic);
        if is_command && there.as_ref().is_ok_and(comes_back) {
            None
        } else {
            Some((rule, there))
        }
    }

    /// A message about losses that no `send` rule takes.
    fn loss(&self, topic: &TopicName) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let (_, rule) = self.losses.as_ref().filter(|(losses, _)| losses == topic)?;
        rule.mapping.apply(topic).map(|topic| (rule, topic))
    }

    /// The rule for messages of the gateway itself, whatever is in them, and their topic at the
    /// remote; `None` unless it is certain that they go there.
    pub fn for_own(
        &self,
        topic: &TopicName,
        class: Class,
    ) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let mut rules = self.send.iter();
        let sent = rules.find(|rule| rule.condition.is_none() && rule.covers(topic, class));
        let sent = sent.and_then(|rule| Some((rule, rule.mapping.apply(topic)?)));
        sent.or_else(|| self.loss(topic))
    }

    /// The identifier of a `send` rule, or of the one for losses.
    pub(super) fn id_of(&self, rule: &Rule) -> u32 {
        let number = self.send.iter().position(|other| std::ptr::eq(other, rule));
        number
            .and_then(|number| self.ids.get(number).copied())
            .unwrap_or_else(|| rule.id())
    }

    /// The `send` rule with an identifier.
    pub(super) fn rule_by_id(&self, id: u32) -> Option<&Rule> {
        let mut rules = self.ids.iter().zip(&self.send);
        rules.find(|(known, _)| **known == id).map(|(_, rule)| rule)
    }

    /// The class of the messages of a point.
    pub(super) fn class_of(&self, point: &TopicName) -> Class {
        self.points.get(point).copied().unwrap_or_default()
    }

    /// The rules that have a rate, by their identifiers.
    pub fn rates(&self) -> impl Iterator<Item = (u32, Rate)> {
        self.ids
            .iter()
            .zip(&self.send)
            .filter_map(|(id, rule)| Some((*id, rule.rate?)))
    }

    /// The identifier of the rule with a rate that has probably taken a message, by its topic at
    /// the remote and its lane: for messages that were queued under other rules.
    pub fn rated_id(&self, there: &TopicName, lane: Lane) -> Option<u32> {
        self.rated(there, lane).map(|rule| self.id_of(rule))
    }

    /// The rule with a rate that has taken a message, by its topic at the remote and its lane; of
    /// several, the first.
    fn rated(&self, there: &TopicName, lane: Lane) -> Option<&Rule> {
        let writes = |mapping: &Mapping| {
            let is_among = || {
                !mapping.has_way_back() && mapping.image().is_some_and(|image| image.matches(there))
            };
            mapping.back(there).is_some() || is_among()
        };
        let mut rated = self.send.iter().filter(|rule| {
            rule.rate.is_some() && (rule.lanes.is_empty() || rule.lanes.contains(&lane))
        });
        rated.find(|rule| writes(&rule.mapping))
    }

    /// The result of a command goes where the command came from: behind the name of the point at
    /// the remote, whether the rule of the point matches it or not.
    fn result(&self, subject: &Subject<'_>) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let message = subject.message();
        let point = without(&message.topic, RESULT).filter(|_| message.origin == Origin::Field)?;
        let (rule, there) = self.name(&point, *self.points.get(&point)?)?;
        let there = there
            .ok()
            .filter(|there| self.point_of(there) == Some(&point))?;
        let is_asked_for = self.commands || self.covering(&with(&there, SET)?).is_some();
        is_asked_for.then(|| (rule, TopicName::new(format!("{there}{RESULT}"))))
    }

    /// How a message of the remote is published here; `None` if no rule takes it. `message` makes
    /// the message for conditions.
    pub fn arrival(&self, topic: &TopicName, message: impl FnOnce() -> Message) -> Option<Arrival> {
        let mut covering = self.all_covering(topic);
        if covering.clone().all(|inward| inward.condition.is_none()) {
            return self.inward(topic);
        }
        let message = message();
        let subject = Subject::of(&message);
        let taking = covering.find(|inward| {
            let condition = inward.condition.as_ref();
            condition.is_none_or(|condition| condition.is_true_of(&subject))
        });
        self.inward_by(self.covering(topic), taking, topic)
    }

    /// How messages of the remote on a topic may be published here, whatever is in them.
    pub fn inward(&self, topic: &TopicName) -> Option<Arrival> {
        let covering = self.covering(topic);
        self.inward_by(covering, covering, topic)
    }

    /// `covering` may make a command of it, whatever is in it; `taking` takes what is none.
    fn inward_by(
        &self,
        covering: Option<&Inward>,
        taking: Option<&Inward>,
        topic: &TopicName,
    ) -> Option<Arrival> {
        let is_plain = covering.is_some_and(|inward| inward.mapping.is_plain());
        if self.commands || (is_plain && !self.is_command(topic)) {
            let command = self.command(topic);
            if let Some(topic) = command {
                return Some(Arrival {
                    topic: Ok(topic),
                    keeps_retained: true,
                });
            }
        }
        let Inward {
            mapping,
            keeps_retained,
            ..
        } = taking?;
        let local = mapping.apply(topic)?;
        let local = local.and_then(|local| {
            if is_of_broker(local.as_str()) {
                Err(TopicError::Reserved)
            } else {
                Ok(local)
            }
        });
        let is_command = local.as_ref().is_ok_and(|local| self.is_command(local));
        Some(Arrival {
            topic: local,
            keeps_retained: *keeps_retained || is_command,
        })
    }

    /// True if messages of the remote on `there` are published here on `local`.
    pub fn comes_in_as(&self, there: &TopicName, local: &TopicName) -> bool {
        self.inward(there)
            .is_some_and(|arrival| arrival.topic.as_ref() == Ok(local))
    }

    fn all_covering(&self, topic: &TopicName) -> impl Iterator<Item = &Inward> + Clone {
        let matches = move |inward: &&Inward| inward.mapping.filter().matches(topic);
        self.receive.iter().filter(matches)
    }

    fn covering(&self, topic: &TopicName) -> Option<&Inward> {
        self.all_covering(topic).next()
    }

    fn is_command(&self, topic: &TopicName) -> bool {
        without(topic, SET).is_some_and(|point| self.points.contains_key(&point))
    }

    /// The local command for a topic of the remote.
    fn command(&self, topic: &TopicName) -> Option<TopicName> {
        with(self.point_of(&without(topic, SET)?)?, SET)
    }

    /// The only point with this name at the remote.
    fn point_of(&self, name: &TopicName) -> Option<&TopicName> {
        match self.names.get(name)? {
            Named::Point(point) => Some(point),
            Named::Several(..) | Named::Unclear => None,
        }
    }

    /// The topics of points and groups.
    pub fn points(&self) -> impl Iterator<Item = &TopicName> {
        self.points.keys()
    }

    /// The name of a point at the remote, if it is that of no other one and commands may come by
    /// it.
    pub fn name_of(&self, point: &TopicName) -> Option<TopicName> {
        let (_, there) = self.name(point, *self.points.get(point)?)?;
        there
            .ok()
            .filter(|there| self.point_of(there) == Some(point))
    }

    /// Names to which the remote may send commands and that several points have, with two of the
    /// points each; in no order.
    pub fn shared_names(&self) -> impl Iterator<Item = (&TopicName, [&TopicName; 2])> {
        let is_open = |name: &TopicName| {
            let covering = with(name, SET).and_then(|command| self.covering(&command));
            self.commands || covering.is_some_and(|inward| inward.mapping.is_plain())
        };
        self.names
            .iter()
            .filter_map(move |(name, named)| match named {
                Named::Several(one, other) if is_open(name) => Some((name, [one, other])),
                _ => None,
            })
    }

    /// The response topic of a local message, for the remote: one whose messages come in under the
    /// local name, else the name of the topic at the remote.
    pub fn answered_at(&self, local: &TopicName) -> TopicName {
        let mut ways = self
            .receive
            .iter()
            .filter_map(|inward| inward.mapping.back(local));
        if let Some(there) = ways.find(|there| self.comes_in_as(there, local)) {
            return there;
        }
        self.name(local, Class::default())
            .and_then(|(_, there)| there.ok())
            .unwrap_or_else(|| local.clone())
    }

    /// The response topic of a message of the remote, for local clients: the topic whose messages
    /// go out under that name. `None` if there is none: the answer would not arrive.
    pub fn answers_to(&self, there: &TopicName) -> Option<TopicName> {
        let goes_there = |local: &TopicName| {
            self.name(local, Class::default())
                .is_some_and(|(_, name)| name.as_ref() == Ok(there))
        };
        let is_of_point = |local: &TopicName| {
            [
                Some(local.clone()),
                without(local, SET),
                without(local, RESULT),
            ]
            .iter()
            .flatten()
            .any(|name| self.points.contains_key(name))
        };
        let local = self
            .send
            .iter()
            .find_map(|rule| rule.mapping.back(there).filter(goes_there))?;
        (!local.is_reserved() && !is_of_point(&local)).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicFilter;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text.to_owned()).unwrap()
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    fn rule(mapping: Mapping) -> Rule {
        Rule {
            mapping,
            ..Rule::keep(filter("#"))
        }
    }

    fn prefix(from: &str, prefix: &str) -> Mapping {
        Mapping::prefix(filter(from), "", prefix).unwrap()
    }

    fn template(from: &str, to: &str) -> Mapping {
        Mapping::template(filter(from), to, "seven").unwrap()
    }

    fn routes(send: Vec<Mapping>, receive: Vec<Mapping>, commands: bool) -> Routes {
        let receive = receive
            .into_iter()
            .map(|mapping| Inward {
                mapping,
                condition: None,
                keeps_retained: true,
            })
            .collect();
        let points =
            ["seven/pump/level", "seven/pump/valve"].map(|point| (name(point), Class::default()));
        Routes::new(
            send.into_iter().map(rule).collect(),
            receive,
            commands,
            Arc::new(HashMap::from(points)),
        )
    }

    #[test]
    fn the_rule_of_a_message_is_found_by_what_it_wrote() {
        let mappings = vec![
            prefix("logs/#", "there/"),
            template("a/+/x", "alarms"),
            template("b/+/x", "b/{1}-x"),
            prefix("#", "there/"),
        ];
        let mut routes = routes(mappings, Vec::new(), false);
        for (number, rule) in routes.send.iter_mut().enumerate() {
            rule.rate = format!("{}/s", number + 1).parse().ok();
        }
        let found = |routes: &Routes, topic: &str, lane| {
            routes
                .rated(&name(topic), lane)
                .and_then(|rule| rule.rate?.messages)
        };
        for (topic, rate) in [
            ("there/logs/x", Some(1)),
            ("alarms", Some(2)),
            ("b/7-x", Some(3)),
            ("there/y", Some(4)),
            ("y", None),
        ] {
            assert_eq!(
                found(&routes, topic, Lane::Live),
                rate.map(|rate| rate * 3600),
                "{topic}"
            );
        }
        // Rules without a rate, and those for other lanes, are none of its.
        routes.send[0].rate = None;
        assert_eq!(found(&routes, "there/logs/x", Lane::Live), Some(4 * 3600));
        routes.send[3].lanes = vec![Lane::Alarm];
        assert_eq!(found(&routes, "there/y", Lane::Live), None);
        assert_eq!(found(&routes, "there/y", Lane::Alarm), Some(4 * 3600));
    }

    fn out(routes: &Routes, topic: &str, origin: Origin) -> Option<String> {
        let message = Message::new(name(topic), "", origin);
        routes.outward(&Subject::of(&message)).map(|(_, topic)| {
            topic.map_or_else(|error| error.to_string(), |topic| topic.to_string())
        })
    }

    fn come(routes: &Routes, topic: &str) -> Option<String> {
        routes.inward(&name(topic)).map(|arrival| {
            arrival
                .topic
                .map_or_else(|error| error.to_string(), |topic| topic.to_string())
        })
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_rule_that_matches_decides_both_ways() {
        let send = vec![
            template("plant/+/alarm", "alarms/{site}/+"),
            prefix("#", "oilco/"),
        ];
        let receive = vec![template("cmd/+/now", "urgent/+"), prefix("+/x/#", "")];
        let routes = routes(send, receive, false);
        assert_eq!(
            out(&routes, "plant/a/alarm", Origin::Client),
            some("alarms/seven/a")
        );
        assert_eq!(
            out(&routes, "plant/a/flow", Origin::Client),
            some("oilco/plant/a/flow")
        );
        assert_eq!(come(&routes, "cmd/x/now"), some("urgent/x"));
        assert_eq!(come(&routes, "cmd/x/later"), some("cmd/x/later"));
        assert_eq!(come(&routes, "other/y"), None);
    }

    #[test]
    fn a_condition_lets_some_messages_pass_to_the_next_rule() {
        let mut routes = routes(
            vec![prefix("seven/#", "alarms/"), prefix("#", "all/")],
            Vec::new(),
            true,
        );
        routes.send[0].condition = Some(Condition::new("v > 80").unwrap());
        let routes = Routes::new(
            routes.send,
            routes.receive,
            true,
            Arc::clone(&routes.points),
        );
        let sent = |topic: &str, payload: &'static str| {
            let message = Message::new(name(topic), payload, Origin::Client);
            let (_, there) = routes.outward(&Subject::of(&message))?;
            Some(there.unwrap().to_string())
        };
        assert_eq!(
            sent("seven/pump/level", "81"),
            some("alarms/seven/pump/level")
        );
        assert_eq!(sent("seven/pump/level", "80"), some("all/seven/pump/level"));
        assert_eq!(
            sent("seven/pump/level", "high"),
            some("all/seven/pump/level")
        );
        // The name of the point is that of most of its readings.
        let point = name("seven/pump/level");
        assert_eq!(routes.name_of(&point), Some(name("all/seven/pump/level")));
        assert_eq!(
            come(&routes, "all/seven/pump/level/set"),
            some("seven/pump/level/set")
        );
        assert_eq!(come(&routes, "alarms/seven/pump/level/set"), None);
        // Messages of the gateway itself go for sure by a rule for all messages only.
        let own = |topic: &str| routes.for_own(&name(topic), Class::default());
        assert_eq!(
            own("seven/gateway/x").unwrap().1,
            Ok(name("all/seven/gateway/x"))
        );
    }

    #[test]
    fn what_no_condition_of_receive_takes_stays_away() {
        let mut routes = routes(
            Vec::new(),
            vec![prefix("cmd/#", "urgent/"), Mapping::keep(filter("cmd/a/#"))],
            false,
        );
        routes.receive[0].condition = Some(Condition::new("user.urgent == \"yes\"").unwrap());
        let arrives = |topic: &str, urgent: &'static str| {
            let mut message = Message::new(name(topic), "", Origin::Uplink(0));
            message.properties.edit().user = vec![("urgent".into(), urgent.into())];
            let arrival = routes.arrival(&name(topic), || message)?;
            Some(arrival.topic.unwrap().to_string())
        };
        assert_eq!(arrives("cmd/a/x", "yes"), some("urgent/cmd/a/x"));
        assert_eq!(arrives("cmd/a/x", "no"), some("cmd/a/x"));
        assert_eq!(arrives("cmd/b", "yes"), some("urgent/cmd/b"));
        assert_eq!(arrives("cmd/b", "no"), None);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
    fn a_command_at_the_name_of_a_point_at_the_remote_reaches_it_where_the_file_asks_for_it() {
        let narrow = || {
            vec![
                template("seven/+/valve", "oilco/{1}-valve"),
                prefix("#", "all/"),
            ]
        };
        let with_commands = routes(narrow(), Vec::new(), true);
        assert_eq!(
            come(&with_commands, "oilco/pump-valve/set"),
            some("seven/pump/valve/set")
        );
        assert_eq!(
            come(&with_commands, "all/seven/pump/level/set"),
            some("seven/pump/level/set")
        );
        assert_eq!(
            come(&with_commands, "all/seven/pump/valve/set"),
            None,
            "it has another name there"
        );
        assert_eq!(
            come(&with_commands, "all/seven/other/level/set"),
            None,
            "not a point of this gateway"
        );
        assert_eq!(come(&with_commands, "all/seven/pump/level"), None);
        assert_eq!(
            out(&with_commands, "seven/pump/level/set", Origin::Client),
            None
        );
        assert_eq!(
            out(&with_commands, "seven/other/set", Origin::Client),
            some("all/seven/other/set")
        );
        assert_eq!(
            out(&with_commands, "seven/pump/valve/set/result", Origin::Field),
            some("oilco/pump-valve/set/result")
        );
        assert_eq!(
            out(
                &with_commands,
                "seven/pump/valve/set/result",
                Origin::Client
            ),
            some("all/seven/pump/valve/set/result")
        );
        let without = routes(narrow(), Vec::new(), false);
        assert_eq!(come(&without, "oilco/pump-valve/set"), None);
        assert_eq!(
            out(&without, "seven/pump/valve/set/result", Origin::Field),
            some("all/seven/pump/valve/set/result")
        );
        let covered = routes(narrow(), vec![Mapping::keep(filter("oilco/#"))], false);
        assert_eq!(
            come(&covered, "oilco/pump-valve/set"),
            some("seven/pump/valve/set")
        );
        assert_eq!(
            come(&covered, "oilco/pump-valve/other"),
            some("oilco/pump-valve/other")
        );
        assert_eq!(come(&covered, "all/seven/pump/level/set"), None);
        assert_eq!(
            out(&covered, "seven/pump/valve/set/result", Origin::Field),
            some("oilco/pump-valve/set/result")
        );
        // A mapping that is written down is what is meant.
        let mapped = routes(narrow(), vec![template("oilco/#", "far/#")], false);
        assert_eq!(
            come(&mapped, "oilco/pump-valve/set"),
            some("far/pump-valve/set")
        );
        let lossy = routes(vec![template("seven/#", "all")], Vec::new(), true);
        assert_eq!(come(&lossy, "all/set"), None);
    }

    #[test]
    fn a_response_topic_leads_back_both_ways() {
        let check = |routes: &Routes, local: &str, there: &str| {
            assert_eq!(
                routes.answered_at(&name(local)),
                name(there),
                "as the remote is told"
            );
            assert_eq!(come(routes, there), some(local));
        };
        let send = || vec![prefix("#", "oilco/")];
        check(
            &routes(
                send(),
                vec![template("oilco/answers/#", "answers/#")],
                false,
            ),
            "answers/7",
            "oilco/answers/7",
        );
        check(
            &routes(send(), vec![Mapping::keep(filter("answers/#"))], false),
            "answers/7",
            "answers/7",
        );
        check(
            &routes(
                send(),
                vec![template("replies/seven/+", "answers/+")],
                false,
            ),
            "answers/7",
            "replies/seven/7",
        );
        // Nothing comes in there: it has the name that the remote knows.
        assert_eq!(
            routes(send(), Vec::new(), false).answered_at(&name("answers/7")),
            name("oilco/answers/7")
        );
        assert_eq!(
            routes(Vec::new(), Vec::new(), false).answered_at(&name("answers/7")),
            name("answers/7")
        );
        let back = |routes: &Routes, there: &str| {
            routes
                .answers_to(&name(there))
                .map(|local| local.to_string())
        };
        assert_eq!(
            back(&routes(send(), Vec::new(), false), "oilco/answers/7"),
            some("answers/7")
        );
        assert_eq!(
            back(&routes(send(), Vec::new(), false), "answers/7"),
            None,
            "nothing goes there"
        );
        assert_eq!(
            back(
                &routes(send(), Vec::new(), true),
                "oilco/seven/pump/valve/set"
            ),
            None,
            "an answer is no command"
        );
        assert_eq!(
            back(
                &routes(vec![template("plant/+", "{1}/plant")], Vec::new(), false),
                "a/plant"
            ),
            some("plant/a")
        );
    }

    #[test]
    fn a_point_has_the_name_that_the_rule_for_its_class_gives_and_so_have_its_results() {
        let class = |id: u16| Class {
            id,
            ..Class::default()
        };
        let mut send: Vec<Rule> = [prefix("#", "alarms/"), prefix("seven/#", "oilco/")]
            .into_iter()
            .map(rule)
            .collect();
        send[0].only = vec![1];
        let points = Arc::new(HashMap::from([
            (name("seven/a/alarm"), class(1)),
            (name("seven/a/flow"), class(0)),
        ]));
        let routes = Routes::new(send, Vec::new(), true, points);
        let check = |point: &str, there: &str, wrong: &str| {
            assert_eq!(routes.name_of(&name(point)), Some(name(there)));
            assert_eq!(
                come(&routes, &format!("{there}/set")),
                Some(format!("{point}/set"))
            );
            assert_eq!(come(&routes, &format!("{wrong}/set")), None);
            // Results have no class of their own.
            assert_eq!(
                out(&routes, &format!("{point}/set/result"), Origin::Field),
                Some(format!("{there}/set/result"))
            );
        };
        check(
            "seven/a/alarm",
            "alarms/seven/a/alarm",
            "oilco/seven/a/alarm",
        );
        check("seven/a/flow", "oilco/seven/a/flow", "alarms/seven/a/flow");
        // Answers are of no such class either.
        assert_eq!(routes.answers_to(&name("alarms/seven/answer")), None);
        assert_eq!(
            routes.answers_to(&name("oilco/seven/answer")),
            Some(name("seven/answer"))
        );
    }

    #[test]
    fn a_retained_command_keeps_its_flag_whatever_the_rule_says() {
        let mut routes = routes(Vec::new(), vec![template("cmd/#", "seven/#")], false);
        routes.receive[0].keeps_retained = false;
        let keeps = |topic: &str| {
            routes
                .inward(&name(topic))
                .map(|arrival| arrival.keeps_retained)
        };
        assert_eq!(keeps("cmd/pump/level/set"), Some(true));
        assert_eq!(keeps("cmd/pump/level"), Some(false));
        assert_eq!(keeps("cmd/other/set"), Some(false), "no point");
    }

    #[test]
    fn a_command_of_a_remote_goes_to_no_other_one_and_one_that_would_come_back_stays_here() {
        let plain = routes(vec![prefix("#", "oilco/")], Vec::new(), false);
        assert_eq!(out(&plain, "seven/pump/level/set", Origin::Uplink(0)), None);
        assert_eq!(
            out(&plain, "seven/other/set", Origin::Uplink(0)),
            some("oilco/seven/other/set")
        );
        assert_eq!(
            out(&plain, "seven/pump/level/set", Origin::Client),
            some("oilco/seven/pump/level/set")
        );
        for receive in [
            Mapping::keep(filter("oilco/#")),
            Mapping::prefix(filter("oilco/#"), "oilco/", "").unwrap(),
        ] {
            let covered = routes(vec![prefix("#", "oilco/")], vec![receive], false);
            assert_eq!(out(&covered, "seven/pump/level/set", Origin::Client), None);
            assert_eq!(
                out(&covered, "seven/pump/level", Origin::Field),
                some("oilco/seven/pump/level")
            );
        }
    }

    #[test]
    fn losses_go_to_the_remote_without_a_rule_but_nothing_of_a_client_does() {
        let mut without = routes(vec![prefix("plant/#", "oilco/")], Vec::new(), false);
        without.losses = Some((
            name("seven/gateway/uplink/a/losses"),
            rule(Mapping::keep(filter("seven/gateway/uplink/a/losses"))),
        ));
        let losses = "seven/gateway/uplink/a/losses";
        assert_eq!(out(&without, losses, Origin::Field), some(losses));
        assert_eq!(
            (
                out(&without, losses, Origin::Client),
                out(&without, losses, Origin::Uplink(1))
            ),
            (None, None)
        );
        assert_eq!(
            out(&without, "seven/gateway/uplink/b/losses", Origin::Field),
            None
        );
    }

    #[test]
    fn a_name_of_two_points_is_that_of_none() {
        let send = || {
            vec![
                template("seven/+/valve", "all/{1}"),
                template("seven/+/level", "all/{1}"),
            ]
        };
        let both = routes(send(), Vec::new(), true);
        assert_eq!(
            (
                come(&both, "all/pump/set"),
                both.name_of(&name("seven/pump/level"))
            ),
            (None, None)
        );
        let shared: Vec<_> = both
            .shared_names()
            .map(|(shared, points)| (shared.to_string(), points.map(ToString::to_string)))
            .collect();
        assert_eq!(
            shared,
            [(
                "all/pump".to_owned(),
                ["seven/pump/level".to_owned(), "seven/pump/valve".to_owned()]
            )]
        );
        assert_eq!(
            out(&both, "seven/pump/level/set/result", Origin::Field),
            None
        );
        let covered = routes(send(), vec![Mapping::keep(filter("all/#"))], false);
        assert_eq!(
            (
                come(&covered, "all/pump/set"),
                covered.shared_names().count()
            ),
            (some("all/pump/set"), 1)
        );
        // A rule that sends other things there, too.
        let unclear = routes(
            vec![
                template("seven/pump/valve", "all"),
                template("seven/#", "all"),
            ],
            Vec::new(),
            true,
        );
        assert_eq!(
            (come(&unclear, "all/set"), unclear.shared_names().count()),
            (None, 0)
        );
    }

    #[test]
    fn an_answer_goes_to_no_command_no_point_and_no_topic_of_the_broker() {
        let check = |routes: &Routes, there: &str| {
            assert_eq!(routes.answers_to(&name(there)), None, "{there}");
        };
        let prefixed = routes(vec![prefix("#", "oilco/")], Vec::new(), false);
        for there in [
            "seven/pump/level/set",
            "seven/pump/level",
            "seven/pump/level/set/result",
        ] {
            check(&prefixed, &format!("oilco/{there}"));
            // Nothing goes there, although the text is a local topic.
            check(&prefixed, there);
        }
        check(&prefixed, "$SYS/broker/uptime");
    }

    #[test]
    fn nothing_comes_in_below_the_topics_of_the_local_broker() {
        let routes = routes(
            Vec::new(),
            vec![
                Mapping::keep(filter("$SYS/#")),
                Mapping::prefix(filter("$aws/#"), "$aws/", "").unwrap(),
            ],
            false,
        );
        for topic in [
            "$SYS/broker/uptime",
            "$aws/$SYS/broker/uptime",
            "$aws/$share/g/x",
        ] {
            assert_eq!(
                come(&routes, topic),
                Some(TopicError::Reserved.to_string()),
                "{topic}"
            );
        }
        assert_eq!(come(&routes, "$aws/things"), some("things"));
    }
}
