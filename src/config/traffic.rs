//! The load of lines and uplinks: bus time, and bytes as an operator bills them, both ways, from
//! the intervals and topics of the file. Pure.
//!
//! Messages of points that are read equally often leave together: they share headers of TCP/IP,
//! records of TLS and acknowledgements, and cost a third to a half of messages that travel alone.
//! Both are shown. Messages of local clients are not counted. Messages about the health of the
//! gateway are counted once a day each: they follow changes, and their number is unknown.

mod shared;

use std::collections::HashMap;
use std::time::Duration;

use shared::{ReadingBytes, SharedTraffic};

use super::UplinkSetup;
use crate::field::decode::DataType;
use crate::field::modbus::block::Block;
use crate::field::modbus::{blocks, costs};
use crate::field::{Device, DeviceProtocol, Line, Point, PointSource, Wire};
use crate::mqtt::{QoS, TopicName};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
use crate::report::PointReport;
use crate::route::Rule;
use crate::units::Rate;
use crate::uplink::{Protocol, bytes_of_presence};

const DAY: f64 = 86_400.0;
pub(super) const HOURS: f64 = 24.0;
/// Days of a month, as bills have it.
pub const MONTH: f64 = 30.0;
/// IP, TCP and MQTT headers of one message that goes alone, with the segments that acknowledge it,
/// in bytes; measured with QoS 1.
const ALONE: [(QoS, f64); 3] = [
    (QoS::AtMostOnce, 91.0),
    (QoS::AtLeastOnce, AT_LEAST_ONCE),
    (QoS::ExactlyOnce, 224.0),
];
const AT_LEAST_ONCE: f64 = 136.0;
/// IP and TCP headers of a segment, what one holds, the header of a PUBLISH, and an acknowledgement
/// of it, in bytes.
const HEADERS: f64 = 40.0;
const SEGMENT: f64 = 1448.0;
const PUBLISH: f64 = 11.0;
const ANSWER: f64 = 5.0;
/// Bytes that TLS adds to a packet and to its answer.
const TLS: f64 = 44.0;
/// A segment with PINGREQ and its answer.
const PING: f64 = 124.0;
/// The user property that numbers a message.
const NUMBER: f64 = 22.0;

/// The part of a serial line's time that its requests take; `None` where that is no limit, or not
/// known.
pub fn load(line: &Line) -> Option<f64> {
    let takes = |block: &Block| {
        line.devices.get(block.device).map_or(0.0, |device| {
            costs(&line.wire, device)
                .time(block.table, block.count)
                .as_secs_f64()
        })
    };
    let of_blocks = blocks(line)
        .into_iter()
        .map(|block| takes(&block) / block.every.as_secs_f64());
    let readouts = line.readouts();
    let of_readouts = readouts
        .iter()
        .map(|job| job.takes.as_secs_f64() / job.every.as_secs_f64());
    // How long a plain instrument talks is not known.
    let is_known = matches!(line.wire, Wire::Serial(_))
        && !matches!(
            line.protocol(),
            DeviceProtocol::Text(_) | DeviceProtocol::Sml(_)
        );
    is_known.then(|| of_blocks.chain(of_readouts).sum())
}

/// A number of bytes as `12.3 MB`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn size(bytes: f64) -> String {
    bytesize::ByteSize(bytes.max(0.0) as u64)
        .display()
        .si()
        .to_string()
}

/// The data of an uplink in a day.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DailyTraffic {
    /// Messages if every reading is sent.
    pub most_messages: f64,
    /// Messages if nothing changes.
    pub least_messages: f64,
    /// Bytes if every reading is sent, and each message travels alone.
    pub most: f64,
    /// The same if nothing changes.
    pub least: f64,
    /// Bytes if every reading is sent, and messages that are due equally often leave together.
    pub most_together: f64,
    /// The same if nothing changes.
    pub least_together: f64,
}

/// The data that an uplink or one of its rules has to carry in a day, if every reading is sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Demand {
    pub(super) messages: f64,
    /// Topics, payloads and properties.
    pub(super) bytes: f64,
}

