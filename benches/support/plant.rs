//! A plant of 50 points that is read every 10 s: registers as an instrument has them, with drift,
//! steps and noise. Repeatable.

use std::f64::consts::TAU;
use std::path::Path;

/// A point of the plant.
pub(crate) struct PlantColumn {
    pub(crate) name: String,
    pub(crate) kind: RegisterKind,
    /// Digits after the point.
    pub(crate) decimals: u8,
    /// As in the registers, one a scan; 32-bit floats as floats.
    pub(crate) raw: Vec<f64>,
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterKind {
    Scaled,
    Counter,
    Float,
    Status,
}

/// Seconds between scans.
const STEP: usize = 10;

/// Draws of one series after the other.
struct Noise {
    random: fastrand::Rng,
    /// Seconds.
    length: usize,
}

impl Noise {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random.f64()
    }

    /// With this standard deviation (Box and Muller).
    fn normal(&mut self, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.random.f64()).ln()).sqrt();
        deviation * radius * (TAU * self.random.f64()).cos()
    }

    /// What wanders and returns (Ornstein and Uhlenbeck), in `seconds`.
    fn wander(&mut self, seconds: f64, deviation: f64) -> Vec<f64> {
        let keeps = (-1.0 / seconds).exp();
        let jump = deviation * (1.0 - keeps * keeps).sqrt();
        let length = self.length;
        let mut value = self.normal(deviation);
        let mut next = || {
            value = keeps * value + self.normal(jump);
            value
        };
        (0..length).map(|_| next()).collect()
    }

    /// Steps, so many an hour.
    fn steps(&mut self, per_hour: f64, deviation: f64) -> Vec<f64> {
        let length = self.length;
        let mut value = 0.0;
        let mut next = || {
            if self.random.f64() < per_hour / 3600.0 {
                value = self.normal(deviation);
            }
            value
        };
        (0..length).map(|_| next()).collect()
    }

    /// A flow in a pipe, and what an instrument makes of it.
    fn flow(&mut self) -> [Vec<f64>; 2] {
        let base = self.uniform(50.0, 300.0);
        let (wander, steps) = (self.wander(180.0, 1.0), self.steps(1.0, base * 0.05));
        let flow = wander.iter().zip(&steps);
        let flow: Vec<f64> = flow
            .map(|(wander, step)| (base * (1.0 + 0.05 * wander) + step).max(0.0))
            .collect();
        let seen = flow
            .iter()
            .map(|flow| flow * (1.0 + self.normal(0.003)))
            .collect();
        [flow, seen]
    }
}

/// The columns so far.
#[derive(Default)]
struct Columns(Vec<PlantColumn>);

impl Columns {
    fn add(&mut self, kind: RegisterKind, name: &str, decimals: u8, values: &[f64]) {
        let factor = 10_f64.powi(decimals.into());
        let raw = |value: &f64| match kind {
            #[allow(clippy::cast_possible_truncation)]
            RegisterKind::Float => f64::from(*value as f32),
            RegisterKind::Counter => value.floor(),
            RegisterKind::Scaled | RegisterKind::Status => (value * factor).round(),
        };
        let number = self.0.len() + 1;
        self.0.push(PlantColumn {
            name: format!("{name}-{number}"),
            kind,
            decimals,
            raw: values.iter().step_by(STEP).map(raw).collect(),
        });
    }

    fn scaled(&mut self, name: &str, decimals: u8, value: impl Fn(usize) -> f64, length: usize) {
        let values: Vec<f64> = (0..length).map(value).collect();
        self.add(RegisterKind::Scaled, name, decimals, &values);
    }
}

/// A day of the plant.
pub(crate) fn plant(seed: u64) -> Vec<PlantColumn> {
    let length = 24 * 3600;
    let mut noise = Noise {
        random: fastrand::Rng::with_seed(seed),
        length,
    };
    let mut columns = Columns::default();
    temperatures_and_pressures(&mut columns, &mut noise);
    let flows = flows(&mut columns, &mut noise);
    levels(&mut columns, &mut noise);
    counters(&mut columns, &mut noise, &flows);
    electrical(&mut columns, &mut noise);
    status(&mut columns, &mut noise);
    columns.0
}

#[allow(clippy::cast_precision_loss)]
fn seconds(second: usize) -> f64 {
    second as f64
}

fn temperatures_and_pressures(columns: &mut Columns, noise: &mut Noise) {
    for _ in 0..16 {
        let (base, swing, phase) = (
            noise.uniform(15.0, 90.0),
            noise.uniform(2.0, 8.0),
            noise.uniform(0.0, 1.0),
        );
        let time = noise.uniform(1200.0, 7200.0);
        let wander = noise.wander(time, 1.5);
        let jitter: Vec<f64> = (0..noise.length).map(|_| noise.normal(0.06)).collect();
        let day = |second| (TAU * (seconds(second) / 86_400.0 + phase)).sin();
        let value = |second: usize| base + swing * day(second) + wander[second] + jitter[second];
        columns.scaled("TT", 1, value, noise.length);
    }
    for _ in 0..10 {
        let base = noise.uniform(2.0, 40.0);
        let (steps, wander) = (noise.steps(1.0, 0.3), noise.wander(300.0, 0.15));
        let jitter: Vec<f64> = (0..noise.length).map(|_| noise.normal(0.012)).collect();
        let value = |second: usize| base + steps[second] + wander[second] + jitter[second];
        columns.scaled("PT", 2, value, noise.length);
    }
}

