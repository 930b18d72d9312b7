//! Plain instruments: every preset with messages as such instruments send them, one of them
//! damaged, and lines of text on a terminal.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::support::{Gateway, Process, free_port, run, wait_for};

/// Serves one client after the other on a thread of its own.
fn instrument(talk: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The client is gone: the next one.
            let _ = talk(&mut stream);
        }
    });
    port
}

/// Says the same again and again, in small pieces.
fn talks(messages: Vec<u8>) -> u16 {
    instrument(move |stream| {
        loop {
            for piece in messages.chunks(7) {
                stream.write_all(piece)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    })
}

/// Answers each request that ends with one of these by what belongs to it.
fn answers(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> u16 {
    instrument(move |stream| {
        let mut heard = Vec::new();
        let mut byte = [0];
        loop {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            heard.push(byte[0]);
            if let Some((_, answer)) = pairs.iter().find(|(request, _)| heard.ends_with(request)) {
                stream.write_all(answer)?;
                heard.clear();
            }
        }
    })
}

/// A gateway with one instrument, whose points show `expected`, and never what is `damaged`.
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn check(port: u16, device: &str, expected: &[(&str, &str)], damaged: &str) {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x\nlines: [ {{ name: wire, tcp: '127.0.0.1:{port}', answer_within: 2s }} ]\ndevices: [ {{ name: d, line: wire, {device} }} ]\n\
         broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let broker = gateway.port();
    for (point, value) in expected {
        let topic = format!("x/d/{point}");
        wait_for(
            &format!(
                "{device}: {point} shows {value}: {}",
                gateway.process.output()
            ),
            || {
                let (_, out, _) = run(Command::new("mosquitto_sub").args([
                    "-p",
                    &broker.to_string(),
                    "-t",
                    &topic,
                    "-C",
                    "1",
                    "-W",
                    "2",
                ]));
                let shown: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
                (shown["v"] == serde_json::from_str::<serde_json::Value>(value).unwrap()
                    && shown["q"] == "good")
                    .then_some(())
            },
        );
    }
    let (_, all, _) = run(Command::new("mosquitto_sub").args([
        "-p",
        &broker.to_string(),
        "-t",
        "x/#",
        "-v",
        "-W",
        "1",
    ]));
    assert!(
        damaged.is_empty() || !all.contains(damaged),
        "{device}: {all}"
    );
    assert!(all.contains("x/d/availability online"), "{all}");
    if !damaged.is_empty() {
        let (_, status, _) = run(Command::new("mosquitto_sub").args([
            "-p",
            &broker.to_string(),
            "-t",
            "$SYS/wellhead/line/wire",
            "-C",
            "1",
            "-W",
            "15",
        ]));
        wait_for("the damaged message is counted", || {
            let (_, status, _) = run(Command::new("mosquitto_sub").args([
                "-p",
                &broker.to_string(),
                "-t",
                "$SYS/wellhead/line/wire",
                "-C",
                "1",
                "-W",
                "15",
            ]));
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            (status["bad_checksums"].as_u64()? > 0).then_some(())
        });
        assert!(status.contains("\"line\":\"wire\""), "{status}");
    }
}

fn nmea(body: &str) -> String {
    format!(
        "${body}*{:02X}\r\n",
        body.bytes().fold(0, |sum, byte| sum ^ byte)
    )
}

#[test]
fn nmea_0183_sentences() {
    let right = nmea("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,");
    assert!(right.ends_with("*47\r\n"), "{right}");
    let other = nmea("GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W");
    let damaged = right.replace("545.4", "999.4");
    let stream = format!(
        "junk$GPG{right}{damaged}{other}{}",
        nmea("IIMWV,120.5,R,7.5,M,A")
    );
    let expected = [
        ("latitude", "48.1173"),
        ("longitude", "11.5166667"),
        ("satellites", "8"),
        ("fix", "1"),
        ("altitude", "545.4"),
        ("speed_over_ground", "22.4"),
        ("course_true", "84.4"),
        ("wind_angle_apparent", "120.5"),
        ("wind_speed_apparent", "7.5"),
    ];
    check(
        talks(stream.into_bytes()),
        "profile: nmea-0183",
        &expected,
        "999.4",
    );
}

#[test]
fn toledo_continuous_output() {
    let message = |status: [u8; 3], weight: &str, spoil: u8| {
        let mut bytes = vec![2];
        bytes.extend(status);
        bytes.extend(format!("{weight:>6}{:>6}\r", "000050").bytes());
        let sum = bytes
            .iter()
            .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
            .wrapping_neg()
            & 0x7F;
        bytes.push(sum ^ spoil);
        bytes
    };
    // Status A 3: one decimal; status B bit 1: negative, bit 4: kg.
    let stream = [
        message([0x2B, 0x32, 0x20], "001234", 0),
        message([0x2B, 0x30, 0x20], "009999", 1),
    ]
    .concat();
    check(
        talks(stream),
        "profile: toledo",
        &[
            ("weight", "-123.4"),
            ("tare", "5.0"),
            ("moving", "false"),
            ("net", "false"),
        ],
        "999.9",
    );
}

#[test]
fn vaisala_poll() {
    let server = answers(vec![(
        b"SEND 7\r".to_vec(),
        b"RH= 33.5 %RH T= 22.1 'C\r\n".to_vec(),
    )]);
    check(
        server,
        "profile: vaisala, address: '7'",
        &[("humidity", "33.5"), ("temperature", "22.1")],
        "",
    );
}

#[test]
fn plantower_frames() {
    let message = |pm: u16, spoil: u16| {
        let mut bytes = vec![0x42, 0x4D, 0, 28];
        let words = [1, 2, 3, pm, pm + 1, pm + 2, 100, 200, 300, 400, 500, 600, 0];
        bytes.extend(words.iter().flat_map(|word: &u16| word.to_be_bytes()));
        let sum = bytes
            .iter()
            .fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte)))
            ^ spoil;
        bytes.extend(sum.to_be_bytes());
        bytes
    };
    let stream = [vec![0x42, 7], message(12, 0), message(4321, 1)].concat();
    check(
        talks(stream),
        "profile: plantower",
        &[
            ("pm1", "12"),
            ("pm2_5", "13"),
            ("pm10", "14"),
            ("particles_0_3", "100"),
        ],
        "4321",
    );
}

