//! What simulated instruments show: a value for every moment. Pure.

use std::time::Duration;

use serde::Deserialize;

use crate::units::Span;

/// The shape of a simulated value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Shape")]
pub enum Waveform {
    /// Always `from`.
    Constant,
    /// Between `from` and `to`, smoothly.
    Sine,
    /// From `from` to `to`, then again.
    Ramp,
    /// `from` for half a period, `to` for the other half.
    Square,
    /// Grows by one each period, from `from` on, without end.
    Counter,
}

/// A simulated value, as written in the YAML.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wave")]
pub struct Signal {
    /// Default sine.
    #[serde(default = "Signal::default_shape")]
    pub shape: Waveform,
    /// Default 0.
    #[serde(default)]
    pub from: f64,
    /// Default 100.
    #[serde(default = "Signal::default_to")]
    pub to: f64,
    /// Default one minute.
    #[serde(default = "Signal::default_period")]
    pub period: Span,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            shape: Self::default_shape(),
            from: 0.0,
            to: Self::default_to(),
            period: Self::default_period(),
        }
    }
}

impl Signal {
    fn default_shape() -> Waveform {
        Waveform::Sine
    }

    fn default_to() -> f64 {
        100.0
    }

    fn default_period() -> Span {
        Span(Duration::from_secs(60))
    }

    /// The value `elapsed` after the start.
    pub fn value(&self, elapsed: Duration) -> f64 {
        let periods = elapsed.as_secs_f64() / self.period.0.as_secs_f64().max(1e-3);
        let phase = periods.fract();
        let span = self.to - self.from;
        match self.shape {
            Waveform::Constant => self.from,
            Waveform::Sine => {
                self.from + span * (0.5 - 0.5 * (phase * std::f64::consts::TAU).cos())
            }
            Waveform::Ramp => self.from + span * phase,
            Waveform::Square => {
                if phase < 0.5 {
                    self.from
                } else {
                    self.to
                }
            }
            Waveform::Counter => self.from + periods.floor(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Waveform, seconds: f64, expected: f64) {
        let signal = Signal {
            shape,
            from: 10.0,
            to: 20.0,
            period: Span(Duration::from_secs(4)),
        };
        let value = signal.value(Duration::from_secs_f64(seconds));
        assert!(
            (value - expected).abs() < 1e-9,
            "{shape:?} at {seconds}: {value}"
        );
    }

    #[test]
    fn every_shape_has_its_values() {
        check(Waveform::Constant, 3.0, 10.0);
        check(Waveform::Sine, 0.0, 10.0);
        check(Waveform::Sine, 2.0, 20.0);
        check(Waveform::Ramp, 1.0, 12.5);
        check(Waveform::Square, 1.9, 10.0);
        check(Waveform::Square, 2.1, 20.0);
        check(Waveform::Counter, 9.0, 12.0);
    }
}
