//! Whether the link and the remote live: what the link takes, what the remote owes, and PINGREQ.

use std::time::{Duration, Instant};

use super::{Done, LONGEST_DEBT, RemoteConnection, STATUS_EVERY};
use crate::time::now;
use crate::uplink::failure::LinkError;
use crate::uplink::link::{Command, time_to_pass};

/// Times the keep alive that a remote may be silent.
const SILENCE: f64 = 1.5;

impl RemoteConnection<'_> {
    /// Asks for a sign of life, and judges its absence. Bytes that come are one; bytes that the
    /// kernel takes are none.
    pub(super) fn check_life(&mut self) -> Result<(), LinkError> {
        let at = now();
        let write_within = self.uplink.settings.write_within;
        if !self.link.is_idle() && at >= self.link.progress() + write_within {
            return Err(LinkError::Broken(format!(
                "the link took nothing for {} s",
                write_within.as_secs()
            )));
        }
        self.check_debt(at)?;
        match self.keep_alive {
            Some(keep_alive) => self.check_keep_alive(keep_alive, at),
            None => Ok(()),
        }
    }

    /// The remote owes an answer for too long, or owes one message for long although it answers
    /// others. A connection that ends because of what the remote left unanswered has a deadline of
    /// its own: the remote reads, and is told why.
    fn check_debt(&mut self, at: Instant) -> Result<(), LinkError> {
        if self
            .ending
            .is_some_and(|ending| ending.is_because(Done::Repeats))
        {
            return Ok(());
        }
        let within = self.uplink.settings.answer_within;
        let oldest = self.uplink.session.oldest_unanswered();
        let owes = self.pinged.is_some() || oldest.is_some();
        self.owes_since = self.owes_since.filter(|_| owes).or(owes.then_some(at));
        let given_up_at = self.link.given_up_at(within);
        if self
            .owes_since
            .is_some_and(|since| at >= given_up_at.max(since + within))
        {
            self.blame_silence();
            return Err(LinkError::Broken(format!(
                "the remote owes an answer and was silent for {} s",
                (at - self.link.heard()).as_secs()
            )));
        }
        self.oldest = oldest.map(|place| {
            self.oldest
                .filter(|(known, _)| *known == place)
                .unwrap_or((place, at))
        });
        let Some((place, since)) = self.oldest else {
            return Ok(());
        };
        let patience = within * LONGEST_DEBT + time_to_pass(self.uplink.session.bytes_of(place));
        if at < since + patience {
            return Ok(());
        }
        self.blame_silence();
        Err(LinkError::Broken(format!(
            "the remote does not answer message {}, only others",
            place.seq
        )))
    }

    /// Something must be sent within the interval [MQTT-3.1.2-20], and something must come.
    fn check_keep_alive(&mut self, keep_alive: Duration, at: Instant) -> Result<(), LinkError> {
        let (heard, sent) = (self.link.heard(), self.link.progress());
        let alive = if self.link.is_idle() {
            heard
        } else {
            heard.max(sent)
        };
        let silence = keep_alive.mul_f64(SILENCE);
        if at >= alive + silence {
            return Err(LinkError::Broken(format!(
                "the remote was silent for {} s",
                silence.as_secs()
            )));
        }
        if self.pinged.is_none() && at + STATUS_EVERY >= sent.min(heard) + keep_alive {
            self.ping()?;
        }
        Ok(())
    }

    /// Sends PINGREQ: the answer shows that the remote has read everything before it.
    pub(super) fn ping(&mut self) -> Result<(), LinkError> {
        self.pinged = Some(now());
        self.uplink.pace.asks(self.link.collected());
        self.link.feed(Command::Ping).map(drop)
    }
}
