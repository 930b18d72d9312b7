//! Several clients whose bytes are chosen by the fuzzer, with drops, time, an uplink, a slow disk,
//! checkpoints and crashes in between: no panic, what was written can be read again, and an honest
//! client is still served at the end.
#![no_main]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use wellhead::broker::access::Access;
use wellhead::broker::engine::{BrokerLimits, Engine, ForwardAnswer, Input, Lsn, Output, Peer, Restore, Setup};
use wellhead::mqtt::{Decoder, Progress, TopicFilter};
use wellhead::route::{RouteTable, Routes, Rule};

const HONEST: u64 = 1000;
const UNIX_MS: i64 = 1_800_000_000_000;

struct Stage {
    engine: Engine,
    setup: Setup,
    now: Instant,
    tickets: VecDeque<u64>,
    decoders: HashMap<u64, Decoder>,
    verified: VecDeque<u64>,
    journal: Vec<Bytes>,
    waiting: VecDeque<(Lsn, Bytes)>,
    checkpoint: Option<usize>,
    honest: Vec<u8>,
}

impl Stage {
    fn input(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        self.engine.tick(self.now);
        self.engine.fetch_retained(self.now);
        while let Some((id, output)) = self.engine.take_output() {
            let (length, bytes) = (output.len(), std::mem::take(output).into_bytes());
            if id == HONEST {
                self.honest.extend_from_slice(&bytes);
                self.engine.handle(Input::Written(id, length), self.now);
            }
        }
        let outputs: Vec<Output> = self.engine.take_outputs().collect();
        for output in outputs {
            match output {
                Output::Close(id, _) => drop(self.decoders.remove(&id)),
                Output::Forward { ticket, .. } => self.tickets.extend(ticket),
                Output::Verify { connection, .. } => self.verified.push_back(connection),
                _ => {}
            }
        }
        if let Some(begin) = self.checkpoint.filter(|_| self.waiting.is_empty())
            && self.engine.continue_checkpoint(200)
        {
            self.checkpoint = None;
            self.waiting.extend(self.engine.take_records());
            self.commit();
            self.journal.drain(..begin);
        }
        self.waiting.extend(self.engine.take_records());
    }

    fn commit(&mut self) {
        while let Some((position, batch)) = self.waiting.pop_front() {
            self.journal.push(batch);
            self.engine.handle(Input::Durable(position), self.now);
        }
    }

    fn crash(&mut self) {
        let mut restore = Restore::new(self.setup.clone(), self.now, UNIX_MS);
        for batch in &self.journal {
            assert!(restore.batch(batch.clone()), "what was written can be read");
        }
        (self.engine, _) = restore.finish();
        self.decoders.clear();
        self.tickets.clear();
        self.verified.clear();
        self.waiting.clear();
        self.checkpoint = None;
        self.settle();
    }

    fn bytes(&mut self, id: u64, bytes: &[u8]) {
        if !self.decoders.contains_key(&id) {
            self.decoders.insert(id, Decoder::server(1 << 16));
            self.input(Input::Opened(id, Peer::default()));
        }
        let mut buffer = BytesMut::from(bytes);
        while let Some(decoder) = self.decoders.get_mut(&id) {
            match decoder.decode(&mut buffer) {
                Ok(Progress::Packet(packet)) => self.input(Input::Packet(id, packet)),
                Ok(Progress::NeedMore) => return,
                Err(error) => return self.input(Input::Invalid(id, error)),
            }
        }
    }

    fn event(&mut self, id: u64, kind: u8, length: u8) {
        match kind {
            0 => {
                self.decoders.remove(&id);
                self.input(Input::Closed(id));
            }
            1 => {
                self.now += Duration::from_secs(u64::from(length) * 10);
                self.settle();
            }
            2 => {
                if let Some(ticket) = self.tickets.pop_front() {
                    let answer = match length % 3 {
                        0 => ForwardAnswer::Stored,
                        1 => ForwardAnswer::Full,
                        _ => ForwardAnswer::BadTopic,
                    };
                    self.input(Input::Stored { ticket, answer });
                }
            }
            3 => self.input(Input::Written(id, usize::from(length) * 10)),
            4 => self.commit(),
            5 if length % 16 == 0 => self.crash(),
            6 if self.checkpoint.is_none() => {
                self.commit();
                self.checkpoint = Some(self.journal.len());
                self.engine.begin_checkpoint();
            }
            _ => {
                if let Some(id) = self.verified.pop_front() {
                    self.input(Input::Verified(id, length % 2 == 0));
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let limits = BrokerLimits {
        max_queued: 8,
        max_queued_total: 4096,
        max_sessions: 8,
        max_subscriptions: 8,
        max_retained: 8,
        receive_maximum: 4,
        send_window: 4,
        topic_aliases: 2,
        output_bytes: 100,
        ..BrokerLimits::default()
    };
    let send = vec![Rule::keep(TopicFilter::new("a/#").expect("a filter"))];
    let uplink = Routes::new(send, Vec::new(), false, Arc::default());
    let routes = Arc::new(RouteTable::new(vec![Arc::new(uplink)], HashSet::new()));
    let setup = Setup { limits, routes, access: Arc::new(Access::open()), is_durable: true, ..Setup::default() };
    let now = Instant::now();
    let mut stage = Stage {
        engine: Engine::new(setup.clone(), now, UNIX_MS),
        setup,
        now,
        tickets: VecDeque::new(),
        decoders: HashMap::new(),
        verified: VecDeque::new(),
        journal: Vec::new(),
        waiting: VecDeque::new(),
        checkpoint: None,
        honest: Vec::new(),
    };
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let id = u64::from(kind & 3) + 1;
        let event = (kind >> 2) & 15;
        let (chunk, behind) = tail.split_at(tail.len().min(usize::from(*length)));
        if event < 8 {
            stage.event(id, event, *length);
            rest = tail;
        } else {
            stage.bytes(id, chunk);
            rest = behind;
        }
    }
    stage.crash();
    // Sessions may be as many as are allowed: only those whose client has been away for long make
    // room.
    stage.now += Duration::from_secs(2 * 3600);
    stage.bytes(HONEST, b"\x10\x13\x00\x04MQTT\x04\x02\x00\x00\x00\x07honest!\xc0\x00");
    stage.commit();
    stage.settle();
    assert!(stage.honest.ends_with(b"\xd0\x00"), "the honest client is served");
});
