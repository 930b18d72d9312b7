//! `wellhead status`: the state of the running gateway: the status line of the service manager, and
//! a row for each line and uplink, or all counters.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::columns::{cut, padded, width, wrapped};
use super::line_access::{call, unexpected};
use super::{Failure, chosen, put};
use crate::config;
use crate::log::Printable;
use crate::status::control::{self, ControlRequest, Reply};
use crate::status::report::{GatewayStatus, LineStatus, UplinkStatus};

/// The exit code of init scripts for a program that does not run.
const NOT_RUNNING: u8 = 3;
/// The width of names.
const NAME: usize = 24;

/// The arguments of the command.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything is up, 1 something is down or hangs, 3 no gateway runs with this file, 78 the file is wrong.

Examples:
  wellhead status                                of ./gateway.yaml, else /etc/wellhead/gateway.yaml
  wellhead status --json | jq '.uplinks[].waiting'
  wellhead status --metrics | grep wellhead_line_timeouts
  wellhead status > /dev/null || echo 'look at the gateway'"
)]
pub(super) struct StatusArguments {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print all counters of the gateway in the text format of OpenMetrics (Prometheus)
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

/// Prints the state; an error with code 1 if something is down, with code 3 if no gateway runs.
/// With `--metrics` it prints the counters, whatever is down.
pub(super) fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let file = chosen(arguments.file.clone())?;
    let folder = config::load(&file)?.folder;
    if !control::is_running(&folder) {
        return Err(Failure {
            code: NOT_RUNNING,
            message: format!(
                "no gateway runs with {}; start it: systemctl start wellhead",
                file.display()
            ),
        });
    }
    let mut gateway = super::reload::gateway_in(&folder)?;
    if arguments.metrics {
        return match call(&mut gateway, &ControlRequest::Metrics)? {
            Reply::Metrics(text) => put(text.as_bytes()).map(drop),
            Reply::Refused(why) => Err(Failure::runtime(why)),
            _ => Err(unexpected()),
        };
    }
    let status = match call(&mut gateway, &ControlRequest::Status)? {
        Reply::Status(status) => status,
        Reply::Refused(why) => return Err(Failure::runtime(why)),
        _ => return Err(unexpected()),
    };
    let text = if arguments.json {
        json(&status)?
    } else {
        table(&status, width())
    };
    put(text.as_bytes())?;
    if status.is_well() {
        Ok(())
    } else {
        Err(Failure::runtime(trouble(&status)))
    }
}

/// All that is down or hangs.
fn trouble(status: &GatewayStatus) -> String {
    let hanging = status.hanging.iter().map(|task| format!("{task} hangs"));
    let lines = status
        .lines
        .iter()
        .filter(|line| !line.is_up)
        .map(|line| format!("line {} is down", line.name));
    let uplinks = status
        .uplinks
        .iter()
        .filter(|uplink| !uplink.is_up)
        .map(|uplink| format!("uplink {} is down", uplink.name));
    let all: Vec<String> = hanging.chain(lines).chain(uplinks).collect();
    format!(
        "{}; the log says why (journalctl -u wellhead)",
        all.join(", ")
    )
}

fn json(status: &GatewayStatus) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        is_well: bool,
        #[serde(flatten)]
        status: &'a GatewayStatus,
    }
    let whole = Whole {
        is_well: status.is_well(),
        status,
    };
    let text = serde_json::to_string_pretty(&whole).map_err(Failure::runtime)?;
    Ok(Printable::json(&text) + "\n")
}

/// A sentence, a table of lines, a table of uplinks, and advice; no line is wider than `width`.
fn table(status: &GatewayStatus, width: usize) -> String {
    let sentence = format!(
        "wellhead {} has run for {}: {}",
        status.version,
        span(status.for_s),
        status.text
    );
    let mut rows = vec![String::new(), LINE_HEAD.to_owned()];
    rows.extend(status.lines.iter().map(line_row));
    if !status.uplinks.is_empty() {
        rows.extend([String::new(), UPLINK_HEAD.to_owned()]);
    }
    rows.extend(status.uplinks.iter().map(uplink_row));
    let rows: String = rows.iter().map(|row| cut(row, width) + "\n").collect();
    let advice: String = status
        .uplinks
        .iter()
        .filter_map(taken)
        .map(|text| format!("\n{}", wrapped("", &text, width)))
        .collect();
    wrapped("", &sentence, width) + &rows + &advice
}