#[test]
fn dlt645_meters_are_asked_by_their_address() {
    let address = [0x12, 0x90, 0x78, 0x56, 0x34, 0x12];
    let frame = |control: u8, data: &[u8]| {
        let mut bytes = vec![0x68];
        bytes.extend(address);
        bytes.extend([0x68, control, u8::try_from(data.len()).unwrap()]);
        bytes.extend(data.iter().map(|byte| byte.wrapping_add(0x33)));
        bytes.push(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
        bytes.push(0x16);
        bytes
    };
    let energy = frame(0x91, &[0, 0, 1, 0, 0x78, 0x56, 0x34, 0x12]);
    let voltage = frame(0x91, &[0, 1, 1, 2, 0x05, 0x23]);
    let mut damaged = frame(0x91, &[0, 1, 2, 2, 0x77, 0x77, 0x77]);
    damaged[14] ^= 1;
    let current = frame(0x91, &[0, 1, 2, 2, 0x50, 0x12, 0x12]);
    let power = frame(0x91, &[0, 0, 3, 2, 0x34, 0x12, 0x80]);
    let server = answers(vec![
        (frame(0x11, &[0, 0, 1, 0]), [vec![0xFE; 4], energy].concat()),
        (frame(0x11, &[0, 1, 1, 2]), voltage),
        (frame(0x11, &[0, 1, 2, 2]), [damaged, current].concat()),
        (frame(0x11, &[0, 0, 3, 2]), power),
    ]);
    let expected = [
        ("energy_import", "123456.78"),
        ("voltage", "230.5"),
        ("current", "121.25"),
        ("power", "-123.4"),
    ];
    check(
        server,
        "profile: dlt645-2007, address: '123456789012'",
        &expected,
        "7.777",
    );
}

fn dsmr(power: &str, spoil: u16) -> String {
    let body = format!(
        "/ISk5\\2MT382-1000\r\n\r\n1-3:0.2.8(50)\r\n1-0:1.8.1(000123.456*kWh)\r\n1-0:1.8.2(000001.002*kWh)\r\n0-0:96.14.0(0002)\r\n\
         1-0:1.7.0({power}*kW)\r\n1-0:32.7.0(230.1*V)\r\n1-0:31.7.0(001*A)\r\n0-1:24.1.0(003)\r\n0-1:24.2.1(101209112500W)(12785.123*m3)\r\n!"
    );
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_ARC).checksum(body.as_bytes()) ^ spoil;
    format!("{body}{crc:04X}\r\n")
}

