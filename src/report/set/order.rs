//! An order to a line, put together point by point. Pure.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::command::WritablePoint;
use super::result::WriteResult;
use crate::field::decode::Register;
use crate::field::write::{Action, Function, Order, ReadBack, Written};
use crate::reading::PointId;

/// The parts of an order.
pub(super) struct OrderParts {
    /// Each with its `allow_split`.
    actions: Vec<(Action, bool)>,
    points: Vec<(PointId, Register)>,
    /// When the order was given.
    given_at: Instant,
    /// How long it is worth carrying out.
    good_for: Duration,
    /// When its message expires.
    expires_at: Option<Instant>,
    repeat: bool,
    /// The longest wait is enough for all points.
    read_back: Option<ReadBack>,
}

impl OrderParts {
    /// Without a point, of a command that may ask to be carried out within `deadline_ms`.
    pub(super) fn new(
        given_at: Instant,
        deadline_ms: Option<u64>,
        expires_at: Option<Instant>,
    ) -> Self {
        Self {
            given_at,
            expires_at,
            actions: Vec::new(),
            points: Vec::new(),
            good_for: deadline_ms.map_or(Duration::MAX, Duration::from_millis),
            repeat: true,
            read_back: None,
        }
    }

    pub(super) fn add(&mut self, point: &WritablePoint, action: Action) {
        self.actions.push((action, point.rules.allow_split));
        self.points.push((point.id, point.register.clone()));
        self.good_for = self.good_for.min(point.rules.good_for);
        self.repeat &= point.rules.repeat;
        if let Some(own) = point.rules.read_back
            && self.read_back.is_none_or(|other| own.delay > other.delay)
        {
            self.read_back = Some(own);
        }
    }

    /// The order to a device; the error says why it cannot be carried out.
    pub(super) fn order(
        self,
        device: usize,
        answer: oneshot::Sender<Written>,
    ) -> Result<Order, WriteResult> {
        let actions = joined(self.actions).map_err(WriteResult::rejected)?;
        if actions.is_empty() {
            return Err(WriteResult::rejected(
                "no point is named; write an object of points",
            ));
        }
        let deadline = self.given_at + self.good_for;
        Ok(Order {
            device,
            points: self.points,
            actions,
            read_back: self.read_back,
            repeat: self.repeat,
            deadline: self.expires_at.map_or(deadline, |at| at.min(deadline)),
            answer,
        })
    }
}

/// The requests for several points: one, if their registers follow one another; more only where
/// every point allows it.
fn joined(mut parts: Vec<(Action, bool)>) -> Result<Vec<Action>, String> {
    let may_split = parts.iter().all(|(_, allow)| *allow);
    parts.sort_by_key(|(action, _)| action.span());
    let mut joined: Vec<Action> = Vec::new();
    for (action, _) in parts {
        let apart = match joined.last_mut() {
            Some(last) => join(last, action),
            None => Some(action),
        };
        joined.extend(apart);
    }
    if joined.len() > 1 && !may_split {
        return Err("these points do not follow one another in the device, so they cannot be written at once; write them one by one, or allow it with `allow_split: true`".to_owned());
    }
    Ok(joined)
}

/// Appends `next` to `last` if its registers follow, else gives it back.
fn join(last: &mut Action, next: Action) -> Option<Action> {
    let (start, count) = last.span();
    let follows = u32::from(start) + u32::from(count) == u32::from(next.span().0);
    match (last, next) {
        (
            Action::Words {
                words, function, ..
            },
            Action::Words { words: more, .. },
        ) if follows => {
            words.extend(more);
            if *function != Function::Exchange {
                *function = Function::Multiple;
            }
            None
        }
        (Action::Bits { bits, function, .. }, Action::Bits { bits: more, .. }) if follows => {
            bits.extend(more);
            *function = Function::Multiple;
            None
        }
        (_, next) => Some(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_one_another_is_one_request() {
        let words = |address, words: &[u16]| Action::Words {
            address,
            words: words.to_vec(),
            function: Function::Auto,
        };
        let both = joined(vec![(words(5, &[3]), false), (words(3, &[1, 2]), false)]).unwrap();
        assert_eq!(
            both,
            [Action::Words {
                address: 3,
                words: vec![1, 2, 3],
                function: Function::Multiple
            }]
        );
        assert!(
            joined(vec![(words(5, &[3]), false), (words(3, &[1]), true)])
                .unwrap_err()
                .contains("allow_split")
        );
        assert_eq!(
            joined(vec![(words(5, &[3]), true), (words(3, &[1]), true)])
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            joined(vec![(words(5, &[3]), false)]).unwrap(),
            [words(5, &[3])]
        );
    }
}
