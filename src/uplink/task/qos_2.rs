//! Which remotes have no QoS 2: those that answer it as QoS 1, and, as long as nothing speaks
//! against it, one that closes when it gets it.

use super::Uplink;
use crate::outbox::EntryId;

impl Uplink {
    /// True if the remote that is connected has no QoS 2, or seems to have none.
    pub(in crate::uplink) fn is_without_qos_2(&self) -> bool {
        self.without_qos_2.contains(&self.current)
            || self
                .may_lack_qos_2
                .is_some_and(|(remote, _)| remote == self.current)
    }

    /// The remote that is connected has no QoS 2.
    pub(in crate::uplink) fn note_lack_of_qos_2(&mut self) {
        if self.without_qos_2.insert(self.current) {
            self.status.has_no_qos_2();
        }
    }

    /// The remote closes when it gets this message at QoS 2, and has never answered another one: it
    /// may be the QoS, or the message.
    pub(in crate::uplink) fn seems_without_qos_2(&mut self, place: EntryId) {
        self.may_lack_qos_2 = Some((self.current, place));
        self.status.may_lack_qos_2();
    }

    /// True if the remote closed when it got this message at QoS 2, and it went with QoS 1 after
    /// that.
    pub(in crate::uplink) fn was_suspected_of_qos_2(&self, place: EntryId) -> bool {
        self.may_lack_qos_2 == Some((self.current, place))
    }

    /// It was the message: the remote closes when it gets it at QoS 1 too.
    pub(in crate::uplink) fn takes_qos_2_again(&mut self, place: EntryId) {
        self.may_lack_qos_2 = self
            .may_lack_qos_2
            .filter(|seems| *seems != (self.current, place));
    }
}
