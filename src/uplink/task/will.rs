//! The will of a connection, and what is learnt of a remote that does not take it.

use super::Uplink;
use crate::mqtt::TopicName;
use crate::time::now;
use crate::uplink::cloud::Cloud;
use crate::uplink::link::LinkError;
use crate::uplink::presence::Will;

impl Uplink {
    /// The will of the next connection.
    pub(super) fn next_will(&mut self, remote: u32) -> Option<Will> {
        let presence = self.settings.presence.as_ref()?;
        let mut will = self.presence.will(remote, presence, now())?;
        will.retain &= self.settings.cloud.as_ref().is_none_or(Cloud::keeps_retained);
        Some(will)
    }

    /// Where the settings to come have the state; without any, where it is.
    pub(in crate::uplink) fn next_presence(&self) -> Option<TopicName> {
        let updates = self.updates.borrow();
        let settings = updates.as_ref().map_or(&self.settings, |update| &update.settings);
        settings.presence.as_ref().map(|presence| presence.topic.clone())
    }

    /// The remote has accepted a connection, or not.
    pub(super) fn judge_will(&mut self, remote: u32, has_will: bool, error: Option<&LinkError>) {
        let Some(presence) = &self.settings.presence else { return };
        let topic = presence.topic.as_str();
        match error {
            None => {
                if self.presence.accepted(remote, has_will, now()) {
                    let why = "the remote takes this gateway only without a will: it does not learn when the gateway is gone; allow the gateway to publish to this topic, or write `presence: false`";
                    self.status.presence_limited(topic, why);
                }
            }
            Some(LinkError::Refused { reason: Some(reason), .. }) if has_will => {
                if let Some(why) = self.presence.will_refused(remote, Some(*reason), now()) {
                    self.status.presence_limited(topic, why);
                }
            }
            Some(LinkError::Closed { .. }) if has_will => {
                self.presence.will_refused(remote, None, now());
            }
            Some(LinkError::Refused { .. } | LinkError::Closed { .. }) => self.presence.fails_without_will(remote),
            // The remote has not seen the will.
            Some(_) => {}
        }
    }
}
