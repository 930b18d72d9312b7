//! Decodes frames with the YAML file: devices, registers and points for Modbus, escaped text for
//! plain instruments, kinds of frames for meters.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::frames::Transaction;
use crate::config;
use crate::field::modbus::dissect::{self, Asked, Frame, RegisterRange};
use crate::field::modbus::explain;
use crate::field::trace::Framing;
use crate::field::{Device, Line, Values};
use crate::log::Printable;
use crate::reading::Value;

/// A line of the file, and its framing.
pub(super) struct LineDecoder<'a> {
    pub(super) config: &'a config::Gateway,
    pub(super) line: &'a Line,
    pub(super) framing: Framing,
}

/// A transaction in words, for people and programs.
#[derive(Debug, Default)]
pub(super) struct DecodedTransaction {
    pub(super) unit: Option<u8>,
    pub(super) devices: Vec<String>,
    pub(super) function: Option<u8>,
    /// The request in words.
    pub(super) request: String,
    pub(super) points: Vec<Arc<str>>,
    /// The outcome, without the values.
    pub(super) outcome: String,
    pub(super) values: Vec<Named>,
}

/// The value of a point, or why there is none.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) value: Result<Value, Arc<str>>,
    unit: Option<String>,
}

impl LineDecoder<'_> {
    /// The frames of meters in words; `None` for other devices.
    pub(super) fn telegram(&self, bytes: &[u8]) -> Option<String> {
        self.line.protocol().in_words(bytes)
    }

    /// Decodes a request and its answer.
    pub(super) fn decode(&self, transaction: &Transaction) -> DecodedTransaction {
        let sent = &transaction.sent;
        let outcome = transaction.outcome.as_deref();
        let outcome = outcome.unwrap_or("nothing was made of it");
        let Some(request) = Frame::of_request(self.framing, sent) else {
            return DecodedTransaction {
                request: format!("{} bytes that are no whole frame", sent.len()),
                outcome: outcome.to_owned(),
                ..DecodedTransaction::default()
            };
        };
        self.decode_request(&request, transaction, outcome)
    }

    fn decode_request(
        &self,
        request: &Frame,
        transaction: &Transaction,
        outcome: &str,
    ) -> DecodedTransaction {
        let Transaction { sent, received, .. } = transaction;
        let is_meant = |device: &&Arc<Device>| device.unit == request.unit;
        let devices: Vec<_> = self.line.devices.iter().filter(is_meant).collect();
        let answer = Frame::of_answer(self.framing, request, sent, received);
        let brought = answer.as_ref().and_then(|answer| request.brought(answer));
        let asked = request.asked();
        let (span, words) = registers(&asked, brought.as_deref()).unzip();
        let names = |span| {
            devices
                .iter()
                .flat_map(move |device| dissect::names(device, span))
        };
        let values = match span.zip(words.flatten()) {
            Some((span, words)) => self.values(&devices, span, words),
            None => Vec::new(),
        };
        let bare = brought.as_deref().filter(|_| values.is_empty());
        DecodedTransaction {
            unit: Some(request.unit),
            devices: devices.iter().map(|device| device.name.clone()).collect(),
            function: Some(request.function),
            request: said(&asked, request),
            points: span.into_iter().flat_map(names).collect(),
            outcome: self.outcome(request, answer.as_ref(), bare, outcome),
            values,
        }
    }

    /// The values of the points of some devices, out of the registers of a span.
    fn values(&self, devices: &[&Arc<Device>], span: RegisterRange, words: &[u16]) -> Vec<Named> {
        let named =
            |device: &&Arc<Device>| self.named(device, dissect::values(device, span, words));
        devices.iter().flat_map(named).collect()
    }

    fn outcome(
        &self,
        request: &Frame,
        answer: Option<&Frame>,
        bare: Option<&[u16]>,
        outcome: &str,
    ) -> String {
        match (answer, bare) {
            _ if request.unit == 0 && self.framing != Framing::Tcp => {
                "for all devices; none answers".to_owned()
            }
            (Some(answer), _) if answer.exception().is_some() => {
                explain(answer.exception().unwrap_or_default())
            }
            (_, Some(words)) => words
                .iter()
                .map(u16::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            (Some(answer), _) if request.asked() == Asked::Identity => {
                Printable::bytes(&answer.data)
            }
            // The driver waits for the next byte after a frame that it does not take.
            _ => outcome.to_owned(),
        }
    }

    fn named(&self, device: &Device, values: Values) -> Vec<Named> {
        let name = |id| {
            device
                .points
                .iter()
                .find(|point| point.id == id)
                .map_or_else(String::new, |point| point.name.to_string())
        };
        let unit = |id: crate::reading::PointId| {
            self.config
                .points
                .get(id.0 as usize)
                .and_then(|report| report.unit.as_ref())
        };
        values
            .into_iter()
            .map(|sample| Named {
                name: name(sample.point),
                value: sample.value,
                unit: unit(sample.point).map(ToString::to_string),
            })
            .collect()
    }
}

