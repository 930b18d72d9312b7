//! Evidence of another client with the same client identifier at the end of a connection, and the
//! pause that follows.

use std::time::Duration;

use super::Uplink;
use crate::mqtt::ReasonCode;
use crate::time::now;
use crate::uplink::failure::LinkError;
use crate::uplink::rivals::CloseCause;

impl Uplink {
    /// The pause after a connection that lived so long and that another client has ended; `None` if
    /// it was not that, as far as is known. The session stays what it is, and so does what is in
    /// flight: both are gone on with afterwards.
    pub(super) fn pause_for_rival(
        &mut self,
        error: &LinkError,
        lifetime: Duration,
    ) -> Option<Duration> {
        self.rivals.lived(lifetime, now());
        let were_there = self.rivals.are_there();
        let closed = match error {
            LinkError::Closed {
                reason: Some(ReasonCode::SESSION_TAKEN_OVER),
                ..
            } => CloseCause::ByRival(self.rivals.taken_over()),
            LinkError::Closed { reason: None, .. } => self.rivals.closed(),
            LinkError::Closed { .. } => CloseCause::Alone,
            _ => {
                self.rivals.broke();
                CloseCause::Alone
            }
        };
        self.show_rivals();
        match closed {
            CloseCause::Alone => None,
            CloseCause::Often => {
                self.status.closed_often(&self.settings.client_id);
                None
            }
            CloseCause::ByRival(pause) => {
                self.status.disconnected(&error.to_string());
                if !were_there {
                    self.status.client_id_taken(&self.settings.client_id);
                }
                self.status.taken_over(&self.settings.client_id, pause);
                Some(pause)
            }
        }
    }

    /// The connection has lived so long.
    pub(in crate::uplink) fn has_lasted(&mut self, lifetime: Duration) {
        self.rivals.lived(lifetime, now());
        self.show_rivals();
    }

    /// The retained state at the remote is of another client with the client identifier of this
    /// gateway.
    pub(in crate::uplink) fn found_rival(&mut self) {
        self.suspicion.acquit();
        self.status.client_id_taken(&self.settings.client_id);
        self.show_rivals();
    }

    /// The remote has a message of another client in this session.
    pub(in crate::uplink) fn found_other_identifiers(&mut self) {
        self.rivals.disturbed(now());
        self.status.session_is_shared(&self.settings.client_id);
        self.show_rivals();
    }

    fn show_rivals(&mut self) {
        self.status.set_taken(self.rivals.taken());
    }
}
