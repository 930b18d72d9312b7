//! Messages of the gateway itself: about its health, and those of its `$SYS` topics that a rule
//! sends.

use std::sync::Arc;
use std::time::Duration;

use super::{Check, NamedClass, at};
use crate::config::{HEALTH_EVERY, HealthMessages, OwnMessage, UplinkSetup, file};
use crate::field::Line;
use crate::message::{Class, STATUS};
use crate::mqtt::{QoS, TopicFilter, TopicName};
use crate::route::{Rule, is_of_broker};

const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// Payloads, in bytes: a state, losses with a gap; and on `$SYS` topics those of a line, a device,
/// an uplink and the report.
const STATE: f64 = 51.0;
const LOSSES: f64 = 300.0;
const LINE: f64 = 240.0;
const DEVICE: f64 = 110.0;
const UPLINK: f64 = 290.0;
const REPORT: f64 = 58.0;
/// How much less often the status of an uplink goes over the uplink itself, in intervals.
const OWN_STATUS: f64 = 15.0;

const DAY: f64 = 86_400.0;

pub(super) fn health(check: &mut Check<'_>, site: &str) -> Option<HealthMessages> {
    let how = check.file.health.0.as_ref()?;
    let every = how.every.map_or(HEALTH_EVERY, |span| span.0);
    if every < BOUNDS.0 || every > BOUNDS.1 {
        check.fault(
            &at!["health", "every"],
            "write a duration from 1s to 1d, such as 1m",
        );
    }
    let class = how
        .class
        .as_ref()
        .and_then(|name| check.class(name, &at!["health", "class"]));
    let NamedClass { class, qos } = class.unwrap_or_default();
    Some(HealthMessages {
        topic: format!("{site}/gateway"),
        class,
        qos: qos.unwrap_or(QoS::AtLeastOnce),
        every,
    })
}

/// Adds to each uplink what it carries of the gateway itself, and the rule for its losses.
pub(super) fn messages(
    check: &Check<'_>,
    uplinks: &mut [UplinkSetup],
    lines: &[Line],
    health: Option<&HealthMessages>,
) {
    let names: Vec<String> = uplinks
        .iter()
        .map(|uplink| uplink.settings.name.clone())
        .collect();
    let sources = Sources {
        lines,
        uplinks: &names,
    };
    let every = health.map_or(HEALTH_EVERY, |health| health.every);
    for uplink in uplinks {
        let typed = check
            .file
            .uplinks
            .iter()
            .find(|typed| typed.name == uplink.settings.name);
        if let (Some(health), Some(typed)) = (health, typed) {
            losses(uplink, typed, health);
        }
        let own = &uplink.settings.name;
        let about_health = health.map(|health| sources.about_health(health, own));
        let status = sources.status(own, DAY / every.as_secs_f64());
        let goes = |message: &OwnMessage| {
            uplink
                .routes
                .for_own(&message.topic, message.class)
                .is_some()
        };
        let own = about_health
            .into_iter()
            .flatten()
            .chain(status)
            .filter(goes)
            .collect();
        uplink.own = own;
    }
}

/// The remote of an uplink learns what the uplink has lost, whatever the rules say: by the rule
/// that matches the topic if there is one.
fn losses(uplink: &mut UplinkSetup, typed: &file::UplinkConfig, health: &HealthMessages) {
    let topic = format!("{}/uplink/{}/losses", health.topic, uplink.settings.name);
    let Ok(topic) = TopicName::new(topic) else {
        return;
    };
    let routes = &uplink.routes;
    if routes.send.is_empty() || routes.for_own(&topic, health.class).is_some() {
        return;
    }
    let similar = routes
        .send
        .iter()
        .find(|rule| rule.mapping.filter().matches(&topic) && rule.mapping.has_way_back());
    let rule = match similar {
        Some(rule) => Rule {
            condition: None,
            only: Vec::new(),
            lanes: Vec::new(),
            ..rule.clone()
        },
        None => match TopicFilter::new(topic.to_string()) {
            Ok(filter) => Rule {
                most: typed
                    .qos
                    .and_then(QoS::from_bits)
                    .unwrap_or(QoS::ExactlyOnce),
                keeps_retained: typed.retain,
                ..Rule::keep(filter)
            },
            Err(_) => return,
        },
    };
    Arc::make_mut(&mut uplink.routes).losses = Some((topic, rule));
}