/// The registers of a request, and the words that it writes or its answer brought.
fn registers<'a>(
    asked: &'a Asked,
    brought: Option<&'a [u16]>,
) -> Option<(RegisterRange, Option<&'a [u16]>)> {
    match asked {
        Asked::Read(span) => Some((*span, brought)),
        Asked::Write(span, words) => Some((*span, Some(words))),
        _ => None,
    }
}

fn said(asked: &Asked, request: &Frame) -> String {
    match asked {
        Asked::Read(span) => format!("read {}", place(*span)),
        Asked::Write(span, words) => {
            let words: Vec<String> = words.iter().map(u16::to_string).collect();
            format!("write {} = {}", place(*span), words.join(" "))
        }
        Asked::Mask { address, and, or } => {
            format!("write some bits of holding {address}: and {and:#06x}, or {or:#06x}")
        }
        Asked::Identity => "read what the device is".to_owned(),
        Asked::Other => format!("{} bytes", request.data.len()),
    }
}

fn place(
    RegisterRange {
        table,
        start,
        count,
    }: RegisterRange,
) -> String {
    let last = u32::from(start) + u32::from(count).saturating_sub(1);
    let first = table.place(start.into());
    if count <= 1 {
        first
    } else {
        format!("{first}-{last} ({count})")
    }
}

impl DecodedTransaction {
    /// The device, the function, the place and the points.
    pub(super) fn request(&self) -> String {
        let device = match (self.devices.as_slice(), self.unit) {
            ([], Some(unit)) => format!("unit {unit}"),
            (devices, Some(unit)) => format!("{} (unit {unit})", devices.join(", ")),
            _ => String::new(),
        };
        let function = self
            .function
            .map_or_else(String::new, |function| format!(" function {function}:"));
        let points = if self.points.is_empty() {
            String::new()
        } else {
            format!("; {}", self.points.join(", "))
        };
        format!("{device}{function} {}{points}", self.request)
            .trim_start()
            .to_owned()
    }

    /// The values, or the outcome.
    pub(super) fn answer(&self) -> String {
        if self.values.is_empty() || self.is_write() || self.outcome != "answered" {
            return self.outcome.clone();
        }
        self.values
            .iter()
            .map(Named::text)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn is_write(&self) -> bool {
        self.request.starts_with("write")
    }

    /// For programs.
    pub(super) fn json(&self) -> Json {
        let values: serde_json::Map<String, Json> = self
            .values
            .iter()
            .filter_map(|named| Some((named.name.clone(), plain(named.value.as_ref().ok()?))))
            .collect();
        json!({ "unit": self.unit, "devices": self.devices, "function": self.function, "request": self.request,
            "points": self.points.iter().map(|name| &**name).collect::<Vec<_>>(), "outcome": self.outcome, "values": values })
    }
}

impl Named {
    fn text(&self) -> String {
        let unit = self
            .unit
            .as_ref()
            .map_or_else(String::new, |unit| format!(" {unit}"));
        match &self.value {
            Ok(value) => Printable(&format!("{} {value}{unit}", self.name)).to_string(),
            Err(why) => format!("{} bad: {why}", self.name),
        }
    }
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Bool(bit) => json!(bit),
        Value::Int(number) => json!(number),
        Value::UInt(number) => json!(number),
        Value::F32(_) => value
            .to_string()
            .parse::<f64>()
            .map_or(Json::Null, |number| json!(number)),
        Value::F64(number) => json!(number),
        Value::Text(text) => json!(&**text),
        Value::List(list) => list.iter().map(plain).collect(),
    }
}

