//! The rules of an uplink, each with an example, and the topics of its commands.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::config;
use crate::mqtt::{Mapping, TopicName};
use crate::payload::{NamedReading, PayloadFormat};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
use crate::route::{Condition, Routes, Rule, SET};

/// The date of readings in examples.
const EXAMPLE_MS: i64 = 1_800_000_000_250;

/// The rules of an uplink.
#[derive(Debug, Serialize)]
pub(super) struct RoutePlan {
    /// Local topics that are sent.
    send: Vec<Example>,
    /// Remote topics that come in.
    receive: Vec<Example>,
    /// Topics at the remote that are subscribed to for commands to points.
    commands: Vec<String>,
    /// A command to a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Example>,
}

/// One topic on both sides.
#[derive(Debug, Serialize)]
struct Example {
    /// Of the rule; for a command that of the point.
    filter: String,
    /// What must be true of a message.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    topic: String,
    /// As the other side has it, or why it has none.
    becomes: String,
    /// The payload of a good reading, where it is not that of local clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// How readings share messages, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<SharedMessages>,
}

/// How readings share messages.
#[derive(Debug, Serialize)]
struct SharedMessages {
    every_s: f64,
    up_to: usize,
}

fn example(mapping: &Mapping, condition: Option<&Condition>, topic: Option<TopicName>) -> Example {
    let topic = topic.or_else(|| mapping.example());
    let mapped = topic.as_ref().and_then(|topic| mapping.apply(topic));
    let becomes = mapped.map_or_else(
        || "-".to_owned(),
        |mapped| mapped.map_or_else(|error| error.to_string(), |topic| topic.to_string()),
    );
    let text = topic.map_or_else(|| "-".to_owned(), |topic| topic.to_string());
    Example {
        filter: mapping.filter().to_string(),
        condition: condition.map(ToString::to_string),
        topic: text,
        becomes,
        payload: None,
        shared: None,
    }
}

/// The payload of a good reading of a point by a rule.
fn payload(routes: &Routes, rule: &Rule, point: &TopicName) -> Option<String> {
    let format = routes.format(Some(rule));
    if format.payload == PayloadFormat::Json {
        return None;
    }
    let reading = Reading {
        point: PointId(0),
        value: Some(Value::F64(12.5)),
        time: Timestamp::at(EXAMPLE_MS),
        quality: Quality::Good,
        age: Duration::ZERO,
    };
    let written = format.write(&[NamedReading {
        reading: &reading,
        time: reading.time,
        names: &routes.names_of(point),
        number: 0,
    }]);
    written.map(|payload| match format.payload.pack() {
        Some(_) => format!(
            "in a packed frame, of {} bytes if it is alone",
            payload.len()
        ),
        None => String::from_utf8_lossy(&payload).into_owned(),
    })
}

/// The command to the first point that one can come to.
fn command(routes: &Routes) -> Option<Example> {
    let mut points: Vec<&TopicName> = routes.points().collect();
    points.sort();
    points.into_iter().find_map(|point| {
        let becomes = format!("{point}{SET}");
        let there = TopicName::new(format!("{}{SET}", routes.name_of(point)?)).ok()?;
        let is_asked_for = there.as_str() != becomes || routes.commands;
        let reaches = routes
            .inward(&there)?
            .topic
            .is_ok_and(|topic| topic.as_str() == becomes);
        (is_asked_for && reaches).then_some(())?;
        Some(Example {
            filter: point.to_string(),
            condition: None,
            topic: there.to_string(),
            becomes,
            payload: None,
            shared: None,
        })
    })
}

/// A `send` rule, with a point that it takes.
fn sent(routes: &Routes, rule: &Rule, point: Option<TopicName>) -> Example {
    let payload = point
        .as_ref()
        .and_then(|point| payload(routes, rule, point));
    let batch = routes.format(Some(rule)).batch;
    let shared = batch.filter(|_| payload.is_some());
    Example {
        payload,
        shared: shared.map(|terms| SharedMessages {
            every_s: terms.every.as_secs_f64(),
            up_to: terms.up_to,
        }),
        ..example(&rule.mapping, rule.condition.as_ref(), point)
    }
}

/// The rules of an uplink, each with an example: a topic of a point where one matches.
pub(super) fn plan(config: &config::Gateway, uplink: &config::UplinkSetup) -> RoutePlan {
    let routes = &uplink.routes;
    let mut firsts: Vec<Option<TopicName>> = vec![None; routes.send.len()];
    for (topic, class) in config
        .points
        .iter()
        .flat_map(|report| report.topics().map(move |topic| (topic, report.class)))
    {
        for (rule, first) in routes.send.iter().zip(&mut firsts) {
            if rule.covers(topic, class) {
                first.get_or_insert_with(|| topic.clone());
                if rule.condition.is_none() {
                    break;
                }
            }
        }
    }
    let rules = routes.send.iter().zip(firsts);
    let send = rules.map(|(rule, first)| sent(routes, rule, first));
    RoutePlan {
        send: send.collect(),
        receive: routes
            .receive
            .iter()
            .map(|inward| example(&inward.mapping, inward.condition.as_ref(), None))
            .collect(),
        commands: uplink
            .commands
            .iter()
            .map(|receive| receive.filter.to_string())
            .collect(),
        command: command(routes),
    }
}

/// The same as text.
pub(super) fn describe(plan: &RoutePlan, out: &mut String) {
    // Writing to a text cannot fail.
    let examples = [("sends", &plan.send), ("receives", &plan.receive)];
    for (verb, example) in examples
        .iter()
        .flat_map(|(verb, all)| all.iter().map(move |one| (verb, one)))
    {
        let Example {
            filter,
            condition,
            topic,
            becomes,
            payload,
            shared,
        } = example;
        let condition = condition.as_ref();
        let condition = condition.map_or_else(String::new, |text| format!(" where {text}"));
        let _ = writeln!(out, "  {verb} {filter}{condition}: {topic} as {becomes}");
        if let Some(payload) = payload {
            let _ = writeln!(out, "    a reading is {payload}");
        }
        if let Some(SharedMessages { every_s, up_to }) = shared {
            let _ = writeln!(
                out,
                "    readings wait up to {every_s} s for others, and share messages of up to {up_to} bytes"
            );
        }
    }
    if !plan.commands.is_empty() {
        let _ = writeln!(
            out,
            "  subscribes to commands: {}",
            plan.commands.join(", ")
        );
    }
    if let Some(Example { filter, topic, .. }) = &plan.command {
        let _ = writeln!(
            out,
            "  a command on {topic} is for {filter}, and its result goes to {topic}/result"
        );
    }
}
