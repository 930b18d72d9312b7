//! An order to a line, put together point by point. Pure.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::WriteTarget;
use super::command::WritablePoint;
use super::result::WriteResult;
use crate::field::write::{Order, ReadBack, WriteRequest, Written};
use crate::reading::{PointId, Value};

/// The parts of an order.
pub(super) struct OrderParts {
    values: Vec<(PointId, Value)>,
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
            values: Vec::new(),
            good_for: deadline_ms.map_or(Duration::MAX, Duration::from_millis),
            repeat: true,
            read_back: None,
        }
    }

    /// Adds a value that its point has accepted.
    pub(super) fn add(&mut self, point: &WritablePoint, value: Value) {
        self.values.push((point.point.id, value));
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
        target: &WriteTarget,
        answer: oneshot::Sender<Written>,
    ) -> Result<Order, WriteResult> {
        let request = WriteRequest {
            device: target.device,
            values: self.values,
            read_back: self.read_back,
            repeat: self.repeat,
        };
        target
            .instrument
            .accepts(&request)
            .map_err(WriteResult::rejected)?;
        if request.values.is_empty() {
            return Err(WriteResult::rejected(
                "no point is named; write an object of points",
            ));
        }
        let deadline = self.given_at + self.good_for;
        Ok(Order {
            request,
            deadline: self.expires_at.map_or(deadline, |at| at.min(deadline)),
            answer,
        })
    }
}
