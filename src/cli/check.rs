//! `wellhead check`: every fault of a file, or what the gateway will do with it; for people, or as JSON for scripts.

mod routes;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{CONFIG, Failure, put};
use crate::config::{self, LoadError, SetBy};
use crate::field::decode::Table;
use crate::field::modbus::{blocks, costs};
use crate::field::{Device, Line, PointSource, Wire};
use crate::report::deadband::Deadband;
use crate::units::{Price, Span};

/// What the gateway will do.
#[derive(Debug, Serialize)]
struct Plan {
    lines: Vec<LinePlan>,
    devices: usize,
    points: usize,
    /// How each point is read and reported, and where each setting comes from.
    settings: Vec<PointPlan>,
    listeners: Vec<String>,
    /// Memory that logins with a password take together, in bytes; 0 where nobody has one.
    login_memory: usize,
    uplinks: Vec<UplinkPlan>,
}

#[derive(Debug, Serialize)]
struct LinePlan {
    name: String,
    /// Port or address; `None` for a simulated line.
    at: Option<String>,
    /// Part of a serial line's time that the requests take; `None` where that is no limit.
    load: Option<f64>,
    requests_per_second: f64,
    /// Part of a serial line's time that is left.
    spare: Option<f64>,
    requests: Vec<RequestPlan>,
}

#[derive(Debug, Serialize)]
struct RequestPlan {
    device: String,
    table: String,
    start: u16,
    count: u16,
    every_seconds: f64,
    /// What one takes of a serial line's time.
    bus_seconds: Option<f64>,
    points: usize,
}

#[derive(Debug, Serialize)]
struct PointPlan {
    device: String,
    point: String,
    every: Setting,
    deadband: Setting,
    at_least_every: Setting,
    stale_after: Setting,
    class: Setting,
    decimals: Setting,
}

/// One setting of a point; no value where the point has none.
#[derive(Debug, Serialize)]
struct Setting {
    value: Option<String>,
    set_by: SetBy,
}

#[derive(Debug, Serialize)]
struct UplinkPlan {
    name: String,
    to: Vec<String>,
    client_id: String,
    topics: routes::RoutePlan,
    /// Bytes a day as an operator bills them, both ways, if each message travels alone: if nothing changes, and if every reading is sent.
    bytes_per_day: [f64; 2],
    bytes_per_month: [f64; 2],
    /// The same if messages that are due equally often leave together.
    bytes_per_day_together: [f64; 2],
    bytes_per_month_together: [f64; 2],
    messages_per_day: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_month: Option<Cost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_month_together: Option<Cost>,
}

#[derive(Debug, Serialize)]
struct Cost {
    least: f64,
    most: f64,
    currency: String,
}

#[derive(Debug, Serialize)]
struct Told {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    faults: Vec<Told>,
    warnings: Vec<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
}

