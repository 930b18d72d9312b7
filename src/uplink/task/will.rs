//! The will of a connection, and what is learnt of a remote that does not take it.

use super::{Uplink, UplinkUpdate};
use crate::time::now;
use crate::uplink::UplinkSettings;
use crate::uplink::failure::LinkError;
use crate::uplink::presence::PresenceWill;

impl Uplink {
    /// The will of the next connection.
    pub(super) fn next_will(&mut self, remote: u32) -> Option<PresenceWill> {
        let presence = self.settings.presence.as_ref()?;
        self.presence
            .will(remote, presence, self.rivals.mark(), now())
    }

    /// The remote takes a state, and does not take one that it is to retain.
    pub(in crate::uplink) fn retained_refused(&self) {
        let why = format!(
            "the remote does not take a retained state of this gateway: the state and the will are sent without the retain flag, and subscribers that come later do not see them; {}",
            self.settings.presence_remedy()
        );
        self.presence_limited(&why);
    }

    /// Says what the remote does not learn of this gateway, and why.
    pub(in crate::uplink) fn presence_limited(&self, why: &str) {
        if let Some(presence) = &self.settings.presence {
            self.status.presence_limited(presence.topic.as_str(), why);
        }
    }

    /// True if the settings to come are those of another remote, or have the state elsewhere or
    /// none.
    pub(in crate::uplink) fn moves_presence(&self) -> bool {
        let updates = self.updates.borrow();
        let topic_of = |settings: &UplinkSettings| {
            settings
                .presence
                .as_ref()
                .map(|presence| presence.topic.clone())
        };
        updates
            .as_ref()
            .is_some_and(|UplinkUpdate { settings, .. }| {
                settings.remotes != self.settings.remotes
                    || topic_of(settings) != topic_of(&self.settings)
            })
    }

    /// The remote has accepted a connection, or not.
    pub(super) fn judge_will(&mut self, remote: u32, has_will: bool, error: Option<&LinkError>) {
        let Some(presence) = &self.settings.presence else {
            return;
        };
        let topic = presence.topic.as_str();
        match error {
            None => {
                if self.presence.accepted(remote, has_will) {
                    let remedy = self.settings.presence_remedy();
                    let why = format!(
                        "the remote takes this gateway only without a will: it cannot say when the gateway is gone, and the state is `unsupervised` instead of `online`; {remedy}, or write `presence: false`"
                    );
                    self.status.presence_limited(topic, &why);
                }
            }
            Some(LinkError::Refused {
                reason: Some(reason),
                ..
            }) if has_will => {
                if let Some(why) = self.presence.will_refused(remote, Some(*reason), now()) {
                    self.status.presence_limited(topic, why);
                }
            }
            Some(LinkError::Closed { .. }) if has_will => {
                self.presence.will_refused(remote, None, now());
            }
            Some(LinkError::Refused { .. } | LinkError::Closed { .. }) => {
                self.presence.fails_without_will(remote);
            }
            // The remote has not seen the will.
            Some(_) => {}
        }
    }
}
