//! Listeners as people configure them: certificates, WebSocket frames, users, limits, certificates
//! read again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wellhead::mqtt::{ReasonCode, Version};

use super::packets::connect;
use super::support::client::{Client, Incoming, hello};
use super::support::{Gateway, Pem, free_port, run, wait_for, wellhead};

fn publish(arguments: &[&str]) -> (Option<i32>, String) {
    let (code, _, error) = run(Command::new("mosquitto_pub").args(arguments));
    (code, error)
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Everything a listener says to these bytes, until it closes the connection.
fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::dial(port).unwrap();
    client.send_bytes(bytes).unwrap();
    client.read_rest().unwrap()
}

async fn web_socket(
    port: u16,
    protocol: &str,
) -> Result<tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>, String> {
    let mut request = format!("ws://127.0.0.1:{port}/mqtt")
        .into_client_request()
        .unwrap();
    if !protocol.is_empty() {
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    }
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(|error| error.to_string())?;
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    Ok(socket)
}

fn web_socket_broker(folder: &Path) -> (Gateway, u16) {
    let gateway = Gateway::start(folder, "broker: { listen: [ 'ws://127.0.0.1:0' ] }\n");
    let port = gateway.port();
    (gateway, port)
}

#[tokio::test]
async fn a_web_socket_without_the_subprotocol_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = web_socket_broker(folder.path());
    for protocol in ["", "chat"] {
        assert!(
            web_socket(port, protocol)
                .await
                .unwrap_err()
                .contains("400")
        );
    }
    assert!(web_socket(port, "chat, mqtt").await.is_ok());
}

#[tokio::test]
async fn packets_may_be_cut_into_frames_in_any_way() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = web_socket_broker(folder.path());
    let mut socket = web_socket(port, "mqtt").await.unwrap();
    for byte in connect(Version::V311) {
        socket.send(Frame::Binary(vec![byte].into())).await.unwrap();
    }
    socket
        .send(Frame::Ping(b"still there?".to_vec().into()))
        .await
        .unwrap();
    // Two and a half packets, and the rest.
    socket
        .send(Frame::Binary(b"\xc0\x00\xc0\x00\xc0".to_vec().into()))
        .await
        .unwrap();
    socket
        .send(Frame::Binary(b"\x00".to_vec().into()))
        .await
        .unwrap();
    let (mut got, mut pongs) = (Vec::new(), 0);
    while got.len() < 10 {
        match tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Frame::Binary(bytes) => got.extend_from_slice(&bytes),
            Frame::Pong(bytes) => pongs += usize::from(&bytes[..] == b"still there?"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        (&got[..], pongs),
        (&b"\x20\x02\x00\x00\xd0\x00\xd0\x00\xd0\x00"[..], 1)
    );
}

#[tokio::test]
async fn a_text_frame_ends_a_web_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = web_socket_broker(folder.path());
    let mut socket = web_socket(port, "mqtt").await.unwrap();
    socket
        .send(Frame::Binary(connect(Version::V311).into()))
        .await
        .unwrap();
    socket.next().await.unwrap().unwrap();
    socket.send(Frame::Text("hello".into())).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), socket.next())
        .await
        .unwrap();
    assert!(
        !matches!(end, Some(Ok(Frame::Binary(_) | Frame::Text(_)))),
        "{end:?}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn certificates_are_asked_for_and_are_logins_and_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let yaml = format!(
        "broker:\n  listen: [ 'mqtts://127.0.0.1:0' ]\n  tls: {{ cert: {}, key: {}, client_ca: {}, login: certificate }}\n  users: [ {{ name: client, write: [ 'dev/%u/#' ] }} ]\n",
        pem.path("server.pem"),
        pem.path("server.key"),
        pem.path("ca.pem")
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let (port, ca) = (gateway.port().to_string(), pem.path("ca.pem"));
    let base = [
        "-p",
        &port,
        "-h",
        "localhost",
        "--cafile",
        &ca,
        "-V",
        "5",
        "-q",
        "1",
        "-m",
        "x",
        "-d",
    ];
    let (cert, key) = (pem.path("client.pem"), pem.path("client.key"));
    let with = ["--cert", &cert, "--key", &key];
    assert_ne!(
        publish(&[&base[..], &["-t", "dev/client/a"]].concat()).0,
        Some(0),
        "without a certificate"
    );
    let outcome = |topic: &str| {
        let (code, out, error) =
            run(Command::new("mosquitto_pub").args([&base[..], &with, &["-t", topic]].concat()));
        assert_eq!(code, Some(0), "{error}");
        out + &error
    };
    // mosquitto_pub shows the reason code of PUBACK.
    assert!(
        outcome("dev/client/a").contains("(Mid: 1, RC:16)"),
        "{}",
        outcome("dev/client/a")
    );
    assert!(outcome("other").contains("RC:135"), "{}", outcome("other"));
    // An authority that did not sign the old certificates.
    let other = tempfile::tempdir().unwrap();
    let new = Pem::make(other.path());
    for name in ["server.pem", "server.key"] {
        fs::copy(new.path(name), pem.path(name)).unwrap();
    }
    gateway.process.signal(Signal::HUP);
    gateway
        .process
        .wait_for_event("broker.certificates_reloaded", &[]);
    assert_ne!(
        publish(&[&base[..], &with, &["-t", "dev/client/a"]].concat()).0,
        Some(0),
        "the old authority"
    );
    fs::write(pem.path("server.pem"), "nonsense").unwrap();
    gateway.process.signal(Signal::HUP);
    gateway
        .process
        .wait_for_event("broker.certificates_unusable", &[]);
    let ca = new.path("ca.pem");
    let fresh = [
        "-p",
        &port,
        "-h",
        "localhost",
        "--cafile",
        &ca,
        "-q",
        "1",
        "-m",
        "x",
        "-t",
        "dev/client/a",
    ];
    assert_eq!(publish(&[&fresh[..], &with].concat()).0, Some(0));
}

