//! Writes to instruments, from a client of the broker to the register and back.

use std::path::Path;
use std::process::Command;

use super::support::{
    Gateway, Process, free_port, mosquitto_sub, peer, python, run, simulated, wait_for,
};

const POINTS: &str = "
      setpoint: { holding: 0, type: i16, scale: 0.1, every: 100ms, simulate: { shape: constant, from: 20 }, write: { min: 0, max: 50, read_back: true } }
      mode: { holding: 1, words: { 0: stop, 1: auto }, every: 100ms, simulate: { shape: constant, from: 0 }, write: {} }
      float: { holding: 2, type: f32, every: 100ms, simulate: { shape: constant, from: 1 }, write: { read_back: { delay: 10ms, tolerance: 0.01 } } }
      bit: { holding: 4, bit: 3, every: 100ms, deadband: 0, simulate: { shape: constant, from: 0 }, write: { read_back: true } }
      low: { holding: 4, bits: [ 0, 1 ], every: 100ms, simulate: { shape: constant, from: 2 }, write: { read_back: true } }
      coil: { coil: 0, every: 100ms, simulate: { shape: constant, from: 0 }, write: { read_back: true } }
      many: { holding: 6, type: u16, every: 100ms, simulate: { shape: constant, from: 0 }, write: { function: multiple } }
      both: { holding: 7, type: u16, every: 100ms, simulate: { shape: constant, from: 0 }, write: { function: exchange } }
      slow: { holding: 8, type: u16, every: 100ms, simulate: { shape: constant, from: 0 }, write: { at_most_every: 1h } }
      a: { holding: 10, type: u16, group: pair, every: 100ms, simulate: { shape: constant, from: 1 }, write: {} }
      b: { holding: 11, type: u16, group: pair, every: 100ms, simulate: { shape: constant, from: 2 }, write: {} }
      fixed: { holding: 20, type: u16, every: 100ms, simulate: { shape: constant, from: 9 } }
";

struct Plant {
    simulator: Process,
    gateway: Gateway,
    port: u16,
    folder: tempfile::TempDir,
}

