//! Growing delays between attempts, with jitter so that many gateways do not return at the same
//! moment.

use std::time::Duration;

/// Doubles from `first` to `longest`; each delay is drawn from 75 % to 125 % of its nominal value.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// `first` is the delay after the first failure, `longest` the cap (before jitter).
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest: longest.max(first),
            attempts: 0,
        }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let nominal = self.nominal();
        self.attempts = self.attempts.saturating_add(1);
        nominal.mul_f64(0.75 + fastrand::f64() / 2.0)
    }

    /// To be called after a success: the next failure waits `first` again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn nominal(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.attempts.min(20));
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        let bounds = [1.0, 2.0, 4.0, 8.0, 10.0, 10.0];
        for nominal in bounds {
            let delay = backoff.next_delay().as_secs_f64();
            assert!(
                delay >= nominal * 0.75 && delay <= nominal * 1.25,
                "{delay} for {nominal}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(1250));
    }
}