#[test]
fn dsmr_telegrams() {
    let stream = format!("{}{}", dsmr("01.193", 0), dsmr("77.777", 1));
    let expected = [
        ("energy_import_t1", "123.456"),
        ("energy_import_t2", "1.002"),
        ("tariff", "2"),
        ("power_import", "1193.0"),
        ("voltage_l1", "230.1"),
        ("current_l1", "1.0"),
        ("gas", "12785.123"),
    ];
    check(
        talks(stream.into_bytes()),
        "profile: dsmr",
        &expected,
        "77.777",
    );
}

const IEC: [(&str, &str); 3] = [
    ("energy_import", "42.123"),
    ("energy_import_t1", "40.0"),
    ("serial_number", "\"12345678\""),
];

fn iec_block() -> Vec<u8> {
    let data = b"0.0.0(12345678)\r\n1.8.0(000042.123*kWh)\r\n1.8.1(000040.000*kWh)\r\n!\r\n\x03";
    let sum = data.iter().fold(0, |sum, byte| sum ^ byte);
    [&[2][..], data, &[sum]].concat()
}

#[test]
fn iec_62056_21_mode_c() {
    let server = answers(vec![
        (b"/?!\r\n".to_vec(), b"/ACE5\\3k260V01.18\r\n".to_vec()),
        (b"\x06050\r\n".to_vec(), iec_block()),
    ]);
    check(server, "profile: iec62056-21", &IEC, "");
}

#[test]
fn iec_62056_21_modes_a_and_b_send_the_block_without_being_told_to() {
    for identification in ["/ACEE B-meter\r\n", "/ACE? A-meter\r\n"] {
        let server = answers(vec![(
            b"/?!\r\n".to_vec(),
            [identification.as_bytes(), &iec_block()].concat(),
        )]);
        check(server, "profile: iec62056-21", &IEC, "");
    }
}

/// Waits until a point is bad for a reason that names this.
fn wait_for_reason(gateway: &Gateway, port: u16, topic: &str, part: &str) {
    wait_for(
        &format!("{topic} is bad: {}", gateway.process.output()),
        || {
            let (_, out, _) = run(Command::new("mosquitto_sub").args([
                "-p",
                &port.to_string(),
                "-t",
                topic,
                "-C",
                "1",
                "-W",
                "2",
            ]));
            let shown: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
            (shown["q"] == "bad" && shown["reason"].as_str()?.contains(part)).then_some(())
        },
    );
}

#[test]
fn a_point_that_no_telegram_brings_is_bad_with_the_line_that_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let wire = talks(dsmr("01.193", 0).into_bytes());
    let yaml = format!(
        "site: x\nlines: [ {{ name: wire, tcp: '127.0.0.1:{wire}' }} ]\n\
         devices: [ {{ name: d, line: wire, profile: dsmr, text: {{ silent_after: 1s }}, only: [ tariff, current_l3 ] }} ]\n\
         broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    wait_for_reason(&gateway, port, "x/d/current_l3", "71.7.0");
    let tariff = run(Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        "x/d/tariff",
        "-C",
        "1",
        "-W",
        "5",
    ]))
    .1;
    assert!(tariff.contains("\"q\":\"good\""), "{tariff}");
}

