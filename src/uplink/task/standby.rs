//! A backup: when it is needed, and what it lets go when it is not.

use tokio::time::{sleep, sleep_until};

use super::{STATUS_EVERY, Uplink};
use crate::outbox::{EntryId, LANES, Waiting};
use crate::tasks::Stop;
use crate::time::now;

impl Uplink {
    /// Waits until a backup is needed; an uplink that is none always is. False if the stop order
    /// came.
    pub(super) async fn is_needed(&mut self, mut stop: Stop) -> bool {
        let Some((mut primary, use_when)) = self.primary.clone().zip(self.settings.use_when) else {
            return true;
        };
        loop {
            let is_up = *primary.borrow_and_update();
            if is_up {
                // What was kept in case goes over the other link.
                self.discard_waiting().await;
            }
            self.heartbeat.beat(now());
            let needed_at = self.primary_down_since + use_when.down_for;
            if !is_up && now() >= needed_at {
                return true;
            }
            tokio::select! {
                changed = primary.changed() => match changed {
                    Ok(()) => self.primary_down_since = now(),
                    Err(_) => return false,
                },
                () = sleep_until(needed_at.into()), if !is_up => {}
                () = sleep(STATUS_EVERY) => self.status.show(),
                Some(order) = self.purges.recv() => self.purge(order).await,
                () = stop.wait() => return false,
            }
        }
    }

    /// True for a backup whose other uplink is up again.
    pub(in crate::uplink) fn is_relieved(&self) -> bool {
        self.primary
            .as_ref()
            .is_some_and(|primary| *primary.borrow())
    }

    /// Settles what waits and was never sent.
    async fn discard_waiting(&mut self) {
        self.batches.drop_all_open();
        for lane in LANES {
            let mut after = 0;
            while let Ok(Some((last, waiting))) = self.outbox.read(lane, after, 256).await {
                after = last;
                self.heartbeat.beat(now());
                let is_idle = |place: &EntryId| {
                    !self.session.holds(*place)
                        && !self.burials.holds(*place)
                        && !self.batches.holds(*place)
                };
                let places: Vec<EntryId> =
                    waiting.iter().map(Waiting::place).filter(is_idle).collect();
                self.outbox.settle(&places);
            }
        }
        // What an earlier run had in flight is still to be repeated.
        self.lanes.retain(|place| self.session.holds(place));
    }
}
