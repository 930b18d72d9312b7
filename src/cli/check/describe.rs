//! The plan of a gateway as text for a terminal.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::plan::{
    Cost, LinePlan, Plan, PointPlan, RegistersPlan, RequestPlan, Setting, UplinkPlan,
};
use super::routes;
use crate::config::{self, SetBy};

/// The columns of the table of points.
const HEAD: [&str; 7] = [
    "point",
    "every",
    "deadband",
    "at_least_every",
    "stale_after",
    "class",
    "decimals",
];

/// A row for each point: its settings, and in brackets where each comes from, if that is not the
/// point itself.
pub(super) fn describe_points(points: &[PointPlan], out: &mut String) {
    let rows: Vec<[String; 7]> = std::iter::once(HEAD.map(str::to_owned))
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

fn row(point: &PointPlan) -> [String; 7] {
    let cell = |setting: &Setting| match (&setting.value, setting.set_by) {
        (None, _) => "-".to_owned(),
        (Some(value), SetBy::Point | SetBy::Default) => value.clone(),
        (Some(value), set_by) => format!("{value} ({})", set_by.name()),
    };
    [
        format!("{}.{}", point.device, point.point),
        cell(&point.every),
        cell(&point.deadband),
        cell(&point.at_least_every),
        cell(&point.stale_after),
        cell(&point.class),
        cell(&point.decimals),
    ]
}

/// The plan as text.
pub(super) fn describe(file: &Path, plan: &Plan, warnings: &[config::Diagnostic]) -> String {
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
        "{}: OK ({}, {}, {}, {})",
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
        (Some(at), _) if line.listens => writeln!(
            out,
            "line {} ({at}): no requests, its devices send by themselves",
            line.name
        ),
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
            registers,
            points,
            ..
        } = request;
        let what = match registers {
            Some(RegistersPlan {
                table,
                start,
                count,
            }) => format!("{count} {table} from {start}"),
            None => "a readout".to_owned(),
        };
        let bus = request.bus_seconds.map_or_else(String::new, |seconds| {
            format!(", {:.1} ms of the bus", seconds * 1000.0)
        });
        let _ = writeln!(
            out,
            "  {device}: {what} every {every}, {}{bus}",
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
    let cost = uplink.cost_per_month_together.as_ref();
    let _ = writeln!(out, "  a day {}", between(uplink.bytes_per_day_together));
    let _ = writeln!(
        out,
        "  a month {}{}",
        between(uplink.bytes_per_month_together),
        cost.map_or_else(String::new, cost_range)
    );
    // Whether readings share packets depends on when their devices answer.
    let most = uplink.bytes_per_month[1];
    if most > uplink.bytes_per_month_together[1] {
        let cost = uplink.cost_per_month.as_ref();
        let _ = writeln!(
            out,
            "    if readings that are due equally often share packets; up to {}{} a month if each travels alone",
            config::size(most),
            cost.map_or_else(String::new, |cost| format!(
                ", {:.2} {}",
                cost.most, cost.currency
            ))
        );
    }
}

fn cost_range(cost: &Cost) -> String {
    let Cost {
        least,
        most,
        currency,
    } = cost;
    if (most - least).abs() < 0.005 {
        format!(", {most:.2} {currency}")
    } else {
        format!(", {least:.2} to {most:.2} {currency}")
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