#[test]
fn a_password_made_by_passwd_opens_the_broker_and_no_other_does() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "echo secret | {} passwd --scram anna",
            env!("CARGO_BIN_EXE_wellhead")
        ))
        .output()
        .unwrap();
    let user = String::from_utf8(made.stdout).unwrap();
    assert!(
        user.starts_with("- name: anna\n  password: '$argon2id$")
            && user.contains("scram: 'SCRAM-SHA-256$4096:"),
        "{user}"
    );
    let users = user
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect::<String>();
    let yaml = format!("broker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  users:\n{users}");
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let port = port.to_string();
    for version in ["311", "5"] {
        let login = |user: &str, password: &str| {
            publish(&[
                "-p", &port, "-V", version, "-t", "a", "-m", "b", "-q", "1", "-u", user, "-P",
                password,
            ])
        };
        assert_eq!(login("anna", "secret").0, Some(0));
        assert_ne!(login("anna", "Secret").0, Some(0));
        assert_ne!(login("berta", "secret").0, Some(0));
        assert_ne!(
            publish(&["-p", &port, "-V", version, "-t", "a", "-m", "b"]).0,
            Some(0)
        );
    }
    assert!(
        !gateway.process.output().contains("secret"),
        "{}",
        gateway.process.output()
    );
    let (code, _, error) = run(wellhead().args(["passwd"]));
    assert!(
        code == Some(1) && error.contains("empty password"),
        "{error}"
    );
}

#[test]
fn a_unix_socket_is_served_and_replaced_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let gateway = Gateway::start(
        folder.path(),
        &format!("broker: {{ listen: [ 'unix://{}' ] }}\n", path.display()),
    );
    let hello = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(&connect(Version::V311)).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
    };
    hello();
    let gateway = gateway.kill_and_restart();
    hello();
    drop(gateway);
}

#[test]
fn the_limits_on_connections_hold() {
    let folder = tempfile::tempdir().unwrap();
    let limits = "max_connections: 20, max_connections_per_address: 10, connection_rate: 1000, connect_within: 1s, max_connect: 1kB";
    let gateway = Gateway::start(
        folder.path(),
        &format!("broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], {limits} }}\n"),
    );
    let port = gateway.port();
    let dial = || Client::dial(port).unwrap();
    let mut silent: Vec<Client> = (0..10).map(|_| dial()).collect();
    assert_eq!(dial().read_packet(), None, "the eleventh of one address");
    for client in &mut silent {
        assert_eq!(client.read_packet(), None, "who says nothing for a second");
    }
    // A CONNECT of 2 kB, of which nothing but the length has come.
    let mut large = dial();
    large.send_bytes(b"\x10\x80\x10").unwrap();
    assert_eq!(large.read_packet(), None);
    drop(silent);
    wait_for("there is room for somebody honest", || {
        let (_, answer) = Client::connect(port, hello(Version::V5, "honest")).ok()?;
        (answer.reason == ReasonCode::SUCCESS).then_some(())
    });
}

