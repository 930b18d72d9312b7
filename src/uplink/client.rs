//! The client of a remote broker: what outlives a connection. `task` makes the connections,
//! `connection` carries the messages.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::batch::Batches;
use super::burials::Burials;
use super::channels::UplinkChannels;
use super::cloud::Renewal;
use super::copies::Copies;
use super::credentials::Credentials;
use super::dial::Addresses;
use super::failure::LinkError;
use super::inbound::Deliveries;
use super::lanes::Lanes;
use super::memory::Memory;
use super::pace::LinkPace;
use super::presence::RemotesSeen;
use super::rates::Rates;
use super::rivals::{ClientIdTaken, Rivals};
use super::schemas::Schemas;
use super::session::Session;
use super::silence::Silence;
use super::status::{StatusTopics, ToldGap};
use super::subscriptions::Subscriptions;
use super::suspicion::Suspicion;
use super::tls::Certificates;
use super::turns::BacklogTurns;
use super::{Purge, Purges, Remote, UplinkSettings, purge};
use crate::heartbeat::Heartbeat;
use crate::message::Origin;
use crate::metrics::MetricRegistry;
use crate::net::tls::TlsError;
use crate::outbox::{EntryId, LANES, Outbox, Outgoing};
use crate::route::Routes;
use crate::tasks::Stop;
use crate::time::now;

/// The longest time of one step on a slow link, beside connecting.
const PATIENCE: Duration = Duration::from_secs(900);

/// When an uplink is to end.
#[derive(Clone)]
pub(super) struct StopOrders {
    pub(super) stop: Stop,
    /// Time to send waiting messages after the stop order.
    pub(super) grace: Duration,
    /// The time for the stop is over.
    pub(super) hurry: Stop,
}

/// An uplink that is ready to run.
pub struct Uplink {
    pub(super) settings: UplinkSettings,
    pub(super) credentials: Credentials,
    pub(super) outbox: Outbox,
    /// Beats whenever the task comes round.
    pub(super) heartbeat: Heartbeat,
    pub(super) newest: watch::Receiver<u64>,
    pub(super) session: Session,
    pub(super) lanes: Lanes,
    pub(super) status: StatusTopics,
    pub(super) deliveries: Deliveries,
    pub(super) burials: Burials,
    /// Readings that travel together.
    pub(super) batches: Batches,
    /// Of the packed frames of each topic.
    pub(super) schemas: Schemas,
    pub(super) pace: LinkPace,
    /// A save of the session that is under way.
    pub(super) saving: Option<oneshot::Receiver<()>>,
    pub(super) last_save: Instant,
    /// The message that may be why the remote closes.
    pub(super) suspicion: Suspicion,
    pub(super) subscriptions: Subscriptions,
    /// How far each remote supports will and state.
    pub(super) presence: RemotesSeen,
    /// Messages of the remote that may come once more for another subscription.
    pub(super) copies: Copies,
    pub(super) rates: Rates,
    pub(super) turns: BacklogTurns,
    /// How topics are written here and there.
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    /// When the token of the connection is to be replaced.
    pub(super) renewal: Option<Renewal>,
    /// The remote that is connected, or was last.
    pub(super) current: u32,
    /// Remotes that have no QoS 2.
    pub(super) without_qos_2: HashSet<u32>,
    /// A remote that seems to have none, because it closed when it got this message.
    pub(super) may_lack_qos_2: Option<(u32, EntryId)>,
    /// The remote of this connection has answered QoS 2 as it should.
    pub(super) has_shown_qos_2: bool,
    pub(super) cleaned: Option<Cleaned>,
    pub(super) silence: Silence,
    pub(super) addresses: Addresses,
    /// Signs of another client with the same client identifier.
    pub(super) rivals: Rivals,
    /// Addresses that gave no answer in the last try.
    pub(super) unheard: Vec<SocketAddr>,
    /// Of a backup: whether the other uplink is up, and since when it is not.
    pub(super) primary: Option<watch::Receiver<bool>>,
    pub(super) primary_down_since: Instant,
    /// Settings that came since it was made.
    pub(super) updates: watch::Receiver<Option<UplinkUpdate>>,
    pub(super) changes: watch::Sender<Option<UplinkUpdate>>,
    /// Orders of people to remove messages.
    pub(super) purges: mpsc::Receiver<Purge>,
    pub(super) purger: Purges,
}

/// Other settings for an uplink that runs, with the certificates that they name.
#[derive(Clone)]
pub struct UplinkUpdate {
    pub(super) settings: UplinkSettings,
    certificates: Certificates,
}

impl UplinkUpdate {
    /// Reads the certificates.
    pub fn new(settings: UplinkSettings) -> Result<Self, TlsError> {
        Ok(Self {
            certificates: Certificates::of(&settings)?,
            settings,
        })
    }
}

/// When a remote whose old session has been ended may be connected to again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cleaned {
    pub(super) pause: Duration,
    pub(super) not_before: Instant,
}

