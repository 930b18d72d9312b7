//! Simulated values of points without `simulate`: waves, powers of ten, SunSpec models.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::context::DeviceContext;
use crate::config::{file, presets, sunspec};
use crate::field::decode::{Meaning, Table};
use crate::field::signal::{Signal, Waveform};
use crate::field::typical::{self, Quantity};
use crate::field::{Device, Point, PointSource};

impl DeviceContext<'_> {
    /// Fills in what the YAML leaves open.
    pub(super) fn simulate(&self, device: &mut Device) {
        let ready_made = self.device.profile.as_deref().filter(|_| !self.is_in_file);
        let specs = self.known();
        for point in &mut device.points {
            let Some(spec) = specs
                .get(&*point.name)
                .filter(|spec| spec.simulate.is_none())
            else {
                continue;
            };
            let remark = ready_made
                .and_then(|profile| presets::remark(profile, &point.name))
                .unwrap_or_default();
            point.signal = signal(point, spec, remark);
            point.says = meaning(point)
                .filter(|meaning| meaning.kind == crate::field::decode::DataType::Text)
                .map(|_| typical::text(&point.name));
        }
        self.powers_of_ten(device, specs);
        device.models = ready_made
            .map(|profile| sunspec::models(profile, self.device.base.unwrap_or(0)))
            .unwrap_or_default();
    }

    /// Registers that hold the power of ten of others show one that fits what these show.
    fn powers_of_ten(&self, device: &mut Device, specs: &IndexMap<String, file::PointConfig>) {
        let mut users: HashMap<(Table, u16), Vec<(&Signal, &Meaning)>> = HashMap::new();
        for point in &device.points {
            if let PointSource::Register {
                register,
                exponent: Some(exponent),
            } = &point.source
            {
                users
                    .entry((exponent.table, exponent.address))
                    .or_default()
                    .push((&point.signal, &register.meaning));
            }
        }
        let open = device.points.iter().enumerate().filter(|(_, point)| {
            specs
                .get(&*point.name)
                .is_some_and(|spec| spec.simulate.is_none())
        });
        let chosen: Vec<(usize, i16)> = open
            .filter_map(|(index, point)| {
                let register = point.register()?;
                let users = users.get(&(register.table, register.address))?;
                Some((index, typical::exponent(users.iter().copied())))
            })
            .collect();
        for (index, exponent) in chosen {
            let power = Signal {
                shape: Waveform::Constant,
                from: exponent.into(),
                ..Signal::default()
            };
            device
                .points
                .get_mut(index)
                .into_iter()
                .for_each(|point| point.signal = power);
        }
    }
}

fn meaning(point: &Point) -> Option<&Meaning> {
    match &point.source {
        PointSource::Register { register, .. } => Some(&register.meaning),
        PointSource::Extracted(found) => Some(&found.meaning),
        _ => None,
    }
}

fn signal(point: &Point, spec: &file::PointConfig, remark: &str) -> Signal {
    let codes = if spec.unit.is_none() {
        codes(remark)
    } else {
        Vec::new()
    };
    let rules = point.write.as_ref().map(|rules| {
        (
            rules.min.unwrap_or(f64::NEG_INFINITY),
            rules.max.unwrap_or(f64::INFINITY),
        )
    });
    typical::signal(&Quantity {
        name: &point.name,
        unit: spec.unit.as_deref().unwrap_or_default(),
        meaning: meaning(point),
        is_bit: point
            .register()
            .is_some_and(|register| register.table.is_bits()),
        has_exponent: matches!(
            &point.source,
            PointSource::Register {
                exponent: Some(_),
                ..
            }
        ),
        codes: &codes,
        writable: rules.or_else(|| writable(spec)),
    })
}

/// The values that the device accepts.
fn writable(spec: &file::PointConfig) -> Option<(f64, f64)> {
    let limits = spec.writable.as_ref()?;
    Some((
        limits.min.unwrap_or(f64::NEG_INFINITY),
        limits.max.unwrap_or(f64::INFINITY),
    ))
}

/// The codes that the remark behind a point names: `0 off 1 on`, `0 = A, 1 = B`, `0x0200 on grid`,
/// `0xCF (207) start`, or `bit 0 running`, which is the code 1. A single code is none.
fn codes(remark: &str) -> Vec<(i64, String)> {
    let words: Vec<&str> = remark
        .split_whitespace()
        .flat_map(|word| word.split_inclusive('='))
        .collect();
    let are_bits = remark.starts_with("bit ") || remark.starts_with("bits: ");
    let mut codes: Vec<(i64, String)> = Vec::new();
    let mut is_open = false;
    for (index, word) in words.iter().enumerate() {
        let after = |count: usize| words.get(index + count).copied().unwrap_or_default();
        let next = if after(1) == "=" { after(2) } else { after(1) };
        match code(word) {
            Some(code) if next.starts_with(char::is_alphabetic) && !next.ends_with(':') => {
                let code = if are_bits { bit_value(code) } else { code };
                codes.push((code, String::new()));
                is_open = true;
            }
            // A number that names nothing ends the text before it.
            Some(_) => is_open = false,
            None if *word == "=" => {}
            None => {
                if let Some((_, text)) = codes.last_mut().filter(|_| is_open) {
                    let space = if text.is_empty() { "" } else { " " };
                    text.push_str(space);
                    text.push_str(word.trim_end_matches([',', ';']));
                }
            }
        }
    }
    if codes.len() < 2 { Vec::new() } else { codes }
}

/// The value of a register in which only this bit is set.
fn bit_value(bit: i64) -> i64 {
    u32::try_from(bit)
        .ok()
        .and_then(|bit| 1_i64.checked_shl(bit))
        .unwrap_or(0)
}

/// A whole number as remarks write them.
fn code(word: &str) -> Option<i64> {
    let word = word
        .trim_end_matches('=')
        .trim_start_matches('(')
        .trim_end_matches(')');
    if let Some(digits) = word.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok();
    }
    let is_padded = word.len() > 1 && word.starts_with('0');
    word.parse().ok().filter(|_| !is_padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(remark: &str, expected: &[(i64, &str)]) {
        let expected: Vec<(i64, String)> = expected
            .iter()
            .map(|(code, text)| (*code, (*text).to_owned()))
            .collect();
        assert_eq!(codes(remark), expected, "{remark}");
    }

    #[test]
    fn remarks_name_codes() {
        check("0 open 1 closed", &[(0, "open"), (1, "closed")]);
        check(
            "0 = L1-L2-L3, -1 = L1-L3-L2",
            &[(0, "L1-L2-L3"), (-1, "L1-L3-L2")],
        );
        check("model 113 1 off 2 sleeping", &[(1, "off"), (2, "sleeping")]);
        check(
            "0x0100 starting, 0x0200 on grid",
            &[(0x100, "starting"), (0x200, "on grid")],
        );
        check(
            "0xCF (207) start, 0xCE (206) stop",
            &[(207, "start"), (206, "stop")],
        );
        check(
            "AI channel 0 status: 0 normal, 1 burn-out",
            &[(0, "normal"), (1, "burn-out")],
        );
        check("bit 0 PV 1 charging", &[(1, "PV"), (2, "charging")]);
        check(
            "bits: 0 charge limit active, 1 discharge limit active",
            &[(1, "charge limit active"), (2, "discharge limit active")],
        );
        for none in [
            "engine state",
            "AI 0 raw 0..65535 over the range",
            "0118 DI 1-3",
            "quality 0-99 in the low byte",
            "0 none",
            "",
        ] {
            check(none, &[]);
        }
    }
}
