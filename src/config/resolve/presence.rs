//! Where a remote learns whether this gateway lives.

use std::time::Duration;

use super::{Check, at};
use crate::config::{UplinkSetup, file};
use crate::mqtt::TopicName;
use crate::report::template::{Names, TopicTemplate};
use crate::route::Rule;
use crate::uplink::Presence;

const DEFAULT_OFFLINE_AFTER: Duration = Duration::from_secs(60);
const LONGEST_OFFLINE_AFTER: Duration = Duration::from_secs(86_400);

/// The presence of an uplink that has these rules; `before` are the uplinks before it in the file.
pub(super) fn presence(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    rules: &[Rule],
    before: &[UplinkSetup],
) -> Option<Presence> {
    let how = uplink.presence.0.as_ref()?;
    let offline_after = how
        .offline_after
        .map_or(DEFAULT_OFFLINE_AFTER, |span| span.0);
    if offline_after > LONGEST_OFFLINE_AFTER {
        check.fault(
            &at!["uplinks", index, "presence", "offline_after"],
            "the remote would show a gateway that is gone as online for more than a day; write at most 1d, such as 1m",
        );
    }
    let topic = match &how.topic {
        Some(template) => typed_topic(check, index, uplink, template, before)?,
        None => {
            // Without a site there is a fault already.
            let site = check.file.site.as_deref().unwrap_or_default();
            default_topic(site, uplink, rules, before)?
        }
    };
    Some(Presence {
        topic,
        offline_after,
        retained: uplink.retain,
    })
}

/// The topic as typed; `None` if it is faulty.
fn typed_topic(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    template: &TopicTemplate,
    before: &[UplinkSetup],
) -> Option<TopicName> {
    let site = check.file.site.as_deref().unwrap_or_default();
    let at = at!["uplinks", index, "presence", "topic"];
    let names = Names {
        site,
        line: "",
        device: "",
        point: "",
    };
    match template.fill(names) {
        Ok(_) if needs_more_than_site(template, site) => {
            check.fault(
                &at,
                "the state is that of the whole gateway; use no other placeholder than {site}",
            );
            None
        }
        Ok(topic) if topic.is_reserved() => {
            check.fault(
                &at,
                "topics that begin with $ belong to the remote broker; choose another",
            );
            None
        }
        Ok(topic) => {
            if uplink.enabled && before.iter().any(|other| shares(other, uplink, &topic)) {
                check.fault(
                    &at,
                    "another uplink keeps its state on this topic of the same remote, and a cut of one would show both as offline; choose another topic",
                );
            }
            Some(topic)
        }
        Err(error) => {
            check.fault(
                &at,
                format!("not a topic: {error}; write one such as '{{site}}/gateway/state'"),
            );
            None
        }
    }
}

fn needs_more_than_site(template: &TopicTemplate, site: &str) -> bool {
    let fill = |name| {
        template
            .fill(Names {
                site,
                line: name,
                device: name,
                point: name,
            })
            .ok()
    };
    fill("a") != fill("b")
}

/// `{site}/gateway/state`, where the rules send it, unless the remote keeps nothing there; an
/// uplink that stands in for another, or that shares a remote with one before it, has a level of
/// its own.
fn default_topic(
    site: &str,
    uplink: &file::UplinkConfig,
    rules: &[Rule],
    before: &[UplinkSetup],
) -> Option<TopicName> {
    let mapped = |local: String| {
        let local = TopicName::new(local).ok()?;
        let mut matching = rules
            .iter()
            .filter(|rule| rule.mapping.filter().matches(&local));
        let first = matching.clone().next();
        let rule = matching.find(|rule| rule.condition.is_none()).or(first);
        // A topic that others share keeps no state.
        let there = rule
            .filter(|rule| rule.mapping.has_way_back())
            .map_or(Some(local.clone()), |rule| rule.mapping.apply(&local)?.ok())?;
        // Topics that begin with $ belong to the remote: AWS IoT Core hands them to a rule, and
        // nobody can subscribe to them.
        Some(if there.is_reserved() { local } else { there })
    };
    let topic = mapped(format!("{site}/gateway/state"))?;
    if uplink.use_when.is_some() || before.iter().any(|other| shares(other, uplink, &topic)) {
        return mapped(format!("{site}/gateway/{}/state", uplink.name));
    }
    Some(topic)
}

/// True if both would say their state on the same topic of the same remote.
fn shares(other: &UplinkSetup, uplink: &file::UplinkConfig, topic: &TopicName) -> bool {
    let is_same_topic = other
        .settings
        .presence
        .as_ref()
        .is_some_and(|presence| presence.topic == *topic);
    is_same_topic
        && uplink
            .to
            .0
            .iter()
            .any(|remote| other.settings.remotes.contains(remote))
}
