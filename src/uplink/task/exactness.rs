//! Which remotes have no QoS 2: those that answer it as QoS 1, and, as long as nothing speaks against it, one that closes when it gets it.

use super::Uplink;
use crate::outbox::Place;

impl Uplink {
    /// True if the remote that is connected has no QoS 2, or seems to have none.
    pub(in crate::uplink) fn is_inexact(&self) -> bool {
        self.inexact.contains(&self.current) || self.seems_inexact.is_some_and(|(remote, _)| remote == self.current)
    }

    /// The remote that is connected has no QoS 2.
    pub(in crate::uplink) fn without_exact(&mut self) {
        if self.inexact.insert(self.current) {
            self.status.no_exact();
        }
    }

    /// The remote closes when it gets this message at QoS 2, and has never answered another one: it may be the QoS, or the message.
    pub(in crate::uplink) fn seems_without_exact(&mut self, place: Place) {
        self.seems_inexact = Some((self.current, place));
        self.status.seems_inexact();
    }

    /// It was the message: the remote closes when it gets it at QoS 1 too.
    pub(in crate::uplink) fn has_exact_again(&mut self, place: Place) {
        self.seems_inexact = self.seems_inexact.filter(|seems| *seems != (self.current, place));
    }
}
