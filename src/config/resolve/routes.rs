//! Rules of uplinks: topic mappings both ways, and the subscriptions that commands to points need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::field::Field;
use super::{Check, NORMAL, at, catch_up, cloud, formats};
use crate::config::document::PathStep;
use crate::config::{WriteGroup, file};
use crate::field::Point;
use crate::message::{Class, STATUS};
use crate::mqtt::{Mapping, MappingError, QoS, TopicFilter, TopicName};
use crate::payload::NamesOfPoints;
use crate::report::PointReport;
use crate::route::{Condition, Inward, Points, Routes, Rule, SET, is_of_broker};
use crate::uplink::Receive;

/// Stripped off the topics of the gateway itself where a rule rewrites nothing; the site is put
/// before them instead.
const OF_STATUS: &str = "$SYS/";

/// Topics that commands need are named one by one as long as they fit into one SUBSCRIBE.
const MOST_BY_NAME: usize = 8;

/// Rules of one list.
const MOST_RULES: usize = 500;

/// Subscriptions for commands.
const MOST_FOR_COMMANDS: usize = 500;

const OF_BROKER: &str =
    "topics below `$SYS` and `$share` belong to the local broker; choose others";

/// Topics of the local broker that rules are about.
#[derive(Debug, Default)]
pub(super) struct LocalTopics {
    /// The names of points, by all topics that they have.
    names: Arc<NamesOfPoints>,
    /// The class and the QoS of readings, by their topics.
    readings: BTreeMap<TopicName, (Class, QoS)>,
    /// Of points and groups.
    points: Arc<Points>,
    /// Those of them that can be written.
    writable: BTreeSet<TopicName>,
}

impl LocalTopics {
    pub(super) fn of(site: &str, field: &Field) -> Self {
        let devices = field.lines.iter().flat_map(|line| &line.devices);
        let points = devices.flat_map(|device| &device.points);
        let reports = points.filter_map(|point| field.report_of(point));
        let points = reports.map(|report| (report.topic.clone(), report.class));
        let groups = field
            .groups
            .iter()
            .map(|group| (group.topic.clone(), Class::default()));
        Self {
            names: Arc::new(formats::names_of_points(site, field)),
            readings: readings(field),
            points: Arc::new(points.chain(groups).collect()),
            writable: writable(field),
        }
    }
}

/// The class and the QoS of readings, by their topics.
fn readings(field: &Field) -> BTreeMap<TopicName, (Class, QoS)> {
    let of = |report: &PointReport| {
        let kind = (report.class, report.qos);
        let topics: Vec<TopicName> = report.topics().cloned().collect();
        topics.into_iter().map(move |topic| (topic, kind))
    };
    field.reports.iter().flat_map(of).collect()
}

/// The topics of points and groups that can be written.
fn writable(field: &Field) -> BTreeSet<TopicName> {
    let mut writable = BTreeSet::new();
    for device in field.lines.iter().flat_map(|line| &line.devices) {
        let points = device.points.iter().filter(|point| point.write.is_some());
        let topic_of = |point: &Point| Some(field.report_of(point)?.topic.clone());
        writable.extend(points.clone().filter_map(topic_of));
        let is_written = |group: &&WriteGroup| {
            group.device == device.id
                && points
                    .clone()
                    .any(|point| point.group.as_deref() == Some(&group.name))
        };
        let groups = field.groups.iter().filter(is_written);
        writable.extend(groups.map(|group| group.topic.clone()));
    }
    writable
}

/// How a rule writes topics, as typed.
struct Rewriting<'a> {
    filter: &'a TopicFilter,
    to: Option<&'a str>,
    strip: &'a str,
    prefix: &'a str,
}

/// Settings of an uplink for all its `send` rules.
#[derive(Clone, Copy)]
struct SendDefaults {
    most: QoS,
    keeps_retained: bool,
}