fn flows(columns: &mut Columns, noise: &mut Noise) -> Vec<Vec<f64>> {
    let mut flows = Vec::new();
    for number in 0..6 {
        let [flow, seen] = noise.flow();
        flows.push(flow);
        if number < 3 {
            columns.add(RegisterKind::Scaled, "FT", 1, &seen);
        } else {
            columns.add(RegisterKind::Float, "FT", 0, &seen);
        }
    }
    flows
}

fn levels(columns: &mut Columns, noise: &mut Noise) {
    for _ in 0..4 {
        let (period, phase) = (noise.uniform(3600.0, 14_400.0), noise.uniform(0.0, 1.0));
        let jitter: Vec<f64> = (0..noise.length).map(|_| noise.normal(0.05)).collect();
        let saw = |second| (2.0 * ((seconds(second) / period + phase).fract()) - 1.0).abs();
        columns.scaled(
            "LT",
            1,
            |second| 20.0 + 60.0 * saw(second) + jitter[second],
            noise.length,
        );
    }
}

fn counters(columns: &mut Columns, noise: &mut Noise, flows: &[Vec<f64>]) {
    for number in 0..6 {
        let mut total = noise.uniform(1e5, 1e8);
        let pulses = [10.0, 100.0, 1000.0][noise.random.usize(0..3)];
        let mut rate = |second: usize| match flows.get(number).filter(|_| number < 4) {
            Some(flow) => flow[second] / 3600.0 * pulses,
            None if number == 4 => 1.0,
            None => 75.0 / 36.0 + noise.normal(0.05),
        };
        let mut count = |second| {
            total += rate(second).max(0.0);
            total
        };
        let values: Vec<f64> = (0..24 * 3600).map(&mut count).collect();
        columns.add(RegisterKind::Counter, "FQ", 0, &values);
    }
}

fn electrical(columns: &mut Columns, noise: &mut Noise) {
    let volts = noise.wander(600.0, 1.0);
    let jitter: Vec<f64> = (0..noise.length).map(|_| noise.normal(0.3)).collect();
    columns.scaled(
        "EV",
        1,
        |second| 400.0 + 1.5 * volts[second] + jitter[second],
        noise.length,
    );
    let (amps, steps) = (noise.wander(120.0, 1.0), noise.steps(1.0, 3.0));
    let jitter: Vec<f64> = (0..noise.length).map(|_| noise.normal(0.05)).collect();
    let value = |second: usize| 42.0 + 2.0 * amps[second] + steps[second] + jitter[second];
    columns.scaled("EI", 2, value, noise.length);
    let hertz = noise.wander(60.0, 1.0);
    columns.scaled("EF", 2, |second| 50.0 + 0.02 * hertz[second], noise.length);
    let factor = noise.wander(300.0, 1.0);
    columns.scaled("EP", 3, |second| 0.92 + 0.01 * factor[second], noise.length);
}

fn status(columns: &mut Columns, noise: &mut Noise) {
    for _ in 0..4 {
        let mut word = noise.random.u16(0..256);
        let mut next = || {
            if noise.random.f64() < 1.0 / 3600.0 {
                word ^= 1 << noise.random.u16(0..16);
            }
            f64::from(word)
        };
        let values: Vec<f64> = (0..24 * 3600).map(|_| next()).collect();
        columns.add(RegisterKind::Status, "XS", 0, &values);
    }
}

/// Such columns out of a file: first the time, then one column for each line of `<path>.kinds`,
/// which says name, kind (`scaled`, `counter`, `f32`, `status`) and decimals.
pub(crate) fn from_csv(path: &Path) -> Vec<PlantColumn> {
    let kinds = std::fs::read_to_string(path.with_extension("kinds")).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .map(|row| row.split(',').collect())
        .collect();
    let column = |(number, line): (usize, &str)| {
        let [name, kind, decimals] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}: name, kind and decimals");
        };
        PlantColumn {
            name: name.to_owned(),
            kind: match kind {
                "scaled" => RegisterKind::Scaled,
                "counter" => RegisterKind::Counter,
                "f32" => RegisterKind::Float,
                "status" => RegisterKind::Status,
                _ => panic!("{line}: no such kind"),
            },
            decimals: decimals.parse().unwrap(),
            raw: rows
                .iter()
                .map(|row| row[number + 1].parse().unwrap())
                .collect(),
        }
    };
    kinds.lines().enumerate().map(column).collect()
}
