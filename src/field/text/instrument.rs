//! One instrument of a line: the messages that were cut out for it, and what is remembered of it.
//! Pure.

use std::sync::Arc;
use std::time::Instant;

use super::TextProtocol;
use super::checksum::Verdict;
use super::frame::Framer;
use super::missing::Missing;
use super::parse;
use crate::field::trouble::{Came, Trouble};
use crate::field::{Device, PollError, Values};

/// One instrument with its stream.
pub(super) struct Instrument {
    pub(super) device: Arc<Device>,
    pub(super) protocol: Arc<TextProtocol>,
    pub(super) framer: Framer,
    /// When it talked by itself.
    pub(super) heard: Option<Instant>,
    /// The points that its messages lack.
    pub(super) missing: Missing,
    /// The bytes that came from it instead of messages.
    pub(super) trouble: Trouble,
    /// Messages with a wrong checksum so far.
    pub(super) bad_messages: u64,
    /// Its messages have a checksum: one without is not right any more.
    is_summed: bool,
    /// The request that is asked first: one that was answered, so that a silent instrument costs
    /// one time-out.
    first: usize,
}

impl Instrument {
    /// `None` for a device with registers.
    pub(super) fn new(device: &Arc<Device>) -> Option<Self> {
        let protocol = Arc::clone(device.protocol.text()?);
        let framer = Framer::new(protocol.framing.clone());
        let missing = Missing::new(device, protocol.silent_after);
        Some(Self {
            device: Arc::clone(device),
            protocol,
            framer,
            heard: None,
            missing,
            trouble: Trouble::default(),
            bad_messages: 0,
            is_summed: false,
            first: 0,
        })
    }

    /// The values that a message brings; `None` if it is none of its messages.
    pub(super) fn values(&self, message: &[u8]) -> Option<Values> {
        parse::values(&self.device, self.protocol.pattern.as_ref(), message)
    }

    /// The next whole message; the flag is true if its checksum is right.
    pub(super) fn next_message(&mut self, is_silent: bool) -> Option<(Vec<u8>, bool)> {
        let Self {
            framer, protocol, ..
        } = &mut *self;
        let is_right = |message: &[u8]| {
            protocol
                .checksum
                .as_ref()
                .is_some_and(|checksum| checksum.verdict(message) == Verdict::Right)
        };
        let next = framer.next().or_else(|| framer.ahead(is_right));
        let message = next.or_else(|| if is_silent { framer.silent() } else { None })?;
        let verdict = protocol
            .checksum
            .as_ref()
            .map_or(Verdict::Missing, |checksum| checksum.verdict(&message));
        let is_right = match verdict {
            Verdict::Right => true,
            Verdict::Missing => !self.is_summed,
            Verdict::Wrong => false,
        };
        self.is_summed |= verdict == Verdict::Right;
        Some((message, is_right))
    }

    /// Why it counts as silent: by what came instead of its message.
    pub(super) fn missed(&mut self) -> PollError {
        let incomplete = u64::from(self.framer.has_begun());
        self.trouble.note(&Came {
            incomplete,
            ..Came::default()
        });
        self.trouble
            .reason()
            .map_or(PollError::NoAnswer, PollError::Missed)
    }

    /// The requests in the order in which they are asked.
    pub(super) fn order(&self) -> Vec<usize> {
        let others = (0..self.protocol.requests.len()).filter(|number| *number != self.first);
        std::iter::once(self.first).chain(others).collect()
    }

    /// Whether a request was answered. The one that is asked first is the next one when it was not:
    /// it may be one that this instrument does not know.
    pub(super) fn was_answered(&mut self, number: usize, is_answered: bool) {
        if is_answered {
            self.first = number;
        } else if number == self.first {
            self.first = (number + 1) % self.protocol.requests.len().max(1);
        }
    }
}