const LINE_HEAD: &str = "line                     state        for    load  devices";
const UPLINK_HEAD: &str = "uplink                   state        for waiting";

fn line_row(line: &LineStatus) -> String {
    let load = format!(
        "{:.1} %",
        f64::from(u32::try_from(line.load_permille).unwrap_or(u32::MAX)) / 10.0
    );
    format!(
        "{} {:<5} {:>10} {load:>7}  {} of {} answer",
        padded(&line.name, NAME),
        state(line.is_up),
        span(line.for_s),
        line.answering,
        line.devices
    )
}

fn uplink_row(uplink: &UplinkStatus) -> String {
    format!(
        "{} {:<5} {:>10} {:>7}",
        padded(&uplink.name, NAME),
        state(uplink.is_up),
        span(uplink.for_s),
        uplink.waiting
    )
}

fn state(is_up: bool) -> &'static str {
    if is_up { "up" } else { "down" }
}

/// Says that another client uses the client identifier of an uplink.
fn taken(uplink: &UplinkStatus) -> Option<String> {
    let how = match uplink.client_id_taken.as_deref()? {
        "certain" => "another client uses its client identifier, and the two disconnect each other",
        _ => {
            "the remote closes connection after connection; probably another client uses its client identifier, or something on the way cuts connections"
        }
    };
    Some(format!(
        "uplink {}: {how}. Give each gateway its own `client_id`.",
        Printable(&uplink.name)
    ))
}

/// The two greatest units.
fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> GatewayStatus {
        let line = |name: &str, is_up| LineStatus {
            name: name.to_owned(),
            is_up,
            for_s: 3725,
            load_permille: 125,
            devices: 3,
            answering: 2,
        };
        let mut status = GatewayStatus {
            version: "1.2.3".to_owned(),
            for_s: 90_061,
            text: String::new(),
            hanging: Vec::new(),
            lines: vec![line("bus-a", true), line(&"圧力計".repeat(20), false)],
            uplinks: vec![UplinkStatus {
                name: "cloud".to_owned(),
                is_up: true,
                for_s: 5,
                waiting: 7,
                client_id_taken: None,
            }],
        };
        status.text = status.summary();
        status
    }

    #[test]
    fn a_status_fits_into_eighty_columns_and_says_what_is_down() {
        let shown = table(&status(), 80);
        assert!(
            shown
                .lines()
                .all(|line| unicode_width::UnicodeWidthStr::width(line) <= 80),
            "{shown}"
        );
        assert!(
            shown.starts_with(
                "wellhead 1.2.3 has run for 1day 1h: 1 of 2 lines up; cloud up, 7 waiting"
            ),
            "{shown}"
        );
        let row = shown
            .lines()
            .find(|line| line.starts_with("bus-a"))
            .unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            [
                "bus-a", "up", "1h", "2m", "12.5", "%", "2", "of", "3", "answer"
            ]
        );
        let mut fight = status();
        fight.uplinks[0].client_id_taken = Some("certain".to_owned());
        let shown = table(&fight, 80);
        assert!(
            shown.contains("uplink cloud: another client") && shown.contains("own `client_id`"),
            "{shown}"
        );
        assert!(
            shown
                .lines()
                .all(|line| unicode_width::UnicodeWidthStr::width(line) <= 80),
            "{shown}"
        );
        assert!(trouble(&status()).contains("is down") && !status().is_well());
        let object: serde_json::Value = serde_json::from_str(&json(&status()).unwrap()).unwrap();
        assert_eq!(
            (&object["is_well"], &object["lines"][0]["answering"]),
            (&false.into(), &2.into())
        );
    }
}
