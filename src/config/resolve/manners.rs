//! What lines and devices need beyond the standard: pauses, closing when idle, identifiers that are not compared, slow first answers. What
//! a device says goes before its profile, and that before its line.

use std::time::Duration;

use super::field::Context;
use super::{Check, at};
use crate::config::document::Step;
use crate::config::file::{self, Compared};
use crate::field::modbus::manners::{Accept, Manners, Pause};
use crate::field::{Line, Wire};
use crate::units::Span;

const LONGEST_BETWEEN: Duration = Duration::from_secs(10);
const LONGEST_AFTER_CONNECT: Duration = Duration::from_secs(60);
const LONGEST_FIRST_ANSWER: Duration = Duration::from_secs(60);
const NO_TIME: &str =
    "0s leaves no time to answer; write a longer duration, such as 3s, or remove it";

/// How a line is treated; notes what has no effect on its wire.
pub(super) fn of_line(
    check: &mut Check<'_>,
    index: usize,
    line: &file::Line,
    wire: &Wire,
) -> Manners {
    let is_modbus = !matches!(wire, Wire::Simulated | Wire::Tcp(_));
    let is_network = matches!(
        wire,
        Wire::ModbusTcp(_) | Wire::RtuOverTcp(_) | Wire::AsciiOverTcp(_)
    );
    let accept = line.accept.unwrap_or_default();
    let rows = [
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
            is_modbus && accept.transaction == Compared::Any && !matches!(wire, Wire::ModbusTcp(_)),
            "accept",
            "only Modbus TCP has transaction identifiers; remove `transaction`",
        ),
    ];
    for (is_useless, key, why) in rows {
        if is_useless {
            check.fault(&at!["lines", index, key], why);
        }
    }
    check.not_zero(
        &at!["lines", index, "close_when_idle"],
        line.close_when_idle,
        "the connection would be closed after every answer; write a longer duration, such as 10s, or remove it",
    );
    check.not_zero(
        &at!["lines", index, "first_answer_within"],
        line.first_answer_within,
        NO_TIME,
    );
    Manners {
        pause: pause(
            check,
            &at!["lines", index, "pause"],
            &line.pause.clone().unwrap_or_default(),
        ),
        close_when_idle: line.close_when_idle.map(|span| span.0),
        accept: Accept {
            any_unit: accept.unit == Compared::Any,
            any_transaction: accept.transaction == Compared::Any,
        },
    }
}

fn pause(check: &mut Check<'_>, path: &[Step], typed: &file::Pause) -> Pause {
    let time = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.0);
    let pause = Pause {
        between: time(typed.between),
        after_connect: time(typed.after_connect),
    };
    if pause.between > LONGEST_BETWEEN || pause.after_connect > LONGEST_AFTER_CONNECT {
        check.fault(path, "the line is idle during a pause; write at most 10s for `between` and 60s for `after_connect`");
    }
    pause
}

impl Context<'_> {
    /// Where a key stands that a device or its profile gives.
    fn manner_path(&self, key: &'static str, is_of_device: bool) -> Vec<Step> {
        match &self.device.profile {
            Some(profile) if !is_of_device && self.is_in_file => {
                at!["profiles", profile, key].to_vec()
            }
            Some(_) if !is_of_device => at!["devices", self.index, "profile"].to_vec(),
            _ => at!["devices", self.index, key].to_vec(),
        }
    }

    /// Silence before a request to the device.
    pub(super) fn pause(&self, check: &mut Check<'_>, line: &file::Line) -> Pause {
        let base = self
            .profile
            .filter(|_| !self.device.takes_away("pause"))
            .and_then(|profile| profile.pause.as_ref());
        let own = self.device.pause.as_ref().or(base);
        if self.is_text {
            let why =
                "a plain instrument has no pauses; remove it, or write `wait` into its script";
            if own.is_some() {
                check.fault(&self.manner_path("pause", self.device.pause.is_some()), why);
            }
            if let (Some(_), Some(place)) = (
                &line.pause,
                check
                    .file
                    .lines
                    .iter()
                    .position(|other| other.name == line.name),
            ) {
                check.fault(&at!["lines", place, "pause"], why);
            }
            return Pause::default();
        }
        let path = self.manner_path("pause", self.device.pause.is_some());
        let own = file::Pause::over(self.device.pause.as_ref(), base);
        pause(check, &path, &own);
        let typed = file::Pause::over(Some(&own), line.pause.as_ref());
        let time = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.0);
        Pause {
            between: time(typed.between),
            after_connect: time(typed.after_connect),
        }
    }

    /// How long one request to the device may hold the line.
    pub(super) fn max_hold(&self, check: &mut Check<'_>) -> Option<Duration> {
        let base = self.profile.filter(|_| !self.device.takes_away("max_hold"));
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
        typed: &file::Line,
        line: &Line,
    ) -> Option<Duration> {
        let base = self
            .profile
            .filter(|_| !self.device.takes_away("first_answer_within"));
        let own = self
            .device
            .first_answer_within
            .or(base.and_then(|profile| profile.first_answer_within));
        let path = if own.is_some() {
            self.manner_path(
                "first_answer_within",
                self.device.first_answer_within.is_some(),
            )
        } else {
            let place = check
                .file
                .lines
                .iter()
                .position(|other| other.name == line.name)
                .unwrap_or_default();
            at!["lines", place, "first_answer_within"].to_vec()
        };
        let first = own.or(typed.first_answer_within)?.0;
        check.not_zero(&path, Some(Span(first)), NO_TIME);
        if check.is_faulty(&path) {
            return None;
        }
        if self.is_text {
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
