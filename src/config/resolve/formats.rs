//! How readings are written for a remote: `format:` of an uplink and of its `send` rules,
//! and the names of points that formats write.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::field::Field;
use super::{Check, at};
use crate::config::document::PathStep;
use crate::config::file::{CoderConfig, CompressionConfig, FormatConfig, FormatKind, HowFormatted};
use crate::message::Class;
use crate::mqtt::{QoS, TopicName};
use crate::payload::{
    BatchTerms, Compression, NamesOfPoints, PackCoder, PayloadFormat, PayloadTemplate, PointNames,
    ReadingFormat,
};
use crate::report::PointReport;
use crate::route::{Routes, Rule};

/// How long readings wait for others, where the file does not say it.
const DEFAULT_EVERY: Duration = Duration::from_secs(10);
/// Where they are of one time, and come together.
const DEFAULT_EVERY_OF_ONE_TIME: Duration = Duration::from_secs(1);
const LONGEST_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The largest payload of readings that wait for others.
const DEFAULT_UP_TO: u64 = 8_000;
const UP_TO: RangeInclusive<u64> = 200..=128_000;

/// The format at `path`; `None` without one, or if it is faulty.
pub(super) fn format(
    check: &mut Check<'_>,
    path: &[PathStep],
    typed: Option<&FormatConfig>,
) -> Option<ReadingFormat> {
    let FormatConfig(typed) = typed?;
    let payload = payload(check, path, typed)?;
    check_pack(check, path, typed, &payload);
    Some(ReadingFormat {
        batch: batch(check, path, typed, &payload),
        compression: compression(typed),
        payload,
    })
}

fn below(path: &[PathStep], key: &'static str) -> Vec<PathStep> {
    [path, &at![key]].concat()
}

fn payload(
    check: &mut Check<'_>,
    path: &[PathStep],
    typed: &HowFormatted,
) -> Option<PayloadFormat> {
    let default = if typed.template.is_some() {
        FormatKind::Template
    } else {
        FormatKind::Json
    };
    match (typed.kind.unwrap_or(default), &typed.template) {
        (FormatKind::Template, Some(text)) => match PayloadTemplate::new(text) {
            Ok(template) => Some(PayloadFormat::Template(template)),
            Err(why) => {
                check.fault(&below(path, "template"), why);
                None
            }
        },
        (FormatKind::Template, None) => {
            check.fault(
                path,
                "write the payload, such as { template: '{\"{point}\": {value}, \"ts\": {time_ms}}' }",
            );
            None
        }
        (_, Some(_)) => {
            check.fault(
                &below(path, "template"),
                "this kind of payload needs no template; remove it, or write `kind: template`",
            );
            None
        }
        (FormatKind::Json, None) => Some(PayloadFormat::Json),
        (FormatKind::Value, None) => Some(PayloadFormat::Value),
        (FormatKind::Scan, None) => Some(PayloadFormat::Scan),
        (FormatKind::Object, None) => Some(PayloadFormat::Object),
        (FormatKind::Columns, None) => Some(PayloadFormat::Columns),
        (FormatKind::Pack, None) => Some(PayloadFormat::Pack(coder(typed))),
        (FormatKind::Line, None) => Some(PayloadFormat::Line),
        (FormatKind::Senml, None) => Some(PayloadFormat::Senml),
    }
}

fn coder(typed: &HowFormatted) -> PackCoder {
    match typed.coder {
        Some(CoderConfig::Rice) => PackCoder::Rice,
        Some(CoderConfig::Adaptive) | None => PackCoder::Adaptive,
    }
}

/// Keys that packed frames have, or have not.
fn check_pack(
    check: &mut Check<'_>,
    path: &[PathStep],
    typed: &HowFormatted,
    payload: &PayloadFormat,
) {
    if payload.pack().is_none() && typed.coder.is_some() {
        check.fault(
            &below(path, "coder"),
            "only packed frames have a coder; remove this, or write `kind: pack`",
        );
    }
    if payload.pack().is_some() && compression(typed) != Compression::None {
        check.fault(
            &below(path, "compress"),
            "packed frames cannot be made smaller; remove this",
        );
    }
}

/// When readings share a message; `None` if they do not.
fn batch(
    check: &mut Check<'_>,
    path: &[PathStep],
    typed: &HowFormatted,
    payload: &PayloadFormat,
) -> Option<BatchTerms> {
    let asked_for = [
        ("every", typed.every.is_some()),
        ("up_to", typed.up_to.is_some()),
        ("compress", compression(typed) != Compression::None),
    ];
    let asked_for = asked_for.into_iter().find(|(_, is_there)| *is_there);
    if let Some((key, _)) = asked_for.filter(|_| !payload.takes_several()) {
        check.fault(
            &below(path, key),
            "a payload of this kind holds one reading; remove this, or write `kind: scan`, `line` or `senml`",
        );
        return None;
    }
    let default = if payload.is_of_one_time() {
        DEFAULT_EVERY_OF_ONE_TIME
    } else {
        DEFAULT_EVERY
    };
    let every = typed.every.map_or(default, |span| span.0);
    if every > LONGEST_EVERY {
        check.fault(
            &below(path, "every"),
            "readings would wait that long; write at most 1d, such as 1m",
        );
    }
    let up_to = typed.up_to.map_or(DEFAULT_UP_TO, |size| size.0);
    if !UP_TO.contains(&up_to) {
        check.fault(
            &below(path, "up_to"),
            "write a size from 200B to 128kB, such as 8kB",
        );
    }
    (asked_for.is_some() || payload.is_for_several()).then_some(BatchTerms {
        every,
        up_to: usize::try_from(up_to).unwrap_or(usize::MAX),
    })
}

