//! The outbox of an uplink in virtual time: it has a journal of its own, which commits at other
//! moments than that of the broker, and forgets hand-overs a little late.

use std::collections::VecDeque;

use wellhead::broker::engine::{ForwardAnswer, Input, Ticket};
use wellhead::mqtt::QoS;
use wellhead::outbox::Handover;

use super::super::stage::Stage;

/// A message on its way to the disk.
struct Pending {
    number: u64,
    qos: QoS,
    ticket: Option<Ticket>,
    handover: Option<Handover>,
}

#[derive(Default)]
pub struct SimulatedOutbox {
    pending: VecDeque<Pending>,
    /// Durable: the numbers of messages, in order.
    pub got: Vec<(u64, QoS)>,
    handovers: Vec<Handover>,
    /// Forgotten since the last commit: a crash brings them back.
    forgotten: Vec<Handover>,
}

impl SimulatedOutbox {
    /// Takes what the broker forwards.
    pub fn take(&mut self, stage: &mut Stage) {
        while let Some((message, ticket)) = stage.forwarded.pop_front() {
            let text = std::str::from_utf8(&message.payload).unwrap();
            self.pending.push_back(Pending {
                number: text.parse().unwrap(),
                qos: message.qos,
                ticket,
                handover: ticket.and_then(|ticket| stage.handovers.remove(&ticket)),
            });
        }
        let ended = std::mem::take(&mut stage.ended);
        let is_ended = |handover: &mut Handover| ended.contains(&handover.receipt);
        self.forgotten
            .extend(self.handovers.extract_if(.., is_ended));
    }

    /// The first `count` messages that wait are durable.
    pub fn commit(&mut self, stage: &mut Stage, count: usize) {
        self.forgotten.clear();
        let count = count.min(self.pending.len());
        for pending in self.pending.drain(..count).collect::<Vec<_>>() {
            self.got.push((pending.number, pending.qos));
            self.handovers.extend(pending.handover);
            if let Some(ticket) = pending.ticket {
                let answer = ForwardAnswer::Stored;
                stage.input(Input::Stored { ticket, answer });
            }
        }
        self.take(stage);
    }

    /// What waits is gone.
    pub fn crash(&mut self) -> Vec<Handover> {
        self.pending.clear();
        self.handovers.append(&mut self.forgotten);
        self.handovers.clone()
    }
}