#[test]
fn an_unknown_version_is_answered_in_the_form_its_client_understands() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(
        folder.path(),
        "broker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n",
    );
    let port = gateway.port();
    let answer = |bytes: &[u8]| answer(port, bytes);
    for level in [6, 7, 0x7F, 0xFF] {
        let got = answer(
            &[
                &b"\x10\x0e\x00\x04MQTT"[..],
                &[level],
                b"\x02\x00\x3c\x00\x00\x01a",
            ]
            .concat(),
        );
        assert_eq!(
            (got[0], usize::from(got[1]), got[2], got[3]),
            (0x20, got.len() - 2, 0, 0x84),
            "level {level}: {got:02x?}"
        );
        assert!(got.len() > 4, "properties follow in MQTT 5: {got:02x?}");
    }
    assert_eq!(
        answer(b"\x10\x0d\x00\x04MQTT\x03\x02\x00\x3c\x00\x01a"),
        [0x20, 2, 0, 1]
    );
    assert_eq!(
        answer(b"\x10\x0f\x00\x06MQIsdp\x04\x02\x00\x3c\x00\x01a"),
        [0x20, 2, 0, 1]
    );
}

/// The answer to a request for a WebSocket, with these headers beside the usual ones.
fn upgrade(port: u16, method: &str, headers: &[&str]) -> String {
    let mut stream = dial(port);
    let usual = [
        ("Host", "x:1"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
    ];
    let more = [
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "mqtt"),
    ];
    let is_replaced = |name: &str| headers.iter().any(|header| header.starts_with(name));
    let kept = usual
        .iter()
        .chain(&more)
        .filter(|(name, _)| !is_replaced(name))
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let own = headers
        .iter()
        .filter(|header| !header.ends_with(':'))
        .map(|header| format!("{header}\r\n"));
    let request = format!(
        "{method} /mqtt HTTP/1.1\r\n{}\r\n",
        kept.chain(own).collect::<String>()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0; 1];
    while !answer.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_handshake_that_is_no_good_gets_an_http_answer() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "broker: { listen: [ 'ws://127.0.0.1:0' ], connect_within: 1s, allow_origins: [ 'https://hmi.example.net' ] }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let big = format!("X-Big: {}", "x".repeat(20_000));
    let cases: &[(&str, &[&str], &str)] = &[
        ("GET", &[], "101"),
        ("POST", &[], "405"),
        ("GET", &["Sec-WebSocket-Version: 8"], "426"),
        ("GET", &["Sec-WebSocket-Version:"], "426"),
        ("GET", &["Upgrade:"], "400"),
        ("GET", &["Connection: keep-alive"], "400"),
        ("GET", &["Sec-WebSocket-Key: short"], "400"),
        ("GET", &[&big], "431"),
        ("GET", &["Sec-WebSocket-Protocol:"], "400"),
        ("GET", &["Sec-WebSocket-Protocol: chat"], "400"),
        (
            "GET",
            &[
                "Sec-WebSocket-Protocol: chat",
                "Sec-WebSocket-Protocol: mqttv3.1,mqtt",
            ],
            "101",
        ),
        ("GET", &["Sec-WebSocket-Protocol: mqttv3.1"], "101"),
        // A page in a browser on the gateway.
        (
            "GET",
            &["Origin: https://evil.example", "Host: 127.0.0.1:8083"],
            "403",
        ),
        ("GET", &["Origin: null"], "403"),
        ("GET", &["Origin: https://hmi.example.net"], "101"),
        (
            "GET",
            &[
                "Origin: https://hmi.example.net",
                "Origin: https://evil.example",
            ],
            "403",
        ),
        (
            "GET",
            &["Origin: https://127.0.0.1:8083", "Host: 127.0.0.1:8083"],
            "101",
        ),
    ];
    for (method, headers, status) in cases {
        let answer = upgrade(port, method, headers);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {headers:.60?}: {answer}"
        );
        assert_eq!(
            answer.contains("Sec-WebSocket-Version: 13"),
            *status == "426",
            "{answer}"
        );
    }
    assert!(
        upgrade(port, "GET", &["Sec-WebSocket-Protocol: mqttv3.1, mqtt"])
            .contains("Sec-WebSocket-Protocol: mqtt\r\n")
    );
    assert!(
        upgrade(port, "GET", &["Sec-WebSocket-Protocol: mqttv3.1"])
            .contains("Sec-WebSocket-Protocol: mqttv3.1\r\n")
    );
    for (bytes, status) in [
        (&connect(Version::V311)[..], "400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "408"),
    ] {
        assert_eq!(
            std::str::from_utf8(&answer_begins(port, bytes, 12)).unwrap(),
            format!("HTTP/1.1 {status}")
        );
    }
}

