//! The broker's engine on a stage: a clock of its own, a disk that can be slow, and a kill -9 at
//! any moment. Bytes go through the codec both ways.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wellhead::broker::access::{Access, AccessRules, Hash, TopicPattern, User, Workspace};
use wellhead::broker::engine::{
    BrokerLimits, ClientNote, Engine, ForwardAnswer, FoundHandovers, Input, LeftOut, Lsn, Notice,
    Output, Peer, Restore, Setup, Ticket,
};
use wellhead::broker::scram::ScramSecret;
use wellhead::message::Message;
use wellhead::mqtt::{Packet, TopicFilter, TopicName, Version};
use wellhead::outbox::Handover;
use wellhead::route::{RouteTable, RouteTarget, Routes, Rule};

use super::support::client::Incoming;

/// A wall clock that was set.
const UNIX_MS: i64 = 1_800_000_000_000;

/// The hash of `secret`, made with little work.
pub const SECRET: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";

/// Little memory for sessions.
pub fn tight_limits() -> BrokerLimits {
    BrokerLimits {
        max_session_bytes: 20_000,
        max_user_bytes: 30_000,
        max_sessions_bytes: 60_000,
        max_sessions: 5,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    }
}

/// Somebody without a name may do everything; `anna` (password `secret`) is at home in `plant/`,
/// and in `dev/<client identifier>`, and publishes the state of the bridge
/// `far.<client identifier>`.
pub fn access() -> Access {
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| TopicPattern::new(*text).unwrap())
            .collect::<Vec<_>>()
    };
    let rules = AccessRules {
        read: patterns(&["plant/#", "dev/%c/#"]),
        write: patterns(&["plant/#", "dev/%c/#", "$SYS/broker/connection/far.%c/state"]),
        deny_read: patterns(&["plant/secret/#"]),
        deny_write: patterns(&["plant/fixed"]),
        ..AccessRules::default()
    };
    let scram = ScramSecret::of_password(b"secret", b"salt of the test", 4096.try_into().unwrap());
    let anna = User {
        hash: Some(Hash::new(SECRET).unwrap()),
        scram: Some(scram),
        rules,
        ..User::default()
    };
    Access::new(
        HashMap::from([("anna".into(), anna)]),
        Some(AccessRules {
            allows_all: true,
            ..AccessRules::default()
        }),
    )
}

/// An uplink that takes `north/#`, an instrument that is written to on `plant/pump/set`.
fn routes() -> RouteTable {
    let send = vec![Rule::keep(TopicFilter::new("north/#").unwrap())];
    let uplink = Routes::new(send, Vec::new(), false, Arc::default());
    let commands = HashSet::from([TopicName::new("plant/pump/set").unwrap()]);
    RouteTable::new(vec![Arc::new(uplink)], commands)
}

/// Small limits, and the routes above.
pub fn setup() -> Setup {
    let limits = BrokerLimits {
        sys_every: Duration::from_secs(1_000_000),
        max_queued: 5,
        receive_maximum: 4,
        send_window: 4,
        topic_aliases: 3,
        max_keep_alive: Some(Duration::from_secs(1000)),
        max_session_expiry: Some(Duration::from_secs(1_000_000)),
        ..BrokerLimits::default()
    };
    Setup {
        limits,
        routes: Arc::new(routes()),
        access: Arc::new(access()),
        secret: [7; 32],
        is_durable: true,
        remotes: vec![1 << 48],
    }
}

/// What came over a connection.
struct Arrivals {
    /// Of the first CONNECT.
    version: Option<Version>,
    incoming: Incoming,
    packets: VecDeque<Packet>,
    is_closed: bool,
}

impl Arrivals {
    fn new() -> Self {
        Self {
            version: None,
            incoming: Incoming::client(Version::V311),
            packets: VecDeque::new(),
            is_closed: false,
        }
    }
}

