//! As much of an MQTT 3.1.1 client as the bench needs: one that watches what the remote gets, and
//! publishers that send readings as other programs do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::lab::{Lab, NEAR_PORT, REMOTE, TLS_PORT};

/// A message as it reached a subscriber of the remote.
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut rest = body.len();
    loop {
        let more = rest >= 128;
        bytes.push((rest % 128) as u8 | u8::from(more) << 7);
        rest /= 128;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// The next packet: its first byte and the rest.
fn read_packet(stream: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] & 128 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

fn connect(stream: &mut (impl Read + Write), name: &str) {
    let body = [text("MQTT"), vec![4, 2, 0, 0], text(name)].concat();
    stream.write_all(&packet(0x10, &body)).unwrap();
    let (kind, answer) = read_packet(stream).unwrap();
    assert_eq!((kind, answer.get(1)), (0x20, Some(&0)), "CONNACK");
}

/// Everything that reaches the remote from here on; on its own side of the link.
pub(crate) fn watch(lab: &Lab) -> Receiver<Arrival> {
    let (sender, receiver) = channel();
    let (ready, is_ready) = channel();
    let lab = lab.clone();
    std::thread::spawn(move || {
        lab.enter_remote();
        let stream = TcpStream::connect(("127.0.0.1", NEAR_PORT)).unwrap();
        let mut reader = std::io::BufReader::new(&stream);
        connect(&mut &stream, "watcher");
        let body = [vec![0, 1], text("#"), vec![0]].concat();
        (&stream).write_all(&packet(0x82, &body)).unwrap();
        let _ = ready.send(());
        // Until the remote ends.
        while let Ok((kind, body)) = read_packet(&mut reader) {
            if kind >> 4 != 3 {
                continue;
            }
            let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let arrival = Arrival {
                at: Instant::now(),
                topic: String::from_utf8_lossy(&body[2..end]).into_owned(),
                payload: body[end..].to_vec(),
            };
            if sender.send(arrival).is_err() {
                return;
            }
        }
    });
    is_ready.recv().unwrap();
    receiver
}

/// A publisher on the gateway's side that sends at QoS 1 over TLS.
pub(crate) struct Publisher {
    stream: StreamOwned<ClientConnection, TcpStream>,
    last_id: u16,
}

impl Publisher {
    /// To be called in a thread on the gateway's side.
    pub(crate) fn connect(folder: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap();
        roots.add(authority).unwrap();
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(REMOTE).unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect((REMOTE, TLS_PORT)).unwrap();
        let mut stream = StreamOwned::new(tls, tcp);
        connect(&mut stream, "other");
        Self { stream, last_id: 0 }
    }

    /// Publishes messages, each with a write of its own, and waits until all are acknowledged.
    pub(crate) fn publish(&mut self, messages: &[(String, String)]) {
        for (topic, payload) in messages {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id.to_be_bytes();
            let body = [&text(topic)[..], &id, payload.as_bytes()].concat();
            self.stream.write_all(&packet(0x32, &body)).unwrap();
        }
        for _ in messages {
            let (kind, _) = read_packet(&mut self.stream).unwrap();
            assert_eq!(kind, 0x40, "PUBACK");
        }
    }
}