/// The rules of an uplink.
pub(super) fn routes(check: &mut Check<'_>, index: usize, local: &LocalTopics) -> Routes {
    let Some(uplink) = check.file.uplinks.get(index) else {
        return Routes::default();
    };
    check_count(check, index, uplink);
    let defaults = SendDefaults {
        most: qos(check, &at!["uplinks", index, "qos"], uplink.qos),
        keeps_retained: uplink.retain,
    };
    let mut send = Vec::new();
    for (number, typed) in uplink.send.iter().enumerate().take(MOST_RULES) {
        let path = at!["uplinks", index, "send", number];
        send.push(outward(check, &path, typed, defaults));
    }
    let mut receive = Vec::new();
    for (number, typed) in uplink.receive.iter().enumerate().take(MOST_RULES) {
        let path = at!["uplinks", index, "receive", number];
        receive.push(inward(check, &path, typed));
    }
    let mut routes = Routes::new(send, receive, uplink.commands, Arc::clone(&local.points));
    check_shared_names(check, index, &routes, local);
    routes.rate = cloud::rate(check, index, uplink);
    routes.catch_up = catch_up::resolve(check, index, &uplink.catch_up);
    write_readings(check, index, &mut routes, local);
    routes
}

/// How readings are written.
fn write_readings(check: &mut Check<'_>, index: usize, routes: &mut Routes, local: &LocalTopics) {
    let path = at!["uplinks", index, "format"];
    let uplink = check.file.uplinks.get(index);
    let typed = uplink.and_then(|uplink| uplink.format.as_ref());
    routes.format = formats::format(check, &path, typed).unwrap_or_default();
    routes.point_names = Arc::clone(&local.names);
    formats::check_batches(check, index, routes, &local.readings);
}

fn check_count(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) {
    for (key, count) in [
        ("send", uplink.send.len()),
        ("receive", uplink.receive.len()),
    ] {
        if count > MOST_RULES {
            check.fault(
                &at!["uplinks", index, key, MOST_RULES],
                format!("every message would be compared with {count} rules; write at most {MOST_RULES}, with wider filters"),
            );
        }
    }
}

/// Commands need a name for each writable point at the remote.
fn check_shared_names(check: &mut Check<'_>, index: usize, routes: &Routes, local: &LocalTopics) {
    if let Some((name, [one, other])) = routes
        .shared_names()
        .filter(|(_, points)| points.iter().any(|point| local.writable.contains(*point)))
        .min()
    {
        check.fault(
            &at!["uplinks", index, "send"],
            format!("{one} and {other} are both {name} at the remote, so a command to it could be for either; give each a name of its own"),
        );
    }
}

/// A rule of `receive`.
fn inward(check: &mut Check<'_>, path: &[PathStep], typed: &file::ReceiveConfig) -> Inward {
    let own = Rewriting {
        filter: &typed.filter,
        to: typed.to.as_deref(),
        strip: &typed.strip,
        prefix: &typed.prefix,
    };
    for (key, begins) in [("to", own.to.unwrap_or_default()), ("prefix", own.prefix)] {
        if is_of_broker(begins) {
            check.fault(&below(path, key), OF_BROKER);
        }
    }
    let mapping = mapping(check, path, &own);
    let is_plainly_of_broker = own.to.is_none() && own.prefix.is_empty();
    if is_plainly_of_broker
        && mapping
            .image()
            .is_some_and(|image| is_of_broker(image.plain()))
    {
        check.fault(
            &below(path, "filter"),
            format!("{OF_BROKER}, or put a `prefix:` before them"),
        );
    }
    Inward {
        mapping,
        condition: condition(check, path, typed.condition.as_deref()),
        keeps_retained: typed.retain,
    }
}

/// A rule of `send`.
fn outward(
    check: &mut Check<'_>,
    path: &[PathStep],
    send: &file::SendConfig,
    defaults: SendDefaults,
) -> Rule {
    if send.filter.is_shared() {
        check.fault(
            &below(path, "filter"),
            "shared subscriptions are for `receive`; write the filter without `$share/<name>/`",
        );
    }
    let mapping = outward_mapping(check, path, send);
    let class = send
        .class
        .as_ref()
        .and_then(|name| check.class(name, &below(path, "class")));
    let only = only(check, path, send);
    let own = qos(check, &below(path, "qos"), send.qos);
    let lanes = class.map_or_else(
        || only.iter().map(|class| class.lane).collect(),
        |named| vec![named.class.lane],
    );
    Rule {
        mapping,
        condition: condition(check, path, send.condition.as_deref()),
        only: only.iter().map(|class| class.id).collect(),
        class: class.map(|named| named.class),
        qos: class.and_then(|named| named.qos),
        most: defaults.most.min(most_of_class(check, send)).min(own),
        keeps_retained: send.retain.unwrap_or(defaults.keeps_retained),
        rate: send.rate,
        format: formats::format(check, &below(path, "format"), send.format.as_ref()),
        lanes,
    }
}

