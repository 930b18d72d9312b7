//! What goes where between the local broker and one remote: which topics, and how each side writes them. Pure.
//!
//! Invariants:
//! * The first `send` rule that wants a message decides how it is written at the remote; the first `receive` filter that matches decides
//!   how it is written here. A message goes each way once, however many of them match.
//! * A command at the name of a point (or group) at the remote, with `/set` behind it, becomes a command to that point. That is so for
//!   points of this gateway only, and only where the file asks for it: with `commands`, or where a `receive` filter without a mapping
//!   of its own covers it.
//! * Where a response topic can be answered, it is written so that the answer comes back: to the remote as a topic that comes in as
//!   the local one, to local clients as a topic that goes out as the one of the remote.
//! * Where the remote may send commands, commands of local clients stay here; their results go to the remote.
//! * A response topic of the remote never becomes a command.

use std::collections::HashSet;
use std::sync::Arc;

use super::Rule;
use crate::message::{Class, Message, Origin};
use crate::mqtt::{Mapping, TopicError, TopicName};

/// What commands to points have behind the topic of the point.
pub const SET: &str = "/set";
/// What their results have behind it.
const RESULT: &str = "/set/result";

/// How a message of the remote is written here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inward {
    /// Remote topics to local ones.
    pub mapping: Mapping,
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
    /// Whether the remote may send commands to points under the names that they have there.
    pub commands: bool,
    /// The topics of points and groups.
    pub points: Arc<HashSet<TopicName>>,
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

