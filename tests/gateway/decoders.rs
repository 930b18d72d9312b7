//! The decoders that receivers of packed frames copy, `docs/decoders`: in Python, JavaScript and C
//! they read what is frozen, and refuse what the gateway refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use wellhead::payload::{FrameSchema, UnpackedReading};
use wellhead::reading::Value as Measured;
use wellhead::time::is_plausible;

use super::frames::bytes;
use super::support::{Mosquitto, Process, peer, python, run, wait_for};

/// A message, with the document that it is to be read by.
#[derive(Clone)]
struct Asked {
    schema: Value,
    message: Vec<u8>,
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vectors(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let lines = fs::read_to_string(path.join(name)).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The frozen messages, and what is in them.
fn frozen() -> Vec<(Asked, Value)> {
    let message = |vector: &Value| bytes(vector["message"].as_str().unwrap());
    let of_schema = |vector: Value| {
        let asked = Asked {
            schema: vector["schema"].clone(),
            message: message(&vector),
        };
        (
            asked,
            in_series(&vector["series"], vector["readings"].clone()),
        )
    };
    let of_frames = |vector: Value| {
        let asked = Asked {
            schema: schema_of(&vector),
            message: message(&vector),
        };
        (asked, in_series(&vector["series"], readings_of(&vector)))
    };
    let of_schemas = vectors("schemas.jsonl").into_iter().map(of_schema);
    let of_frames = vectors("pack.jsonl").into_iter().map(of_frames);
    of_schemas.chain(of_frames).collect()
}

/// Frozen readings with their series behind the rest.
fn in_series(series: &Value, mut readings: Value) -> Value {
    for reading in readings.as_array_mut().unwrap() {
        reading.as_array_mut().unwrap().push(series.clone());
    }
    canonical(readings)
}

/// A schema for frozen frames, whose columns are integers and texts.
fn schema_of(vector: &Value) -> Value {
    let kinds = vector["kinds"].as_array().unwrap();
    let of = |kind: &Value| if kind == "text" { "text" } else { "int" };
    let model = bytes(vector["model"].as_str().unwrap());
    let model = (!model.is_empty()).then(|| BASE64_STANDARD.encode(model));
    json!({
        "version": 1,
        "hash": &vector["message"].as_str().unwrap()[2..10],
        "base": "s7/",
        "names": (0..kinds.len()).map(|place| place.to_string()).collect::<Vec<_>>(),
        "types": kinds.iter().map(of).collect::<Vec<_>>(),
        "decimals": vec![0; kinds.len()],
        "kinds": kinds,
        "units": vec![Value::Null; kinds.len()],
        "model": model,
    })
}

/// The readings of frozen frames by that schema.
fn readings_of(vector: &Value) -> Value {
    let mut readings = Vec::new();
    for frame in vector["frames"].as_array().unwrap() {
        let mut numbers = frame["numbers"].as_array().unwrap().iter();
        for (row, time) in frame["times"].as_array().unwrap().iter().enumerate() {
            for (at, column) in frame["columns"].as_array().unwrap().iter().enumerate() {
                let (value, mut not_good) = (
                    &column[1][row],
                    frame["not_good"].as_array().unwrap().iter(),
                );
                let not_good = not_good.find(|own| own[0] == row && own[1] == at);
                if value.is_null() && not_good.is_none() {
                    continue;
                }
                let of = match value {
                    Value::Null => Value::Null,
                    Value::String(_) => json!("text"),
                    _ => json!("int"),
                };
                let topic = format!("s7/{}", column[0]);
                let quality = not_good.map_or(json!("good"), |own| own[2].clone());
                let reason = not_good.map_or(Value::Null, |own| own[3].clone());
                let age = not_good.map_or(json!(0), |own| own[4].clone());
                readings.push(json!([
                    numbers.next(),
                    topic,
                    null,
                    time,
                    frame["clock_set"],
                    of,
                    value,
                    quality,
                    reason,
                    age
                ]));
            }
        }
    }
    readings.sort_by_key(|reading| reading[0].as_u64());
    json!(readings)
}

/// Readings in one form: floats as their bits, what is no number as one, ages as decoders have them
/// in seconds, and the clock as unset where the time says it. Null stays as it is.
fn canonical(mut readings: Value) -> Value {
    for reading in readings.as_array_mut().into_iter().flatten() {
        if let Some(bits) = reading[6].get(0).filter(|_| reading[5] != "list") {
            reading[6] = bits.clone();
        }
        if let ("f32" | "f64", Some(bits)) =
            (reading[5].as_str().unwrap_or_default(), reading[6].as_str())
        {
            let bits = u64::from_str_radix(bits, 16).unwrap();
            let is_nan = match u32::try_from(bits) {
                Ok(bits) if reading[5] == "f32" => f32::from_bits(bits).is_nan(),
                _ => f64::from_bits(bits).is_nan(),
            };
            if is_nan {
                reading[6] = json!("NaN");
            }
        }
        reading[9] = json!(format!("{:.6e}", reading[9].as_f64().unwrap()));
        let is_set = reading[4] == true && is_plausible(reading[3].as_i64().unwrap());
        reading[4] = json!(is_set);
    }
    readings
}

fn typed(value: &Measured) -> (&'static str, Value) {
    match value {
        Measured::Bool(truth) => ("bool", json!(truth)),
        Measured::Int(int) => ("int", json!(int)),
        Measured::UInt(uint) => ("uint", json!(uint)),
        Measured::F32(float) => ("f32", json!(format!("{:08x}", float.to_bits()))),
        Measured::F64(float) => ("f64", json!(format!("{:016x}", float.to_bits()))),
        Measured::Text(text) => ("text", json!(&**text)),
        Measured::List(list) => ("list", list.iter().map(|own| typed(own).1).collect()),
    }
}

/// What the gateway finds in a message: null if it is damaged.
fn by_the_gateway(asked: &Asked) -> Value {
    let schema = FrameSchema::from_json(asked.schema.to_string().as_bytes()).unwrap();
    let Ok(readings) = schema.decode(&asked.message) else {
        return Value::Null;
    };
    let told = |own: &UnpackedReading| {
        let reading = &own.reading;
        let (of, value) = reading.value.as_ref().map(typed).unzip();
        json!([
            own.number,
            own.topic.as_str(),
            own.unit,
            reading.time.unix_ms,
            reading.time.clock_set,
            of,
            value,
            reading.quality.name(),
            reading.quality.reason(),
            reading.age.as_millis() as u64,
            own.series
        ])
    };
    canonical(readings.iter().map(told).collect())
}

/// The answers of a program to lines, which are JSON.
fn answers(command: &mut Command, lines: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("lines");
    fs::write(&input, lines).unwrap();
    let command = command.stdin(fs::File::open(&input).unwrap());
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let answers = text.lines().map(|line| serde_json::from_str(line).unwrap());
    answers.collect()
}

fn json_lines(asked: &[Asked]) -> String {
    let line = |asked: &Asked| {
        let message = hexadecimal(&asked.message);
        format!("{}\n", json!({"schema": asked.schema, "message": message}))
    };
    asked.iter().map(line).collect()
}

fn in_python(asked: &[Asked]) -> Vec<Value> {
    let answers = answers(python().arg(peer("pack_decoder.py")), &json_lines(asked));
    answers.into_iter().map(canonical).collect()
}

fn in_javascript(asked: &[Asked]) -> Vec<Value> {
    let mut node = Command::new("node");
    let answers = answers(node.arg(peer("pack_decoder.js")), &json_lines(asked));
    answers.into_iter().map(canonical).collect()
}

/// The program in C, with everything that finds undefined behaviour.
fn built(folder: &Path) -> PathBuf {
    let program = folder.join("pack_decoder");
    let (code, _, error) = run(Command::new("gcc")
        .args([
            "-std=c99",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Wconversion",
            "-Werror",
        ])
        .args([
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-o",
        ])
        .arg(&program)
        .arg(peer("pack_decoder.c")));
    assert_eq!(code, Some(0), "{error}");
    program
}

fn in_c(asked: &[Asked]) -> Vec<Value> {
    const KINDS: [&str; 6] = ["scaled", "counter", "status", "f32", "f64", "text"];
    const TYPES: [&str; 9] = [
        "bool", "int", "uint", "decimal", "f32", "f64", "text", "list", "none",
    ];
    let digits = |words: &Value, of: &[&str]| -> String {
        let words = words.as_array().unwrap().iter();
        let digit = |word: &Value| of.iter().position(|own| word == own).unwrap().to_string();
        words.map(digit).collect()
    };
    let line = |asked: &Asked| {
        let schema = &asked.schema;
        let hash = schema["hash"].as_str().unwrap();
        let (kinds, types) = (
            digits(&schema["kinds"], &KINDS),
            digits(&schema["types"], &TYPES),
        );
        let decimals = schema["decimals"].as_array().unwrap().iter();
        let decimals: String = decimals.map(Value::to_string).collect();
        let model = schema["model"].as_str().unwrap_or_default();
        let model = hexadecimal(&BASE64_STANDARD.decode(model).unwrap());
        let message = hexadecimal(&asked.message);
        format!("{hash} {kinds} {types} {decimals} {model:-<1} {message:-<1}\n")
    };
    let lines: String = asked.iter().map(line).collect();
    let folder = tempfile::tempdir().unwrap();
    let answers = answers(&mut Command::new(built(folder.path())), &lines);
    let named = |(asked, mut readings): (&Asked, Value)| {
        let schema = &asked.schema;
        for reading in readings.as_array_mut().into_iter().flatten() {
            let column = reading[1].as_u64().unwrap() as usize;
            let (base, name) = (&schema["base"], &schema["names"][column]);
            reading[1] = json!(base.as_str().unwrap().to_owned() + name.as_str().unwrap());
            let unit = schema["units"][column].clone();
            reading.as_array_mut().unwrap().insert(2, unit);
            if reading[5] == "list" {
                reading[6] = serde_json::from_str(reading[6].as_str().unwrap()).unwrap();
            }
        }
        if let Some(readings) = readings.as_array_mut() {
            readings.sort_by_key(|reading| reading[0].as_u64());
        }
        canonical(readings)
    };
    asked.iter().zip(answers).map(named).collect()
}

type Decoder = fn(&[Asked]) -> Vec<Value>;
const DECODERS: [(&str, Decoder); 3] = [
    ("Python", in_python),
    ("JavaScript", in_javascript),
    ("C", in_c),
];

fn check(asked: &[Asked], expected: &[Value]) {
    for (language, decoder) in DECODERS {
        let found = decoder(asked);
        assert_eq!(found.len(), expected.len(), "{language}");
        for ((asked, found), expected) in asked.iter().zip(&found).zip(expected) {
            let message = hexadecimal(&asked.message);
            assert_eq!(found, expected, "{language}: {message} by {}", asked.schema);
        }
    }
}

#[test]
fn decoders_of_receivers_read_frozen_messages() {
    let (asked, expected): (Vec<_>, Vec<_>) = frozen().into_iter().unzip();
    assert!(asked.len() > 30, "{}", asked.len());
    let by_the_gateway: Vec<Value> = asked.iter().map(by_the_gateway).collect();
    assert_eq!(by_the_gateway, expected);
    check(&asked, &expected);
}

/// The message cut short, with other bytes, or with others at its end.
fn damaged(asked: &Asked, random: &mut fastrand::Rng) -> Asked {
    const HASH_TO: usize = 5;
    let mut asked = asked.clone();
    let message = &mut asked.message;
    match random.u8(..4) {
        0 => message.truncate(random.usize(HASH_TO..message.len())),
        1 => {
            message.truncate(random.usize(HASH_TO..message.len()));
            message.extend((0..random.usize(..30)).map(|_| random.u8(..)));
        }
        _ => {
            for _ in 0..random.usize(1..3) {
                let at = random.usize(HASH_TO..message.len());
                let any = random.u8(..);
                message[at] = *random.choice(&[0, 1, 127, 128, 255, any]).unwrap();
            }
        }
    }
    asked
}

#[test]
fn decoders_of_receivers_refuse_what_the_gateway_refuses() {
    let mut random = fastrand::Rng::with_seed(2026);
    let mut asked = Vec::new();
    for (own, _) in frozen() {
        // What JSON is, in a list, depends on the language.
        let types = own.schema["types"].as_array().unwrap();
        if types.iter().all(|of| of != "list") {
            asked.extend((0..30).map(|_| damaged(&own, &mut random)));
        }
    }
    let expected: Vec<Value> = asked.iter().map(by_the_gateway).collect();
    let refused = expected.iter().filter(|found| found.is_null()).count();
    assert!(refused > 300, "{refused} of {}", expected.len());
    assert!(
        expected.len() - refused > 100,
        "{refused} of {}",
        expected.len()
    );
    check(&asked, &expected);
}

/// A message whose schema comes after it, and one in columns.
fn to_receivers() -> [(String, Vec<u8>); 3] {
    let vectors = vectors("schemas.jsonl");
    let vector = &vectors[0];
    let hash = vector["schema"]["hash"].as_str().unwrap();
    let columns = r#"[{"base":"s7/inlet/","times":[1769847330250,10000],"names":["flow"],"decimals":[1],"order":[1],"values":[[123,1]],"series":7,"numbers":[[5009,2]]}]"#;
    let message = bytes(vector["message"].as_str().unwrap());
    [
        ("far/s7".to_owned(), message),
        (
            format!("far/s7/meta/{hash}"),
            vector["schema"].to_string().into(),
        ),
        ("far/s7".to_owned(), columns.into()),
    ]
}

#[test]
fn a_function_node_reads_packed_frames() {
    let messages = to_receivers();
    let line = |(topic, payload): &(String, Vec<u8>)| {
        format!(
            "{}\n",
            json!({"topic": topic, "payload": hexadecimal(payload)})
        )
    };
    let lines: String = messages.iter().map(line).collect();
    let found = answers(Command::new("node").arg(peer("node_red.js")), &lines);
    assert_eq!(found[0], json!([[]]), "its schema is not there");
    assert_eq!(found[1][0].as_array().unwrap().len(), 9);
    assert_eq!(found[1][0][3]["topic"], "s7/pump/flow");
    assert_eq!(found[1][0][3]["payload"]["value"], 12.34);
    assert_eq!(found[1][0][3]["payload"]["unit"], "m\u{b3}/h");
    assert_eq!(found[2][0][1]["payload"]["number"], 5010);
    assert_eq!(found[2][0][1]["payload"]["value"], 12.4);
}

#[test]
fn the_script_for_telegraf_prints_line_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(folder.path(), "");
    let port = broker.port.to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decoders/telegraf.py");
    let log = folder.path().join("telegraf.log");
    let telegraf = Process::start(
        python().args([script, "127.0.0.1", &port, "far/s7/#"]),
        &log,
    );
    // Whether it has subscribed by then does not matter to a retained message.
    let publish = |topic: &str, payload: &[u8]| {
        let file = folder.path().join("payload");
        fs::write(&file, payload).unwrap();
        let mut publish = Command::new("mosquitto_pub");
        let publish = publish.args(["-p", &port, "-q", "1", "-r", "-t", topic, "-f"]);
        assert_eq!(run(publish.arg(file)).0, Some(0));
    };
    let [message, schema, columns] = to_receivers();
    publish(&message.0, &message.1);
    publish(&schema.0, &schema.1);
    let lines = |expected: &[&str]| {
        wait_for("the readings", || {
            let output = telegraf.output();
            let has = |line: &&str| output.lines().any(|own| own == *line);
            expected.iter().all(has).then_some(())
        });
    };
    lines(&[
        "pump,site=s7 on=true 1769847330250000000",
        "pump,site=s7 total=70000.0 1769847330250000000",
        "pump,site=s7 flow=12.34 1769847330250000000",
        "pump,site=s7 mode=\"man \u{fc}\" 1769847330250000000",
        r#"pump,site=s7 alarms="[\"a\\\"b\", -1]" 1769847330250000000"#,
        r#"pump,site=s7 dead_quality="bad",dead_reason="no answer" 1769847330250000000"#,
    ]);
    publish(&columns.0, &columns.1);
    lines(&["inlet,site=s7 flow=12.4 1769847340250000000"]);
}
