//! The task of one uplink: connect, hand over to the connection, wait, connect again.

mod opening;
mod purging;
mod qos_2;
mod rivals;
mod standby;
mod will;

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use super::client::{StopOrders, Uplink, UplinkUpdate, name_of};
use super::connection::{Done, LAST_WORDS, RemoteConnection, STATUS_EVERY};
use super::failure::LinkError;
use super::link::{Accepted, Link};
use super::{Remote, route};
use crate::backoff::Backoff;
use crate::mqtt::QoS;
use crate::tasks::Stop;
use crate::time::now;

/// A connection that lived this long, or brought an acknowledgement, resets the pauses between
/// attempts.
pub(super) const PROVEN: Duration = Duration::from_secs(60);
/// After this time with acknowledgements, the next break of a connection is logged again.
const WORKED: Duration = Duration::from_secs(10);
/// How long a last save may take.
const SAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A connection when it began.
struct Life {
    since: Instant,
    /// Messages that had been acknowledged.
    acknowledged: u64,
}

impl Uplink {
    /// Runs until the stop order; then at most `grace` longer, to send what waits.
    /// When it must hurry, nothing more is waited for.
    pub async fn run(mut self, mut stop: Stop, mut hurry: Stop, grace: Duration) {
        self.status.show();
        let orders = StopOrders {
            stop: stop.clone(),
            grace,
            hurry: hurry.clone(),
        };
        let too_late = async move {
            tokio::select! {
                () = async { stop.wait().await; sleep(grace + LAST_WORDS).await } => {}
                () = async { hurry.wait().await; sleep(LAST_WORDS).await } => {}
            }
        };
        tokio::select! {
            () = self.keep_connected(&orders) => {}
            () = too_late => {}
        }
        self.finish().await;
    }

    async fn keep_connected(&mut self, orders: &StopOrders) {
        let stop = &orders.stop;
        let mut backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
        while !stop.is_stopped() && self.is_needed(stop.clone()).await {
            self.heartbeat.beat(now());
            if self.updates.has_changed().unwrap_or(false) {
                self.take_update();
                backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
                self.silence.is_over();
            }
            let opened = match self.open(stop.clone()).await {
                None => return,
                Some(opened) => opened,
            };
            let (error, rival_pause) = match opened {
                Err(error) => (error, None),
                Ok((link, accepted, remote)) => {
                    let life = self.begin_life(&remote);
                    match self.serve(link, accepted, &remote, orders.clone()).await {
                        Ok(Done::Stopped) => return,
                        Ok(done) => {
                            self.reconnects(done);
                            continue;
                        }
                        Err(error) => {
                            let pause = self.end_life(life, &error, &mut backoff);
                            (error, pause)
                        }
                    }
                }
            };
            if rival_pause.is_none() {
                self.status.disconnected(&error.to_string());
            }
            let (pause, way) = self.pause_after(&error, rival_pause, &mut backoff);
            self.rest(pause, way, stop.clone()).await;
        }
    }

    /// The remote has accepted a connection.
    fn begin_life(&mut self, remote: &Remote) -> Life {
        let life = Life {
            since: now(),
            acknowledged: self.status.counters.acknowledged.value(),
        };
        self.silence.is_over();
        let name = crc32c::crc32c(self.settings.client_id.as_bytes());
        let name = f64::from(name) / f64::from(u32::MAX);
        self.turns.connected(name, fastrand::f64(), life.since);
        self.status.connected(remote);
        life
    }

    /// A connection has ended with an error. Returns the pause that another client with the same
    /// identifier asks for.
    fn end_life(
        &mut self,
        life: Life,
        error: &LinkError,
        backoff: &mut Backoff,
    ) -> Option<Duration> {
        let lasted = now() - life.since;
        let has_worked = self.status.counters.acknowledged.value() > life.acknowledged;
        let is_proven = lasted >= PROVEN;
        if has_worked || is_proven {
            backoff.reset();
        }
        if matches!(error, LinkError::Broken(_)) {
            self.silence.lasted(lasted);
        }
        self.turns.disconnected(now());
        let pause = self.pause_for_rival(error, lasted);
        if is_proven || has_worked && lasted >= WORKED {
            self.status.proven();
        }
        pause
    }

    /// The pause after a connection that ended or could not be made, and the way to the remote
    /// whose change ends it.
    fn pause_after(
        &mut self,
        error: &LinkError,
        rival_pause: Option<Duration>,
        backoff: &mut Backoff,
    ) -> (Duration, Option<u32>) {
        match error {
            LinkError::Silent(_) | LinkError::Unanswered(_) => {
                (self.rest_of_silence(), Some(self.way()))
            }
            // Perhaps there is no link at all.
            LinkError::Unreachable(_) => (backoff.next_delay(), Some(self.way())),
            _ => (rival_pause.unwrap_or_else(|| backoff.next_delay()), None),
        }
    }

    async fn serve(
        &mut self,
        link: Link,
        mut accepted: Accepted,
        remote: &Remote,
        orders: StopOrders,
    ) -> Result<Done, LinkError> {
        // What the broker still has from the last connection is known before the remote repeats it.
        while !self.deliveries.is_empty() {
            let delivery = self.heartbeat.through(self.deliveries.next()).await;
            if let Some(number) = delivery.exact.filter(|_| delivery.is_safe) {
                self.session.taken(delivery.packet_id, number);
            }
        }
        let name = name_of(remote);
        self.has_shown_qos_2 &= self.current == name;
        if self.current != name {
            self.rates.throttle.acquit();
        }
        self.current = name;
        self.session.reached(self.current, accepted.session_present);
        self.session.limit_exact(accepted.max_exact);
        if self.rivals.share_session() {
            self.session.distrust();
        }
        if self.is_without_qos_2() {
            accepted.max_qos = accepted.max_qos.min(QoS::AtLeastOnce);
        }
        RemoteConnection::new(self, link, accepted)
            .run(accepted, orders)
            .await
    }

    /// A value that changes with the way to the remote.
    fn way(&self) -> u32 {
        route::fingerprint(self.settings.tcp.interface.as_deref())
    }

    /// A pause between attempts, with the status kept up to date. It ends when `way` is another
    /// one.
    async fn rest(&mut self, pause: Duration, way: Option<u32>, mut stop: Stop) {
        let until = now() + pause;
        while now() < until {
            self.heartbeat.beat(now());
            tokio::select! {
                () = sleep_until(until.into()) => {}
                () = sleep(STATUS_EVERY) => {
                    self.status.show();
                    if way.is_some_and(|before| self.way() != before) && self.silence.way_changed(now()) {
                        return;
                    }
                }
                buried = self.burials.next() => self.outbox.settle(&[buried]),
                Some(order) = self.purges.recv() => self.purge(order).await,
                // Looked at before the next attempt.
                Ok(()) = self.updates.changed() => {
                    self.updates.mark_changed();
                    return;
                }
                () = stop.wait() => return,
            }
        }
    }

    /// Saves the session before the outbox is closed.
    async fn finish(&mut self) {
        if let Some(saving) = self.saving.take()
            && timeout(SAVE_PATIENCE, saving)
                .await
                .is_ok_and(|saved| saved.is_ok())
        {
            self.session.saved();
        }
        if self.session.unsaved() > 0 {
            self.begin_save();
            if let Some(saving) = self.saving.take() {
                // A disk that refuses has been told of; identifiers that are not noted are found
                // again by repetition.
                let _ = timeout(SAVE_PATIENCE, saving).await;
            }
        }
    }
}
