//! The state of a gateway, for `wellhead status` and the status line of the service manager.

use serde::{Deserialize, Serialize};

/// The state of the whole gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Of the program.
    pub version: String,
    /// How long it has run, in seconds.
    pub for_s: u64,
    /// The status line of the service manager.
    pub text: String,
    /// Tasks that hang.
    pub hanging: Vec<String>,
    /// In the order of the YAML.
    pub lines: Vec<LineStatus>,
    /// In the order of the YAML.
    pub uplinks: Vec<UplinkStatus>,
}

/// The state of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStatus {
    /// Its name.
    pub name: String,
    /// Some device has answered since the line was opened.
    pub is_up: bool,
    /// For how many seconds.
    pub for_s: u64,
    /// The load of the polling plan, in thousandths of the capacity.
    pub load_permille: u64,
    /// Devices on it.
    pub devices: usize,
    /// Those that answer.
    pub answering: usize,
}

/// The state of an uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// It is connected.
    pub is_up: bool,
    /// For how many seconds.
    pub for_s: u64,
    /// Queued messages.
    pub waiting: u64,
    /// Another client uses its client identifier: `certain`, or `possible`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_taken: Option<String>,
}

impl GatewayStatus {
    /// True if everything is up and nothing hangs.
    pub fn is_well(&self) -> bool {
        self.hanging.is_empty()
            && self.lines.iter().all(|line| line.is_up)
            && self.uplinks.iter().all(|uplink| uplink.is_up)
    }

    /// The line for the service manager.
    pub fn summary(&self) -> String {
        let hanging = self.hanging.first().map(|name| format!("{name} hangs"));
        let up = self.lines.iter().filter(|line| line.is_up).count();
        let lines = format!("{up} of {} lines up", self.lines.len());
        let uplink = |uplink: &UplinkStatus| {
            let state = if uplink.is_up { "up" } else { "down" };
            let taken = if uplink.client_id_taken.as_deref() == Some("certain") {
                ", its client_id is taken"
            } else {
                ""
            };
            format!("{} {state}, {} waiting{taken}", uplink.name, uplink.waiting)
        };
        hanging
            .into_iter()
            .chain([lines])
            .chain(self.uplinks.iter().map(uplink))
            .collect::<Vec<_>>()
            .join("; ")
    }
}