#[tokio::test]
async fn every_packet_is_a_frame_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = web_socket_broker(folder.path());
    let mut socket = web_socket(port, "mqtt").await.unwrap();
    // CONNECT, SUBSCRIBE and three messages of different size to itself, all at once.
    let mut bytes = connect(Version::V311);
    bytes.extend(b"\x82\x06\x00\x01\x00\x01t\x01");
    for size in [1_usize, 3000, 10_000] {
        let length = size + 5;
        bytes.extend([
            0x32,
            (length & 0x7F) as u8 | 0x80,
            (length >> 7) as u8 | if length >> 7 > 0x7F { 0x80 } else { 0 },
        ]);
        if length >> 7 > 0x7F {
            bytes.push((length >> 14) as u8);
        }
        bytes.extend(b"\x00\x01t\x00");
        bytes.push(size.leading_zeros() as u8);
        bytes.resize(bytes.len() + size, b'x');
    }
    socket.send(Frame::Binary(bytes.into())).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 8 {
        let Frame::Binary(frame) = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        else {
            panic!("not a packet")
        };
        let mut incoming = Incoming::client(Version::V311);
        incoming.extend(&frame);
        let packet = incoming.next_packet().expect("a whole packet");
        assert!(
            incoming.is_empty(),
            "{} and more in one frame",
            packet.name()
        );
        kinds.push(packet.name());
    }
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "CONNACK", "PUBACK", "PUBACK", "PUBACK", "PUBLISH", "PUBLISH", "PUBLISH", "SUBACK"
        ]
    );
}

#[test]
fn who_finds_no_place_is_told_in_connack() {
    let folder = tempfile::tempdir().unwrap();
    let (port, web) = (free_port(), free_port());
    let yaml = format!(
        "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}', 'ws://127.0.0.1:{web}' ], max_connections: 1 }}\n"
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    let _first = Client::accepted(port, hello(Version::V311, "first"));
    assert_eq!(answer(port, &connect(Version::V5)), [0x20, 3, 0, 0x89, 0]);
    assert_eq!(answer(port, &connect(Version::V311)), [0x20, 2, 0, 3]);
    assert_eq!(answer(port, &connect(Version::V31)), [0x20, 2, 0, 3]);
    assert!(answer(web, b"GET / HTTP/1.1\r\n\r\n").starts_with(b"HTTP/1.1 503 "));
    assert!(answer(port, b"nonsense").is_empty());
}

#[test]
fn who_finds_no_place_at_an_encrypted_listener_is_told_in_connack() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let (plain, port) = (free_port(), free_port());
    let yaml = format!(
        "broker:\n  listen: [ 'mqtt://127.0.0.1:{plain}', 'mqtts://127.0.0.1:{port}' ]\n  max_connections: 1\n  tls: {{ cert: {}, key: {} }}\n",
        pem.path("server.pem"),
        pem.path("server.key")
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    let _first = Client::accepted(plain, hello(Version::V311, "first"));
    let ca = pem.path("ca.pem");
    let port = port.to_string();
    let (code, error) = publish(&[
        "-p",
        &port,
        "-h",
        "localhost",
        "--cafile",
        &ca,
        "-V",
        "5",
        "-t",
        "a",
        "-m",
        "b",
        "-q",
        "1",
    ]);
    assert!(
        code != Some(0) && error.to_lowercase().contains("server busy"),
        "{code:?} {error}"
    );
}

/// Connections of this machine over the rate wait; those that hang up meanwhile hold no places.
#[test]
fn connections_that_hang_up_while_they_wait_leave_their_places_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let yaml =
        "broker: { listen: [ 'mqtt://127.0.0.1:0' ], max_connections: 10, connection_rate: 1 }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let mut served = 0;
    for _ in 0..5 {
        // Far more than there are places, one after the other: each has sent something and is gone.
        for _ in 0..40 {
            Client::dial(port)
                .unwrap()
                .send_bytes(&connect(Version::V5))
                .unwrap();
        }
        // The last of them may take a moment to go, far less than their pause.
        let mut answers = (0..20).map(|_| answer_begins(port, &connect(Version::V311), 4));
        served += usize::from(answers.any(|answer| answer == [0x20, 2, 0, 0]));
    }
    assert_eq!(served, 5, "the others find a place");
}

