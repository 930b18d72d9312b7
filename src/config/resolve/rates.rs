//! Rates that are lower than what the file itself sends.

use super::{Check, at};
use crate::config::UplinkSetup;
use crate::config::document::PathStep;
use crate::config::traffic::{Demand, HOURS, demand, size};
use crate::field::Line;
use crate::report::PointReport;
use crate::units::Rate;

/// Warns of the rates of an uplink and of its rules that the points of the file exceed.
pub(super) fn rates(
    check: &mut Check<'_>,
    index: usize,
    uplink: &UplinkSetup,
    lines: &[Line],
    reports: &[PointReport],
) {
    // A backup is used for hours, and is empty before.
    if uplink.settings.use_when.is_some() {
        return;
    }
    let mut warn = |path: &[PathStep], rate: Option<Rate>, rule: Option<usize>| {
        let exceeded = rate.and_then(|rate| exceeded(rate, demand(lines, reports, uplink, rule)));
        if let Some(exceeded) = exceeded {
            check.warn(
                path,
                format!("if every reading is sent, {exceeded} pass: the outbox fills (at QoS 0 the rest is dropped); raise the rate, or lengthen `every`"),
            );
        }
    };
    warn(&at!["uplinks", index, "rate"], uplink.routes.rate, None);
    for (number, rule) in uplink.routes.send.iter().enumerate() {
        warn(
            &at!["uplinks", index, "send", number, "rate"],
            rule.rate,
            Some(number),
        );
    }
}

/// The data of a day and the limit, if that is lower.
fn exceeded(rate: Rate, demand: Demand) -> Option<String> {
    let a_day = |an_hour: u64| an_hour as f64 * HOURS;
    let sent = demand.messages;
    if let Some(most) = rate.messages.map(a_day).filter(|most| sent > *most) {
        return Some(format!(
            "there are {sent:.0} messages a day, and {most:.0} may"
        ));
    }
    let most = rate.bytes.map(a_day).filter(|most| demand.bytes > *most)?;
    Some(format!(
        "there are {} a day, and {} may",
        size(demand.bytes),
        size(most)
    ))
}