fn compression(typed: &HowFormatted) -> Compression {
    match typed.compress {
        None | Some(CompressionConfig::None) => Compression::None,
        Some(CompressionConfig::Deflate) => Compression::Deflate,
        Some(CompressionConfig::Brotli) => Compression::Brotli,
    }
}

/// What keeps the readings of an uplink from sharing messages although the file asks for it.
pub(super) fn check_batches(
    check: &mut Check<'_>,
    index: usize,
    routes: &Routes,
    readings: &BTreeMap<TopicName, (Class, QoS)>,
) {
    for (number, rule) in routes.send.iter().enumerate() {
        if routes.format(Some(rule)).batch.is_none() {
            continue;
        }
        let own = &at!["uplinks", index, "send", number, "format"][..];
        let of_uplink = &at!["uplinks", index, "format"][..];
        let path = rule.format.as_ref().map_or(of_uplink, |_| own);
        let taken = readings
            .iter()
            .filter(|(topic, (class, _))| rule.covers(topic, *class))
            .filter(|(topic, (class, _))| !is_taken_before(routes, number, topic, *class));
        if let Some(topic) = exact(rule, taken.clone()) {
            check.fault(
                path,
                format!("{topic} goes with QoS 2, and readings that share messages cannot go exactly once; write `qos: 1` in the rule, or another format"),
            );
        }
        if keeps_topics_apart(rule, taken.map(|(topic, _)| topic)) {
            check.warn(
                &at!["uplinks", index, "send", number, "filter"],
                "each of its points has a topic of its own at the remote, so no readings share a message; write one topic for all in `to:`, or one for each device",
            );
        }
    }
}

/// True if an earlier rule takes every message of a class on a topic.
fn is_taken_before(routes: &Routes, rule: usize, topic: &TopicName, class: Class) -> bool {
    let earlier = routes.send.iter().take(rule);
    let mut taking = earlier.filter(|other| other.condition.is_none());
    taking.any(|other| other.covers(topic, class))
}

/// A reading that a rule sends exactly once.
fn exact<'a>(
    rule: &Rule,
    mut taken: impl Iterator<Item = (&'a TopicName, &'a (Class, QoS))>,
) -> Option<&'a TopicName> {
    let is_exact = |qos: QoS| rule.qos.unwrap_or(qos).min(rule.most) == QoS::ExactlyOnce;
    let found = taken.find(|(_, (_, qos))| is_exact(*qos));
    found.map(|(topic, _)| topic)
}

/// True if several points have different topics at the remote.
fn keeps_topics_apart<'a>(rule: &Rule, points: impl Iterator<Item = &'a TopicName>) -> bool {
    let there = |topic| rule.mapping.apply(topic)?.ok();
    let there: Vec<TopicName> = points.filter_map(there).collect();
    let different: BTreeSet<&TopicName> = there.iter().collect();
    there.len() > 1 && different.len() == there.len()
}

/// The names of points, by all topics that they have.
pub(super) fn names_of_points(site: &str, field: &Field) -> NamesOfPoints {
    let site: Arc<str> = site.into();
    let mut names = NamesOfPoints::new();
    for line in &field.lines {
        let line_name: Arc<str> = line.name.as_str().into();
        for device in &line.devices {
            let device_name: Arc<str> = device.name.as_str().into();
            for point in &device.points {
                let Some(report) = field.report_of(point) else {
                    continue;
                };
                names.extend(report.topics().map(|topic| {
                    let own = PointNames {
                        topic: topic.clone(),
                        site: site.clone(),
                        line: line_name.clone(),
                        device: device_name.clone(),
                        point: name_on(topic, report, &point.name),
                        unit: report.unit.clone(),
                    };
                    (topic.clone(), own)
                }));
            }
        }
    }
    names
}

/// The name of a point on one of its topics: with the aggregate, where that is a level of its own.
fn name_on(topic: &TopicName, report: &PointReport, point: &Arc<str>) -> Arc<str> {
    let below = topic.as_str().strip_prefix(report.topic.as_str());
    match below.and_then(|below| below.strip_prefix('/')) {
        Some(aggregate) => format!("{point}_{aggregate}").into(),
        None => point.clone(),
    }
}