impl Plant {
    fn start(wire: impl Fn(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = format!(
            "site: x\nlines:\n  - {{ name: bus, {}, answer_within: 200ms }}\ndevices:\n  - name: d\n    line: bus\n    unit: 1\n    identify: true\n    points:{POINTS}\
             broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#', '$SYS/#' ], write: [ '#' ] }} }}\n",
            wire(folder.path())
        );
        let (simulator, gateway) = simulated(folder.path(), &yaml);
        let port = gateway.port();
        let plant = Self {
            simulator,
            gateway,
            port,
            folder,
        };
        plant.wait_for_value("setpoint", "20");
        plant
    }

    fn wait_for_value(&self, point: &str, value: &str) {
        let port = self.port.to_string();
        wait_for(&format!("{point} shows {value}"), || {
            let topic = format!("x/d/{point}");
            let (_, out, _) = run(Command::new("mosquitto_sub")
                .args(["-p", &port, "-t", &topic, "-C", "1", "-W", "5"]));
            let shown: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
            let wanted: serde_json::Value = serde_json::from_str(value).unwrap();
            (shown["v"] == wanted || (wanted.is_number() && shown["v"].as_f64() == wanted.as_f64()))
                .then_some(())
        });
    }

    /// Publishes, and waits for the result.
    fn set(&self, point: &str, payload: &str) -> serde_json::Value {
        let port = self.port.to_string();
        let arguments = [
            "-V",
            "5",
            "-p",
            &port,
            "-t",
            &format!("x/d/{point}/set"),
            "-e",
            &format!("x/d/{point}/set/result"),
            "-m",
            payload,
        ];
        // mosquitto_rr names its response topic in the request, too.
        let (code, out, error) = run(Command::new("mosquitto_rr")
            .args(arguments)
            .args(["-q", "1", "-W", "20"]));
        assert_eq!(code, Some(0), "{point} {payload}: {error}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    fn check(&self, point: &str, payload: &str, status: &str, value: &str) {
        let result = self.set(point, payload);
        assert_eq!(result["status"], status, "{point} {payload}: {result}");
        assert_eq!(
            result["value"].to_string(),
            value,
            "{point} {payload}: {result}"
        );
    }
}

/// A retain flag, which Node-RED and Home Assistant set easily, makes no command vanish, in no
/// version and at no QoS.
fn check_retained_writes(plant: &Plant) {
    let port = plant.port.to_string();
    for (value, version, qos) in [
        ("11", "mqttv31", "1"),
        ("12", "mqttv311", "0"),
        ("13", "mqttv311", "2"),
        ("14", "mqttv5", "1"),
    ] {
        let results = Process::start(
            mosquitto_sub().args(["-d", "-p", &port, "-t", "x/d/setpoint/set/result"]),
            &plant.folder.path().join(format!("result-{value}")),
        );
        results.wait_for_output("Subscribed");
        let set = [
            "-p",
            &port,
            "-t",
            "x/d/setpoint/set",
            "-m",
            value,
            "-r",
            "-V",
            version,
            "-q",
            qos,
        ];
        assert_eq!(run(Command::new("mosquitto_pub").args(set)).0, Some(0));
        results.wait_for_output("\"status\":\"ok\"");
        plant.wait_for_value("setpoint", value);
    }
    plant
        .gateway
        .process
        .wait_for_event("broker.retained_command", &[]);
    let kept = [
        "-p",
        &port,
        "-t",
        "x/d/setpoint/set",
        "-C",
        "1",
        "-W",
        "1",
        "--retained-only",
    ];
    let (_, kept, _) = run(Command::new("mosquitto_sub").args(kept));
    assert_eq!(kept, "", "a command is retained");
    // Neither does one to a point that cannot be written, or to a group without one.
    let result = plant.set("fixed", "1");
    assert!(
        result["status"] == "rejected" && result["reason"].to_string().contains("`write:`"),
        "{result}"
    );
}

fn check_writes(plant: &Plant) {
    let port = plant.port.to_string();
    wait_for("the device has said what it is", || {
        let (_, status, _) = run(Command::new("mosquitto_sub").args([
            "-p",
            &port,
            "-t",
            "$SYS/wellhead/line/bus/d",
            "-C",
            "1",
            "-W",
            "5",
        ]));
        status.contains("\"identity\":\"wellhead d ").then_some(())
    });
    plant.check("setpoint", "25.5", "ok", "25.5");
    plant.wait_for_value("setpoint", "25.5");
    plant.check("setpoint", "{\"value\":\"30\",\"id\":7}", "ok", "30.0");
    assert_eq!(
        plant.set("setpoint", "{\"value\":1,\"id\":\"a-1\"}")["id"],
        "a-1"
    );
    plant.check("mode", "auto", "ok", "\"auto\"");
    plant.wait_for_value("mode", "\"auto\"");
    plant.check("float", "2.5", "ok", "2.5");
    plant.check("bit", "on", "ok", "true");
    plant.check("low", "1", "ok", "1");
    plant.wait_for_value("bit", "true");
    plant.wait_for_value("low", "1");
    plant.check("coil", "true", "ok", "true");
    plant.check("many", "7", "ok", "7");
    plant.check("both", "8", "ok", "8");
    plant.wait_for_value("many", "7");
    plant.wait_for_value("both", "8");
    plant.check("pair", "{\"a\":5,\"b\":6}", "ok", "{\"a\":5,\"b\":6}");
    plant.wait_for_value("b", "6");
    for (point, payload, reason) in [
        ("setpoint", "51", "above"),
        ("setpoint", "warm", "not a number"),
        ("setpoint", "", "empty"),
        ("mode", "fast", "one of stop, auto"),
        ("many", "70000", "does not hold"),
        ("low", "4", "fit"),
        ("pair", "5", "object"),
        ("pair", "{\"a\":1,\"c\":2}", "no point"),
        ("coil", "2", "neither"),
    ] {
        let result = plant.set(point, payload);
        assert_eq!(result["status"], "rejected", "{point} {payload}: {result}");
        assert!(
            result["reason"].to_string().contains(reason),
            "{point} {payload}: {result}"
        );
    }
    assert_eq!(plant.set("slow", "1")["status"], "ok");
    assert!(
        plant.set("slow", "2")["reason"]
            .to_string()
            .contains("at most every 1h")
    );
}

fn check_faulty_writes(plant: &mut Plant) {
    let mut struck = |fault: &str, status: &str| {
        fault
            .split(';')
            .for_each(|fault| plant.simulator.inject(fault));
        let result = plant.set("setpoint", "40");
        plant.simulator.clear_faults();
        assert_eq!(result["status"], status, "{fault}: {result}");
        // Whatever happened, the next write is told rightly.
        let next = wait_for("the device is back", || {
            let next = plant.set("setpoint", "10");
            (next["status"] == "ok").then_some(next)
        });
        assert_eq!(next["value"], 10.0, "{fault}");
        plant.wait_for_value("setpoint", "10");
    };
    struck("exception=4", "exception");
    // A busy device is asked three times more, and no oftener.
    struck("exception=6 function 6 for 3", "ok");
    struck("exception=6 function 6 for 4", "exception");
    // One that accepted the write is asked whether it is done; here it never is, and it is not
    // asked to do it a second time.
    struck("exception=5 function 6 for 1", "timeout_unknown");
    struck("exception=5 function 6", "timeout_unknown");
    struck("wrong-address", "timeout_unknown");
    // It got there and is not answered: reading back tells, or nobody knows.
    struck("silence function 6", "ok");
    struck(
        "silence function 6;exception=6 function 3",
        "timeout_unknown",
    );
    plant.simulator.inject("exception=6 function 22 for 3");
    plant.check("bit", "false", "ok", "false");
    plant.check("bit", "true", "ok", "true");
    plant.simulator.clear_faults();
    // What stands there cannot be read, so the bit beside it cannot be changed, and nothing is
    // sent.
    plant.simulator.inject("exception=1 function 22");
    plant.simulator.inject("silence function 3");
    assert_eq!(plant.set("bit", "false")["status"], "rejected");
    plant.simulator.clear_faults();
    plant.wait_for_value("setpoint", "10");
    plant.wait_for_value("bit", "true");
    // The device answers nothing at all: nothing is sent.
    plant.simulator.inject("silence");
    let port = plant.port.to_string();
    wait_for("the device is offline", || {
        let (_, status, _) = run(Command::new("mosquitto_sub").args([
            "-p",
            &port,
            "-t",
            "x/d/availability",
            "-C",
            "1",
            "-W",
            "5",
        ]));
        (status.trim() == "offline").then_some(())
    });
    assert_eq!(plant.set("setpoint", "40")["status"], "rejected");
    plant.simulator.clear_faults();
    plant.wait_for_value("setpoint", "10");
}

#[test]
fn writes_over_tcp_are_checked_confirmed_and_told() {
    let plant = Plant::start(|_| "modbus_tcp: '127.0.0.1:0'".to_owned());
    check_writes(&plant);
    check_retained_writes(&plant);
}

#[test]
fn writes_over_rtu_are_never_confirmed_by_accident() {
    let mut plant = Plant::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    check_writes(&plant);
    check_faulty_writes(&mut plant);
    plant.simulator.inject("echo");
    plant.check("setpoint", "11", "ok", "11.0");
    plant.simulator.clear_faults();
    plant.simulator.inject("echo-only");
    assert_ne!(
        plant.set("setpoint", "12")["status"],
        "ok",
        "only the echo came back"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_pymodbus_server_is_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let server_port = free_port();
    let server = Process::start(
        python()
            .arg("-u")
            .arg(peer("modbus_server.py"))
            .arg(server_port.to_string()),
        &folder.path().join("server.log"),
    );
    server.wait_for_output("ready");
    let yaml = format!(
        "site: x
lines: [ {{ name: tcp, modbus_tcp: '127.0.0.1:{server_port}' }} ]
devices:
  - name: d
    line: tcp
    unit: 1
    points:
      word: {{ holding: 10, type: u16, every: 100ms, write: {{ read_back: true }} }}
      bit: {{ holding: 11, bit: 15, every: 100ms, write: {{ read_back: true }} }}
      float: {{ holding: 16, type: f32, every: 100ms, write: {{ function: exchange }} }}
      coil: {{ coil: 1, every: 100ms, write: {{ read_back: true }} }}
      absent: {{ holding: 500, type: u16, write: {{}} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#' ], write: [ '#' ] }} }}
"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let set = |point: &str, payload: &str| {
        let arguments = [
            "-V",
            "5",
            "-p",
            &port.to_string(),
            "-t",
            &format!("x/d/{point}/set"),
            "-e",
            &format!("answers/{point}"),
            "-m",
            payload,
        ];
        let (code, out, error) = run(Command::new("mosquitto_rr")
            .args(arguments)
            .args(["-q", "1", "-W", "20"]));
        assert_eq!(code, Some(0), "{point}: {error}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let register = |table: &str, address: &str| {
        run(python().arg(peer("modbus_client.py")).args([
            &server_port.to_string(),
            "1",
            table,
            address,
            "1",
        ]))
        .1
        .trim()
        .to_owned()
    };
    assert_eq!(set("word", "4321")["status"], "ok");
    assert_eq!(register("holding", "10"), "4321");
    assert_eq!(set("bit", "true")["value"], true);
    assert_eq!(register("holding", "11"), (101 | 1 << 15).to_string());
    assert_eq!(set("float", "-2.5")["value"], -2.5);
    assert_eq!(set("coil", "on")["status"], "ok");
    assert_eq!(register("coil", "1"), "1");
    let absent = set("absent", "1");
    assert_eq!(
        (&absent["status"], &absent["code"]),
        (&"exception".into(), &2.into()),
        "{absent}"
    );
    assert!(
        gateway
            .process
            .output()
            .contains("write event=write.done topic=x/d/word/set"),
        "every write is in the log: {}",
        gateway.process.output()
    );
}

#[test]
fn an_answer_goes_where_whoever_asked_may_look() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x
lines: [ { name: bench, simulated: {} } ]
devices: [ { name: d, line: bench, points: { p: { holding: 0, type: u16, every: 100ms, write: {} } } } ]
broker: { listen: [ 'mqtt://127.0.0.1:0' ], anonymous: { read: [ 'mine/#', 'x/#' ], write: [ 'x/d/p/set' ] } }
";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let port = port.to_string();
    let set = |response: &str| {
        let arguments = [
            "-V",
            "5",
            "-p",
            &port,
            "-q",
            "1",
            "-d",
            "-t",
            "x/d/p/set",
            "-m",
            "1",
            "-D",
            "publish",
            "response-topic",
            response,
        ];
        run(Command::new("mosquitto_pub").args(arguments)).1
    };
    assert!(
        set("others/answer").contains("RC:135"),
        "not his to read or write"
    );
    let answers = Process::start(
        mosquitto_sub().args(["-p", &port, "-t", "mine/#", "-t", "x/#", "-v", "-q", "1"]),
        &folder.path().join("answers.log"),
    );
    wait_for("the subscriber is there", || {
        answers.output().contains("x/d/p ").then_some(())
    });
    assert!(!set("mine/answer").contains("RC:135"));
    wait_for("the answer", || {
        answers
            .output()
            .contains("mine/answer {\"status\":\"ok\"")
            .then_some(())
    });
    // In the name of an instrument: the result goes to its usual place.
    assert!(!set("x/d/p").contains("RC:135"));
    wait_for("the usual place", || {
        answers
            .output()
            .contains("x/d/p/set/result {\"status\":\"ok\"")
            .then_some(())
    });
}

#[test]
fn nobody_writes_without_permission_nor_what_is_not_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x
lines: [ { name: bench, simulated: {} } ]
devices: [ { name: d, line: bench, points: { p: { holding: 0, type: u16, every: 100ms, write: {} }, q: { holding: 1, type: u16, every: 100ms } } } ]
broker: { listen: [ 'mqtt://127.0.0.1:0' ] }
";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let publish = |arguments: &[&str]| {
        run(Command::new("mosquitto_pub")
            .args(["-V", "5", "-p", &port.to_string(), "-q", "1", "-d"])
            .args(arguments))
        .1
    };
    assert!(
        publish(&["-t", "x/d/p/set", "-m", "1"]).contains("RC:135"),
        "nobody was given the right to write"
    );
    assert!(publish(&["-t", "x/d/q/set", "-m", "1"]).contains("RC:135"));
}
