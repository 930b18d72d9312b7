//! The plan of a gateway: what it polls, how it reports points, and how much its uplinks carry.

use std::time::Duration;

use serde::Serialize;

use super::routes::{self, RoutePlan};
use crate::config::{self, SetBy};
use crate::field::decode::Table;
use crate::field::modbus::block::Block;
use crate::field::modbus::{blocks, costs};
use crate::field::{Device, DeviceProtocol, Job, Line, Point, PointSource, Wire};
use crate::report::deadband::Deadband;
use crate::units::{Price, Span};

/// The plan as a script reads it.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) lines: Vec<LinePlan>,
    pub(super) devices: usize,
    pub(super) points: usize,
    /// How each point is read and reported, and where each setting comes from.
    pub(super) settings: Vec<PointPlan>,
    pub(super) listeners: Vec<String>,
    /// Memory that logins with a password take together, in bytes; 0 if no user has one.
    pub(super) login_memory: usize,
    pub(super) uplinks: Vec<UplinkPlan>,
}

#[derive(Debug, Serialize)]
pub(super) struct LinePlan {
    pub(super) name: String,
    /// Port or address; `None` for a simulated line.
    pub(super) at: Option<String>,
    /// Fraction of a serial line's time that the requests take; `None` where that is no limit.
    pub(super) load: Option<f64>,
    pub(super) requests_per_second: f64,
    /// Fraction of a serial line's time that is left.
    pub(super) spare: Option<f64>,
    pub(super) requests: Vec<RequestPlan>,
    /// Its devices are not asked: they send by themselves.
    pub(super) listens: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct RequestPlan {
    pub(super) device: String,
    /// The registers that it reads; `None`: the device has none.
    #[serde(flatten)]
    pub(super) registers: Option<RegistersPlan>,
    pub(super) every_seconds: f64,
    /// The time that one takes on a serial line.
    pub(super) bus_seconds: Option<f64>,
    pub(super) points: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct RegistersPlan {
    pub(super) table: String,
    pub(super) start: u16,
    pub(super) count: u16,
}

#[derive(Debug, Serialize)]
pub(super) struct PointPlan {
    pub(super) device: String,
    pub(super) point: String,
    pub(super) every: Setting,
    pub(super) deadband: Setting,
    pub(super) at_least_every: Setting,
    pub(super) stale_after: Setting,
    pub(super) class: Setting,
    pub(super) decimals: Setting,
}

/// One setting of a point; no value where the point has none.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    pub(super) value: Option<String>,
    pub(super) set_by: SetBy,
}

#[derive(Debug, Serialize)]
pub(super) struct UplinkPlan {
    pub(super) name: String,
    pub(super) to: Vec<String>,
    pub(super) client_id: String,
    pub(super) topics: RoutePlan,
    /// Bytes a day as an operator bills them, both ways, if each message travels alone: if nothing
    /// changes, and if every reading is sent.
    pub(super) bytes_per_day: [f64; 2],
    pub(super) bytes_per_month: [f64; 2],
    /// The same if messages that are due equally often leave together.
    pub(super) bytes_per_day_together: [f64; 2],
    pub(super) bytes_per_month_together: [f64; 2],
    pub(super) messages_per_day: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cost_per_month: Option<Cost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cost_per_month_together: Option<Cost>,
}

#[derive(Debug, Serialize)]
pub(super) struct Cost {
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) currency: String,
}

pub(super) fn plan(config: &config::Gateway) -> Plan {
    let devices = || config.lines.iter().flat_map(|line| &line.devices);
    let uplink = |uplink: &config::UplinkSetup| uplink_plan(config, uplink);
    let broker = config.broker.as_ref();
    Plan {
        lines: config.lines.iter().map(line_plan).collect(),
        devices: devices().count(),
        points: devices().map(|device| device.points.len()).sum(),
        settings: devices()
            .flat_map(|device| point_plans(config, device))
            .collect(),
        listeners: broker
            .iter()
            .flat_map(|broker| &broker.listen)
            .map(ToString::to_string)
            .collect(),
        login_memory: broker.map_or(0, |broker| broker.access.login_memory()),
        uplinks: config.uplinks.iter().map(uplink).collect(),
    }
}

fn point_plans<'a>(
    config: &'a config::Gateway,
    device: &'a Device,
) -> impl Iterator<Item = PointPlan> + 'a {
    device.points.iter().filter_map(move |point| {
        let index = point.id.0 as usize;
        let (report, set_by) = (config.points.get(index)?, config.set_by.get(index)?);
        let [
            every,
            deadband,
            at_least_every,
            stale_after,
            class,
            decimals,
        ] = *set_by;
        let of = |value, set_by| Setting { value, set_by };
        let rule = &report.rule;
        Some(PointPlan {
            device: device.name.clone(),
            point: point.name.to_string(),
            every: of(interval(device, point), every),
            deadband: of(rule.deadband.map(deadband_text), deadband),
            at_least_every: of(rule.at_least_every.map(span), at_least_every),
            stale_after: of(point.stale_after.map(span), stale_after),
            class: of(
                config.classes.get(usize::from(report.class.id)).cloned(),
                class,
            ),
            decimals: of(digits(point).map(|digits| digits.to_string()), decimals),
        })
    })
}