#[test]
fn of_several_requests_those_that_are_not_answered_leave_their_points_bad_and_the_others_good() {
    let folder = tempfile::tempdir().unwrap();
    // Neither the first nor the last request is known to this instrument.
    let wire = answers(vec![(b"B\r".to_vec(), b"B=2\r\n".to_vec())]);
    let yaml = format!(
        "site: x
lines: [ {{ name: wire, tcp: '127.0.0.1:{wire}', answer_within: 100ms }} ]
devices:
  - name: d
    line: wire
    text: {{ request: [ 'A\\r', 'B\\r', 'C\\r' ], every: 300ms }}
    points: {{ a: {{ find: 'A=(\\d)' }}, b: {{ find: 'B=(\\d)' }}, c: {{ byte: 2, type: u8, when: '^C=' }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    for point in ["a", "c"] {
        wait_for_reason(
            &gateway,
            port,
            &format!("x/d/{point}"),
            &format!("{}=", point.to_uppercase()),
        );
    }
    let good = run(Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        "x/d/b",
        "-C",
        "1",
        "-W",
        "5",
    ]))
    .1;
    assert!(
        good.contains("\"v\":2") && good.contains("\"q\":\"good\""),
        "{good}"
    );
}

#[test]
fn a_weight_in_another_unit_than_that_of_the_point_is_never_good() {
    let unit = "each_line: '^(?P<weight>[+-]\\d+)\\s*(?P<unit>kg|g|lb)', points: { weight: { unit: kg, units: { kg: 1, g: 0.001 }, decimals: 3 } }";
    check(
        talks(b"+500 g\r\n".to_vec()),
        unit,
        &[("weight", "0.5")],
        "",
    );
    let folder = tempfile::tempdir().unwrap();
    let wire = talks(b"+500 lb\r\n".to_vec());
    let yaml = format!(
        "site: x\nlines: [ {{ name: wire, tcp: '127.0.0.1:{wire}' }} ]\ndevices: [ {{ name: d, line: wire, {unit} }} ]\n\
         broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    wait_for_reason(&gateway, port, "x/d/weight", "lb");
}

#[test]
fn sdi_12_through_a_bridge() {
    let server = answers(vec![
        (b"0M!".to_vec(), b"00013\r\n".to_vec()),
        (b"0D0!".to_vec(), b"0\r\n0+21.5-3.25+7\r\n".to_vec()),
    ]);
    check(
        server,
        "profile: sdi-12, address: '0'",
        &[
            ("value_1", "21.5"),
            ("value_2", "-3.25"),
            ("value_3", "7.0"),
        ],
        "",
    );
}

#[test]
fn a_scale_on_a_terminal_talks_in_lines_and_falls_silent() {
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (folder.path().join("near"), folder.path().join("far"));
    let mut socat = Command::new("socat");
    socat
        .arg(format!("pty,raw,echo=0,link={}", near.display()))
        .arg(format!("pty,raw,echo=0,link={}", far.display()));
    let _socat = Process::start(&mut socat, &folder.path().join("socat.log"));
    wait_for("the pair of terminals", || {
        (near.exists() && far.exists()).then_some(())
    });
    let yaml = format!(
        "site: x
lines: [ {{ name: rs232, serial: '{}', speed: 4800 8N1 }} ]
devices:
  - name: scale
    line: rs232
    each_line: '^(?P<weight>[+-]\\s*\\d+\\.\\d+)\\s*(?P<unit>kg|g)'
    text: {{ silent_after: 500ms }}
    points: {{ weight: {{ unit: kg, deadband: 0.5 }}, shown: {{ from: unit, words: {{ kg: kilograms, g: grams }}, deadband: 0 }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
",
        near.display()
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let value = |topic: &str| {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port.to_string(),
            "-t",
            topic,
            "-C",
            "1",
            "-W",
            "5",
        ]))
        .1
    };
    let mut scale = std::fs::File::options().write(true).open(&far).unwrap();
    wait_for("the weight", || {
        scale.write_all(b"\xFFnoise\r\n+ 12.50 kg\r\n").unwrap();
        value("x/scale/weight")
            .starts_with("{\"v\":12.5,")
            .then_some(())
    });
    assert!(value("x/scale/shown").starts_with("{\"v\":\"kilograms\","));
    assert_eq!(value("x/scale/availability").trim(), "online");
    wait_for("silence is told", || {
        (value("x/scale/availability").trim() == "offline").then_some(())
    });
    assert!(value("x/scale/weight").contains("\"q\":\"bad\""));
    scale.write_all(b"- 3.00 kg\r\n").unwrap();
    wait_for("it is back", || {
        value("x/scale/weight")
            .starts_with("{\"v\":-3.0,")
            .then_some(())
    });
}

#[test]
fn the_simulator_plays_plain_instruments_too() {
    let folder = tempfile::tempdir().unwrap();
    let (asked, talking) = (free_port(), free_port());
    let yaml = format!(
        "site: x
lines:
  - {{ name: asked, tcp: '127.0.0.1:{asked}', answer_within: 1s }}
  - {{ name: talking, tcp: '127.0.0.1:{talking}' }}
devices:
  - name: scale
    line: asked
    address: '07'
    text:
      request: 'P{{address}}\\r'
      every: 100ms
      simulate: '\\x02+{{weight}}kg\\r{{checksum}}'
      frame: {{ start: '\\x02', end: '\\r', with_end: 1 }}
      checksum: {{ kind: xor8, from: 1, to: -2, at: -1 }}
      match: '\\+(?P<weight>[0-9.]+)kg'
    points: {{ weight: {{ simulate: {{ shape: constant, from: 12.5 }} }} }}
  - name: mast
    line: talking
    each_line: '^T=(?P<t>-?[0-9.]+)'
    text: {{ simulate: 'T={{t}}\\r\\n' }}
    points: {{ t: {{ simulate: {{ shape: constant, from: -3.25 }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
"
    );
    let file = folder.path().join("simulator.yaml");
    std::fs::write(&file, &yaml).unwrap();
    let mut simulator = Process::start(
        super::support::wellhead().arg("simulate").arg(&file),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line talking: plain instruments on");
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let value = |topic: &str| {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port.to_string(),
            "-t",
            topic,
            "-C",
            "1",
            "-W",
            "5",
        ]))
        .1
    };
    wait_for("the scale", || {
        value("x/scale/weight")
            .starts_with("{\"v\":12.5,")
            .then_some(())
    });
    wait_for("the mast", || {
        value("x/mast/t").starts_with("{\"v\":-3.25,").then_some(())
    });
    // The two instruments share the faults.
    simulator.inject("crc for 6");
    wait_for("damaged messages are counted", || {
        let status: serde_json::Value =
            serde_json::from_str(&value("$SYS/wellhead/line/asked")).unwrap_or_default();
        (status["bad_checksums"].as_u64()? > 0).then_some(())
    });
    assert!(
        value("x/scale/weight").starts_with("{\"v\":12.5,"),
        "{}",
        gateway.process.output()
    );
}

/// Lists that an Aidon meter and a Kaifa meter in Norway push on their HAN ports, from the tests of
/// public readers.
const NORWEGIAN: [&str; 2] = [
    "7EA02A410883130413E6E7000F40000000000101020309060100010700FF060000020002020F00161BC12C7E",
    "7EA027010201105A87E6E7000F40000000090C07E60A1007150012FF80000002010600000D5FA12E7E",
];

#[test]
fn a_meter_that_pushes_binary_is_offline_with_the_name_of_its_protocol() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    };
    for list in NORWEGIAN {
        let folder = tempfile::tempdir().unwrap();
        let wire = talks(bytes(list));
        let yaml = format!(
            "site: x\nlines: [ {{ name: wire, tcp: '127.0.0.1:{wire}' }} ]\n\
             devices: [ {{ name: d, line: wire, profile: dsmr, text: {{ silent_after: 1s }}, only: [ energy_import ] }} ]\n\
             broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n"
        );
        let gateway = Gateway::start(folder.path(), &yaml);
        let port = gateway.port();
        wait_for_reason(&gateway, port, "x/d/energy_import", "DLMS in HDLC");
    }
}

#[test]
fn iec_62056_21_a_meter_that_also_knows_mode_e_is_read_in_mode_c() {
    let server = answers(vec![
        (b"/?!\r\n".to_vec(), b"/ISK5\\2M550T-1012\r\n".to_vec()),
        (b"\x06050\r\n".to_vec(), iec_block()),
    ]);
    check(server, "profile: iec62056-21", &IEC, "");
}