pub struct Stage {
    pub engine: Engine,
    pub now: Instant,
    start: Instant,
    /// For the next start.
    pub setup: Setup,
    /// Durable.
    journal: Vec<Bytes>,
    waiting: VecDeque<(Lsn, Bytes)>,
    /// Batches wait until [`Stage::commit`].
    pub is_disk_slow: bool,
    /// Passwords wait until [`Stage::verify`].
    pub is_verifier_slow: bool,
    verified: Vec<(u64, bool)>,
    /// Bytes wait until [`Stage::read`].
    pub is_deaf: HashSet<u64>,
    clients: HashMap<u64, Arrivals>,
    pub forwarded: VecDeque<(Arc<Message>, Option<Ticket>)>,
    /// Of messages that are forwarded, by their tickets.
    pub handovers: HashMap<Ticket, Handover>,
    /// Receipts that outboxes may forget.
    pub ended: Vec<u64>,
    /// What outboxes have, for the next start.
    pub found: Vec<Vec<Handover>>,
    /// At the next start, records may be missing.
    pub is_journal_damaged: bool,
    pub paused: HashSet<u64>,
    pub safe: Vec<u64>,
    /// What is written into the log.
    pub notices: Vec<Notice>,
    /// Notices that were left out and told later, by their event.
    pub suppressed: Vec<(&'static str, u64)>,
    /// Lines for the log.
    pub notes: Vec<ClientNote>,
    next: u64,
    steps: u64,
    checkpoints: bool,
    /// By the last restart.
    pub left_out: LeftOut,
}

impl Stage {
    pub fn new(setup: Setup) -> Self {
        let now = Instant::now();
        let mut stage = Self {
            engine: Engine::new(setup.clone(), now, UNIX_MS),
            now,
            start: now,
            setup,
            journal: Vec::new(),
            waiting: VecDeque::new(),
            is_disk_slow: false,
            is_verifier_slow: false,
            verified: Vec::new(),
            is_deaf: HashSet::new(),
            clients: HashMap::new(),
            forwarded: VecDeque::new(),
            handovers: HashMap::new(),
            ended: Vec::new(),
            found: Vec::new(),
            is_journal_damaged: false,
            paused: HashSet::new(),
            safe: Vec::new(),
            notices: Vec::new(),
            suppressed: Vec::new(),
            notes: Vec::new(),
            next: 0,
            steps: 0,
            checkpoints: false,
            left_out: LeftOut::default(),
        };
        stage.settle();
        stage
    }

    fn clock(&self) -> (Instant, i64) {
        (
            self.now,
            UNIX_MS + i64::try_from((self.now - self.start).as_millis()).unwrap(),
        )
    }

    /// kill -9, and a start from what was durable.
    pub fn crash(&mut self) {
        let (now, unix_ms) = self.clock();
        let mut restore = Restore::new(self.setup.clone(), now, unix_ms);
        for batch in &self.journal {
            assert!(restore.batch(batch.clone()), "what was written can be read");
        }
        restore.hand_over(&FoundHandovers {
            by_uplink: std::mem::take(&mut self.found),
            is_journal_whole: !self.is_journal_damaged,
        });
        (self.engine, self.left_out) = restore.finish();
        self.waiting.clear();
        self.clients.clear();
        self.forwarded.clear();
        self.handovers.clear();
        self.ended.clear();
        self.paused.clear();
        // The engine counts batches anew.
        self.settle();
    }

    /// Writes a checkpoint, a little a turn, and forgets everything older.
    pub fn checkpoint(&mut self) {
        self.settle();
        self.commit();
        let begin = self.journal.len();
        self.engine.begin_checkpoint();
        self.checkpoints = true;
        while self.checkpoints {
            self.settle();
        }
        self.commit();
        self.journal.drain(..begin);
    }

    /// The disk refuses what waits, and it is given up.
    pub fn lose_batches(&mut self) {
        self.waiting.clear();
    }

    /// The first turn of a checkpoint.
    pub fn begin_checkpoint(&mut self) {
        self.engine.begin_checkpoint();
        assert!(!self.engine.continue_checkpoint(100), "it needs more turns");
        self.waiting.extend(self.engine.take_records());
    }

    /// What is durable, in bytes.
    pub fn journal_bytes(&self) -> usize {
        self.journal.iter().map(Bytes::len).sum()
    }

    pub fn open(&mut self, peer: Peer) -> u64 {
        self.next += 1;
        self.clients.insert(self.next, Arrivals::new());
        self.input(Input::Opened(self.next, peer));
        self.next
    }

    pub fn input(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        self.settle();
    }

    /// A packet of a client, as its bytes say it.
    pub fn send(&mut self, id: u64, packet: &Packet) {
        let client = self.clients.get_mut(&id).unwrap();
        if let (Packet::Connect(connect), None) = (packet, client.version) {
            client.version = Some(connect.version);
            client.incoming = Incoming::client(connect.version);
        }
        self.input(Input::Packet(id, packet.clone()));
    }

