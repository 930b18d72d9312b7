//! Which values may be written to a point, as its protocol takes them. Pure.

use super::modbus::request;
use super::write::WriteRequest;
use super::{Device, Point, PointSource};
use crate::reading::Value;

impl Point {
    /// A value in the type of this point; the error says why it cannot hold it, or must not.
    pub fn accepts(&self, value: &Value) -> Result<Value, String> {
        let wanted = match &self.source {
            PointSource::Register { register, .. } => request::wanted(register, value)?,
            _ => {
                return Err("this point cannot be written".to_owned());
            }
        };
        match &self.write {
            Some(rules) => rules.check(&wanted)?,
            None => return Err("this point cannot be written".to_owned()),
        }
        Ok(wanted)
    }

    /// The value that this point shows once an accepted value was written.
    pub fn shows(&self, accepted: Value) -> Value {
        match &self.source {
            PointSource::Register { register, .. } => request::shown(register, accepted),
            _ => accepted,
        }
    }
}

impl Device {
    /// Whether the points of a request can be written together; the error says why not.
    pub fn accepts(&self, request: &WriteRequest) -> Result<(), String> {
        let is_register = |point: &&Point| point.register().is_some();
        if self.points.iter().any(|point| is_register(&point)) {
            request::requests(self, &request.values).map(drop)
        } else {
            Ok(())
        }
    }
}