/// The classes that a rule is for; empty for all.
fn only(check: &mut Check<'_>, path: &[PathStep], send: &file::SendConfig) -> Vec<Class> {
    let mut only = Vec::new();
    for (place, name) in send.only.iter().enumerate() {
        let at = [path, &at!["only", place]].concat();
        only.extend(check.class(name, &at).map(|named| named.class));
    }
    only
}

/// What must be true of a message.
fn condition(check: &mut Check<'_>, path: &[PathStep], typed: Option<&str>) -> Option<Condition> {
    match Condition::new(typed?) {
        Ok(condition) => Some(condition),
        Err(why) => {
            check.fault(&below(path, "where"), why);
            None
        }
    }
}

/// The QoS of the class `normal` holds without a section `classes`, too.
fn most_of_class(check: &Check<'_>, send: &file::SendConfig) -> QoS {
    let is_normal = send.class.as_deref() == Some(NORMAL);
    if is_normal && !check.file.classes.contains_key(NORMAL) {
        QoS::AtLeastOnce
    } else {
        QoS::ExactlyOnce
    }
}

/// The topics of a rule at the remote; those below `$SYS/wellhead/` begin with the site unless the
/// rule says otherwise.
fn outward_mapping(check: &mut Check<'_>, path: &[PathStep], send: &file::SendConfig) -> Mapping {
    let is_as_it_is = send.to.is_none() && send.strip.is_empty() && send.prefix.is_empty();
    // A remote keeps topics below $SYS for itself.
    let status = format!("{}/", check.file.site.as_deref().unwrap_or("site"));
    let is_status = is_as_it_is && send.filter.plain().starts_with(STATUS);
    let (strip, prefix) = if is_status {
        (OF_STATUS, status.as_str())
    } else {
        (&*send.strip, &*send.prefix)
    };
    let typed = Rewriting {
        filter: &send.filter,
        to: send.to.as_deref(),
        strip,
        prefix,
    };
    mapping(check, path, &typed)
}

fn below(path: &[PathStep], key: &'static str) -> Vec<PathStep> {
    path.iter().cloned().chain(at![key]).collect()
}

fn qos(check: &mut Check<'_>, path: &[PathStep], typed: Option<u8>) -> QoS {
    QoS::from_bits(typed.unwrap_or(2)).unwrap_or_else(|| {
        check.fault(path, "write 0, 1 or 2");
        QoS::ExactlyOnce
    })
}

/// The mapping of a rule; one that changes nothing in place of one that is impossible.
fn mapping(check: &mut Check<'_>, path: &[PathStep], typed: &Rewriting<'_>) -> Mapping {
    let (filter, site) = (
        typed.filter.clone(),
        check.file.site.as_deref().unwrap_or("site"),
    );
    if let Some(to) = typed.to {
        let mapping = Mapping::template(filter, to, site);
        for (key, value) in [("strip", typed.strip), ("prefix", typed.prefix)] {
            if !value.is_empty() {
                check.fault(
                    &below(path, key),
                    format!("`to` writes the whole topic; remove `{key}`, or remove `to`"),
                );
            }
        }
        return mapping.unwrap_or_else(|error| {
            check.fault(&below(path, "to"), error.to_string());
            Mapping::keep(typed.filter.clone())
        });
    }
    Mapping::prefix(filter, typed.strip, typed.prefix).unwrap_or_else(|error| {
        let (key, message) = match error {
            MappingError::Topic(..) => {
                ("prefix", "a prefix is put before topics and must not contain + or #; write it with its slash, such as oilco/".to_owned())
            }
            other => ("strip", other.to_string()),
        };
        check.fault(&below(path, key), message);
        Mapping::keep(typed.filter.clone())
    })
}