/// One message of a point.
struct MessageTraffic {
    /// The number of its `send` rule; `None` for one of the gateway itself.
    rule: Option<usize>,
    /// How often it is sent in a day: if nothing changes, and if every reading is sent.
    least: f64,
    most: f64,
    /// Topic, payload and properties, in bytes.
    body: f64,
    qos: QoS,
}

/// Messages that leave together.
#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    /// How often in a day.
    times: f64,
    messages: f64,
    /// Of PUBLISH packets, and of what the remote and this side say about them.
    bytes: f64,
    answers: f64,
    /// Round trips beyond the first.
    more_trips: f64,
}

impl Batch {
    fn add(&mut self, times: f64, message: &MessageTraffic) {
        let (answers, more_trips) = match message.qos {
            QoS::AtMostOnce => (0.0, 0.0),
            QoS::AtLeastOnce => (ANSWER, 0.0),
            QoS::ExactlyOnce => (3.0 * ANSWER, 1.0),
        };
        self.times = times;
        self.messages += 1.0;
        self.bytes += PUBLISH + message.body;
        self.answers += answers;
        self.more_trips = self.more_trips.max(more_trips);
    }

    /// Bytes of a day, both ways.
    fn a_day(&self, tls: f64) -> f64 {
        let filled = (self.bytes / SEGMENT).ceil();
        // Each is acknowledged, and so is the answer.
        let segments =
            2.0 * filled + if self.answers > 0.0 { 1.0 } else { 0.0 } + 2.0 * self.more_trips;
        let records = if self.answers > 0.0 {
            1.0 + self.more_trips
        } else {
            0.5
        };
        self.times * (self.bytes + self.answers + segments * HEADERS + records * tls)
    }
}

/// Bytes of a day, if messages that are due equally often leave together.
fn together(messages: &[MessageTraffic], times: impl Fn(&MessageTraffic) -> f64, tls: f64) -> f64 {
    let mut batches: HashMap<u64, Batch> = HashMap::new();
    for message in messages {
        let times = times(message);
        batches
            .entry(times.to_bits())
            .or_default()
            .add(times, message);
    }
    batches.values().map(|batch| batch.a_day(tls)).sum()
}

/// Bytes of a day, if each message travels alone.
fn alone(messages: &[MessageTraffic], times: impl Fn(&MessageTraffic) -> f64, tls: f64) -> f64 {
    let headers = |qos: QoS| {
        ALONE
            .iter()
            .find(|(known, _)| *known == qos)
            .map_or(0.0, |(_, bytes)| *bytes)
    };
    messages
        .iter()
        .map(|message| times(message) * (headers(message.qos) + tls + message.body))
        .sum()
}

/// The data that the points of `lines` send through `uplink`, or only through one of its `send`
/// rules, without regard to rates.
pub(super) fn demand(
    lines: &[Line],
    reports: &[PointReport],
    uplink: &UplinkSetup,
    rule: Option<usize>,
) -> Demand {
    let mut demand = Demand::default();
    let own = own(uplink).map(|(_, message)| message);
    let is_meant = |message: &MessageTraffic| rule.is_none() || message.rule == rule;
    for message in of_points(lines, reports, uplink)
        .into_iter()
        .chain(own)
        .filter(is_meant)
    {
        demand.messages += message.most;
        demand.bytes += message.most * message.body;
    }
    demand
}

/// Scales messages down to their rate.
fn limit<'a>(messages: impl Iterator<Item = &'a mut MessageTraffic>, rate: Option<Rate>) {
    let Some(rate) = rate else {
        return;
    };
    let mut messages: Vec<&mut MessageTraffic> = messages.collect();
    let passing = |times: fn(&MessageTraffic) -> f64, messages: &[&mut MessageTraffic]| {
        let part = |an_hour: Option<u64>, sent: f64| {
            an_hour.map_or(1.0, |an_hour| (an_hour as f64 * HOURS / sent).min(1.0))
        };
        let sent = messages.iter().map(|message| times(message)).sum();
        let bytes = messages
            .iter()
            .map(|message| times(message) * message.body)
            .sum();
        part(rate.messages, sent).min(part(rate.bytes, bytes))
    };
    let least = passing(|message| message.least, &messages);
    let most = passing(|message| message.most, &messages);
    for message in &mut messages {
        message.least *= least;
        message.most *= most;
    }
}

