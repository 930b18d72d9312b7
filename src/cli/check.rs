//! `wellhead check`: every fault of a file, or what the gateway will do with it.

use std::io::Write;
use std::path::Path;

use super::Failure;
use crate::config;
use crate::field::modbus::{blocks, costs, plan::Block};
use crate::field::{Line, Wire};

pub(super) fn check(file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    let devices: usize = config.lines.iter().map(|line| line.devices.len()).sum();
    let points: usize = config.lines.iter().flat_map(|line| &line.devices).map(|device| device.points.len()).sum();
    let mut out = format!(
        "{} is correct: {}, {}, {}, {}\n",
        file.display(),
        counted(config.lines.len(), "line"),
        counted(devices, "device"),
        counted(points, "point"),
        counted(config.uplinks.len(), "uplink")
    );
    for line in &config.lines {
        out.push_str(&describe(line));
    }
    for listen in config.broker.iter().flat_map(|broker| &broker.listen) {
        out.push_str(&format!("broker on {listen}\n"));
    }
    for uplink in &config.uplinks {
        let remotes: Vec<String> = uplink.settings.remotes.iter().map(ToString::to_string).collect();
        out.push_str(&format!("uplink {} to {} as {}\n", uplink.settings.name, remotes.join(", then "), uplink.settings.client_id));
    }
    std::io::stdout().write_all(out.as_bytes()).map_err(Failure::runtime)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn describe(line: &Line) -> String {
    let blocks = blocks(line);
    let costs = costs(&line.wire);
    let per_second: f64 = blocks.iter().map(|block| 1.0 / block.every.as_secs_f64()).sum();
    match &line.wire {
        Wire::Simulated => format!("line {} (simulated): no requests\n", line.name),
        Wire::Tcp(address) | Wire::ModbusTcp(address) | Wire::RtuOverTcp(address) | Wire::AsciiOverTcp(address) => {
            format!(
                "line {} ({address}): {}, {per_second:.1} per second\n{}",
                line.name,
                counted(blocks.len(), "request"),
                requests(line, &blocks)
            )
        }
        Wire::Serial(port) => {
            let load: f64 = blocks
                .iter()
                .map(|block| costs.time(block.table, block.count).as_secs_f64() / block.every.as_secs_f64())
                .fold(0.0, |sum, load| sum + load);
            let warning = if load > 1.0 { "; too much: every interval will be stretched" } else { "" };
            format!(
                "line {} ({}): {}, load {:.0} %{warning}\n{}",
                line.name,
                port.path,
                counted(blocks.len(), "request"),
                load * 100.0,
                requests(line, &blocks)
            )
        }
    }
}

fn requests(line: &Line, blocks: &[Block]) -> String {
    let describe = |block: &Block| {
        let device = line.devices.get(block.device).map_or("", |device| device.name.as_str());
        format!(
            "  {device}: {} {:?} from {} every {}, {}\n",
            block.count,
            block.table,
            block.start,
            humantime::format_duration(block.every),
            counted(block.points.len(), "point")
        )
    };
    blocks.iter().map(describe).collect()
}