fn span(span: Duration) -> String {
    Span(span).to_string()
}

/// How often a point is read. A plain instrument is asked for all its points at once, or speaks by
/// itself.
fn interval(device: &Device, point: &Point) -> Option<String> {
    match (&point.source, &device.protocol) {
        (PointSource::Derived(_), _) => None,
        (_, DeviceProtocol::Text(talk)) => talk.is_polled().then(|| span(talk.every)),
        _ => Some(span(point.every)),
    }
}

fn deadband_text(deadband: Deadband) -> String {
    match deadband {
        Deadband::Absolute(width) => width.to_string(),
        Deadband::Percent(percent) => format!("{percent}%"),
    }
}

/// How many decimals a value has, if that is set.
fn digits(point: &Point) -> Option<u8> {
    match &point.source {
        PointSource::Derived(formula) => formula.decimals(),
        PointSource::Extracted(found) => found.meaning.decimals,
        _ => point.register()?.meaning.decimals,
    }
}

fn uplink_plan(config: &config::Gateway, uplink: &config::UplinkSetup) -> UplinkPlan {
    let traffic = config::traffic(&config.lines, &config.points, uplink);
    let bytes_per_day_together = [traffic.least_together, traffic.most_together];
    let [bytes_per_month, bytes_per_month_together] =
        [[traffic.least, traffic.most], bytes_per_day_together]
            .map(|day| day.map(|bytes| bytes * config::MONTH));
    let cost = |[least, most]: [f64; 2]| {
        let price: &Price = uplink.tariff.price.as_ref()?;
        Some(Cost {
            least: least * price.per_byte,
            most: most * price.per_byte,
            currency: price.currency.clone(),
        })
    };
    UplinkPlan {
        name: uplink.settings.name.clone(),
        to: uplink
            .settings
            .remotes
            .iter()
            .map(ToString::to_string)
            .collect(),
        client_id: uplink.settings.client_id.clone(),
        topics: routes::plan(config, uplink),
        bytes_per_day: [traffic.least, traffic.most],
        bytes_per_month,
        bytes_per_day_together,
        bytes_per_month_together,
        messages_per_day: [traffic.least_messages, traffic.most_messages],
        cost_per_month: cost(bytes_per_month),
        cost_per_month_together: cost(bytes_per_month_together),
    }
}

fn line_plan(line: &Line) -> LinePlan {
    let at = match &line.wire {
        Wire::Simulated => None,
        Wire::Tcp(address)
        | Wire::ModbusTcp(address)
        | Wire::RtuOverTcp(address)
        | Wire::AsciiOverTcp(address) => Some(address.clone()),
        Wire::Serial(port) => Some(port.path.clone()),
    };
    let load = config::load_of(line);
    let requests = requests(line, load.is_some());
    LinePlan {
        name: line.name.clone(),
        at,
        load,
        spare: load.map(|load| (1.0 - load).max(0.0)),
        requests_per_second: requests
            .iter()
            .fold(0.0, |sum, request| sum + 1.0 / request.every_seconds),
        listens: requests.is_empty() && !line.protocol().is_modbus(),
        requests,
    }
}

/// What a line is asked for again and again, with the time on the wire where that is known.
fn requests(line: &Line, is_timed: bool) -> Vec<RequestPlan> {
    let seconds = |seconds: f64| is_timed.then(|| (seconds * 1e4).round() / 1e4);
    let of_block = |block: &Block| RequestPlan {
        bus_seconds: seconds(bus_seconds(line, block)),
        ..request_plan(line, block)
    };
    let of_readout = |job: &Job| RequestPlan {
        device: name_of(line, job.device),
        registers: None,
        every_seconds: job.every.as_secs_f64(),
        bus_seconds: seconds(job.takes.as_secs_f64()),
        points: job.points.len(),
    };
    let (blocks, readouts) = (blocks(line), line.readouts());
    blocks
        .iter()
        .map(of_block)
        .chain(readouts.iter().map(of_readout))
        .collect()
}

fn name_of(line: &Line, device: usize) -> String {
    let device = line.devices.get(device);
    device.map_or_else(String::new, |device| device.name.clone())
}

/// How long a request takes on a serial line.
fn bus_seconds(line: &Line, block: &Block) -> f64 {
    line.devices.get(block.device).map_or(0.0, |device| {
        costs(&line.wire, device)
            .time(block.table, block.count)
            .as_secs_f64()
    })
}

fn request_plan(line: &Line, block: &Block) -> RequestPlan {
    RequestPlan {
        device: name_of(line, block.device),
        registers: Some(RegistersPlan {
            table: match block.table {
                Table::File(file) => format!("file {file}"),
                table => table.name().to_owned(),
            },
            start: block.start,
            count: block.count,
        }),
        every_seconds: block.every.as_secs_f64(),
        bus_seconds: None,
        points: block.points.len(),
    }
}