/// Parts of the gateway that report their own state.
struct Sources<'a> {
    lines: &'a [Line],
    uplinks: &'a [String],
}

impl Sources<'_> {
    /// Messages about health that an uplink may carry; it does not carry its own state.
    fn about_health(&self, health: &HealthMessages, own: &str) -> Vec<OwnMessage> {
        let message = |topic: String, payload: f64| {
            let topic = TopicName::new(format!("{}/{topic}", health.topic)).ok()?;
            Some(OwnMessage {
                topic,
                class: health.class,
                qos: health.qos,
                a_day: 1.0,
                payload,
            })
        };
        let of_lines = self
            .lines
            .iter()
            .map(|line| message(format!("line/{}", line.name), STATE));
        let of_uplinks = self
            .uplinks
            .iter()
            .filter(|name| *name != own)
            .map(|name| message(format!("uplink/{name}"), STATE));
        let losses = self
            .uplinks
            .iter()
            .map(|name| message(format!("uplink/{name}/losses"), LOSSES));
        of_lines.chain(of_uplinks).chain(losses).flatten().collect()
    }

    /// Messages on `$SYS/wellhead/` topics; its own status goes over an uplink less often.
    fn status(&self, own: &str, a_day: f64) -> Vec<OwnMessage> {
        let message = |topic: String, a_day: f64, payload: f64| {
            let topic = TopicName::new(format!("{STATUS}{topic}")).ok()?;
            Some(OwnMessage {
                topic,
                class: Class::default(),
                qos: QoS::AtMostOnce,
                a_day,
                payload,
            })
        };
        let of_line = |line: &Line| {
            let devices = line.devices.iter().map(|device| {
                message(format!("line/{}/{}", line.name, device.name), a_day, DEVICE)
            });
            std::iter::once(message(format!("line/{}", line.name), a_day, LINE))
                .chain(devices)
                .collect::<Vec<_>>()
        };
        let of_uplink = |name: &String| {
            let times = if name == own {
                a_day / OWN_STATUS
            } else {
                a_day
            };
            message(format!("uplink/{name}"), times, UPLINK)
        };
        let report = std::iter::once(message("report".to_owned(), a_day, REPORT));
        report
            .chain(self.lines.iter().flat_map(of_line))
            .chain(self.uplinks.iter().map(of_uplink))
            .flatten()
            .collect()
    }
}

/// Why a rule sends nothing, if its topics belong to this broker or to that of the remote.
pub(super) fn keeps_here(rule: &Rule) -> Option<&'static str> {
    let filter = rule.mapping.filter().plain();
    if filter.starts_with(STATUS) {
        let is_kept_there = rule
            .mapping
            .image()
            .is_some_and(|image| is_of_broker(image.plain()));
        return is_kept_there.then_some("a remote keeps topics below $SYS for itself; write them with a `prefix:`, or with another `to:`");
    }
    if filter.starts_with("$SYS/") || filter == "$SYS" {
        return Some(
            "of the topics below $SYS only those of the gateway itself are sent; write `$SYS/wellhead/#`, or remove the rule",
        );
    }
    filter
        .starts_with('$')
        .then_some("topics that begin with $ belong to the broker and are not sent; choose others")
}

/// True for filters of the gateway's own topics.
pub(super) fn is_of_gateway(check: &Check<'_>, filter: &TopicFilter) -> bool {
    let site = check.file.site.as_deref().unwrap_or_default();
    let below_site = filter
        .plain()
        .strip_prefix(site)
        .is_some_and(|rest| rest.starts_with("/gateway/"));
    below_site || filter.plain().starts_with(STATUS)
}
