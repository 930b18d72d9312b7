//! Puts the events of a line together: a request with its answer, or a message of a plain
//! instrument or a meter. It neither waits nor prints.

use crate::field::trace::{Framing, Happening, Traced};

/// Silence that ends a message of a plain instrument, in microseconds.
const PAUSE_US: u64 = 50_000;
/// Bytes of one event; longer ones are shown in parts.
const LONGEST: usize = 1024;

/// One event as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TraceEvent {
    Opened {
        at_us: u64,
    },
    Transaction(Transaction),
    Spoken(Spoken),
    /// The outcome of a request to a plain instrument, if that is not an answer.
    Note {
        at_us: u64,
        text: String,
    },
    /// How many events were lost in all.
    Lost(u64),
}

/// A request, its answer and its outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) at_us: u64,
    /// The silence before it.
    pub(super) gap_us: Option<u64>,
    pub(super) sent: Vec<u8>,
    pub(super) received: Vec<u8>,
    /// When the last byte came, or the driver gave up.
    pub(super) ended_us: u64,
    /// The outcome in the words of the driver.
    pub(super) outcome: Option<String>,
}

/// Bytes without a request, or of a plain instrument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spoken {
    pub(super) at_us: u64,
    pub(super) gap_us: Option<u64>,
    /// By the gateway, and not by the instrument.
    pub(super) is_sent: bool,
    pub(super) bytes: Vec<u8>,
}

/// Makes events of what the gateway sends.
#[derive(Debug)]
pub(super) struct Assembler {
    framing: Framing,
    transaction: Option<Transaction>,
    spoken: Option<Spoken>,
    /// When bytes travelled last.
    last_us: Option<u64>,
    lost: u64,
}

