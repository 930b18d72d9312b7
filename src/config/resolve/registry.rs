//! Points, groups and topics of all devices. Each topic has one owner.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Check;
use crate::config::document::PathStep;
use crate::config::{SetBy, WriteGroup};
use crate::field::PointSource;
use crate::mqtt::TopicName;
use crate::report::PointReport;

/// Collects points and topics over all devices.
#[derive(Default)]
pub(super) struct PointRegistry {
    pub(super) reports: Vec<PointReport>,
    /// The sources of their settings.
    pub(super) set_by: Vec<[SetBy; 6]>,
    pub(super) groups: Vec<WriteGroup>,
    /// Sources of profile points, by profile and point.
    pub(super) shared: HashMap<(String, String), PointSource>,
    pub(super) availability: Vec<TopicName>,
    names: HashSet<Arc<str>>,
    /// Owner of each topic.
    owners: HashMap<TopicName, String>,
}

impl PointRegistry {
    /// A name that points of many devices share.
    pub(super) fn named(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Gives a topic to an owner; a fault at `path` if it has one already.
    pub(super) fn take_topic(
        &mut self,
        check: &mut Check<'_>,
        topic: &TopicName,
        owner: String,
        path: &[PathStep],
    ) {
        if let Some(other) = self.owners.insert(topic.clone(), owner.clone()) {
            check.fault(path, format!("{owner} and {other} would both be published on {topic}; give one of them a `topic:` of its own"));
        }
    }
}

/// The number of the next item of a list.
pub(super) fn next_id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
