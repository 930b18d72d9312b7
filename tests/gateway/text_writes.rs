//! Writes to plain instruments: commands with their answers, right, wrong, late or missing, at an
//! instrument that is asked and at one that talks by itself.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::support::{ANY, Gateway, Process, run, simulated, wait_for, wellhead};

/// What the instrument does at its next commands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Obeys,
    Refuses,
    /// Answers with what is no answer to this.
    Babbles,
    /// Sends noise, and then the right answer.
    Noisy,
    /// Does nothing and says nothing.
    Deaf,
    /// Does it, and says nothing.
    Mute,
    /// Does it, and says so when nobody waits for it any more.
    Late,
    /// Sends back what it hears, and nothing else.
    Echoes,
    /// Answers with a wrong checksum.
    Damaged,
    /// Answers with one byte that ends no line.
    Acknowledges,
}

/// An indicator: `Q` asks for target and weight, `S <target>` and `T` are commands.
struct Indicator {
    mood: Arc<Mutex<Mood>>,
    /// What it heard, by line.
    heard: Arc<Mutex<Vec<String>>>,
}

/// How long a late answer takes: longer than it is waited for.
const LATE: Duration = Duration::from_millis(450);

struct State {
    target: String,
    tare: f64,
}

impl Indicator {
    /// Serves each wire on a thread of its own; `talks`: it sends its values without a request.
    fn new() -> Self {
        Self {
            mood: Arc::new(Mutex::new(Mood::Obeys)),
            heard: Arc::default(),
        }
    }

    fn on_tcp(&self, talks: bool) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, heard) = (Arc::clone(&self.mood), Arc::clone(&self.heard));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                // The client is gone: the next one.
                let reader = stream.try_clone().unwrap();
                let _ = serve(reader, stream, &mood, &heard, talks);
            }
        });
        port
    }

    fn on_terminal(&self, path: &Path) {
        let reader = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let writer = reader.try_clone().unwrap();
        let (mood, heard) = (Arc::clone(&self.mood), Arc::clone(&self.heard));
        std::thread::spawn(move || {
            // The terminal is gone: the end of the test.
            let _ = serve(reader, writer, &mood, &heard, false);
        });
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn commands(&self, name: char) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|line| line.starts_with(name)).count()
    }
}

fn summed(text: &str) -> String {
    let sum = text.bytes().fold(0, |sum: u8, byte| sum ^ byte);
    format!("{text}*{sum:02X}\r\n")
}

fn serve(
    reader: impl Read + Send + 'static,
    mut writer: impl Write,
    mood: &Mutex<Mood>,
    heard: &Mutex<Vec<String>>,
    talks: bool,
) -> std::io::Result<()> {
    let (lines, received) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || read_lines(reader, &lines));
    let mut state = State {
        target: "10.0".to_owned(),
        tare: 0.0,
    };
    let values = |state: &State| summed(&format!("W {:.1} SP {}", 12.5 - state.tare, state.target));
    loop {
        let line = match received.recv_timeout(Duration::from_millis(30)) {
            Ok(line) => line,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                if talks {
                    writer.write_all(values(&state).as_bytes())?;
                }
                continue;
            }
            Err(_) => {
                reading.join().unwrap();
                return Ok(());
            }
        };
        heard.lock().unwrap().push(line.clone());
        // A wire on which one talks while the other does would be heard here.
        std::thread::sleep(Duration::from_millis(5));
        let has_more = received.try_recv().is_ok();
        assert!(!has_more, "something was sent before {line:?} was answered");
        let text = line.split('*').next().unwrap_or_default();
        assert_eq!(format!("{line}\r\n"), summed(text), "a wrong checksum");
        match text {
            "Q" => writer.write_all(values(&state).as_bytes())?,
            command => obey(command, &mut state, *mood.lock().unwrap(), &mut writer)?,
        }
    }
}

fn read_lines(mut reader: impl Read, lines: &std::sync::mpsc::Sender<String>) {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while reader.read(&mut byte).is_ok_and(|count| count == 1) {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                return;
            }
        }
    }
}