/// The first bytes a listener says.
fn answer_begins(port: u16, bytes: &[u8], count: usize) -> Vec<u8> {
    let mut client = Client::dial(port).unwrap();
    client.send_bytes(bytes).unwrap();
    client.read_bytes(count).unwrap()
}

#[test]
fn a_revoked_certificate_is_refused_and_the_list_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    fs::copy(pem.path("none-revoked.pem"), pem.path("crl.pem")).unwrap();
    let yaml = format!(
        "broker:\n  listen: [ 'mqtts://127.0.0.1:0' ]\n  tls: {{ cert: {}, key: {}, client_ca: {}, crl: {} }}\n",
        pem.path("server.pem"),
        pem.path("server.key"),
        pem.path("ca.pem"),
        pem.path("crl.pem")
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let (port, ca, cert, key) = (
        gateway.port().to_string(),
        pem.path("ca.pem"),
        pem.path("client.pem"),
        pem.path("client.key"),
    );
    let arguments = [
        "-p",
        &port,
        "-h",
        "localhost",
        "--cafile",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "-q",
        "1",
        "-m",
        "x",
        "-t",
        "a",
    ];
    assert_eq!(publish(&arguments).0, Some(0), "not revoked");
    fs::copy(pem.path("client-revoked.pem"), pem.path("crl.pem")).unwrap();
    gateway.process.signal(Signal::HUP);
    gateway
        .process
        .wait_for_event("broker.certificates_reloaded", &[]);
    assert_ne!(publish(&arguments).0, Some(0), "revoked");
    fs::copy(pem.path("ca.pem"), pem.path("crl.pem")).unwrap();
    gateway.process.signal(Signal::HUP);
    gateway
        .process
        .wait_for_event("broker.certificates_unusable", &[]);
    assert_ne!(publish(&arguments).0, Some(0), "still revoked");
}

/// The files of a TLS listener are checked at the start.
#[test]
fn missing_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let yaml = "broker: { listen: [ 'mqtts://127.0.0.1:0' ], allow_anonymous: true, tls: { cert: none.crt, key: none.key } }\noutbox: { folder: data }\n";
    fs::write(&file, yaml).unwrap();
    let (code, _, error) = run(wellhead().arg("run").arg(&file));
    assert!(
        code == Some(78)
            && error.contains("gateway.yaml:1:82 ")
            && error.contains("none.crt")
            && error.contains("none.key"),
        "{error}"
    );
}

/// Instruments of the file are guarded by it.
#[test]
fn only_a_rule_that_names_it_lets_somebody_write_to_an_instrument() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: s\nlines: [ {{ name: bench, simulated: {{}} }} ]\ndevices: [ {{ name: d, line: bench, unit: 1, points: {{ flow: {{ holding: 0, type: u16 }} }} }} ]\nbroker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  allow_anonymous: true\n  users: [ {{ name: anna, password: '{}', write: [ '+/+/+/set' ] }} ]\n",
        super::stage::SECRET
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let port = port.to_string();
    let code = |more: &[&str]| {
        let base = ["-p", &port, "-V", "5", "-q", "1", "-m", "1", "-d"];
        let (_, out, error) = run(Command::new("mosquitto_pub").args([&base[..], more].concat()));
        let text = out + &error;
        text.lines()
            .find_map(|line| {
                line.split_once("RC:")?
                    .1
                    .trim_end_matches(')')
                    .parse::<u8>()
                    .ok()
            })
            .unwrap_or_else(|| panic!("{text}"))
    };
    let anna = ["-u", "anna", "-P", "secret"];
    assert_eq!(code(&["-t", "s/d/flow/set"]), 0x87);
    assert_eq!(code(&["-t", "other/set"]), 0x10);
    assert_eq!(code(&[&anna[..], &["-t", "s/d/flow/set"]].concat()), 0);
    // It is no point that can be written, which its result says; the flag is taken off.
    assert_eq!(
        code(&[&anna[..], &["-t", "s/d/flow/set", "-r"]].concat()),
        0
    );
}
