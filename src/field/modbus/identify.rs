//! What a device says it is: functions 43/14 and 17, asked once where the YAML wants it.

use tokio_modbus::prelude::ReadCode;
use tokio_modbus::{Request, Response};

use super::link::Answer;
use super::{Modbus, Question};
use crate::time::now;

/// Longest answers, of both.
pub(super) const LONGEST: u32 = 256;

impl Modbus {
    /// Asks a device that has just answered, unless it was asked before; what it says is told with its counters.
    pub(super) async fn identify(&mut self, device: usize) {
        let Some(spec) = self.devices.get(device).filter(|spec| spec.identify) else {
            return;
        };
        let unit = spec.unit;
        if !self.identified.insert(device) {
            return;
        }
        let patience = self.patience.of(unit, now());
        let ask = |request, out| Question {
            device,
            unit,
            request,
            lengths: (out, LONGEST),
            patience,
        };
        let answer = self
            .ask(ask(
                Request::ReadDeviceIdentification(ReadCode::Basic, 0),
                7,
            ))
            .await;
        let answer = match answer {
            // It lives and does not know this function: the older one is asked for.
            Answer::Exception(_) => self.ask(ask(Request::ReportServerId, 4)).await,
            answer => answer,
        };
        let Some(text) = said_by(&answer) else { return };
        if let Some((name, counts)) = self.counts.devices.get(device) {
            tracing::info!(device = %name, identity = %text, "device says what it is");
            counts.set_identity(&text);
        }
    }
}

/// What a device says in an answer to either function.
pub(super) fn said_by(answer: &Answer) -> Option<String> {
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

/// What can be read of it.
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
