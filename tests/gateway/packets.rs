//! One table of packets, bytes beside meaning: what the codec must take, and what it must refuse
//! with which reason.

use bytes::BytesMut;
use proptest::prelude::*;
use wellhead::mqtt::{Decoder, Packet, Progress, ReasonCode, Version, encode};

const MAX: usize = 1 << 20;

/// A CONNECT of each version, so that the server side of the decoder can be used.
pub fn connect(version: Version) -> Vec<u8> {
    match version {
        Version::V31 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a".to_vec(),
        Version::V311 => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a".to_vec(),
        Version::V5 => b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a".to_vec(),
    }
}

fn decode(version: Version, bytes: &[u8]) -> Result<Packet, ReasonCode> {
    let mut decoder = Decoder::client(version, MAX);
    let mut buffer = BytesMut::from(bytes);
    match decoder.decode(&mut buffer) {
        Ok(Progress::Packet(packet)) => {
            assert!(buffer.is_empty(), "bytes left of {bytes:02x?}");
            Ok(packet)
        }
        Ok(Progress::NeedMore) => panic!("incomplete: {bytes:02x?}"),
        Err(error) => Err(error.reason),
    }
}

const GOOD: &[(Version, &[u8], &str)] = &[
    (Version::V311, b"\x30\x07\x00\x03a/bhi", "PUBLISH"),
    (Version::V311, b"\x3d\x09\x00\x03a/b\x00\x0ahi", "PUBLISH"),
    (Version::V5, b"\x32\x0a\x00\x03a/b\x00\x0a\x00hi", "PUBLISH"),
    (
        Version::V5,
        b"\x30\x0d\x00\x03a/b\x05\x02\x00\x00\x00\x3chi",
        "PUBLISH",
    ),
    (Version::V5, b"\x30\x06\x00\x00\x03\x23\x00\x01", "PUBLISH"),
    (Version::V311, b"\x40\x02\x00\x0a", "PUBACK"),
    (Version::V5, b"\x40\x02\x00\x0a", "PUBACK"),
    (Version::V5, b"\x40\x03\x00\x0a\x10", "PUBACK"),
    (Version::V5, b"\x50\x04\x00\x0a\x97\x00", "PUBREC"),
    (Version::V311, b"\x62\x02\x00\x0a", "PUBREL"),
    (Version::V31, b"\x6a\x02\x00\x0a", "PUBREL"),
    (Version::V5, b"\x70\x03\x00\x0a\x92", "PUBCOMP"),
    (
        Version::V311,
        b"\x82\x08\x00\x0a\x00\x03a/#\x01",
        "SUBSCRIBE",
    ),
    (
        Version::V5,
        b"\x82\x09\x00\x0a\x00\x00\x03a/#\x2d",
        "SUBSCRIBE",
    ),
    (Version::V311, b"\x90\x03\x00\x0a\x80", "SUBACK"),
    (Version::V311, b"\xa2\x07\x00\x0a\x00\x03a/#", "UNSUBSCRIBE"),
    (Version::V311, b"\xb0\x02\x00\x0a", "UNSUBACK"),
    (Version::V311, b"\xc0\x00", "PINGREQ"),
    (Version::V311, b"\xd0\x00", "PINGRESP"),
    (Version::V311, b"\xe0\x00", "DISCONNECT"),
    (Version::V5, b"\xe0\x00", "DISCONNECT"),
    (Version::V5, b"\xe0\x01\x04", "DISCONNECT"),
    (
        Version::V5,
        b"\xe0\x07\x00\x05\x11\x00\x00\x00\x0a",
        "DISCONNECT",
    ),
    (Version::V5, b"\xf0\x00", "AUTH"),
    (Version::V5, b"\x20\x03\x01\x00\x00", "CONNACK"),
    // U+FEFF is a character like any other.
    (Version::V311, b"\x30\x08\x00\x04\xef\xbb\xbfahi", "PUBLISH"),
    (
        Version::V5,
        b"\x32\x13\x00\x03a/b\x00\x0a\x09\x26\x00\x01k\x00\x03\xef\xbb\xbfhi",
        "PUBLISH",
    ),
];

