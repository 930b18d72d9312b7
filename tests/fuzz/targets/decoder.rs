//! Bytes of a client: no panic; a packet that is taken, written and taken again is the same packet.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wellhead::mqtt::{Decoder, Packet, Progress, Version, encode};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let mut decoder = match first % 4 {
        0 => Decoder::server(1 << 16),
        1 => Decoder::client(Version::V31, 1 << 16),
        2 => Decoder::client(Version::V311, 1 << 16),
        _ => Decoder::client(Version::V5, 1 << 16),
    };
    let mut buffer = BytesMut::from(rest);
    while let Ok(Progress::Packet(packet)) = decoder.decode(&mut buffer) {
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => decoder.version().expect("a packet was read"),
        };
        let mut again = BytesMut::new();
        encode(&packet, version, &mut again);
        let second = Decoder::client(version, 1 << 20).decode(&mut again);
        assert_eq!(second, Ok(Progress::Packet(packet)));
    }
});
