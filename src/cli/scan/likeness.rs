//! Recognises devices without identification: finds the profiles whose registers show typical
//! values.
//!
//! Mains frequency and voltages lie in narrow ranges, so that registers which show several of them
//! are hardly there by chance. That is no proof: makers share maps, and so the words are "looks
//! like". Nothing is written, and each register is read once.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::line_access::LineAccess;
use crate::config;
use crate::field::PointSource;
use crate::field::decode::{Register, Table};
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse};

/// Registers of one profile that are read.
const MOST_SIGNS: usize = 5;
/// Right values that a likeness needs.
const LEAST_RIGHT: usize = 2;
/// Profiles that are named.
const MOST_LIKE: usize = 3;
/// Requests without an answer, after which a device is not asked again.
const MOST_SILENT: usize = 3;

/// A register of a profile with the values that belong there.
#[derive(Debug, Clone)]
struct TypicalRegister {
    register: Register,
    /// The right values.
    right: std::ops::RangeInclusive<f64>,
    /// Zero is neither right nor wrong: a phase that is not connected.
    may_be_zero: bool,
}

/// A profile with the registers that recognise it.
#[derive(Debug)]
struct Portrait {
    name: String,
    signs: Vec<TypicalRegister>,
}

/// Every profile that can be recognised.
#[derive(Debug)]
pub(super) struct Portraits(Vec<Portrait>);

impl Portraits {
    /// Of the profiles in `profiles/` below a folder and of those that come with the program.
    pub(super) fn all(folder: &Path) -> Self {
        Self(
            config::profile_names(folder)
                .into_iter()
                .filter_map(|name| portrait(folder, name))
                .collect(),
        )
    }

    /// The names of the profiles that a device looks like, the likeliest first; none if nothing
    /// speaks for one.
    pub(super) fn like(
        &self,
        access: &mut LineAccess,
        unit: u8,
        within: Duration,
    ) -> Result<Vec<String>, Failure> {
        let mut device = ProbedDevice {
            access,
            unit,
            within,
            known: HashMap::new(),
            silent: 0,
        };
        let mut like: Vec<(usize, &str)> = Vec::new();
        for Portrait { name, signs } in &self.0 {
            let right = device.right(signs)?;
            if right >= LEAST_RIGHT {
                like.push((right, name));
            }
        }
        let most = like
            .iter()
            .map(|(right, _)| *right)
            .max()
            .unwrap_or_default();
        Ok(like
            .iter()
            .filter(|(right, _)| *right == most)
            .take(MOST_LIKE)
            .map(|(_, name)| (*name).to_owned())
            .collect())
    }
}

fn portrait(folder: &Path, name: String) -> Option<Portrait> {
    let yaml = format!(
        "site: x\nlines: [ {{ name: l, modbus_tcp: 127.0.0.1 }} ]\ndevices: [ {{ name: d, line: l, unit: 1, profile: {name} }} ]\n"
    );
    // One that needs more than this, such as a base address, is not recognised by its values.
    let gateway = config::parse("scan", &yaml, folder).ok()?;
    let device = gateway.lines.first()?.devices.first()?;
    let unit_of = |id: crate::reading::PointId| {
        gateway
            .points
            .get(id.0 as usize)
            .and_then(|report| report.unit.as_ref())
    };
    let sign = |point: &crate::field::Point| match &point.source {
        PointSource::Register {
            register,
            exponent: None,
        } if register.meaning.array.is_none() => {
            let (right, may_be_zero) = ordinary(unit_of(point.id)?)?;
            Some(TypicalRegister {
                register: Register::clone(register),
                right,
                may_be_zero,
            })
        }
        _ => None,
    };
    let mut signs: Vec<TypicalRegister> = device.points.iter().filter_map(sign).collect();
    // Values that cannot be zero say most.
    signs.sort_by_key(|sign| sign.may_be_zero);
    signs.truncate(MOST_SIGNS);
    (signs.len() >= LEAST_RIGHT).then_some(Portrait { name, signs })
}

/// The values that mains have everywhere.
fn ordinary(unit: &str) -> Option<(std::ops::RangeInclusive<f64>, bool)> {
    match unit {
        "Hz" => Some((45.0..=65.0, false)),
        "V" => Some((85.0..=760.0, true)),
        _ => None,
    }
}

/// A device that is being recognised.
struct ProbedDevice<'a> {
    access: &'a mut LineAccess,
    unit: u8,
    within: Duration,
    /// The registers that were read; `None` for refused ones.
    known: HashMap<(Table, u16, u16), Option<Vec<u16>>>,
    /// Requests in a row without an answer.
    silent: usize,
}

impl ProbedDevice<'_> {
    /// How many signs are right; 0 if one is wrong.
    fn right(&mut self, signs: &[TypicalRegister]) -> Result<usize, Failure> {
        let mut right = 0;
        for TypicalRegister {
            register,
            right: range,
            may_be_zero,
        } in signs
        {
            let Some(words) = self.words(register)? else {
                return Ok(0);
            };
            match register
                .decode(&words, None)
                .ok()
                .and_then(|value| value.as_f64())
            {
                Some(value) if range.contains(&value) => right += 1,
                Some(0.0) if *may_be_zero => {}
                _ => return Ok(0),
            }
        }
        Ok(right)
    }

    fn words(&mut self, register: &Register) -> Result<Option<Vec<u16>>, Failure> {
        let place = (register.table, register.address, register.width());
        if let Some(known) = self.known.get(&place) {
            return Ok(known.clone());
        }
        if self.silent >= MOST_SILENT {
            return Ok(None);
        }
        let (table, start, count) = place;
        let words = match self.access.ask(
            self.unit,
            &DiagnosticRequest::Registers {
                table,
                start,
                count,
            },
            self.within,
        )? {
            DiagnosticResponse::Words(words) => Some(words),
            said => {
                self.silent = if matches!(said, DiagnosticResponse::Exception(_)) {
                    0
                } else {
                    self.silent + 1
                };
                None
            }
        };
        if words.is_some() {
            self.silent = 0;
        }
        self.known.insert(place, words.clone());
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_are_recognised_by_frequency_and_voltage_and_other_instruments_are_not() {
        let portraits = Portraits::all(Path::new("/nowhere"));
        let of = |name: &str| portraits.0.iter().find(|portrait| portrait.name == name);
        let sdm = of("eastron-sdm120").unwrap();
        assert!(sdm.signs.len() >= 2 && !sdm.signs[0].may_be_zero, "{sdm:?}");
        assert!(portraits.0.len() > 20, "{}", portraits.0.len());
        assert!(of("toledo").is_none() && of("waveshare-modbus-rtu-relay-8ch").is_none());
        assert!(
            portraits
                .0
                .iter()
                .all(|portrait| portrait.signs.len() <= MOST_SIGNS)
        );
    }
}
