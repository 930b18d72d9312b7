//! The task of one uplink: connect, hand over to the connection, wait, connect again.

mod burials;
mod opening;
mod qos_2;
mod rivals;
mod standby;
mod will;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::cloud::Renewal;
use super::connection::{Connection, Done, LAST_WORDS, STATUS_EVERY};
use super::copies::Copies;
use super::credentials::Credentials;
use super::dial::Addresses;
use super::ends::Ends;
use super::inbound::Deliveries;
use super::lanes::Lanes;
use super::link::{Accepted, Link, LinkError};
use super::memory::Memory;
use super::pace::Pace;
use super::presence::Known;
use super::rates::Rates;
use super::rivals::{Rivals, Taken};
use super::route;
use super::session::Session;
use super::silence::Silence;
use super::status::{Status, ToldGap};
use super::subscriptions::Subscriptions;
use super::suspicion::Suspicion;
use super::tls::Certificates;
use super::{Purge, Purges, Remote, Settings, TlsError, purge};
use crate::backoff::Backoff;
use crate::heartbeat::Heartbeat;
use crate::message::Origin;
use crate::mqtt::QoS;
use crate::outbox::{EntryId, LANES, Outbox, Routes};
use crate::tasks::Stop;
use crate::time::now;
pub(super) use burials::Burials;
use opening::Cleaned;

/// A connection that lived so long, or brought an acknowledgement, starts the pauses between attempts anew.
pub(super) const PROVEN: Duration = Duration::from_secs(60);
/// After so long with acknowledgements, what breaks a connection is told again.
const WORKED: Duration = Duration::from_secs(10);
/// How long a last save may take.
const SAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What a link that is slow may take for one thing, beside connecting.
const PATIENCE: Duration = Duration::from_secs(900);

/// When an uplink is to end.
#[derive(Clone)]
pub(super) struct Orders {
    pub(super) stop: Stop,
    /// What the stop order leaves to send what waits.
    pub(super) grace: Duration,
    /// The time for the stop is over.
    pub(super) hurry: Stop,
}

/// An uplink that is ready to run.
pub struct Uplink {
    pub(super) settings: Settings,
    pub(super) credentials: Credentials,
    pub(super) outbox: Outbox,
    /// Beats whenever the task comes round.
    pub(super) heartbeat: Heartbeat,
    pub(super) newest: watch::Receiver<u64>,
    pub(super) session: Session,
    pub(super) lanes: Lanes,
    pub(super) status: Status,
    pub(super) deliveries: Deliveries,
    pub(super) burials: Burials,
    pub(super) pace: Pace,
    /// A save of the session that is under way.
    pub(super) saving: Option<oneshot::Receiver<()>>,
    pub(super) last_save: Instant,
    /// The message that may be why the remote closes.
    pub(super) suspicion: Suspicion,
    pub(super) subscriptions: Subscriptions,
    /// What remotes take of this gateway's presence.
    pub(super) presence: Known,
    /// Messages of the remote that may come once more for another subscription.
    pub(super) copies: Copies,
    pub(super) rates: Rates,
    /// How topics are written here and there.
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    /// When the token of the connection is to be replaced.
    pub(super) renewal: Option<Renewal>,
    /// The remote that is connected, or was last.
    pub(super) current: u32,
    /// Remotes that have no QoS 2.
    without_qos_2: HashSet<u32>,
    /// A remote that seems to have none, because it closed when it got this message.
    may_lack_qos_2: Option<(u32, EntryId)>,
    /// The remote of this connection has answered QoS 2 as it should.
    pub(super) has_shown_qos_2: bool,
    cleaned: Option<Cleaned>,
    silence: Silence,
    addresses: Addresses,
    /// Signs of another client with the same client identifier.
    pub(super) rivals: Rivals,
    /// Addresses that gave no answer in the last try.
    unheard: Vec<SocketAddr>,
    /// Of a backup: whether the other uplink is up, and since when it is not.
    primary: Option<watch::Receiver<bool>>,
    primary_down_since: Instant,
    /// Settings that came since it was made.
    pub(super) updates: watch::Receiver<Option<Update>>,
    changes: watch::Sender<Option<Update>>,
    /// Orders of people to remove messages.
    pub(super) purges: mpsc::Receiver<Purge>,
    purger: Purges,
}