/// Messages of the points of `lines` that go through `uplink`: one for each topic that a rule
/// sends, or one for all readings that share it.
fn of_points(lines: &[Line], reports: &[PointReport], uplink: &UplinkSetup) -> Vec<MessageTraffic> {
    let mut shared = SharedTraffic::default();
    for device in lines.iter().flat_map(|line| &line.devices) {
        let own = intervals(device);
        // What is only written sends nothing.
        let sends = |point: &&Point| point.is_read() || point.is_derived();
        for point in device.points.iter().filter(sends) {
            let Some(report) = reports.get(point.id.0 as usize) else {
                continue;
            };
            let sample = sample(characters(point));
            let (least, most) = a_day(interval(&own, point), report);
            for topic in report.topics() {
                // What a condition takes is not known: the rule for all counts if there is one.
                let Some(rule) = uplink.routes.naming(topic, report.class) else {
                    continue;
                };
                let message = MessageTraffic {
                    rule: number_of(rule, uplink),
                    least: if rule.condition.is_none() { least } else { 0.0 },
                    most,
                    body: body(uplink, rule, topic),
                    qos: rule.qos.unwrap_or(report.qos).min(rule.most),
                };
                let written = ReadingBytes::of(&uplink.routes, rule, topic, &sample);
                shared.add(message, written, uplink.routes.format(Some(rule)).batch);
            }
        }
    }
    shared.messages()
}

/// How often the points of a device are read, by their names.
fn intervals(device: &Device) -> HashMap<&str, Duration> {
    let points = device.points.iter();
    points.map(|point| (&*point.name, point.every)).collect()
}

/// The number of a `send` rule.
fn number_of(rule: &Rule, uplink: &UplinkSetup) -> Option<usize> {
    let same = |other: &Rule| std::ptr::eq(other, rule);
    uplink.routes.send.iter().position(same)
}

/// The traffic that the points of `lines` cause on `uplink`, as far as its rates let it pass; a
/// backup as if it were needed all the time.
pub fn traffic(lines: &[Line], reports: &[PointReport], uplink: &UplinkSetup) -> DailyTraffic {
    let mut messages = of_points(lines, reports, uplink);
    let (status, health): (Vec<_>, Vec<_>) =
        own(uplink).partition(|(topic, _)| topic.is_reserved());
    messages.extend(status.into_iter().map(|(_, message)| message));
    limit_by_rates(&mut messages, uplink);
    let health: Vec<MessageTraffic> = health.into_iter().map(|(_, message)| message).collect();
    let tls = if is_tls(uplink) { TLS } else { 0.0 };
    let state = state(uplink, tls) + alone(&health, |message| message.most, tls);
    let pings = pings(uplink, tls);
    // A link that is silent is tested.
    let tested = |bytes: f64| (bytes + state).max(pings);
    let (least, most) = (
        |message: &MessageTraffic| message.least,
        |message: &MessageTraffic| message.most,
    );
    DailyTraffic {
        least_messages: messages.iter().map(least).sum(),
        most_messages: messages.iter().map(most).sum(),
        least: tested(alone(&messages, least, tls)),
        most: tested(alone(&messages, most, tls)),
        least_together: tested(together(&messages, least, tls)),
        most_together: tested(together(&messages, most, tls)),
    }
}

/// Limits messages by the rates of their rules, and all together by that of the uplink.
fn limit_by_rates(messages: &mut [MessageTraffic], uplink: &UplinkSetup) {
    for (number, rule) in uplink.routes.send.iter().enumerate() {
        let of_rule = messages
            .iter_mut()
            .filter(|message| message.rule == Some(number));
        limit(of_rule, rule.rate);
    }
    limit(messages.iter_mut(), uplink.routes.rate);
}

/// Bytes of the pings of a link without messages.
fn pings(uplink: &UplinkSetup, tls: f64) -> f64 {
    let keep_alive = uplink.settings.keep_alive.as_secs_f64();
    DAY / keep_alive.max(1.0) * (PING + tls)
}