/// The session as the last run has saved it.
fn saved_session(settings: &UplinkSettings, outbox: &Outbox) -> Session {
    let memories = LANES.iter().map(|lane| {
        Memory::decode(outbox.state(*lane)).unwrap_or_else(|| {
            tracing::error!(event = "uplink.session_unreadable", uplink = %settings.name, ?lane, "the saved session cannot be read: QoS 2 messages that were in flight may arrive twice; check the disk");
            Memory::default()
        })
    });
    let mut session = Session::new(settings.window, memories.collect());
    session.number_from(crc32c::crc32c(outbox.series().as_bytes()));
    session
}

/// What an earlier run has learned of packed frames.
fn saved_schemas(outbox: &Outbox) -> Schemas {
    Schemas::restored(outbox.schemas())
}

fn heartbeat(settings: &UplinkSettings) -> Heartbeat {
    let name = format!("uplink:{}", settings.name);
    Heartbeat::new(name, PATIENCE + 2 * settings.connect_within, now())
}

/// Checks the certificates of an uplink and makes it ready.
// One list of all its parts.
pub fn prepare(
    settings: UplinkSettings,
    outbox: Outbox,
    ends: UplinkChannels,
) -> Result<Uplink, TlsError> {
    let (changes, updates) = watch::channel(None);
    let (purger, purges) = purge::orders();
    let at = now();
    Ok(Uplink {
        credentials: Credentials::new(Certificates::of(&settings)?),
        heartbeat: heartbeat(&settings),
        newest: outbox.newest(),
        session: saved_session(&settings, &outbox),
        lanes: Lanes::new(),
        status: StatusTopics::new(settings.name.clone(), &ends, outbox.clone()),
        deliveries: Deliveries::new(ends.inbound, Origin::uplink(settings.index)),
        burials: Burials::default(),
        batches: Batches::default(),
        schemas: saved_schemas(&outbox),
        pace: LinkPace::default(),
        saving: None,
        last_save: at,
        suspicion: Suspicion::default(),
        subscriptions: Subscriptions::default(),
        presence: RemotesSeen::default(),
        copies: Copies::default(),
        rates: Rates::default(),
        turns: BacklogTurns::default(),
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
    pub fn settings(&self) -> &UplinkSettings {
        &self.settings
    }

    /// Of its task.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Registers the counters of its link.
    pub fn register(&self, metrics: &MetricRegistry) {
        metrics.register(&self.status.counters);
    }

    /// Takes other settings while it runs: it disconnects gracefully, and connects as they say.
    /// Name, index, `use_when` and `connect_within` stay what they are.
    pub fn changes(&self) -> watch::Sender<Option<UplinkUpdate>> {
        self.changes.clone()
    }

    /// The newest gaps in what goes to the remote, the oldest first; a few at most.
    pub fn gaps(&self) -> watch::Receiver<Vec<ToldGap>> {
        self.status.recent_gaps()
    }

    /// Takes orders to remove messages while it runs.
    pub fn purges(&self) -> Purges {
        self.purger.clone()
    }

    /// How sure it is that another client uses its client identifier.
    pub fn client_id_taken(&self) -> watch::Receiver<Option<ClientIdTaken>> {
        self.status.watch_taken()
    }

    /// From here on the newest settings count. What is in flight stays in flight.
    pub(super) fn take_update(&mut self) {
        let Some(UplinkUpdate {
            settings,
            certificates,
        }) = self.updates.borrow_and_update().clone()
        else {
            return;
        };
        self.session.set_window(settings.window);
        self.subscriptions.start_over();
        (self.presence, self.renewal) = (RemotesSeen::default(), None);
        self.cleaned = None;
        self.addresses = Addresses::default();
        self.rivals.start_over(&settings.client_id);
        self.rates.throttle.acquit();
        (self.settings, self.credentials) = (settings, Credentials::new(certificates));
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

    /// The name of a message at the far end: the series of its lane, and its number there.
    pub(super) fn number(&self, place: EntryId) -> Option<String> {
        let is_numbered = self.settings.numbered && self.batches.sent(place).is_none();
        let lane = LANES.get(place.queue).filter(|_| is_numbered)?;
        Some(format!("{}:{}", self.outbox.identity(*lane), place.seq))
    }

    /// The remote will never take a message: it becomes a dead letter, or its readings do, and is
    /// settled when that is safe.
    pub(super) fn bury(&mut self, place: EntryId, message: Outgoing, reason: String) {
        self.status
            .refused(place.seq, &reason, message.topic.as_str());
        let Some(batch) = self.batches.end(place) else {
            self.burials.add(&self.outbox, place, message, reason);
            return;
        };
        for member in batch.into_members() {
            let place = member.place();
            self.burials
                .add(&self.outbox, place, member.message, reason.clone());
        }
    }
}

/// A remote in few bytes.
pub(super) fn name_of(remote: &Remote) -> u32 {
    crc32c::crc32c(remote.to_string().as_bytes())
}
