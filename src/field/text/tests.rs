//! What the tests of this folder share.

use std::time::Duration;

use super::TextProtocol;
use super::frame::MessageFraming;

/// Lines of text, without a request.
pub(super) fn protocol() -> TextProtocol {
    TextProtocol {
        requests: Vec::new(),
        script: Vec::new(),
        every: Duration::from_secs(1),
        silent_after: Duration::from_secs(3),
        answer_within: None,
        framing: MessageFraming::default(),
        checksum: None,
        subtract: None,
        pattern: None,
        address: String::new(),
        simulate: Vec::new(),
    }
}