    pub fn drop_connection(&mut self, id: u64) {
        self.clients.remove(&id);
        self.input(Input::Closed(id));
    }

    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// The passwords that wait are compared.
    pub fn verify(&mut self) {
        for (id, is_right) in std::mem::take(&mut self.verified) {
            self.input(Input::Verified(id, is_right));
        }
    }

    /// The disk has written what waits.
    pub fn commit(&mut self) {
        while let Some((position, batch)) = self.waiting.pop_front() {
            self.journal.push(batch);
            self.engine.handle(Input::Durable(position), self.now);
        }
        self.settle();
    }

    pub fn settle(&mut self) {
        let (now, unix_ms) = self.clock();
        self.engine.set_clock(now, unix_ms);
        loop {
            self.engine.tick(self.now);
            self.engine.fetch_retained(self.now);
            let outputs: Vec<Output> = self.engine.take_outputs().collect();
            let is_busy = self.take_bytes() || !outputs.is_empty();
            for output in outputs {
                self.obey(output);
            }
            if self.checkpoints {
                self.checkpoints = !self.engine.continue_checkpoint(100);
            }
            self.ended.append(&mut self.engine.take_ended_receipts());
            let batch = self.engine.take_records();
            let is_done = !is_busy && batch.is_none() && !self.engine.has_work();
            self.waiting.extend(batch);
            self.steps += 1;
            // Looking at everything takes long where there is much.
            if self.steps < 2000 || self.steps.is_multiple_of(200) {
                self.engine.check_invariants();
            }
            if !self.is_disk_slow {
                while let Some((position, batch)) = self.waiting.pop_front() {
                    self.journal.push(batch);
                    self.engine.handle(Input::Durable(position), self.now);
                }
            }
            if is_done {
                return;
            }
        }
    }

    fn take_bytes(&mut self) -> bool {
        let mut came = Vec::new();
        while let Some((id, output)) = self.engine.take_output() {
            let length = output.len();
            came.push((id, std::mem::take(output).into_bytes(), length));
        }
        let any = !came.is_empty();
        for (id, bytes, length) in came {
            self.deliver(id, &bytes);
            if !self.is_deaf.contains(&id) {
                self.engine.handle(Input::Written(id, length), self.now);
            }
        }
        any
    }

    fn deliver(&mut self, id: u64, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.incoming.extend(bytes);
        while let Some(packet) = client.incoming.next_packet() {
            client.packets.push_back(packet);
        }
        assert!(client.incoming.is_empty(), "half a packet");
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Close(id, rest) => {
                self.deliver(id, &rest.into_bytes());
                if let Some(client) = self.clients.get_mut(&id) {
                    client.is_closed = true;
                }
            }
            Output::Pause(id) => drop(self.paused.insert(id)),
            Output::Resume(id) => drop(self.paused.remove(&id)),
            Output::Forward {
                target: RouteTarget::Uplink { terms, .. },
                message,
                ticket,
            } => {
                self.handovers.extend(ticket.zip(terms.handover));
                self.forwarded.push_back((message, ticket));
            }
            // The service that writes has room.
            Output::Forward {
                target: RouteTarget::Writes,
                ticket,
                ..
            } => {
                if let Some(ticket) = ticket {
                    let answer = ForwardAnswer::Stored;
                    self.engine
                        .handle(Input::Stored { ticket, answer }, self.now);
                }
            }
            Output::Verify {
                connection,
                hash,
                password,
                ..
            } => {
                let is_right = hash.matches(&password, &mut Workspace::default());
                if self.is_verifier_slow {
                    return self.verified.push((connection, is_right));
                }
                self.engine
                    .handle(Input::Verified(connection, is_right), self.now);
            }
            Output::Notice(notice) => self.notices.push(*notice),
            Output::LoginFailed(_) => {}
            Output::LeftOut { event, count } => self.suppressed.push((event, count)),
            Output::Note(note) => self.notes.push(*note),
            Output::Safe(receipt) => self.safe.push(receipt),
            Output::NotSafe(_) => {}
        }
    }

    /// The next packet of a client.
    pub fn next_packet(&mut self, id: u64) -> Option<Packet> {
        self.clients.get_mut(&id)?.packets.pop_front()
    }

    pub fn has_packets(&self, id: u64) -> bool {
        self.clients
            .get(&id)
            .is_some_and(|client| !client.packets.is_empty())
    }

    pub fn is_closed(&self, id: u64) -> bool {
        self.clients.get(&id).is_none_or(|client| client.is_closed)
    }
}
