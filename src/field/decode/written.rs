//! Values that are to be written, as their type takes them. Pure.

use super::{DataType, Meaning, Part};
use crate::reading::Value;

impl Meaning {
    /// A value in this type: "on" for a bit is true, "12.5" for a number is 12.5.
    pub fn in_its_type(&self, value: &Value) -> Value {
        let Value::Text(text) = value else {
            return value.clone();
        };
        if self.kind == DataType::Text || self.words.iter().any(|(_, word)| word == text) {
            return value.clone();
        }
        let is_bit = matches!(self.part, Part::Bit(_)) || self.kind == DataType::Bool;
        match text.to_ascii_lowercase().as_str() {
            "on" | "true" if is_bit => Value::Bool(true),
            "off" | "false" if is_bit => Value::Bool(false),
            plain => plain.parse().map_or_else(|_| value.clone(), Value::F64),
        }
    }

    /// The bytes of a value in a frame that is not made of registers; the error says why the type
    /// cannot hold it.
    pub fn bytes_of(&self, value: &Value) -> Result<Vec<u8>, String> {
        let length = usize::from(self.bytes_each());
        if self.kind == DataType::Text {
            let Value::Text(text) = value else {
                return Err(format!("{value} is not text; write it in quotation marks"));
            };
            if text.len() > length {
                return Err(format!(
                    "the text has {} bytes and the frame room for {length}",
                    text.len()
                ));
            }
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(length, 0);
            return Ok(bytes);
        }
        let mut bytes = self.kind.encode(self.raw_of(value)?)?;
        // Types of one or three bytes are the low ones of their registers.
        bytes.drain(..bytes.len().saturating_sub(length));
        self.order.arrange(&mut bytes);
        Ok(bytes)
    }
}
