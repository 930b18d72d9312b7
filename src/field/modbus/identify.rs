//! Device identification: functions 43/14 and 17, requested once where the YAML wants it.

use tokio_modbus::prelude::ReadCode;
use tokio_modbus::{Request, Response};

use super::Modbus;
use super::block::Target;
use super::exchange::Question;
use super::link::Answer;
use super::words::FrameLengths;
use crate::time::now;

/// The longest answer to either function, as a frame.
const LONGEST: u32 = 256;

/// The request of function 43/14.
pub(super) fn identification() -> (Request<'static>, FrameLengths) {
    let request = Request::ReadDeviceIdentification(ReadCode::Basic, 0);
    (request, FrameLengths::new(7, LONGEST))
}

/// The request of function 17, which is older.
pub(super) fn server_id() -> (Request<'static>, FrameLengths) {
    (Request::ReportServerId, FrameLengths::new(4, LONGEST))
}

impl Modbus {
    /// Identifies a device that has just answered, once; the text is published with its counters.
    pub(super) async fn identify(&mut self, device: usize) {
        let Some(spec) = self.devices.get(device).filter(|spec| spec.identify) else {
            return;
        };
        let unit = spec.unit;
        if !self.identified.insert(device) {
            return;
        }
        let timeout = self.timeouts.of(unit, now());
        let question = |(request, lengths)| Question {
            target: Target { device, unit },
            request,
            lengths,
            timeout,
        };
        let answer = match self.ask(question(identification())).await {
            // It lives and does not know this function.
            Answer::Exception(_) => self.ask(question(server_id())).await,
            answer => answer,
        };
        let Some(text) = identity_in(&answer) else {
            return;
        };
        if let Some((name, counts)) = self.counts.devices.get(device) {
            tracing::info!(event = "device.identified", device = %name, identity = %text, "device identified");
            counts.set_identity(&text);
        }
    }
}

/// The text of an answer to either function.
pub(super) fn identity_in(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Response(Response::ReadDeviceIdentification(response)) => {
            let objects = response
                .device_id_objects
                .iter()
                .map(|object| plain(&object.value));
            Some(
                objects
                    .filter(|text| !text.is_empty())
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        }
        Answer::Response(Response::ReportServerId(_, _, text)) => Some(plain(text)),
        _ => None,
    }
}

/// Printable characters only, with single blanks.
fn plain(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .map(|byte| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                ' '
            }
        })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