impl Routes {
    /// The rule for a local message, and its topic at the remote; `None` if no rule wants it.
    pub fn outward(&self, message: &Message) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        if let Some(found) = self.result(message) {
            return Some(found);
        }
        // The remote would send it back where it has no "no local", and the instrument would do it twice.
        if self.commands && self.is_command(&message.topic) {
            return None;
        }
        let rule = self.send.iter().find(|rule| rule.wants(&message.topic, message.class))?;
        rule.mapping.apply(&message.topic).map(|topic| (rule, topic))
    }

    /// The result of a command goes where the command came from: behind the name of the point at the remote, whether the rule of the
    /// point matches it or not.
    fn result(&self, message: &Message) -> Option<(&Rule, Result<TopicName, TopicError>)> {
        let point = without(&message.topic, RESULT).filter(|point| message.origin == Origin::Field && self.points.contains(point))?;
        let rule = self.send.iter().find(|rule| rule.wants(&point, message.class))?;
        let there = rule.mapping.apply(&point)?.ok().filter(|_| rule.mapping.has_way_back())?;
        let is_asked_for = self.commands || self.covering(&with(&there, SET)?).is_some();
        is_asked_for.then(|| (rule, TopicName::new(format!("{there}{RESULT}"))))
    }

    /// How a message of the remote is published here; `None` if nobody asked for it.
    pub fn inward(&self, topic: &TopicName) -> Option<Arrival> {
        let covering = self.covering(topic);
        let is_plain = covering.is_some_and(|inward| inward.mapping.is_plain());
        if self.commands || (is_plain && !self.is_command(topic)) {
            let command = self.command(topic);
            if let Some(topic) = command {
                return Some(Arrival { topic: Ok(topic), keeps_retained: true });
            }
        }
        let Inward { mapping, keeps_retained } = covering?;
        Some(Arrival { topic: mapping.apply(topic)?, keeps_retained: *keeps_retained })
    }

    fn covering(&self, topic: &TopicName) -> Option<&Inward> {
        self.receive.iter().find(|inward| inward.mapping.filter().matches(topic))
    }

    fn is_command(&self, topic: &TopicName) -> bool {
        without(topic, SET).is_some_and(|point| self.points.contains(&point))
    }

    /// The command that a topic of the remote stands for.
    fn command(&self, topic: &TopicName) -> Option<TopicName> {
        let point = self.sent_as(&without(topic, SET)?).filter(|point| self.points.contains(point))?;
        with(&point, SET)
    }

    /// The name of a point at the remote; the names of several, one for each class that a rule is for.
    pub fn names_of(&self, point: &TopicName) -> Vec<TopicName> {
        let mut names: Vec<TopicName> = Vec::new();
        for rule in self.send.iter().filter(|rule| rule.mapping.filter().matches(point)) {
            let name = rule.mapping.apply(point).and_then(Result::ok).filter(|name| rule.mapping.back(name).as_ref() == Some(point));
            names.extend(name.filter(|name| !names.contains(name)));
            if rule.only.is_empty() {
                break;
            }
        }
        names
    }

    /// The local topic that goes to the remote as `topic`.
    fn sent_as(&self, topic: &TopicName) -> Option<TopicName> {
        self.send.iter().find_map(|rule| rule.mapping.back(topic).filter(|local| self.names_of(local).contains(topic)))
    }

    /// A response topic of a local message as the remote is told: one whose messages come in under the local name; else the name that
    /// the remote knows the topic by.
    pub fn answered_at(&self, local: &TopicName) -> TopicName {
        let comes_back = |there: &TopicName| self.inward(there).is_some_and(|arrival| arrival.topic.as_ref() == Ok(local));
        let mut ways = self.receive.iter().filter_map(|inward| inward.mapping.back(local));
        if let Some(there) = ways.find(comes_back) {
            return there;
        }
        let rule = self.send.iter().find(|rule| rule.wants(local, Class::default()));
        rule.and_then(|rule| rule.mapping.apply(local)?.ok()).unwrap_or_else(|| local.clone())
    }

    /// A response topic of the remote as local clients are told: the topic whose messages go out under that name. `None` if there is
    /// none: the answer would not arrive.
    pub fn answers_to(&self, there: &TopicName) -> Option<TopicName> {
        self.sent_as(there).filter(|local| !self.is_command(local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{QoS, TopicFilter};

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text.to_owned()).unwrap()
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    fn rule(mapping: Mapping) -> Rule {
        Rule { mapping, only: Vec::new(), class: None, qos: None, most: QoS::ExactlyOnce, keeps_retained: true }
    }

    fn prefix(from: &str, prefix: &str) -> Mapping {
        Mapping::prefix(filter(from), "", prefix).unwrap()
    }

    fn template(from: &str, to: &str) -> Mapping {
        Mapping::template(filter(from), to, "seven").unwrap()
    }

    fn routes(send: Vec<Mapping>, receive: Vec<Mapping>, commands: bool) -> Routes {
        let receive = receive.into_iter().map(|mapping| Inward { mapping, keeps_retained: true }).collect();
        let points = ["seven/pump/level", "seven/pump/valve"].into_iter().map(name).collect();
        Routes { send: send.into_iter().map(rule).collect(), receive, commands, points: Arc::new(points) }
    }

    fn out(routes: &Routes, topic: &str, origin: Origin) -> Option<String> {
        let message = Message::new(name(topic), "", origin);
        routes.outward(&message).map(|(_, topic)| topic.map_or_else(|error| error.to_string(), |topic| topic.to_string()))
    }

    fn come(routes: &Routes, topic: &str) -> Option<String> {
        routes.inward(&name(topic)).map(|arrival| arrival.topic.map_or_else(|error| error.to_string(), |topic| topic.to_string()))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_rule_that_matches_decides_both_ways() {
        let send = vec![template("plant/+/alarm", "alarms/{site}/+"), prefix("#", "oilco/")];
        let receive = vec![template("cmd/+/now", "urgent/+"), prefix("+/x/#", "")];
        let routes = routes(send, receive, false);
        assert_eq!(out(&routes, "plant/a/alarm", Origin::Client), some("alarms/seven/a"));
        assert_eq!(out(&routes, "plant/a/flow", Origin::Client), some("oilco/plant/a/flow"));
        assert_eq!(come(&routes, "cmd/x/now"), some("urgent/x"));
        assert_eq!(come(&routes, "cmd/x/later"), some("cmd/x/later"));
        assert_eq!(come(&routes, "other/y"), None);
    }

    #[test]
    fn a_command_at_the_name_of_a_point_at_the_remote_reaches_it_where_the_file_asks_for_it() {
        let narrow = || vec![template("seven/+/valve", "oilco/{1}-valve"), prefix("#", "all/")];
        let with_commands = routes(narrow(), Vec::new(), true);
        assert_eq!(come(&with_commands, "oilco/pump-valve/set"), some("seven/pump/valve/set"));
        assert_eq!(come(&with_commands, "all/seven/pump/level/set"), some("seven/pump/level/set"));
        assert_eq!(come(&with_commands, "all/seven/pump/valve/set"), None, "it has another name there");
        assert_eq!(come(&with_commands, "all/seven/other/level/set"), None, "not a point of this gateway");
        assert_eq!(come(&with_commands, "all/seven/pump/level"), None);
        assert_eq!(out(&with_commands, "seven/pump/level/set", Origin::Client), None);
        assert_eq!(out(&with_commands, "seven/other/set", Origin::Client), some("all/seven/other/set"));
        assert_eq!(out(&with_commands, "seven/pump/valve/set/result", Origin::Field), some("oilco/pump-valve/set/result"));
        assert_eq!(out(&with_commands, "seven/pump/valve/set/result", Origin::Client), some("all/seven/pump/valve/set/result"));
        let without = routes(narrow(), Vec::new(), false);
        assert_eq!(come(&without, "oilco/pump-valve/set"), None);
        assert_eq!(out(&without, "seven/pump/valve/set/result", Origin::Field), some("all/seven/pump/valve/set/result"));
        let covered = routes(narrow(), vec![Mapping::keep(filter("oilco/#"))], false);
        assert_eq!(come(&covered, "oilco/pump-valve/set"), some("seven/pump/valve/set"));
        assert_eq!(come(&covered, "oilco/pump-valve/other"), some("oilco/pump-valve/other"));
        assert_eq!(come(&covered, "all/seven/pump/level/set"), None);
        assert_eq!(out(&covered, "seven/pump/valve/set/result", Origin::Field), some("oilco/pump-valve/set/result"));
        // A mapping that is written down is what is meant.
        let mapped = routes(narrow(), vec![template("oilco/#", "far/#")], false);
        assert_eq!(come(&mapped, "oilco/pump-valve/set"), some("far/pump-valve/set"));
        let lossy = routes(vec![template("seven/#", "all")], Vec::new(), true);
        assert_eq!(come(&lossy, "all/set"), None);
    }

    #[test]
    fn a_response_topic_leads_back_both_ways() {
        let check = |routes: &Routes, local: &str, there: &str| {
            assert_eq!(routes.answered_at(&name(local)), name(there), "as the remote is told");
            assert_eq!(come(routes, there), some(local));
        };
        let send = || vec![prefix("#", "oilco/")];
        check(&routes(send(), vec![template("oilco/answers/#", "answers/#")], false), "answers/7", "oilco/answers/7");
        check(&routes(send(), vec![Mapping::keep(filter("answers/#"))], false), "answers/7", "answers/7");
        check(&routes(send(), vec![template("replies/seven/+", "answers/+")], false), "answers/7", "replies/seven/7");
        // Nothing comes in there: it has the name that the remote knows.
        assert_eq!(routes(send(), Vec::new(), false).answered_at(&name("answers/7")), name("oilco/answers/7"));
        assert_eq!(routes(Vec::new(), Vec::new(), false).answered_at(&name("answers/7")), name("answers/7"));
        let back = |routes: &Routes, there: &str| routes.answers_to(&name(there)).map(|local| local.to_string());
        assert_eq!(back(&routes(send(), Vec::new(), false), "oilco/answers/7"), some("answers/7"));
        assert_eq!(back(&routes(send(), Vec::new(), false), "answers/7"), None, "nothing goes there");
        assert_eq!(back(&routes(send(), Vec::new(), true), "oilco/seven/pump/valve/set"), None, "an answer is no command");
        assert_eq!(back(&routes(vec![template("plant/+", "{1}/plant")], Vec::new(), false), "a/plant"), some("plant/a"));
    }

    #[test]
    fn a_point_has_a_name_for_each_class_that_has_a_rule() {
        let mut routes = routes(vec![prefix("#", "alarms/"), prefix("seven/#", "oilco/"), prefix("#", "rest/")], Vec::new(), true);
        routes.send[0].only = vec![1];
        let names: Vec<String> = routes.names_of(&name("seven/pump/valve")).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["alarms/seven/pump/valve", "oilco/seven/pump/valve"]);
        assert_eq!(come(&routes, "alarms/seven/pump/valve/set"), some("seven/pump/valve/set"));
        assert_eq!(come(&routes, "rest/seven/pump/valve/set"), None);
    }
}