/// The filters of `receive`.
pub(super) fn receive(check: &mut Check<'_>, index: usize) -> Vec<Receive> {
    let mut wanted = Vec::new();
    for (place, receive) in check
        .file
        .uplinks
        .get(index)
        .into_iter()
        .flat_map(|uplink| &uplink.receive)
        .enumerate()
        .take(MOST_RULES)
    {
        let qos = QoS::from_bits(receive.qos.unwrap_or(1));
        if qos.is_none() {
            check.fault(
                &at!["uplinks", index, "receive", place, "qos"],
                "write 0, 1 or 2",
            );
        }
        wanted.push(Receive {
            filter: receive.filter.clone(),
            qos: qos.unwrap_or(QoS::AtLeastOnce),
        });
    }
    wanted
}

/// The subscriptions that `commands` needs: the names of the writable points at the remote, with
/// `/set`.
pub(super) fn commands(
    check: &mut Check<'_>,
    index: usize,
    routes: &Routes,
    local: &LocalTopics,
) -> Vec<Receive> {
    let path = at!["uplinks", index, "commands"];
    if !routes.commands {
        return Vec::new();
    }
    if local.writable.is_empty() {
        check.warn(&path, "no point of this file can be written, so no command can come; give points `write:`, or remove `commands`");
    }
    let name = |point: &TopicName| routes.name_of(point).map(|name| format!("{name}{SET}"));
    let is_shared = routes.shared_names().next().is_some();
    if let Some(point) = local
        .writable
        .iter()
        .find(|point| !is_shared && name(point).is_none())
    {
        check.warn(
            &path,
            format!("{point} has no name of its own at the remote, so no command can come to it: send it by a rule whose `to` carries over every wildcard"),
        );
    }
    let topics = local.writable.iter().filter_map(name).collect();
    let filters = filters_for(topics);
    if filters.len() > MOST_FOR_COMMANDS {
        check.fault(
            &path,
            format!("commands need {} subscriptions, because the names of the points at the remote have no level in common; write at most {MOST_FOR_COMMANDS}: let `send` put a `prefix:` with a slash before them", filters.len()),
        );
    }
    let filters = filters
        .into_iter()
        .take(MOST_FOR_COMMANDS)
        .filter_map(|filter| TopicFilter::new(filter).ok());
    filters
        .map(|filter| Receive {
            filter,
            qos: QoS::AtLeastOnce,
        })
        .collect()
}

/// Filters for these topics: the topics themselves if they are few, else `+` for the last level
/// before `/set`, and then for the one before that.
fn filters_for(topics: BTreeSet<String>) -> BTreeSet<String> {
    let mut filters = topics;
    for from_end in 2..=3 {
        if filters.len() <= MOST_BY_NAME {
            break;
        }
        let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for filter in filters {
            let mut levels: Vec<&str> = filter.split('/').collect();
            // The first level names the owner of the topics, and stays.
            let place = levels
                .len()
                .checked_sub(from_end)
                .filter(|place| *place > 0);
            if let Some(level) = place.and_then(|place| levels.get_mut(place)) {
                *level = "+";
            }
            alike.entry(levels.join("/")).or_default().push(filter);
        }
        let one_or_all =
            |(merged, own): (String, Vec<String>)| if own.len() > 1 { vec![merged] } else { own };
        filters = alike.into_iter().flat_map(one_or_all).collect();
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_subscribed_to_by_name_or_by_few_filters() {
        let check = |topics: &[String], expected: &[&str]| {
            assert_eq!(
                filters_for(topics.iter().cloned().collect())
                    .into_iter()
                    .collect::<Vec<String>>(),
                expected
            );
        };
        check(
            &["o/x/a/p/set".to_owned(), "o/x/b/p/set".to_owned()],
            &["o/x/a/p/set", "o/x/b/p/set"],
        );
        let of_device = |device: &str| {
            (0..7)
                .map(|point| format!("o/x/{device}/p{point}/set"))
                .collect::<Vec<String>>()
        };
        let mut topics = [of_device("a"), of_device("b"), vec!["other/set".to_owned()]].concat();
        check(&topics, &["o/x/a/+/set", "o/x/b/+/set", "other/set"]);
        topics.extend((0..20).map(|device| format!("o/x/d{device}/p/set")));
        check(&topics, &["o/x/+/+/set", "o/x/+/p/set", "other/set"]);
        let flat: Vec<String> = (0..20).map(|point| format!("p{point}/set")).collect();
        check(
            &flat,
            &flat
                .iter()
                .map(String::as_str)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>(),
        );
    }
}
