//! What devices say about points, before it is a reading. Pure.

use std::sync::Arc;

use crate::reading::{PointId, Quality, Timestamp, Value};

/// What a device says about one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which point.
    pub point: PointId,
    /// Its value, or the reason why it has none.
    pub value: Result<Value, Arc<str>>,
    /// When it was measured, by a device that says so; `None`: when its answer arrived.
    pub source_time: Option<Timestamp>,
    /// What the device says about the value, where it says anything; `None`: it is good.
    pub quality: Option<Quality>,
}

impl Sample {
    /// A value that was measured just now, or the reason why there is none.
    pub fn new(point: PointId, value: Result<Value, Arc<str>>) -> Self {
        Self {
            point,
            value,
            source_time: None,
            quality: None,
        }
    }
}

/// The values of a job.
pub type Values = Vec<Sample>;
