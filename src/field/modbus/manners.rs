//! Needs of some devices and gateways beyond the standard: silence before a request, a line that is
//! closed when it is idle, answers under other identifiers. Pure.

use std::time::{Duration, Instant};

/// Silence before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pause {
    /// After whatever was on the line last.
    pub between: Duration,
    /// After the line was opened.
    pub after_connect: Duration,
}

impl Pause {
    /// The longest that a request may have to wait.
    pub fn longest(self) -> Duration {
        self.between.max(self.after_connect)
    }

    /// When a request may leave on a line that was opened at one moment and used last at another.
    pub(super) fn until(self, opened: Instant, used: Instant) -> Instant {
        (opened + self.after_connect).max(used + self.between)
    }
}

/// Identifiers of answers that are not compared with those of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accept {
    /// Whatever unit an answer names.
    pub any_unit: bool,
    /// Whatever transaction an answer of Modbus TCP names. Then a connection has no more order than
    /// a serial line has, and what is owed from before is got out of the way in the same manner.
    pub any_transaction: bool,
}

/// The needs of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// For units that are none of its devices.
    pub pause: Pause,
    /// A connection that was not used for this long is closed until there is something to ask.
    pub close_when_idle: Option<Duration>,
    /// Identifiers that are not compared.
    pub accept: Accept,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_the_longer_of_both_silences() {
        let start = crate::time::now();
        let ms = Duration::from_millis;
        let pause = Pause {
            between: ms(50),
            after_connect: ms(2000),
        };
        assert_eq!(pause.until(start, start), start + ms(2000));
        assert_eq!(pause.until(start, start + ms(1990)), start + ms(2040));
        assert_eq!(Pause::default().until(start, start), start);
    }
}
