//! The `.../set` topics, on which points and groups of points are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config;
use crate::field::write::Rules;
use crate::field::{Device, Point};
use crate::mqtt::TopicName;
use crate::report::set::{WritablePoint, WriteTarget};

/// All of them: no client may publish there without an explicit rule, whether the point can be
/// written or not. A client that publishes to a point that cannot be written gets a result that
/// says so.
pub(super) fn command_topics(config: &config::Gateway) -> HashSet<TopicName> {
    let topics = config
        .points
        .iter()
        .map(|point| &point.topic)
        .chain(config.groups.iter().map(|group| &group.topic));
    topics.filter_map(set_topic).collect()
}

/// The points that each of these topics writes. A point that cannot be written has no target, a
/// group of such points one without members.
pub(crate) fn set_targets(config: &config::Gateway) -> HashMap<TopicName, WriteTarget> {
    let mut targets = HashMap::new();
    for (line, spec) in config.lines.iter().enumerate() {
        for (device, spec) in spec.devices.iter().enumerate() {
            let target = |members, is_group| WriteTarget {
                line,
                device,
                instrument: Arc::clone(spec),
                members,
                is_group,
            };
            for point in &spec.points {
                let report = config.points.get(point.id.0 as usize);
                if let (Some(member), Some(report)) = (member(point), report) {
                    let topic = set_topic(&report.topic);
                    targets.extend(topic.map(|topic| (topic, target(vec![member], false))));
                }
            }
            for group in config.groups.iter().filter(|group| group.device == spec.id) {
                let topic = set_topic(&group.topic);
                targets.extend(topic.map(|topic| (topic, target(members_of(group, spec), true))));
            }
        }
    }
    targets
}

fn set_topic(topic: &TopicName) -> Option<TopicName> {
    TopicName::new(format!("{topic}/set")).ok()
}

/// A point as it is written; `None` if it cannot be.
fn member(point: &Point) -> Option<WritablePoint> {
    Some(WritablePoint {
        rules: Rules::clone(point.write.as_ref()?),
        point: point.clone(),
    })
}

fn members_of(group: &config::WriteGroup, device: &Device) -> Vec<WritablePoint> {
    device
        .points
        .iter()
        .filter(|point| point.group.as_deref() == Some(group.name.as_str()))
        .filter_map(member)
        .collect()
}