const MALFORMED: u8 = 0x81;
const PROTOCOL: u8 = 0x82;
const BAD: &[(Version, &[u8], u8, &str)] = &[
    (Version::V311, b"\x00\x00", MALFORMED, "packet type 0"),
    (Version::V311, b"\xf0\x00", MALFORMED, "AUTH before MQTT 5"),
    (
        Version::V311,
        b"\x36\x09\x00\x03a/b\x00\x0ahi",
        MALFORMED,
        "QoS 3",
    ),
    (
        Version::V311,
        b"\x38\x07\x00\x03a/bhi",
        MALFORMED,
        "DUP on QoS 0",
    ),
    (
        Version::V311,
        b"\x41\x02\x00\x0a",
        MALFORMED,
        "PUBACK flags",
    ),
    (
        Version::V311,
        b"\x60\x02\x00\x0a",
        MALFORMED,
        "PUBREL flags",
    ),
    (
        Version::V311,
        b"\x80\x08\x00\x0a\x00\x03a/#\x01",
        MALFORMED,
        "SUBSCRIBE flags",
    ),
    (Version::V311, b"\xcf\x00", MALFORMED, "PINGREQ flags"),
    (
        Version::V311,
        b"\xc0\x01\x00",
        MALFORMED,
        "PINGREQ with a body",
    ),
    (
        Version::V5,
        b"\xc0\x80\x00",
        MALFORMED,
        "a length that is longer than necessary",
    ),
    (
        Version::V311,
        b"\xc0\xff\xff\xff\xff\x01",
        MALFORMED,
        "a length of five bytes",
    ),
    (
        Version::V311,
        b"\x30\xff\xff\xff\x7f",
        0x95,
        "a packet of 256 MB",
    ),
    (
        Version::V311,
        b"\x32\x09\x00\x03a/b\x00\x00hi",
        PROTOCOL,
        "packet identifier 0",
    ),
    (
        Version::V311,
        b"\x40\x02\x00\x00",
        PROTOCOL,
        "packet identifier 0",
    ),
    (
        Version::V311,
        b"\x30\x07\x00\x03a/+hi",
        0x90,
        "a wildcard in a topic name",
    ),
    (
        Version::V311,
        b"\x30\x07\x00\x03a\x00bhi",
        MALFORMED,
        "U+0000 in a topic name",
    ),
    (
        Version::V311,
        b"\x30\x07\x00\x03a\xc3\x28hi",
        MALFORMED,
        "broken UTF-8",
    ),
    (
        Version::V311,
        b"\x30\x07\x00\x03\xed\xa0\x80hi",
        MALFORMED,
        "a surrogate",
    ),
    (Version::V311, b"\x30\x04\x00\x00hi", 0x90, "an empty topic"),
    (
        Version::V5,
        b"\x30\x05\x00\x00\x00hi",
        PROTOCOL,
        "neither topic nor alias",
    ),
    (
        Version::V5,
        b"\x30\x06\x00\x00\x03\x23\x00\x00",
        0x94,
        "topic alias 0",
    ),
    (
        Version::V5,
        b"\x30\x0a\x00\x01a\x06\x01\x00\x01\x00hh",
        PROTOCOL,
        "a property twice",
    ),
    (
        Version::V5,
        b"\x30\x08\x00\x01a\x02\x01\x02hh",
        PROTOCOL,
        "a truth that is neither 0 nor 1",
    ),
    (
        Version::V5,
        b"\x30\x0b\x00\x01a\x05\x11\x00\x00\x00\x01hh",
        MALFORMED,
        "a property of another packet",
    ),
    (
        Version::V5,
        b"\x30\x07\x00\x01a\x01\x7fhh",
        MALFORMED,
        "an unknown property",
    ),
    (
        Version::V5,
        b"\x30\x06\x00\x01a\x09hh",
        MALFORMED,
        "properties longer than the packet",
    ),
    (
        Version::V5,
        b"\x40\x03\x00\x0a\x01",
        MALFORMED,
        "a reason code of another packet",
    ),
    (
        Version::V5,
        b"\x70\x03\x00\x0a\x97",
        MALFORMED,
        "a reason code of another packet",
    ),
    (
        Version::V311,
        b"\x82\x02\x00\x0a",
        PROTOCOL,
        "SUBSCRIBE without a filter",
    ),
    (
        Version::V311,
        b"\xa2\x02\x00\x0a",
        PROTOCOL,
        "UNSUBSCRIBE without a filter",
    ),
    (
        Version::V311,
        b"\x82\x08\x00\x0a\x00\x03a/#\x03",
        PROTOCOL,
        "subscription QoS 3",
    ),
    (
        Version::V311,
        b"\x82\x08\x00\x0a\x00\x03a/#\x04",
        MALFORMED,
        "reserved subscription bits",
    ),
    (
        Version::V5,
        b"\x82\x09\x00\x0a\x00\x00\x03a/#\xc0",
        MALFORMED,
        "reserved subscription bits",
    ),
    (
        Version::V5,
        b"\x82\x09\x00\x0a\x00\x00\x03a/#\x30",
        PROTOCOL,
        "retain handling 3",
    ),
    (
        Version::V311,
        b"\x82\x0a\x00\x0a\x00\x05a/#/b\x01",
        0x8f,
        "a filter that is none",
    ),
    (
        Version::V5,
        b"\x82\x10\x00\x0a\x00\x00\x0a$share/g/a\x05",
        PROTOCOL,
        "No Local on a shared subscription",
    ),
    (Version::V5, b"\xe0\x01\x05", MALFORMED, "an unknown reason"),
    (
        Version::V5,
        b"\x40\x04\x00\x0a\x00\x01",
        MALFORMED,
        "properties cut short",
    ),
    (
        Version::V311,
        b"\x40\x03\x00\x0a\x00",
        MALFORMED,
        "bytes after the end",
    ),
    (
        Version::V5,
        b"\x30\x0a\x00\x01a\x04\x08\x00\x01#hh",
        PROTOCOL,
        "a wildcard in a response topic",
    ),
    (
        Version::V5,
        b"\x30\x0a\x00\x01a\x04\x08\x00\x01\xffhh",
        MALFORMED,
        "a response topic that is not UTF-8",
    ),
    (
        Version::V5,
        b"\x30\x0a\x00\x01a\x04\x03\x00\x01\xffhh",
        MALFORMED,
        "a content type that is not UTF-8",
    ),
    (
        Version::V5,
        b"\x30\x0d\x00\x01a\x07\x26\x00\x01k\x00\x01\x00hh",
        MALFORMED,
        "U+0000 in a user property",
    ),
    (
        Version::V5,
        b"\x40\x09\x00\x0a\x10\x05\x11\x00\x00\x00\x01",
        MALFORMED,
        "a session expiry in PUBACK",
    ),
    (
        Version::V5,
        b"\x50\x0c\x00\x0a\x97\x08\x1f\x00\x01a\x1f\x00\x01b",
        PROTOCOL,
        "two reasons in PUBREC",
    ),
    (
        Version::V5,
        b"\xe0\x0c\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01",
        PROTOCOL,
        "two session expiries",
    ),
    (
        Version::V5,
        b"\x82\x0d\x00\x0a\x04\x0b\x01\x0b\x02\x00\x03a/#\x01",
        PROTOCOL,
        "two subscription identifiers",
    ),
    (
        Version::V5,
        b"\x82\x0b\x00\x0a\x02\x0b\x00\x00\x03a/#\x01",
        PROTOCOL,
        "subscription identifier 0",
    ),
    (
        Version::V311,
        b"\x82\x08\x00\x0a\x00\x03a/\xff\x01",
        MALFORMED,
        "a filter that is not UTF-8",
    ),
    (
        Version::V311,
        b"\xa2\x07\x00\x0a\x00\x03a/\xff",
        MALFORMED,
        "a filter that is not UTF-8",
    ),
    (
        Version::V311,
        b"\xa0\x07\x00\x0a\x00\x03a/#",
        MALFORMED,
        "UNSUBSCRIBE flags",
    ),
    (Version::V311, b"\xe1\x00", MALFORMED, "DISCONNECT flags"),
    (Version::V5, b"\xf1\x00", MALFORMED, "AUTH flags"),
    (
        Version::V5,
        b"\xf0\x02\x01\x00",
        MALFORMED,
        "an AUTH reason that does not exist",
    ),
    (
        Version::V5,
        b"\x82\x0f\x00\x0a\x00\x00\x09$share//a\x01",
        0x8f,
        "a shared subscription without a name",
    ),
];