/// Bytes for the state of the gateway, as if the uplink connects once a day.
fn state(uplink: &UplinkSetup, tls: f64) -> f64 {
    let presence = uplink.settings.presence.as_ref();
    presence.map_or(0.0, |presence| {
        AT_LEAST_ONCE + tls + as_f64(bytes_of_presence(presence))
    })
}

fn as_f64(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Messages of the gateway itself, with their local topics.
fn own(uplink: &UplinkSetup) -> impl Iterator<Item = (&TopicName, MessageTraffic)> {
    uplink.own.iter().filter_map(|own| {
        let (rule, _) = uplink.routes.for_own(&own.topic, own.class)?;
        let qos = rule.qos.unwrap_or(own.qos).min(rule.most);
        let body = body(uplink, rule, &own.topic) + own.payload;
        Some((
            &own.topic,
            MessageTraffic {
                rule: None,
                least: own.a_day,
                most: own.a_day,
                body,
                qos,
            },
        ))
    })
}

fn is_tls(uplink: &UplinkSetup) -> bool {
    uplink
        .settings
        .remotes
        .first()
        .is_some_and(crate::uplink::Remote::is_tls)
}

/// Of one message: what it holds beside its payload.
fn body(uplink: &UplinkSetup, rule: &Rule, topic: &TopicName) -> f64 {
    let number = if uplink.settings.numbered && uplink.settings.protocol == Protocol::V5 {
        NUMBER
    } else {
        0.0
    };
    let there = rule.mapping.apply(topic).and_then(Result::ok);
    let there = there.as_ref().unwrap_or(topic);
    let settings = &uplink.settings;
    let topic = settings
        .cloud
        .as_ref()
        .map_or(there.as_str().len(), |cloud| {
            cloud.bytes_of_topic(there, settings.numbered)
        });
    number + as_f64(topic)
}

/// How often a point has a value; a computed one whenever one of its parts has.
fn interval(own: &HashMap<&str, Duration>, point: &Point) -> Duration {
    let PointSource::Derived(formula) = &point.source else {
        return point.every;
    };
    formula
        .names()
        .iter()
        .filter_map(|name| own.get(name.as_str()))
        .min()
        .copied()
        .unwrap_or(point.every)
}

/// How often a topic of a point is published in a day: if nothing changes, and if everything does.
fn a_day(every: Duration, report: &PointReport) -> (f64, f64) {
    let times = |every: Duration| DAY / every.as_secs_f64().max(0.001);
    let most = times(
        report
            .aggregate
            .as_ref()
            .map_or(every, |aggregate| aggregate.every.max(every)),
    );
    let is_by_exception = report.rule.deadband.is_some() || report.swinging_door.is_some();
    let heartbeat = report.rule.at_least_every.map_or(0.0, times);
    (
        if is_by_exception {
            heartbeat.min(most)
        } else {
            most
        },
        most,
    )
}

/// A good reading whose value has so many characters.
fn sample(characters: u32) -> Reading {
    let digits = 10_u64.checked_pow(characters.saturating_sub(1));
    let quotes = 2;
    let text = || "x".repeat(characters.saturating_sub(quotes) as usize);
    let value = digits.map_or_else(|| Value::Text(text().into()), Value::UInt);
    Reading {
        point: PointId(0),
        time: Timestamp::at(1_800_000_000_000),
        age: Duration::ZERO,
        value: Some(value),
        quality: Quality::Good,
    }
}

/// About how many characters a value has.
fn characters(point: &Point) -> u32 {
    let meaning = match &point.source {
        PointSource::Register { register, .. } => &register.meaning,
        _ => return 6,
    };
    let one = match meaning.kind {
        DataType::Bool => 4,
        kind if kind.is_text() => 2 * u32::from(meaning.length.max(6)) + 2,
        kind => (kind.bits() / 5).clamp(3, 12),
    };
    meaning
        .array
        .map_or(one, |array| u32::from(array.count) * (one + 1) + 1)
}
