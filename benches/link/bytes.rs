//! Bytes of a reading on the wire, both ways, with all headers and acknowledgements: a plant of 50
//! points that is read every 10 s, beside what other programs make of the same readings.

use std::time::Duration;

use wellhead::message::Lane;
use wellhead::reading::Value;

use super::client::Publisher;
use super::gateway::{Gateway, SCAN_MS, runtime, value};
use super::lab::Lab;
use super::plant::PlantColumn;
use super::profile::METER;
use super::relay::LinkMeter;

/// Messages that are counted of each kind.
const ROUNDS: usize = 3;
/// Scans that share a message: those of 10 s, 1 min, 200 s and 10 min.
const SCANS: [usize; 4] = [1, 6, 20, 60];
/// How long the last acknowledgement takes, those of TCP included.
const REST: Duration = Duration::from_secs(3);
/// A remote without limits that matter here.
const BROKER: &str = "max_inflight_messages 0\nmax_topic_alias 1000\n";

/// How readings are written, and whether they share messages.
const FORMATS: [(&str, &str, bool); 5] = [
    ("json", "format: json", false),
    ("scan", "kind: scan", true),
    ("scan + brotli", "kind: scan, compress: brotli", true),
    (
        "columns + deflate",
        "kind: columns, compress: deflate",
        true,
    ),
    ("columns + brotli", "kind: columns, compress: brotli", true),
];

/// Prints a line for each program and format.
pub(crate) fn run(plant: &[PlantColumn]) {
    println!(
        "\nbytes of a reading on the wire: both ways, up / down; {} points",
        plant.len()
    );
    print!("{:>26}", "");
    for scans in SCANS {
        print!(" {:>15}", format!("{} s", scans * SCAN_MS as usize / 1000));
    }
    println!();
    other("Telegraf, as it is", plant, telegraf);
    other("Neuron, as it is", plant, neuron);
    for (name, format, is_shared) in FORMATS {
        print!("{:>26}", format!("wellhead, {name}"));
        for scans in SCANS
            .into_iter()
            .take(if is_shared { SCANS.len() } else { 1 })
        {
            // Sent a little after the last reading was taken.
            let every = (scans as i64 - 1) * SCAN_MS / 1000 + 2;
            let shared =
                format!("to: plant-7/frame, format: {{ {format}, every: {every}s, up_to: 64kB }}");
            print!(
                " {:>15}",
                ours(plant, if is_shared { &shared } else { format }, scans)
            );
        }
        println!();
    }
}

/// What has passed since `before`, as bytes of one of `readings`.
fn written(meter: &LinkMeter, before: (u64, u64), readings: usize) -> String {
    let each = |bytes: u64| bytes as f64 / readings as f64;
    let (up, down) = (
        each(meter.up().bytes - before.0),
        each(meter.down().bytes - before.1),
    );
    format!("{:.2} {up:.1} / {down:.1}", up + down)
}

fn ours(plant: &[PlantColumn], format: &str, scans: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (lab, meter, _cleaner) = Lab::new(METER);
    let _broker = lab.mosquitto(folder, BROKER);
    let inside = || {
        runtime(&lab).block_on(async {
            let gateway = Gateway::open(folder, format, "");
            let uplink = gateway.start(folder).await;
            // The first one sets the alias of the topic.
            let mut before = (0, 0);
            for round in 0..=ROUNDS {
                gateway.fill(Lane::Live, plant, scans, 0).await;
                while gateway.outbox.waiting() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(REST).await;
                if round == 0 {
                    before = (meter.up().bytes, meter.down().bytes);
                }
            }
            let line = written(&meter, before, ROUNDS * scans * plant.len());
            uplink.stop().await;
            line
        })
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

/// Messages of a scan as another program writes them: topics and payloads.
type WriteScan = fn(&[PlantColumn], usize) -> Vec<(String, String)>;

fn other(name: &str, plant: &[PlantColumn], write: WriteScan) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (lab, meter, _cleaner) = Lab::new(METER);
    let _broker = lab.mosquitto(folder, BROKER);
    let inside = || {
        lab.enter_gateway();
        let mut publisher = Publisher::connect(folder);
        std::thread::sleep(REST);
        let before = (meter.up().bytes, meter.down().bytes);
        for scan in 0..ROUNDS {
            publisher.publish(&write(plant, scan));
            std::thread::sleep(REST);
        }
        written(&meter, before, ROUNDS * plant.len())
    };
    let line = std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    println!("{name:>26} {line:>15}");
}

fn text(column: &PlantColumn, scan: usize) -> String {
    match value(column, scan) {
        Value::F64(value) => value.to_string(),
        Value::F32(value) => f64::from(value).to_string(),
        Value::UInt(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

/// `outputs.mqtt` with `data_format = "json"`: a message for each metric.
fn telegraf(plant: &[PlantColumn], scan: usize) -> Vec<(String, String)> {
    let seconds = 1_800_000_000 + scan as i64 * SCAN_MS / 1000;
    let message = |column: &PlantColumn| {
        let (name, value) = (&column.name, text(column, scan));
        let payload = format!(
            r#"{{"fields":{{"{name}":{value}}},"name":"modbus","tags":{{"host":"gateway-7","name":"pump","slave_id":"1","type":"holding_register"}},"timestamp":{seconds}}}"#
        );
        (
            format!("telegraf/plant-7/gateway-7/modbus/pump/{name}"),
            payload,
        )
    };
    plant.iter().map(message).collect()
}

/// The values of a group in one message.
fn neuron(plant: &[PlantColumn], scan: usize) -> Vec<(String, String)> {
    let ms = 1_800_000_000_000 + scan as i64 * SCAN_MS;
    let values = plant
        .iter()
        .map(|column| format!(r#""{}":{}"#, column.name, text(column, scan)));
    let values: Vec<String> = values.collect();
    let payload = format!(
        r#"{{"node":"pump","group":"scan","timestamp":{ms},"values":{{{}}},"errors":{{}},"metas":{{}}}}"#,
        values.join(",")
    );
    vec![("/neuron/plant-7/pump/scan".to_owned(), payload)]
}
