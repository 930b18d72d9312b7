//! mqtt.js on our broker: over TCP and WebSocket in Node, and over WebSocket in a real browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{Gateway, Process, free_port, peer, run};

/// As installed by `tests/run`.
fn mqtt_js() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/node/node_modules/mqtt");
    let path = std::env::var_os("WELLHEAD_MQTT_JS").map_or(own, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing; `tests/run` installs it",
        path.display()
    );
    path
}

fn broker(folder: &Path) -> (Gateway, u16, u16) {
    let (tcp, web) = (free_port(), free_port());
    let yaml =
        format!("broker: {{ listen: [ 'mqtt://127.0.0.1:{tcp}', 'ws://127.0.0.1:{web}' ] }}\n");
    (Gateway::start(folder, &yaml), tcp, web)
}

#[test]
fn mqtt_js_is_served_over_tcp_and_web_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, tcp, web) = broker(folder.path());
    for url in [
        format!("mqtt://127.0.0.1:{tcp}"),
        format!("ws://127.0.0.1:{web}/mqtt"),
    ] {
        for version in ["4", "5"] {
            let (code, out, error) = run(Command::new("node")
                .arg(peer("mqttjs.js"))
                .args([&url, version])
                .env("MQTT_JS", mqtt_js()));
            assert_eq!(
                (code, out.trim()),
                (Some(0), "ok"),
                "{url}, version {version}: {error}"
            );
        }
    }
}

/// mqtt.js does not look at Receive Maximum (64 here): it is read more slowly, and not
/// disconnected.
#[test]
fn a_burst_of_mqtt_js_is_taken_without_a_reconnect() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, tcp, web) = broker(folder.path());
    for url in [
        format!("mqtt://127.0.0.1:{tcp}"),
        format!("ws://127.0.0.1:{web}/mqtt"),
    ] {
        for (qos, count) in [("1", "200"), ("2", "200"), ("1", "5000")] {
            let (code, out, error) = run(Command::new("node")
                .arg(peer("mqttjs-burst.js"))
                .args([&url, qos, count])
                .env("MQTT_JS", mqtt_js()));
            assert_eq!(
                (code, out.trim()),
                (Some(0), "ok"),
                "{url}, {count} at QoS {qos}: {error}"
            );
        }
    }
}

#[test]
fn a_browser_is_served_over_web_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (pages, web) = (TcpListener::bind("127.0.0.1:0").unwrap(), free_port());
    let origin = pages.local_addr().unwrap();
    let yaml = format!(
        "broker: {{ listen: [ 'ws://127.0.0.1:{web}' ], allow_origins: [ 'http://{origin}' ] }}\n"
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    let url = format!(
        "http://{}/?broker=ws://127.0.0.1:{web}/mqtt",
        pages.local_addr().unwrap()
    );
    let mut command = Command::new("chromium");
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ))
        .arg(url);
    let _browser = Process::start(&mut command, &folder.path().join("browser.log"));
    assert_eq!(serve_until_result(&pages), "ok");
}

/// Serves the page until it tells what came of it.
fn serve_until_result(pages: &TcpListener) -> String {
    let end = Instant::now() + Duration::from_secs(90);
    pages.set_nonblocking(true).unwrap();
    while Instant::now() < end {
        match pages.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                if let Some(result) = answer(stream) {
                    return result;
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    "the browser did not say anything".to_owned()
}

fn answer(stream: TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let path = lines
        .first()?
        .split(' ')
        .nth(1)?
        .split('?')
        .next()?
        .to_owned();
    let length = lines
        .iter()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (kind, content) = match path.as_str() {
        "/" => ("text/html", std::fs::read(peer("page.html")).unwrap()),
        "/mqttjs.js" => ("text/javascript", std::fs::read(peer("mqttjs.js")).unwrap()),
        "/mqtt.min.js" => (
            "text/javascript",
            std::fs::read(mqtt_js().join("dist/mqtt.min.js")).unwrap(),
        ),
        _ => ("text/plain", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&content).ok()?;
    (path == "/result").then(|| String::from_utf8_lossy(&body).into_owned())
}