/// Other settings for an uplink that runs, with the certificates that they name.
#[derive(Clone)]
pub struct Update {
    settings: Settings,
    certificates: Certificates,
}

impl Update {
    /// Reads the certificates.
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        Ok(Self {
            certificates: Certificates::of(&settings)?,
            settings,
        })
    }
}

/// Checks the certificates of an uplink and makes it ready.
pub fn prepare(settings: Settings, outbox: Outbox, ends: Ends) -> Result<Uplink, TlsError> {
    let credentials = Credentials::new(Certificates::of(&settings)?);
    let (changes, updates) = watch::channel(None);
    let (purger, purges) = purge::orders();
    let status = Status::new(settings.name.clone(), &ends, outbox.clone());
    let memories = LANES.iter().map(|lane| {
        Memory::decode(outbox.state(*lane)).unwrap_or_else(|| {
            tracing::error!(uplink = %settings.name, ?lane, "what was in flight cannot be read; QoS 2 messages may arrive twice");
            Memory::default()
        })
    });
    let mut session = Session::new(settings.window, memories.collect());
    session.number_from(crc32c::crc32c(outbox.series().as_bytes()));
    let at = now();
    Ok(Uplink {
        credentials,
        heartbeat: Heartbeat::new(
            format!("uplink:{}", settings.name),
            PATIENCE + 2 * settings.connect_within,
            at,
        ),
        newest: outbox.newest(),
        session,
        lanes: Lanes::new(),
        status,
        deliveries: Deliveries::new(ends.inbound, Origin::Uplink(settings.index)),
        burials: Burials::default(),
        pace: Pace::default(),
        saving: None,
        last_save: at,
        suspicion: Suspicion::default(),
        subscriptions: Subscriptions::default(),
        presence: Known::default(),
        copies: Copies::default(),
        rates: Rates::default(),
        routes: ends.routes,
        renewal: None,
        current: 0,
        without_qos_2: HashSet::new(),
        may_lack_qos_2: None,
        has_shown_qos_2: false,
        cleaned: None,
        silence: Silence::default(),
        addresses: Addresses::default(),
        rivals: Rivals::new(&settings.client_id, fastrand::u32(..)),
        unheard: Vec::new(),
        primary: ends.primary,
        primary_down_since: at,
        updates,
        changes,
        purges,
        purger,
        settings,
        outbox,
    })
}

impl Uplink {
    /// As in the YAML.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Of its task.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Takes other settings while it runs: it disconnects in order, and connects as they say. Name, index, `use_when` and
    /// `connect_within` stay what they are.
    pub fn changes(&self) -> watch::Sender<Option<Update>> {
        self.changes.clone()
    }

    /// The newest gap in what goes to the remote, whenever there is one.
    pub fn gap(&self) -> watch::Receiver<Option<ToldGap>> {
        self.status.gap()
    }

    /// Takes orders to remove messages while it runs.
    pub fn purges(&self) -> Purges {
        self.purger.clone()
    }

    /// How sure it is that another client uses its client identifier.
    pub fn client_id_taken(&self) -> watch::Receiver<Option<Taken>> {
        self.status.watch_taken()
    }

    /// From here on the newest settings count. What is in flight stays in flight.
    pub(super) fn take_update(&mut self) {
        let Some(Update {
            settings,
            certificates,
        }) = self.updates.borrow_and_update().clone()
        else {
            return;
        };
        self.session.set_window(settings.window);
        self.subscriptions.start_over();
        (self.presence, self.renewal) = (Known::default(), None);
        self.cleaned = None;
        self.addresses = Addresses::default();
        self.rivals.start_over(&settings.client_id);
        self.rates.throttle.acquit();
        (self.settings, self.credentials) = (settings, Credentials::new(certificates));
    }