/// Bytes as two digits each.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Bytes of a plain instrument: text with escapes for control characters, as the YAML writes them.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let escape = |chunk: &str| {
        chunk.chars().fold(String::new(), |text, character| {
            text + &match character {
                '\r' => "\\r".to_owned(),
                '\n' => "\\n".to_owned(),
                '\t' => "\\t".to_owned(),
                '\\' => "\\\\".to_owned(),
                control if control.is_ascii_control() => format!("\\x{:02x}", u32::from(control)),
                other => Printable(other.encode_utf8(&mut [0; 4])).to_string(),
            }
        })
    };
    let chunks = bytes.utf8_chunks();
    chunks
        .map(|chunk| {
            escape(chunk.valid())
                + &chunk
                    .invalid()
                    .iter()
                    .map(|byte| format!("\\x{byte:02x}"))
                    .collect::<String>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(sent: &[u8], received: &[u8], outcome: &str) -> DecodedTransaction {
        let yaml = "site: x\nlines: [ { name: plc, modbus_tcp: 10.0.0.5 } ]\ndevices:\n  - { name: meter, line: plc, unit: 7, points: { voltage: { holding: 10, type: f32, byte_order: CDAB, unit: V }, run: { coil: 3 }, setpoint: { holding: 30, type: i16, scale: 0.1 } } }\n";
        let config = config::parse("gateway.yaml", yaml, Path::new("/nowhere")).unwrap();
        let framed =
            |pdu: &[u8]| [&[0, 1, 0, 0, 0, u8::try_from(pdu.len()).unwrap()], pdu].concat();
        let received = if received.is_empty() {
            Vec::new()
        } else {
            framed(received)
        };
        let exchange = Transaction {
            sent: framed(sent),
            received,
            outcome: Some(outcome.to_owned()),
            ..Transaction::default()
        };
        LineDecoder {
            config: &config,
            line: &config.lines[0],
            framing: Framing::Tcp,
        }
        .decode(&exchange)
    }

    #[test]
    fn a_request_names_its_points_and_an_answer_their_values() {
        let read = told(
            &[7, 3, 0, 10, 0, 2],
            &[7, 3, 4, 0x66, 0x66, 0x43, 0x65],
            "answered",
        );
        assert_eq!(
            read.request(),
            "meter (unit 7) function 3: read holding 10-11 (2); voltage"
        );
        assert_eq!(read.answer(), "voltage 229.4 V");
        assert_eq!(read.json()["values"], json!({ "voltage": 229.4 }));
        let write = told(&[7, 6, 0, 30, 0, 215], &[7, 6, 0, 30, 0, 215], "answered");
        assert_eq!(
            (write.request().as_str(), write.answer().as_str()),
            (
                "meter (unit 7) function 6: write holding 30 = 215; setpoint",
                "answered"
            )
        );
        assert_eq!(write.json()["values"], json!({ "setpoint": 21.5 }));
        let bit = told(&[7, 1, 0, 3, 0, 1], &[7, 1, 1, 1], "answered");
        assert_eq!(bit.answer(), "run true");
    }

    #[test]
    fn exceptions_silence_and_unknown_places_are_told() {
        let refused = told(&[7, 3, 0, 10, 0, 2], &[7, 0x83, 2], "exception 2");
        assert!(
            refused
                .answer()
                .starts_with("exception 2: no such register"),
            "{}",
            refused.answer()
        );
        assert_eq!(
            told(&[9, 4, 0, 0, 0, 2], &[], "no answer").answer(),
            "no answer"
        );
        let unknown = told(&[9, 4, 0, 0, 0, 2], &[9, 4, 4, 0, 1, 0, 2], "answered");
        assert_eq!(
            (unknown.request().as_str(), unknown.answer().as_str()),
            ("unit 9 function 4: read input 0-1 (2)", "1 2")
        );
        assert_eq!(
            told(&[7, 65, 1], &[], "no answer").request(),
            "meter (unit 7) function 65: 1 bytes"
        );
    }

    #[test]
    fn plain_text_is_escaped() {
        let spoken = b"\x02N 1.5\xb0\\\x1b[2J\r\n";
        assert_eq!(escaped(spoken), "\\x02N 1.5\\xb0\\\\\\x1b[2J\\r\\n");
        assert_eq!(hex(&spoken[..3]), "02 4e 20");
    }
}
