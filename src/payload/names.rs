//! The names that formats write beside a value.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mqtt::TopicName;
use crate::reading::{Quality, Reading, Timestamp};

/// The names of points by their local topics.
pub type NamesOfPoints = HashMap<TopicName, PointNames>;

/// A reading with everything that its format may write.
#[derive(Debug, Clone, Copy)]
pub struct NamedReading<'a> {
    /// The reading.
    pub reading: &'a Reading,
    /// When it was taken, as it is known now.
    pub time: Timestamp,
    /// The names of its point.
    pub names: &'a PointNames,
    /// Its number in its series; 0 where that is not known.
    pub number: u64,
}

impl NamedReading<'_> {
    /// True if it has a value, or a reason why there is none.
    pub(super) fn says_something(&self) -> bool {
        self.reading.value.is_some() || self.reading.quality != Quality::Good
    }
}

/// The names of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointNames {
    /// Its local topic.
    pub topic: TopicName,
    /// The site.
    pub site: Arc<str>,
    /// Its line.
    pub line: Arc<str>,
    /// Its device.
    pub device: Arc<str>,
    /// The point; of one of several aggregates with that behind it, such as `flow_min`.
    pub point: Arc<str>,
    /// Its unit, as in the YAML.
    pub unit: Option<Arc<str>>,
}

impl PointNames {
    /// The names of a point that the configuration does not know any more: the levels of its local
    /// topic, as `{site}/{device}/{point}` makes it.
    pub fn of_topic(topic: &TopicName) -> Self {
        let mut levels = topic.as_str().rsplit('/');
        let point = levels.next().unwrap_or_default();
        let device = levels.next().unwrap_or(point);
        let site = levels.next_back().unwrap_or_default();
        Self {
            topic: topic.clone(),
            site: site.into(),
            line: "".into(),
            device: device.into(),
            point: point.into(),
            unit: None,
        }
    }
}

/// The levels with which all topics begin, with the slash behind them.
pub(super) fn common_levels<'a>(mut topics: impl Iterator<Item = &'a str>) -> &'a str {
    let first = topics.next().unwrap_or_default();
    let common = topics.fold(first, |common, topic| {
        let same = common.chars().zip(topic.chars());
        let same = same.take_while(|(one, other)| one == other);
        let bytes: usize = same.map(|(one, _)| one.len_utf8()).sum();
        common.get(..bytes).unwrap_or_default()
    });
    let end = common.rfind('/').map_or(0, |slash| slash + 1);
    common.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_a_point_still_has_names() {
        let check = |topic: &'static str, site: &str, device: &str, point: &str| {
            let names = PointNames::of_topic(&TopicName::new(topic).unwrap());
            let found = [&*names.site, &*names.device, &*names.point];
            assert_eq!(found, [site, device, point], "{topic}");
        };
        check("s7/pump/flow", "s7", "pump", "flow");
        check("s7/hall/pump/flow", "s7", "pump", "flow");
        check("pump/flow", "", "pump", "flow");
        check("flow", "", "flow", "flow");
    }

    #[test]
    fn topics_begin_with_the_same_levels() {
        let check = |topics: &[&'static str], expected: &str| {
            assert_eq!(
                common_levels(topics.iter().copied()),
                expected,
                "{topics:?}"
            );
        };
        check(
            &["s7/pump/flow", "s7/pump/fluid", "s7/pump/level"],
            "s7/pump/",
        );
        check(&["s7/pump/\u{fc}", "s7/pump\u{e9}/\u{e8}"], "s7/");
        check(&["s7/pump/flow"], "s7/pump/");
        check(&["flow", "level"], "");
        check(&[], "");
    }
}