    /// Runs until the stop order; then at most `grace` longer, to send what waits.
    /// When it must hurry, nothing more is waited for.
    pub async fn run(mut self, mut stop: Stop, mut hurry: Stop, grace: Duration) {
        self.status.show();
        let orders = Orders {
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

    async fn keep_connected(&mut self, orders: &Orders) {
        let stop = &orders.stop;
        let mut backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
        while !stop.is_stopped() && self.is_needed(stop.clone()).await {
            self.heartbeat.beat(now());
            if self.updates.has_changed().unwrap_or(false) {
                self.take_update();
                backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
                self.silence.is_over();
            }
            let mut rival_pause = None;
            let error = match self.open(stop.clone()).await {
                None => return,
                Some(Ok((link, accepted, remote))) => {
                    let (since, before) = (now(), self.status.counters.acknowledged.value());
                    self.silence.is_over();
                    self.status.connected(&remote);
                    match self.serve(link, accepted, &remote, orders.clone()).await {
                        Ok(Done::Stopped) => return,
                        Ok(
                            done
                            @ (Done::Changed | Done::Renewed | Done::TriesWill | Done::Repeats),
                        ) => {
                            self.reconnects(done);
                            continue;
                        }
                        Ok(Done::NotNeeded) => {
                            self.primary_down_since = now();
                            self.status.standing_by();
                            continue;
                        }
                        Err(error) => {
                            let has_worked = self.status.counters.acknowledged.value() > before;
                            let is_proven = now() >= since + PROVEN;
                            if has_worked || is_proven {
                                backoff.reset();
                            }
                            if matches!(error, LinkError::Broken(_)) {
                                self.silence.lasted(now() - since);
                            }
                            rival_pause = self.pause_for_rival(&error, now() - since);
                            if is_proven || has_worked && now() >= since + WORKED {
                                self.status.proven();
                            }
                            error
                        }
                    }
                }
                Some(Err(error)) => error,
            };
            if rival_pause.is_none() {
                self.status.disconnected(&error.to_string());
            }
            let (pause, way) = self.pause_after(&error, rival_pause, &mut backoff);
            self.rest(pause, way, stop.clone()).await;
        }
    }

    /// The pause after a connection that ended or could not be made, and the way to the remote whose change ends it.
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
        orders: Orders,
    ) -> Result<Done, LinkError> {
        // What the broker still has from the last connection is known before the remote repeats it.
        while !self.deliveries.is_empty() {
            let delivery = self.heartbeat.through(self.deliveries.next()).await;
            if delivery.is_safe && delivery.is_exact {
                self.session.taken(delivery.packet_id);
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
        Connection::new(self, link, accepted)
            .run(accepted, orders)
            .await
    }

    /// A value that changes with the way to the remote.
    fn way(&self) -> u32 {
        route::fingerprint(self.settings.tcp.interface.as_deref())
    }

    /// A pause between attempts, with the status kept up to date. It ends when `way` is another one.
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

    /// Begins to make what changed in the session durable.
    pub(super) fn begin_save(&mut self) {
        let memories = self.session.begin_save();
        self.saving = Some(
            self.outbox.save(
                memories
                    .into_iter()
                    .map(|(queue, memory)| (queue, memory.encode()))
                    .collect(),
            ),
        );
        self.last_save = now();
    }

    /// A save is done.
    pub(super) fn saved(&mut self, is_durable: bool) -> Result<(), LinkError> {
        self.saving = None;
        if !is_durable {
            return Err(LinkError::Broken("the outbox is closed".to_owned()));
        }
        self.session.saved();
        Ok(())
    }

    /// What names a message at the far end: the series of its lane, and its number there.
    pub(super) fn number(&self, place: EntryId) -> Option<String> {
        let lane = LANES.get(place.queue).filter(|_| self.settings.numbered)?;
        Some(format!("{}:{}", self.outbox.identity(*lane), place.seq))
    }

    /// What is known of the session goes to disk before the outbox is closed.
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
                // A disk that refuses has been told of; identifiers that are not noted are found again by repetition.
                let _ = timeout(SAVE_PATIENCE, saving).await;
            }
        }
    }
}

/// A remote in few bytes.
fn name_of(remote: &Remote) -> u32 {
    crc32c::crc32c(remote.to_string().as_bytes())
}