impl Assembler {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            framing,
            transaction: None,
            spoken: None,
            last_us: None,
            lost: 0,
        }
    }

    /// Takes what happened next; returns the events that are complete.
    pub(super) fn push(&mut self, traced: Traced) -> Vec<TraceEvent> {
        let Traced { at_us, what, lost } = traced;
        let mut shown = Vec::new();
        if lost > self.lost {
            self.lost = lost;
            shown.extend(self.flush());
            shown.push(TraceEvent::Lost(lost));
        }
        match what {
            Happening::Opened => {
                shown.extend(self.flush());
                shown.push(TraceEvent::Opened { at_us });
            }
            Happening::Sent(bytes) if self.is_spoken() => {
                shown.extend(self.speak(at_us, bytes, true));
            }
            Happening::Sent(bytes) => shown.extend(self.send(at_us, &bytes)),
            Happening::Received(bytes) => match &mut self.transaction {
                Some(transaction) if transaction.received.len() < LONGEST => {
                    transaction.received.extend(bytes);
                    transaction.ended_us = at_us;
                    self.last_us = Some(at_us);
                }
                _ => shown.extend(self.speak(at_us, bytes, false)),
            },
            Happening::Ended(outcome) => match self.transaction.take() {
                Some(transaction) => {
                    let ended_us = if transaction.received.is_empty() {
                        at_us
                    } else {
                        transaction.ended_us
                    };
                    shown.push(TraceEvent::Transaction(Transaction {
                        outcome: Some(outcome),
                        ended_us,
                        ..transaction
                    }));
                }
                None => {
                    shown.extend(self.flush());
                    shown.push(TraceEvent::Note {
                        at_us,
                        text: outcome,
                    });
                }
            },
        }
        shown
    }

    /// Returns unfinished events as they are, at the end.
    pub(super) fn flush(&mut self) -> Vec<TraceEvent> {
        let transaction = self.transaction.take().map(TraceEvent::Transaction);
        transaction
            .into_iter()
            .chain(self.spoken.take().map(TraceEvent::Spoken))
            .collect()
    }

    /// Returns an unfinished message after a silence; a request stays until the driver gives up.
    pub(super) fn pause(&mut self) -> Vec<TraceEvent> {
        self.spoken
            .take()
            .map(TraceEvent::Spoken)
            .into_iter()
            .collect()
    }

    /// True where requests and answers are shown one by one.
    fn is_spoken(&self) -> bool {
        matches!(self.framing, Framing::Plain | Framing::Meter)
    }

    fn gap(&self, at_us: u64) -> Option<u64> {
        self.last_us.map(|last| at_us.saturating_sub(last))
    }

    fn send(&mut self, at_us: u64, bytes: &[u8]) -> Vec<TraceEvent> {
        // A frame may leave in parts.
        if let Some(transaction) = self.transaction.as_mut().filter(|transaction| {
            transaction.received.is_empty() && transaction.sent.len() < LONGEST
        }) {
            transaction.sent.extend_from_slice(bytes);
            return Vec::new();
        }
        let shown = self.flush();
        let gap_us = self.gap(at_us);
        self.last_us = Some(at_us);
        self.transaction = Some(Transaction {
            at_us,
            gap_us,
            sent: bytes.to_vec(),
            ended_us: at_us,
            ..Transaction::default()
        });
        shown
    }

    fn speak(&mut self, at_us: u64, bytes: Vec<u8>, is_sent: bool) -> Vec<TraceEvent> {
        let mut shown = Vec::new();
        let gap_us = self.gap(at_us);
        self.last_us = Some(at_us);
        let is_same =
            |spoken: &Spoken| spoken.is_sent == is_sent && !is_sent && spoken.bytes.len() < LONGEST;
        match self
            .spoken
            .as_mut()
            .filter(|spoken| is_same(spoken) && gap_us.is_some_and(|gap| gap < PAUSE_US))
        {
            Some(spoken) => spoken.bytes.extend(bytes),
            None => {
                shown.extend(self.pause());
                self.spoken = Some(Spoken {
                    at_us,
                    gap_us,
                    is_sent,
                    bytes,
                });
            }
        }
        // A whole line, or what leaves at once, needs no silence behind it.
        let is_line =
            |spoken: &Spoken| self.framing != Framing::Meter && spoken.bytes.ends_with(b"\n");
        if is_sent || self.spoken.as_ref().is_some_and(is_line) {
            shown.extend(self.pause());
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(assembler: &mut Assembler, at_us: u64, what: Happening) -> Vec<TraceEvent> {
        assembler.push(Traced {
            at_us,
            what,
            lost: 0,
        })
    }

    #[test]
    fn a_request_and_its_answer_are_shown_together_however_they_were_cut() {
        let mut frames = Assembler::new(Framing::Rtu);
        assert!(push(&mut frames, 1000, Happening::Sent(vec![7, 3])).is_empty());
        assert!(push(&mut frames, 1001, Happening::Sent(vec![0])).is_empty());
        assert!(push(&mut frames, 5000, Happening::Received(vec![7])).is_empty());
        assert!(push(&mut frames, 6000, Happening::Received(vec![3])).is_empty());
        let outcome = Some("answered".to_owned());
        let transaction = Transaction {
            at_us: 1000,
            gap_us: None,
            sent: vec![7, 3, 0],
            received: vec![7, 3],
            ended_us: 6000,
            outcome,
        };
        assert_eq!(
            push(&mut frames, 6100, Happening::Ended("answered".to_owned())),
            [TraceEvent::Transaction(transaction)]
        );
        // Noise, and a request that nobody answers.
        assert!(push(&mut frames, 7000, Happening::Received(vec![0xFF])).is_empty());
        let shown = push(&mut frames, 9000, Happening::Sent(vec![1]));
        assert_eq!(
            shown,
            [TraceEvent::Spoken(Spoken {
                at_us: 7000,
                gap_us: Some(1000),
                is_sent: false,
                bytes: vec![0xFF]
            })]
        );
        let shown = push(
            &mut frames,
            309_000,
            Happening::Ended("no answer".to_owned()),
        );
        assert!(
            matches!(
                &shown[..],
                [TraceEvent::Transaction(Transaction {
                    gap_us: Some(2000),
                    ended_us: 309_000,
                    ..
                })]
            ),
            "{shown:?}"
        );
    }

    #[test]
    fn what_plain_instruments_say_ends_with_a_line_or_with_silence() {
        let mut frames = Assembler::new(Framing::Plain);
        let spoken = |at_us, gap_us, is_sent, bytes: &[u8]| {
            TraceEvent::Spoken(Spoken {
                at_us,
                gap_us,
                is_sent,
                bytes: bytes.to_vec(),
            })
        };
        assert_eq!(
            push(&mut frames, 10, Happening::Sent(b"P1\r\n".to_vec())),
            [spoken(10, None, true, b"P1\r\n")]
        );
        assert!(push(&mut frames, 20, Happening::Received(b"12".to_vec())).is_empty());
        assert_eq!(
            push(&mut frames, 30, Happening::Received(b".5\r\n".to_vec())),
            [spoken(20, Some(10), false, b"12.5\r\n")]
        );
        assert!(push(&mut frames, 100_000, Happening::Received(b"\x02".to_vec())).is_empty());
        assert_eq!(
            push(&mut frames, 200_000, Happening::Received(b"\x03".to_vec())).len(),
            1,
            "silence lay between them"
        );
        assert_eq!(frames.pause().len(), 1);
        assert_eq!(
            push(
                &mut frames,
                300_000,
                Happening::Ended("no answer".to_owned())
            ),
            [TraceEvent::Note {
                at_us: 300_000,
                text: "no answer".to_owned()
            }]
        );
    }

    #[test]
    fn what_was_lost_is_told_once() {
        let mut frames = Assembler::new(Framing::Plain);
        let opened = |lost| Traced {
            at_us: 5,
            what: Happening::Opened,
            lost,
        };
        assert_eq!(
            frames.push(opened(3)),
            [TraceEvent::Lost(3), TraceEvent::Opened { at_us: 5 }]
        );
        assert_eq!(frames.push(opened(3)), [TraceEvent::Opened { at_us: 5 }]);
    }
}