fn obey(
    command: &str,
    state: &mut State,
    mood: Mood,
    writer: &mut impl Write,
) -> std::io::Result<()> {
    if !matches!(
        mood,
        Mood::Refuses | Mood::Deaf | Mood::Babbles | Mood::Echoes
    ) {
        match command.strip_prefix("S ") {
            Some(target) => target.clone_into(&mut state.target),
            None => state.tare = 12.5,
        }
    }
    let right = summed(&format!("{} OK", &command[..1]));
    let answer = match mood {
        Mood::Obeys => right,
        Mood::Refuses => summed("ERR 5"),
        Mood::Babbles => summed("WHAT?"),
        Mood::Noisy => format!("\u{1}noise\r\n{}{right}", summed("HELLO")),
        Mood::Deaf | Mood::Mute => String::new(),
        Mood::Late => {
            std::thread::sleep(LATE);
            right
        }
        Mood::Echoes => summed(command),
        Mood::Damaged => right.replace("OK", "0K"),
        Mood::Acknowledges => "\u{6}".to_owned(),
    };
    writer.write_all(answer.as_bytes())
}

/// The YAML of a line with the indicator; `request` is empty for one that talks.
fn yaml(wire: &str, request: &str) -> String {
    format!(
        "site: x
lines: [ {{ name: wire, {wire}, answer_within: 300ms }} ]
devices:
  - name: d
    line: wire
    text:
      {request}
      checksum: {{ kind: xor8, to: {{ before: '*' }}, at: {{ behind: '*' }}, as: hex }}
      match: '^W (?P<weight>[-0-9.]+) SP (?P<target>[0-9.]+)'
    points:
      weight: {{ unit: kg }}
      target: {{ unit: kg, write: {{ min: 0, max: 50, step: 0.5, send: 'S {{value:.1}}*{{checksum}}\\r\\n', expect: '^S OK|\\x06', refuse: '^ERR' }} }}
      tare: {{ write: {{ send: 'T*{{checksum}}\\r\\n', expect: '^T OK|\\x06' }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#', '$SYS/#' ], write: [ '#' ] }} }}
"
    )
}

const ASKED: &str = "request: 'Q*{checksum}\\r\\n'\n      every: 100ms";

struct Plant {
    indicator: Indicator,
    _gateway: Gateway,
    port: String,
    folder: tempfile::TempDir,
}

impl Plant {
    fn start(indicator: Indicator, wire: &str, request: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(folder.path(), &yaml(wire, request));
        let plant = Self {
            port: gateway.port().to_string(),
            indicator,
            _gateway: gateway,
            folder,
        };
        plant.wait_for_value("weight", 12.5);
        plant
    }

    fn value(&self, point: &str) -> Option<f64> {
        value(&self.port, point)
    }

    fn wait_for_value(&self, point: &str, expected: f64) {
        wait_for(&format!("{point} shows {expected}"), || {
            (self.value(point) == Some(expected)).then_some(())
        });
    }

    fn set(&self, point: &str, payload: &str) -> Value {
        set(&self.port, point, payload)
    }

    #[track_caller]
    fn check(&self, mood: Mood, point: &str, payload: &str, expected: (&str, &str)) {
        self.indicator.is(mood);
        let result = self.set(point, payload);
        let (status, reason) = expected;
        assert_eq!(result["status"], status, "{mood:?} {payload}: {result}");
        assert!(
            result["reason"].to_string().contains(reason),
            "{mood:?} {payload}: {result}"
        );
        self.indicator.is(Mood::Obeys);
    }
}

fn value(port: &str, point: &str) -> Option<f64> {
    let topic = format!("x/d/{point}");
    let (_, out, _) =
        run(Command::new("mosquitto_sub").args(["-p", port, "-t", &topic, "-C", "1", "-W", "5"]));
    let shown: Value = serde_json::from_str(&out).unwrap_or_default();
    shown["v"].as_f64().filter(|_| shown["q"] == "good")
}

/// Publishes, and waits for the result.
fn set(port: &str, point: &str, payload: &str) -> Value {
    let (topic, result) = (
        format!("x/d/{point}/set"),
        format!("x/d/{point}/set/result"),
    );
    let arguments = [
        "-V", "5", "-p", port, "-t", &topic, "-e", &result, "-m", payload,
    ];
    let (code, out, error) = run(Command::new("mosquitto_rr")
        .args(arguments)
        .args(["-q", "1", "-W", "20"]));
    assert_eq!(code, Some(0), "{point} {payload}: {error}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn check_commands(plant: &Plant) {
    plant.check(Mood::Obeys, "target", "21.5", ("ok", ""));
    plant.wait_for_value("target", 21.5);
    plant.check(Mood::Noisy, "target", "22", ("ok", ""));
    plant.wait_for_value("target", 22.0);
    plant.check(Mood::Acknowledges, "target", "23", ("ok", ""));
    plant.wait_for_value("target", 23.0);
    plant.check(Mood::Refuses, "target", "24", ("exception", "ERR 5"));
    plant.check(Mood::Babbles, "target", "24", ("exception", "WHAT?"));
    plant.check(Mood::Babbles, "tare", "1", ("exception", "WHAT?"));
    for (payload, reason) in [
        ("51", "above"),
        ("-1", "below"),
        ("0.3", "steps"),
        ("warm", "not a number"),
    ] {
        plant.check(Mood::Obeys, "target", payload, ("rejected", reason));
    }
    plant.check(Mood::Obeys, "tare", "0", ("rejected", "without a value"));
    plant.wait_for_value("target", 23.0);
}

/// Silence leaves it open whether a command was done; a target can be read, a tare cannot.
fn check_silence(plant: &Plant) {
    plant.check(Mood::Deaf, "target", "30", ("timeout_unknown", "no answer"));
    plant.check(Mood::Mute, "target", "31", ("ok", ""));
    plant.wait_for_value("target", 31.0);
    plant.check(Mood::Deaf, "tare", "1", ("timeout_unknown", "no answer"));
    plant.check(Mood::Echoes, "tare", "1", ("timeout_unknown", "echo"));
    plant.check(Mood::Damaged, "tare", "1", ("timeout_unknown", "checksum"));
    let sent = plant.indicator.commands('T');
    // The confirmation of this one comes late, and does not confirm the next.
    plant.check(Mood::Late, "tare", "1", ("timeout_unknown", "no answer"));
    plant.check(Mood::Refuses, "tare", "1", ("exception", "ERR 5"));
    assert_eq!(
        plant.indicator.commands('T'),
        sent + 2,
        "a command that cannot be read back is never repeated"
    );
    plant.check(Mood::Obeys, "tare", "1", ("ok", ""));
    plant.wait_for_value("weight", 0.0);
}

#[test]
fn an_instrument_that_is_asked_is_commanded_between_its_polls() {
    let indicator = Indicator::new();
    let wire = format!("tcp: '127.0.0.1:{}'", indicator.on_tcp(false));
    let plant = Plant::start(indicator, &wire, ASKED);
    check_commands(&plant);
    check_silence(&plant);
    // A point that is only written has no value, good or bad.
    let (_, out, _) = run(Command::new("mosquitto_sub").args([
        "-p",
        &plant.port,
        "-t",
        "x/d/tare",
        "-C",
        "1",
        "-W",
        "1",
    ]));
    assert_eq!(out, "");
}

#[test]
fn an_instrument_on_a_terminal_is_commanded_too() {
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
    let indicator = Indicator::new();
    indicator.on_terminal(&far);
    let wire = format!("serial: '{}', speed: 9600 8N1", near.display());
    let plant = Plant::start(indicator, &wire, ASKED);
    check_commands(&plant);
    check_silence(&plant);
}

#[test]
fn an_instrument_that_talks_by_itself_is_commanded_between_its_messages() {
    let indicator = Indicator::new();
    let wire = format!("tcp: '127.0.0.1:{}'", indicator.on_tcp(true));
    let plant = Plant::start(indicator, &wire, "silent_after: 5s");
    plant.check(Mood::Obeys, "target", "21.5", ("ok", ""));
    plant.wait_for_value("target", 21.5);
    plant.check(Mood::Noisy, "target", "22", ("ok", ""));
    plant.check(Mood::Refuses, "target", "24", ("exception", "ERR 5"));
    plant.check(Mood::Babbles, "target", "24", ("exception", "WHAT?"));
    plant.check(Mood::Deaf, "target", "24", ("timeout_unknown", "no answer"));
    plant.check(Mood::Late, "tare", "1", ("timeout_unknown", "no answer"));
    plant.check(Mood::Refuses, "tare", "1", ("exception", "ERR 5"));
    plant.wait_for_value("weight", 0.0);
    // What it said meanwhile was taken for values, and not for answers.
    plant.wait_for_value("target", 22.0);
}

#[test]
fn limits_and_commands_change_with_a_reload() {
    let indicator = Indicator::new();
    let wire = format!("tcp: '127.0.0.1:{}'", indicator.on_tcp(false));
    let plant = Plant::start(indicator, &wire, ASKED);
    plant.check(Mood::Obeys, "target", "40", ("ok", ""));
    let file = plant.folder.path().join("gateway.yaml");
    let typed = std::fs::read_to_string(&file).unwrap();
    let changed = typed
        .replace("max: 50", "max: 30")
        .replace("send: 'T*", "send: 'TARE*")
        .replace("match: '^W", "silent_after: 2s\n      match: '^W");
    std::fs::write(&file, changed).unwrap();
    let (code, out, error) = run(wellhead().arg("reload").arg(&file));
    assert_eq!(code, Some(0), "{out}{error}");
    plant.check(Mood::Obeys, "target", "40", ("rejected", "above"));
    plant.check(Mood::Obeys, "target", "20", ("ok", ""));
    plant.check(Mood::Obeys, "tare", "1", ("ok", ""));
    let heard = plant.indicator.heard.lock().unwrap();
    assert!(
        heard.iter().any(|line| line.starts_with("TARE*")),
        "{heard:?}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn the_simulator_keeps_what_is_written_to_it() {
    for wire in ["tcp", "serial"] {
        let folder = tempfile::tempdir().unwrap();
        let wire = if wire == "tcp" {
            ANY.to_owned()
        } else {
            format!(
                "serial: '{}', speed: 115200 8N1",
                folder.path().join("bus").display()
            )
        };
        let yaml = format!(
            "site: x
lines: [ {{ name: bus, {wire}, answer_within: 300ms }} ]
devices:
  - name: d
    line: bus
    address: '07'
    text:
      request: 'P{{address}}\\r'
      every: 100ms
      match: '^W(?P<weight>[-0-9.]+) S(?P<target>[0-9.]+) M(?P<mode>.)'
      checksum: {{ kind: xor8, to: {{ before: '*' }}, at: {{ behind: '*' }}, as: hex }}
      simulate: 'W{{weight:.1}} S{{target:.1}} M{{mode}}*{{checksum}}\\r\\n'
    points:
      weight: {{ simulate: {{ shape: constant, from: 12.5 }} }}
      target: {{ simulate: {{ shape: constant, from: 1 }}, write: {{ min: 0, max: 50, read_back: true, send: 'S{{address}} {{value:05.1}}*{{checksum}}\\r', expect: '^OK', simulate: 'OK*{{checksum}}\\r\\n' }} }}
      mode: {{ words: {{ R: run, H: halt }}, write: {{ read_back: true, send: 'M {{value}}\\r', expect: '^OK', simulate: 'OK*{{checksum}}\\r\\n' }} }}
      tare: {{ write: {{ send: 'T\\r', expect: '^T', simulate: {{ say: 'T*{{checksum}}\\r\\n', zero: [ weight ] }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#' ], write: [ '#' ] }} }}
"
        );
        let (mut simulator, gateway) = simulated(folder.path(), &yaml);
        let port = gateway.port().to_string();
        let shows = |point: &str, expected: f64| {
            wait_for(&format!("{point} shows {expected}"), || {
                (value(&port, point) == Some(expected)).then_some(())
            });
        };
        shows("weight", 12.5);
        let result = set(&port, "target", "21.5");
        assert_eq!(
            (&result["status"], &result["value"]),
            (&"ok".into(), &21.5.into())
        );
        shows("target", 21.5);
        let result = set(&port, "mode", "halt");
        assert_eq!(
            (&result["status"], &result["value"]),
            (&"ok".into(), &"halt".into())
        );
        assert_eq!(set(&port, "tare", "true")["status"], "ok");
        shows("weight", 0.0);
        assert_eq!(set(&port, "mode", "fly")["status"], "rejected");
        let ask = |arguments: &[&str]| {
            let file = folder.path().join("gateway.yaml");
            let broker = format!("mqtt://127.0.0.1:{port}");
            let access = ["--to", &broker, "--file"];
            run(wellhead().args(arguments).args(access).arg(file))
        };
        let (code, _, error) = ask(&["read", "d", "tare"]);
        assert!(
            code == Some(1) && error.contains("is only written"),
            "{error}"
        );
        let (code, out, error) = ask(&["write", "d", "target", "21.5"]);
        assert_eq!(code, Some(0), "{out}{error}");
        simulator.inject("silence");
        assert_eq!(set(&port, "tare", "1")["status"], "timeout_unknown");
        simulator.clear_faults();
        shows("target", 21.5);
    }
}
