//! Needs of lines and devices beyond the standard: pauses, closing when idle, identifiers that are
//! not compared, slow first answers. A device overrides its profile, and that its line.

use std::time::Duration;

use super::context::DeviceContext;
use super::{Check, at};
use crate::config::document::PathStep;
use crate::config::file::{self, Compared};
use crate::field::modbus::manners::{Accept, Manners, Pause};
use crate::field::{Line, Wire};
use crate::units::Span;

const LONGEST_BETWEEN: Duration = Duration::from_secs(10);
const LONGEST_AFTER_CONNECT: Duration = Duration::from_secs(60);
const LONGEST_FIRST_ANSWER: Duration = Duration::from_secs(60);
const NO_TIME: &str =
    "0s leaves no time to answer; write a longer duration, such as 3s, or remove it";

const NO_IDLE: &str = "the connection would be closed after every answer; write a longer duration, such as 10s, or remove it";

/// How a line is treated; notes settings without an effect on its wire.
pub(super) fn of_line(
    check: &mut Check<'_>,
    index: usize,
    line: &file::LineConfig,
    wire: &Wire,
) -> Manners {
    for (_, key, why) in useless(line, wire)
        .iter()
        .filter(|(is_useless, ..)| *is_useless)
    {
        check.fault(&at!["lines", index, *key], *why);
    }
    for (key, span, why) in [
        ("close_when_idle", line.close_when_idle, NO_IDLE),
        ("first_answer_within", line.first_answer_within, NO_TIME),
    ] {
        check.not_zero(&at!["lines", index, key], span, why);
    }
    let accept = line.accept.unwrap_or_default();
    let typed = line.pause.clone().unwrap_or_default();
    Manners {
        pause: pause(check, &at!["lines", index, "pause"], &typed),
        close_when_idle: line.close_when_idle.map(|span| span.0),
        accept: Accept {
            any_unit: accept.unit == Compared::Any,
            any_transaction: accept.transaction == Compared::Any,
        },
    }
}

/// Settings without an effect on a wire: whether one is typed, its key, and the remedy.
fn useless(line: &file::LineConfig, wire: &Wire) -> [(bool, &'static str, &'static str); 5] {
    let is_modbus = !matches!(wire, Wire::Simulated | Wire::Tcp(_));
    let is_network = matches!(
        wire,
        Wire::ModbusTcp(_) | Wire::RtuOverTcp(_) | Wire::AsciiOverTcp(_)
    );
    let accept = line.accept.unwrap_or_default();
    let compares_transactions = matches!(wire, Wire::ModbusTcp(_)) || !is_modbus;
    [
        (
            line.pause.is_some() && !is_modbus,
            "pause",
            "only lines with Modbus devices have pauses; remove it (a script has `wait`)",
        ),
        (
            line.first_answer_within.is_some() && !is_modbus,
            "first_answer_within",
            "only lines with Modbus devices have a first answer; remove it",
        ),
        (
            line.close_when_idle.is_some() && !is_network,
            "close_when_idle",
            "only connections to Modbus devices are closed when idle (modbus_tcp, rtu_over_tcp, ascii_over_tcp); remove it",
        ),
        (
            line.accept.is_some() && !is_modbus,
            "accept",
            "only answers of Modbus devices have identifiers; remove it",
        ),
        (
            accept.transaction == Compared::Any && !compares_transactions,
            "accept",
            "only Modbus TCP has transaction identifiers; remove `transaction`",
        ),
    ]
}

fn times(typed: &file::PauseConfig) -> Pause {
    let time = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.0);
    Pause {
        between: time(typed.between),
        after_connect: time(typed.after_connect),
    }
}

fn pause(check: &mut Check<'_>, path: &[PathStep], typed: &file::PauseConfig) -> Pause {
    let pause = times(typed);
    if pause.between > LONGEST_BETWEEN || pause.after_connect > LONGEST_AFTER_CONNECT {
        check.fault(path, "the line is idle during a pause; write at most 10s for `between` and 60s for `after_connect`");
    }
    pause
}

impl DeviceContext<'_> {
    /// Place of a key that a device or its profile gives.
    fn manner_path(&self, key: &'static str, is_of_device: bool) -> Vec<PathStep> {
        match &self.device.profile {
            Some(profile) if !is_of_device && self.is_in_file => {
                at!["profiles", profile, key].to_vec()
            }
            Some(_) if !is_of_device => at!["devices", self.index, "profile"].to_vec(),
            _ => at!["devices", self.index, key].to_vec(),
        }
    }

    /// Silence before a request to the device.
    pub(super) fn pause(&self, check: &mut Check<'_>) -> Pause {
        let base = self
            .base("pause")
            .and_then(|profile| profile.pause.as_ref());
        let path = self.manner_path("pause", self.device.pause.is_some());
        if self.is_meter {
            let why = "a meter has no pauses; remove it";
            if self.device.pause.is_some() || base.is_some() {
                check.fault(&path, why);
            }
            return Pause::default();
        }
        if self.is_text {
            let why =
                "a plain instrument has no pauses; remove it, or write `wait` into its script";
            if self.device.pause.is_some() || base.is_some() {
                check.fault(&path, why);
            }
            if self.line.pause.is_some() {
                check.fault(&at!["lines", self.line_index, "pause"], why);
            }
            return Pause::default();
        }
        let own = file::PauseConfig::over(self.device.pause.as_ref(), base);
        pause(check, &path, &own);
        times(&file::PauseConfig::over(
            Some(&own),
            self.line.pause.as_ref(),
        ))
    }

    /// How long one request to the device may hold the line.
    pub(super) fn max_hold(&self, check: &mut Check<'_>) -> Option<Duration> {
        let base = self.base("max_hold");
        let hold = self
            .device
            .max_hold
            .or(base.and_then(|profile| profile.max_hold))?;
        let path = self.manner_path("max_hold", self.device.max_hold.is_some());
        check.not_zero(
            &path,
            Some(hold),
            "every request takes time; write a longer duration, such as 200ms, or remove it",
        );
        Some(hold.0)
    }

    /// How long the first answer of the device may take.
    pub(super) fn first_answer_within(
        &self,
        check: &mut Check<'_>,
        line: &Line,
    ) -> Option<Duration> {
        let key = "first_answer_within";
        let own = self.device.first_answer_within.or(self
            .base(key)
            .and_then(|profile| profile.first_answer_within));
        let path = if own.is_some() {
            self.manner_path(key, self.device.first_answer_within.is_some())
        } else {
            at!["lines", self.line_index, key].to_vec()
        };
        let first = own.or(self.line.first_answer_within)?.0;
        check.not_zero(&path, Some(Span(first)), NO_TIME);
        if check.is_faulty(&path) {
            return None;
        }
        if self.is_meter {
            check.fault(&path, "a meter has no first answer; remove it");
        } else if self.is_text {
            check.fault(&path, "a plain instrument has no first answer; remove it");
        } else if first < line.answer_within.most && !self.simulated {
            check.fault(
                &path,
                "this is shorter than `answer_within`; write a longer duration, or remove it",
            );
        } else if first > LONGEST_FIRST_ANSWER {
            check.fault(
                &path,
                "the other devices of the line have to wait; write at most 60s",
            );
        }
        Some(first)
    }
}
