//! The channels between an uplink and the rest of the gateway.

use std::sync::Arc;

use tokio::sync::watch;

use super::Inbound;
use crate::route::{Routes, StateSender};

/// The channels of an uplink to the rest of the gateway.
pub struct UplinkChannels {
    /// Takes its status to local clients, and to remotes whose rules ask for it.
    pub status: Option<StateSender>,
    /// Takes what the remote has for this site.
    pub inbound: Option<Inbound>,
    /// Tells others whether it is up.
    pub is_up: watch::Sender<bool>,
    /// How topics are written here and there; may change.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Of a backup: whether the other uplink is up.
    pub primary: Option<watch::Receiver<bool>>,
}