#[test]
fn good_packets_are_read_and_written_back_to_the_same_bytes() {
    for (version, bytes, name) in GOOD {
        let packet = decode(*version, bytes)
            .unwrap_or_else(|reason| panic!("{name} {bytes:02x?}: {reason}"));
        assert_eq!(packet.name(), *name, "{bytes:02x?}");
        let mut again = BytesMut::new();
        encode(&packet, *version, &mut again);
        let second = decode(*version, &again).unwrap();
        assert_eq!(second, packet, "{bytes:02x?} became {:02x?}", &again[..]);
    }
    for version in [Version::V31, Version::V311, Version::V5] {
        let bytes = connect(version);
        let packet = decode(version, &bytes).unwrap();
        let mut again = BytesMut::new();
        encode(&packet, version, &mut again);
        assert_eq!(again, bytes);
    }
}

#[test]
fn bad_packets_are_refused_with_the_reason_the_standard_names() {
    for (version, bytes, reason, what) in BAD {
        assert_eq!(
            decode(*version, bytes),
            Err(ReasonCode(*reason)),
            "{what}: {bytes:02x?}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn bad_connects_are_refused() {
    let check = |bytes: &[u8], reason: u8, what: &str| {
        let mut decoder = Decoder::server(MAX);
        let outcome = decoder
            .decode(&mut BytesMut::from(bytes))
            .map_err(|error| error.reason);
        assert_eq!(outcome, Err(ReasonCode(reason)), "{what}");
    };
    check(b"\xc0\x00", PROTOCOL, "something before CONNECT");
    check(
        b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x01a",
        0x84,
        "level 6",
    );
    check(
        b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x3c\x00\x01a",
        MALFORMED,
        "another protocol",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a",
        MALFORMED,
        "the reserved flag",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x22\x00\x3c\x00\x01a",
        MALFORMED,
        "will retain without a will",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x42\x00\x3c\x00\x01a",
        MALFORMED,
        "a password without a user name",
    );
    check(
        b"\x10\x12\x00\x04MQTT\x05\x02\x00\x3c\x04\x16\x00\x01x\x00\x01a",
        PROTOCOL,
        "authentication data without a method",
    );
    check(
        b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x01a",
        PROTOCOL,
        "receive maximum 0",
    );
    check(
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x01",
        MALFORMED,
        "a client identifier that is cut short",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff",
        MALFORMED,
        "a client identifier that is not UTF-8",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01a",
        MALFORMED,
        "will QoS 3",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a",
        MALFORMED,
        "a will flag without a will",
    );
    check(
        b"\x10\x13\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x01\xff\x00\x01x",
        MALFORMED,
        "a will topic that is not UTF-8",
    );
    check(
        b"\x10\x13\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x01#\x00\x01x",
        0x90,
        "a wildcard in a will topic",
    );
    check(
        b"\x10\x10\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a\x00\x01\xff",
        MALFORMED,
        "a user name that is not UTF-8",
    );
    check(
        b"\x10\x0d\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a",
        MALFORMED,
        "a user name that is not there",
    );
    check(
        b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\x00\x01x",
        MALFORMED,
        "a user name without its flag",
    );
}

#[test]
fn bits_that_mqtt_3_1_does_not_use_may_have_any_value() {
    let connect: &[(&[u8], &str)] = &[
        (
            b"\x10\x0f\x00\x06MQIsdp\x03\x03\x00\x3c\x00\x01a",
            "bit 0 of the connect flags",
        ),
        (
            b"\x10\x0f\x00\x06MQIsdp\x03\x3a\x00\x3c\x00\x01a",
            "QoS and retain of a will that is not there",
        ),
        (
            b"\x1f\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a",
            "DUP, QoS and RETAIN of CONNECT",
        ),
    ];
    for (bytes, what) in connect {
        let outcome = Decoder::server(MAX).decode(&mut BytesMut::from(*bytes));
        assert!(
            matches!(outcome, Ok(Progress::Packet(Packet::Connect(_)))),
            "{what}: {outcome:?}"
        );
    }
    let others: &[(&[u8], &str)] = &[
        (b"\x4f\x02\x00\x0a", "PUBACK"),
        (b"\x5f\x02\x00\x0a", "PUBREC"),
        (b"\x63\x02\x00\x0a", "PUBREL"),
        (b"\x7f\x02\x00\x0a", "PUBCOMP"),
        (b"\x8b\x08\x00\x0a\x00\x03a/#\xfd", "SUBSCRIBE"),
        (b"\xab\x07\x00\x0a\x00\x03a/#", "UNSUBSCRIBE"),
        (b"\xcf\x00", "PINGREQ"),
        (b"\xef\x00", "DISCONNECT"),
    ];
    for (bytes, name) in others {
        assert_eq!(
            decode(Version::V31, bytes).map(|packet| packet.name()),
            Ok(*name),
            "{bytes:02x?}"
        );
        assert!(
            decode(Version::V311, bytes).is_err(),
            "{name} of MQTT 3.1.1"
        );
    }
    let refused: &[(&[u8], &str)] = &[
        (
            b"\x1f\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
            "flags of CONNECT in MQTT 3.1.1",
        ),
        (
            b"\x10\x15\x00\x06MQIsdp\x03\x1e\x00\x3c\x00\x01a\x00\x01w\x00\x01x",
            "will QoS 3 in MQTT 3.1",
        ),
    ];
    for (bytes, what) in refused {
        let outcome = Decoder::server(MAX)
            .decode(&mut BytesMut::from(*bytes))
            .map_err(|error| error.reason);
        assert_eq!(outcome, Err(ReasonCode(MALFORMED)), "{what}");
    }
}

#[test]
fn a_packet_in_pieces_is_incomplete_until_its_last_byte() {
    for (version, bytes, name) in GOOD {
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::client(*version, MAX);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            assert_eq!(
                decoder.decode(&mut buffer),
                Ok(Progress::NeedMore),
                "{name} cut at {cut}"
            );
            buffer.extend_from_slice(&bytes[cut..]);
            assert!(
                matches!(decoder.decode(&mut buffer), Ok(Progress::Packet(_))),
                "{name} cut at {cut}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    /// Packets of the table with bytes changed: no panic, and what is taken comes back the same.
    #[test]
    fn changed_packets_never_panic(index in 0_usize..25, changes in prop::collection::vec((0_usize..20, any::<u8>()), 1..4)) {
        let (version, bytes, _) = GOOD[index % GOOD.len()];
        let mut bytes = bytes.to_vec();
        for (position, value) in changes {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        let mut decoder = Decoder::client(version, MAX);
        if let Ok(Progress::Packet(packet)) = decoder.decode(&mut BytesMut::from(&bytes[..])) {
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
            let mut again = BytesMut::new();
            encode(&packet, version, &mut again);
            let mut decoder = Decoder::client(version, MAX);
            prop_assert_eq!(decoder.decode(&mut again), Ok(Progress::Packet(packet)));
        }
    }
}