/// Prints the plan of a file, with a row for each point if `with_points`; faults are the failure, or with `as_json` a report on stdout like the plan.
pub(super) fn check(file: &Path, as_json: bool, with_points: bool) -> Result<(), Failure> {
    let loaded = config::load(file);
    if !as_json {
        let config = loaded?;
        let plan = plan(&config);
        let mut out = describe(file, &plan, &config.warnings);
        if with_points {
            describe_points(&plan.settings, &mut out);
        }
        return put(out.as_bytes()).map(drop);
    }
    let all = |found: &[config::Diagnostic]| found.iter().map(told).collect();
    match loaded {
        Ok(config) => put_json(&Report {
            ok: true,
            faults: Vec::new(),
            warnings: all(&config.warnings),
            plan: Some(plan(&config)),
        }),
        Err(LoadError::Faults(found)) => {
            put_json(&Report {
                ok: false,
                faults: all(&found),
                warnings: Vec::new(),
                plan: None,
            })?;
            Err(Failure {
                code: CONFIG,
                message: String::new(),
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn told(fault: &config::Diagnostic) -> Told {
    Told {
        file: fault.file.clone(),
        line: fault.line,
        column: fault.column,
        message: fault.message.clone(),
    }
}

fn plan(config: &config::Gateway) -> Plan {
    let uplink = |uplink: &config::UplinkSetup| uplink_plan(config, uplink);
    Plan {
        lines: config.lines.iter().map(line_plan).collect(),
        devices: config.lines.iter().map(|line| line.devices.len()).sum(),
        points: config
            .lines
            .iter()
            .flat_map(|line| &line.devices)
            .map(|device| device.points.len())
            .sum(),
        settings: config
            .lines
            .iter()
            .flat_map(|line| &line.devices)
            .flat_map(|device| point_plans(config, device))
            .collect(),
        listeners: config
            .broker
            .iter()
            .flat_map(|broker| &broker.listen)
            .map(ToString::to_string)
            .collect(),
        login_memory: config
            .broker
            .as_ref()
            .map_or(0, |broker| broker.access.login_memory()),
        uplinks: config.uplinks.iter().map(uplink).collect(),
    }
}

fn point_plans<'a>(
    config: &'a config::Gateway,
    device: &'a Device,
) -> impl Iterator<Item = PointPlan> + 'a {
    device.points.iter().filter_map(move |point| {
        let place = point.id.0 as usize;
        let (report, set_by) = (config.points.get(place)?, config.set_by.get(place)?);
        let span = |span: Duration| Span(span).to_string();
        let deadband = report.rule.deadband.map(|deadband| match deadband {
            Deadband::Absolute(width) => width.to_string(),
            Deadband::Percent(percent) => format!("{percent}%"),
        });
        // A plain instrument is asked for all its points at once, or speaks by itself.
        let every = match (&point.source, &device.protocol) {
            (PointSource::Derived(_), _) => None,
            (_, Some(talk)) => talk.is_polled().then(|| span(talk.every)),
            (_, None) => Some(span(point.every)),
        };
        let class = config.classes.get(usize::from(report.class.id)).cloned();
        let decimals = match &point.source {
            PointSource::Derived(formula) => formula.decimals(),
            PointSource::Extracted(found) => found.meaning.decimals,
            _ => point
                .register()
                .and_then(|register| register.meaning.decimals),
        };
        let decimals = decimals.map(|digits| digits.to_string());
        let values = [
            every,
            deadband,
            report.rule.at_least_every.map(span),
            point.stale_after.map(span),
            class,
            decimals,
        ];
        let mut settings = values
            .into_iter()
            .zip(*set_by)
            .map(|(value, set_by)| Setting { value, set_by });
        let mut next = || {
            settings.next().unwrap_or(Setting {
                value: None,
                set_by: SetBy::Default,
            })
        };
        let (device, point) = (device.name.clone(), point.name.to_string());
        let [
            every,
            deadband,
            at_least_every,
            stale_after,
            class,
            decimals,
        ] = [(); 6].map(|()| next());
        Some(PointPlan {
            device,
            point,
            every,
            deadband,
            at_least_every,
            stale_after,
            class,
            decimals,
        })
    })
}

/// A row for each point: its settings, and in brackets who sets them, where that is not the point itself.
fn describe_points(points: &[PointPlan], out: &mut String) {
    let head = [
        "point",
        "every",
        "deadband",
        "at_least_every",
        "stale_after",
        "class",
        "decimals",
    ]
    .map(str::to_owned);
    let cell = |setting: &Setting| match (&setting.value, setting.set_by) {
        (None, _) => "-".to_owned(),
        (Some(value), SetBy::Point | SetBy::Default) => value.clone(),
        (Some(value), set_by) => format!("{value} ({})", set_by.name()),
    };
    let row = |point: &PointPlan| {
        let settings = [
            &point.every,
            &point.deadband,
            &point.at_least_every,
            &point.stale_after,
            &point.class,
            &point.decimals,
        ];
        let [
            every,
            deadband,
            at_least_every,
            stale_after,
            class,
            decimals,
        ] = settings.map(cell);
        [
            format!("{}.{}", point.device, point.point),
            every,
            deadband,
            at_least_every,
            stale_after,
            class,
            decimals,
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head)
        .chain(points.iter().map(row))
        .collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
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
    let blocks = blocks(line);
    let at = match &line.wire {
        Wire::Simulated => None,
        Wire::Tcp(address)
        | Wire::ModbusTcp(address)
        | Wire::RtuOverTcp(address)
        | Wire::AsciiOverTcp(address) => Some(address.clone()),
        Wire::Serial(port) => Some(port.path.clone()),
    };
    let load = config::load_of(line);
    let takes = |block: &crate::field::modbus::block::Block| {
        line.devices.get(block.device).map_or(0.0, |device| {
            costs(&line.wire, device)
                .time(block.table, block.count)
                .as_secs_f64()
        })
    };
    let request = |block: &crate::field::modbus::block::Block| RequestPlan {
        device: line
            .devices
            .get(block.device)
            .map_or_else(String::new, |device| device.name.clone()),
        table: match block.table {
            Table::File(file) => format!("file {file}"),
            table => table.name().to_owned(),
        },
        start: block.start,
        count: block.count,
        every_seconds: block.every.as_secs_f64(),
        bus_seconds: load.map(|_| (takes(block) * 1e4).round() / 1e4),
        points: block.points.len(),
    };
    LinePlan {
        name: line.name.clone(),
        at,
        load,
        spare: load.map(|load| (1.0 - load).max(0.0)),
        requests_per_second: blocks
            .iter()
            .fold(0.0, |sum, block| sum + 1.0 / block.every.as_secs_f64()),
        requests: blocks.iter().map(request).collect(),
    }
}

/// The plan as a person reads it.
fn describe(file: &Path, plan: &Plan, warnings: &[config::Diagnostic]) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    for warning in warnings {
        let config::Diagnostic {
            file,
            line,
            column,
            message,
            excerpt,
        } = warning;
        let _ = writeln!(out, "{file}:{line}:{column} warning: {message}{excerpt}");
    }
    let _ = writeln!(
        out,
        "{} is correct: {}, {}, {}, {}",
        file.display(),
        counted(plan.lines.len(), "line"),
        counted(plan.devices, "device"),
        counted(plan.points, "point"),
        counted(plan.uplinks.len(), "uplink")
    );
    for line in &plan.lines {
        describe_line(line, &mut out);
    }
    for listener in &plan.listeners {
        let _ = writeln!(out, "broker on {listener}");
    }
    if plan.login_memory > 0 {
        let _ = writeln!(
            out,
            "  checking passwords takes {} MiB of memory in all",
            plan.login_memory.div_ceil(1 << 20)
        );
    }
    for uplink in &plan.uplinks {
        describe_uplink(uplink, &mut out);
    }
    out
}

fn describe_line(line: &LinePlan, out: &mut String) {
    let requests = counted(line.requests.len(), "request");
    let _ = match (&line.at, line.load) {
        (None, _) => writeln!(out, "line {} (simulated): no requests", line.name),
        (Some(at), None) => writeln!(
            out,
            "line {} ({at}): {requests}, {:.1} per second",
            line.name, line.requests_per_second
        ),
        (Some(at), Some(load)) => {
            let spare = line.spare.unwrap_or_default() * 100.0;
            writeln!(
                out,
                "line {} ({at}): {requests}, load {:.0} %, spare {spare:.0} %",
                line.name,
                load * 100.0
            )
        }
    };
    for request in &line.requests {
        let every = humantime::format_duration(Duration::from_secs_f64(request.every_seconds));
        let RequestPlan {
            device,
            table,
            start,
            count,
            points,
            ..
        } = request;
        let bus = request.bus_seconds.map_or_else(String::new, |seconds| {
            format!(", {:.1} ms of the bus", seconds * 1000.0)
        });
        let _ = writeln!(
            out,
            "  {device}: {count} {table} from {start} every {every}, {}{bus}",
            counted(*points, "point")
        );
    }
}

fn describe_uplink(uplink: &UplinkPlan, out: &mut String) {
    let _ = writeln!(
        out,
        "uplink {} to {} as {}",
        uplink.name,
        uplink.to.join(", then "),
        uplink.client_id
    );
    routes::describe(&uplink.topics, out);
    let between = |[least, most]: [f64; 2]| {
        let (least, most) = (config::size(least), config::size(most));
        if least == most {
            format!("about {most}")
        } else {
            format!("{least} (nothing changes) to {most} (every reading is sent)")
        }
    };
    let cost = |cost: &Option<Cost>| {
        cost.as_ref().map_or_else(
            String::new,
            |Cost {
                 least,
                 most,
                 currency,
             }| {
                if (most - least).abs() < 0.005 {
                    format!(", {most:.2} {currency}")
                } else {
                    format!(", {least:.2} to {most:.2} {currency}")
                }
            },
        )
    };
    let _ = writeln!(out, "  a day {}", between(uplink.bytes_per_day_together));
    let _ = writeln!(
        out,
        "  a month {}{}",
        between(uplink.bytes_per_month_together),
        cost(&uplink.cost_per_month_together)
    );
    // Whether readings share packets depends on when their devices answer.
    let most = uplink.bytes_per_month[1];
    if most > uplink.bytes_per_month_together[1] {
        let cost = uplink
            .cost_per_month
            .as_ref()
            .map_or_else(String::new, |cost| {
                format!(", {:.2} {}", cost.most, cost.currency)
            });
        let _ = writeln!(
            out,
            "    if readings that are due equally often share packets; up to {}{cost} a month if each travels alone",
            config::size(most)
        );
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn put_json(report: &Report) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(Failure::runtime)?;
    put(format!("{text}\n").as_bytes()).map(drop)
}
