//! `wellhead check`: every fault of a file, or what the gateway will do with it; for people, or as JSON for scripts.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::{CONFIG, Failure, put};
use crate::config::{self, LoadError};
use crate::field::modbus::{blocks, costs};
use crate::field::{Line, Wire};

/// A serial line that is asked for more than this part of its time has little left for repetitions and silent devices.
const FULL: f64 = 0.8;

/// What the gateway will do.
#[derive(Debug, Serialize)]
struct Plan {
    lines: Vec<LinePlan>,
    devices: usize,
    points: usize,
    listeners: Vec<String>,
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
    requests: Vec<RequestPlan>,
}

#[derive(Debug, Serialize)]
struct RequestPlan {
    device: String,
    table: &'static str,
    start: u16,
    count: u16,
    every_seconds: f64,
    points: usize,
}

#[derive(Debug, Serialize)]
struct UplinkPlan {
    name: String,
    to: Vec<String>,
    client_id: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
}

/// Prints the plan of a file; faults are the failure, or with `as_json` a report on stdout like the plan.
pub(super) fn check(file: &Path, as_json: bool) -> Result<(), Failure> {
    let loaded = config::load(file);
    if !as_json {
        return put(describe(file, &plan(&loaded?)).as_bytes()).map(drop);
    }
    match loaded {
        Ok(config) => put_json(&Report { ok: true, faults: Vec::new(), plan: Some(plan(&config)) }),
        Err(LoadError::Faults(found)) => {
            let told = |fault: &config::Fault| Told {
                file: fault.file.clone(),
                line: fault.line,
                column: fault.column,
                message: fault.message.clone(),
            };
            let faults = found.iter().map(told).collect();
            put_json(&Report { ok: false, faults, plan: None })?;
            Err(Failure { code: CONFIG, message: String::new() })
        }
        Err(error) => Err(error.into()),
    }
}

fn plan(config: &config::Gateway) -> Plan {
    let uplink = |uplink: &config::Uplink| UplinkPlan {
        name: uplink.settings.name.clone(),
        to: uplink.settings.remotes.iter().map(ToString::to_string).collect(),
        client_id: uplink.settings.client_id.clone(),
    };
    Plan {
        lines: config.lines.iter().map(line_plan).collect(),
        devices: config.lines.iter().map(|line| line.devices.len()).sum(),
        points: config.lines.iter().flat_map(|line| &line.devices).map(|device| device.points.len()).sum(),
        listeners: config.broker.iter().flat_map(|broker| &broker.listen).map(ToString::to_string).collect(),
        uplinks: config.uplinks.iter().map(uplink).collect(),
    }
}

fn line_plan(line: &Line) -> LinePlan {
    let (blocks, costs) = (blocks(line), costs(&line.wire));
    let at = match &line.wire {
        Wire::Simulated => None,
        Wire::Tcp(address) | Wire::ModbusTcp(address) | Wire::RtuOverTcp(address) | Wire::AsciiOverTcp(address) => Some(address.clone()),
        Wire::Serial(port) => Some(port.path.clone()),
    };
    let taken = blocks.iter().map(|block| costs.time(block.table, block.count).as_secs_f64() / block.every.as_secs_f64());
    let load = matches!(line.wire, Wire::Serial(_)).then(|| taken.fold(0.0, |sum, load| sum + load));
    let request = |block: &crate::field::modbus::plan::Block| RequestPlan {
        device: line.devices.get(block.device).map_or_else(String::new, |device| device.name.clone()),
        table: block.table.name(),
        start: block.start,
        count: block.count,
        every_seconds: block.every.as_secs_f64(),
        points: block.points.len(),
    };
    LinePlan {
        name: line.name.clone(),
        at,
        load,
        requests_per_second: blocks.iter().map(|block| 1.0 / block.every.as_secs_f64()).sum(),
        requests: blocks.iter().map(request).collect(),
    }
}

/// The plan as a person reads it.
fn describe(file: &Path, plan: &Plan) -> String {
    let mut out = format!(
        "{} is correct: {}, {}, {}, {}\n",
        file.display(),
        counted(plan.lines.len(), "line"),
        counted(plan.devices, "device"),
        counted(plan.points, "point"),
        counted(plan.uplinks.len(), "uplink")
    );
    for line in &plan.lines {
        describe_line(line, &mut out);
    }
    // Writing to a text cannot fail.
    for listener in &plan.listeners {
        let _ = writeln!(out, "broker on {listener}");
    }
    for uplink in &plan.uplinks {
        let _ = writeln!(out, "uplink {} to {} as {}", uplink.name, uplink.to.join(", then "), uplink.client_id);
    }
    out
}

fn describe_line(line: &LinePlan, out: &mut String) {
    let requests = counted(line.requests.len(), "request");
    let _ = match (&line.at, line.load) {
        (None, _) => writeln!(out, "line {} (simulated): no requests", line.name),
        (Some(at), None) => writeln!(out, "line {} ({at}): {requests}, {:.1} per second", line.name, line.requests_per_second),
        (Some(at), Some(load)) => {
            let warning = match load {
                load if load > 1.0 => "; too much: every interval will be stretched; read less often, or at a higher speed",
                load if load > FULL => {
                    "; little is left for repetitions and devices that are silent; read less often, or at a higher speed"
                }
                _ => "",
            };
            writeln!(out, "line {} ({at}): {requests}, load {:.0} %{warning}", line.name, load * 100.0)
        }
    };
    for request in &line.requests {
        let every = humantime::format_duration(std::time::Duration::from_secs_f64(request.every_seconds));
        let RequestPlan { device, table, start, count, points, .. } = request;
        let _ = writeln!(out, "  {device}: {count} {table} from {start} every {every}, {}", counted(*points, "point"));
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn put_json(report: &Report) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(Failure::runtime)?;
    put(format!("{text}\n").as_bytes()).map(drop)
}
