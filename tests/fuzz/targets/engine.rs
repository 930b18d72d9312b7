//! Several clients whose bytes are chosen by the fuzzer, with drops, time and a tap in between: no panic, and an honest client is
//! still served at the end.
#![no_main]

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wellhead::broker::engine::{Engine, Input, Limits, Output, Tap};
use wellhead::message::Origin;
use wellhead::mqtt::{Decoder, Packet, Progress, TopicFilter};

const HONEST: u64 = 1000;

struct Stage {
    engine: Engine,
    now: Instant,
    tickets: VecDeque<u64>,
    decoders: HashMap<u64, Decoder>,
    pongs: usize,
}

impl Stage {
    fn input(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        self.engine.tick(self.now);
        let outputs: Vec<Output> = self.engine.take_outputs().collect();
        for output in outputs {
            match output {
                Output::Send(HONEST, Packet::PingResp) => self.pongs += 1,
                Output::Send(..) | Output::Pause(_) | Output::Resume(_) => {}
                Output::Close(id) => drop(self.decoders.remove(&id)),
                Output::Forward { ticket, .. } => self.tickets.extend(ticket),
            }
        }
    }

    fn bytes(&mut self, id: u64, bytes: &[u8]) {
        if !self.decoders.contains_key(&id) {
            self.decoders.insert(id, Decoder::server(1 << 16));
            self.input(Input::Opened(id));
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
}

fuzz_target!(|data: &[u8]| {
    let limits = Limits { max_queued: 8, max_sessions: 8, max_subscriptions: 8, max_retained: 8, receive_maximum: 4, credits: 4, ..Limits::default() };
    let tap = Tap { filters: vec![TopicFilter::new("a/#").expect("a filter")], not_from: Origin::Own };
    let now = Instant::now();
    let mut stage = Stage { engine: Engine::new(limits, vec![tap], 1, now), now, tickets: VecDeque::new(), decoders: HashMap::new(), pongs: 0 };
    stage.bytes(HONEST, b"\x10\x13\x00\x04MQTT\x04\x02\x00\x00\x00\x07honest!");
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let id = u64::from(kind & 3);
        let (chunk, behind) = tail.split_at(tail.len().min(usize::from(*length)));
        match kind >> 2 {
            0 => stage.input(Input::Closed(id)),
            1 => {
                stage.now += Duration::from_secs(u64::from(*length) * 10);
                stage.settle();
            }
            2 => {
                if let Some(ticket) = stage.tickets.pop_front() {
                    stage.input(Input::Stored { ticket, accepted: length % 2 == 0 });
                }
            }
            3 => stage.input(Input::Written(id, u32::from(*length))),
            _ => stage.bytes(id, chunk),
        }
        if kind >> 2 == 0 {
            stage.decoders.remove(&id);
        }
        rest = if kind >> 2 < 4 { tail } else { behind };
    }
    stage.bytes(HONEST, b"\xc0\x00");
    assert_eq!(stage.pongs, 1, "the honest client is served");
});
