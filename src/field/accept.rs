//! Which values may be written to a point, as its protocol takes them. Pure.

use super::modbus::request;
use super::write::{WriteMethod, WriteRequest};
use super::{Device, Point, PointSource};
use crate::reading::Value;

impl Point {
    /// A value in the type of this point; the error says why it cannot hold it, or must not.
    pub fn accepts(&self, value: &Value) -> Result<Value, String> {
        let cannot = || "this point cannot be written".to_owned();
        let rules = self.write.as_ref().ok_or_else(cannot)?;
        let wanted = match (&rules.method, &self.source) {
            (WriteMethod::Command(command), _) => command.wanted(value)?,
            (_, PointSource::Register { register, .. }) => request::wanted(register, value)?,
            _ => return Err(cannot()),
        };
        rules.check(&wanted)?;
        Ok(wanted)
    }

    /// The value that this point shows once an accepted value was written.
    pub fn shows(&self, accepted: Value) -> Value {
        let method = self.write.as_ref().map(|rules| &rules.method);
        match (method, &self.source) {
            (Some(WriteMethod::Command(command)), _) => command.shown(accepted),
            (_, PointSource::Register { register, .. }) => request::shown(register, accepted),
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
