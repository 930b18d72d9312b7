//! The field engine: line efficiency on a terminal with the timing of a wire, plans beside those of
//! other gateways, dead devices, CPU for a transaction beside libmodbus, and 500 devices.
//!
//! `cargo bench --bench field` runs everything (about six minutes); names behind `--` choose:
//! `line`, `plan`, `dead`, `cpu`, `many`. `cpu` needs gcc and libmodbus-dev.

// A bench that cannot go on stops with what it met; its figures are estimates.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::too_many_lines
)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_serial::{SerialPort, SerialStream};
use wellhead::field::counts::LineCounts;
use wellhead::field::decode::{DataType, Register, Table};
use wellhead::field::modbus::Modbus;
use wellhead::field::modbus::manners::Manners;
use wellhead::field::modbus::plan::{Costs, TURNAROUND, plan};
use wellhead::field::modbus::slave::{
    FaultInjector, Image, Tally, TransmissionMode, WirePace, serve_frames, serve_tcp,
};
use wellhead::field::modbus::timeout_estimator::AnswerWithin;
use wellhead::field::modbus::unreadable::UnreadableRanges;
use wellhead::field::serial::{Port, Speed};
use wellhead::field::signal::Signal;
use wellhead::field::{Device, Driver, Line, Point, PointSource, Wire};
use wellhead::reading::{DeviceId, PointId};
use wellhead::tasks::OwnThread;

fn device(points: impl Iterator<Item = (u16, DataType, Duration)>) -> Arc<Device> {
    let point = |(index, (address, kind, every)): (usize, (u16, DataType, Duration))| Point {
        id: PointId(index as u32),
        every,
        source: PointSource::Register {
            register: Arc::new(Register::new(Table::Holding, address, kind)),
            exponent: None,
        },
        ..Point::simulated(format!("p{index}"), Signal::default())
    };
    Arc::new(Device {
        points: points.enumerate().map(point).collect(),
        ..Device::new(DeviceId(0), "d", 1)
    })
}

fn line(wire: Wire, device: Arc<Device>) -> Line {
    Line {
        name: "bench".to_owned(),
        wire,
        answer_within: AnswerWithin::at_most(Duration::from_secs(1)),
        manners: Manners::default(),
        devices: vec![device],
    }
}

fn counts() -> Arc<LineCounts> {
    Arc::new(LineCounts::new("bench", ["d".to_owned()].into_iter()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Reads `registers` again and again over a terminal whose other end takes the time of a wire.
fn line_efficiency(speed: &str, registers: u16, seconds: u64) -> (f64, u64, u64) {
    let speed: Speed = speed.parse().unwrap();
    let turnaround = Duration::from_millis(2);
    let own = OwnThread::start("slave").unwrap();
    let device =
        device((0..registers).map(|address| (address, DataType::U16, Duration::from_secs(1))));
    let image = Image::new(std::slice::from_ref(&device));
    let tally = Arc::new(Tally::default());
    let (near, path) = {
        let _inside = own.handle().enter();
        let (near, mut far) = SerialStream::pair().unwrap();
        far.set_exclusive(false).unwrap();
        let path = far.name().unwrap();
        // Held open as long as the slave lives, so that the near end does not end in between.
        let held = fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::mem::forget(held);
        (near, path)
    };
    let pace = WirePace {
        speed: Some(speed),
        turnaround,
        tally: Arc::clone(&tally),
    };
    own.handle().spawn(async move {
        let faults = Arc::new(Mutex::new(FaultInjector::default()));
        let _ = serve_frames(&image, &faults, TransmissionMode::Rtu, pace, near).await;
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let wire = Wire::Serial(Port {
        path,
        speed,
        ascii: false,
        rs485: None,
    });
    let took = runtime.block_on(async {
        let mut driver = Modbus::new(&line(wire, device), counts(), None);
        driver.connect().await.unwrap();
        driver.read(0).await.unwrap();
        let began = Instant::now();
        let mut took = Vec::new();
        while began.elapsed() < Duration::from_secs(seconds) {
            let at = Instant::now();
            driver.read(0).await.unwrap();
            took.push(at.elapsed().as_secs_f64());
        }
        took.iter().sum::<f64>() / took.len() as f64
    });
    let characters = 8 + 5 + 2 * u32::from(registers);
    let ideal = speed.character() * characters + turnaround + speed.frame_gap();
    (
        ideal.as_secs_f64() / took,
        tally.requests.value(),
        tally.gap_violations.value(),
    )
}

fn lines() {
    println!("line efficiency (ideal time / time), 2 ms turnaround; requests; silences cut short");
    for speed in ["9600 8E1", "19200 8E1", "115200 8E1"] {
        for registers in [1, 10, 125] {
            let runs: Vec<(f64, u64, u64)> = (0..3)
                .map(|_| line_efficiency(speed, registers, 3))
                .collect();
            let requests: u64 = runs.iter().map(|run| run.1).sum();
            let violations: u64 = runs.iter().map(|run| run.2).sum();
            println!(
                "  {speed}, {registers:>3} registers: {:5.1} %  {requests:>6}  {violations}",
                100.0 * median(runs.iter().map(|run| run.0).collect())
            );
        }
    }
}

/// Requests of a policy that merges over holes up to `hole` registers, greedily, up to 125; its
/// time on the wire.
fn greedy(fields: &[(u32, u32)], hole: u32, costs: Costs) -> f64 {
    let mut total = 0.0;
    let mut open: Option<(u32, u32)> = None;
    for (start, end) in fields.iter().copied() {
        open = match open {
            Some((from, to)) if start <= to + hole && end.max(to) - from <= 125 => {
                Some((from, to.max(end)))
            }
            other => {
                total += other.map_or(0.0, |(from, to)| {
                    costs.of(Table::Holding, (to - from) as u16)
                });
                Some((start, end))
            }
        };
    }
    total
        + open.map_or(0.0, |(from, to)| {
            costs.of(Table::Holding, (to - from) as u16)
        })
}

fn plans() {
    println!(
        "time on the wire of the plan against `max_insert 50` and against adjacent registers only, 300 random maps"
    );
    for speed in ["9600 8E1", "19200 8E1", "115200 8E1"] {
        let costs = Costs::serial(speed.parse().unwrap(), TURNAROUND);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut to_insert, mut to_adjacent) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            // Values of one or two registers, scattered over two to twenty times as many places as
            // there are values.
            let count = random.usize(10..=80);
            let room = (count as f64 * (2.0 + 18.0 * random.f64())) as u16;
            let mut places: Vec<u16> = random.choose_multiple(0..room, count);
            places.sort_unstable();
            let mut at = 0;
            let fields: Vec<(u16, u16)> = places
                .into_iter()
                .map(|place| {
                    let (start, width) = (place.max(at), random.u16(1..=2));
                    at = start + width;
                    (start, width)
                })
                .collect();
            let kinds = fields.iter().map(|(start, width)| {
                (
                    *start,
                    if *width == 1 {
                        DataType::U16
                    } else {
                        DataType::F32
                    },
                    Duration::from_secs(1),
                )
            });
            let ours: f64 = plan(0, &device(kinds), costs, &UnreadableRanges::default())
                .iter()
                .map(|block| costs.of(block.table, block.count))
                .sum();
            let spans: Vec<(u32, u32)> = fields
                .iter()
                .map(|(start, width)| (u32::from(*start), u32::from(*start + *width)))
                .collect();
            to_insert.push(ours / greedy(&spans, 50, costs));
            to_adjacent.push(ours / greedy(&spans, 0, costs));
        }
        let worst = |ratios: &[f64]| ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "  {speed}: median {:.2} (worst {:.3}) of max_insert 50, {:.2} (worst {:.3}) of adjacent only",
            median(to_insert.clone()),
            worst(&to_insert),
            median(to_adjacent.clone()),
            worst(&to_adjacent)
        );
    }
    let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
    let mut random = fastrand::Rng::with_seed(1);
    let every = [1, 1, 5, 60].map(Duration::from_secs);
    let many = device((0..2000).map(|index| {
        (
            index * 30 + random.u16(0..25),
            DataType::U16,
            every[random.usize(0..4)],
        )
    }));
    let times: Vec<f64> = (0..7)
        .map(|_| {
            let began = Instant::now();
            assert!(!plan(0, &many, costs, &UnreadableRanges::default()).is_empty());
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    println!(
        "  planning 2,000 points in 3 intervals: {:.1} ms",
        median(times)
    );
}

/// A process that dies with the bench.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wellhead(arguments: &[&str], file: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wellhead"));
    command
        .args(arguments)
        .arg(file)
        .env("WELLHEAD_LOG", "error")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process(command.spawn().unwrap())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Ten devices, some of which are dead, each read once a second.
fn dead(dead: usize, seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let devices = |count: usize| -> String {
        (1..=count).map(|unit| format!("  - {{ name: 'd{unit}', line: bus, unit: {unit}, points: {{ p: {{ holding: 0, type: u16, every: 1s, simulate: {{ shape: counter, period: 100ms }} }} }} }}\n")).collect()
    };
    let bus = folder.path().join("bus");
    let yaml = |count, rest: &str| {
        format!(
            "site: x\nlines: [ {{ name: bus, serial: '{}', speed: 9600 8N1, answer_within: 150ms }} ]\ndevices:\n{}{rest}",
            bus.display(),
            devices(count)
        )
    };
    let (simulated, real) = (
        folder.path().join("simulated.yaml"),
        folder.path().join("gateway.yaml"),
    );
    fs::write(&simulated, yaml(10 - dead, "")).unwrap();
    fs::write(
        &real,
        yaml(
            10,
            &format!(
                "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], keep: memory }}\noutbox: {{ folder: '{}' }}\n",
                folder.path().display()
            ),
        ),
    )
    .unwrap();
    let _simulator = wellhead(
        &["simulate", "--baud-true", "--turnaround", "20ms"],
        &simulated,
    );
    while !bus.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _gateway = wellhead(&["run"], &real);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = Command::new("mosquitto_sub")
        .args([
            "-p",
            &port.to_string(),
            "-t",
            "x/+/p",
            "-v",
            "-W",
            &seconds.to_string(),
        ])
        .output()
        .unwrap();
    let mut times: std::collections::HashMap<String, Vec<f64>> = std::collections::HashMap::new();
    for line in String::from_utf8_lossy(&seen.stdout)
        .lines()
        .filter(|line| line.contains("good"))
    {
        let (topic, payload) = line.split_once(' ').unwrap();
        let text = payload
            .split("\"t\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let (minutes, seconds): (f64, f64) =
            (text[14..16].parse().unwrap(), text[17..23].parse().unwrap());
        times
            .entry(topic.to_owned())
            .or_default()
            .push(minutes * 60.0 + seconds);
    }
    // Behind the start, where everything is read at once.
    let mut intervals: Vec<f64> = times
        .values()
        .flat_map(|times| {
            times
                .windows(2)
                .skip(3)
                .map(|pair| (pair[1] - pair[0]).rem_euclid(3600.0))
        })
        .collect();
    intervals.sort_by(f64::total_cmp);
    let status = Command::new("mosquitto_sub")
        .args([
            "-p",
            &port.to_string(),
            "-t",
            "$SYS/wellhead/line/bus",
            "-C",
            "1",
            "-W",
            "15",
        ])
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let lost = status["lost_s"].as_f64().unwrap();
    println!(
        "  {dead} of 10 dead, 1 s cycle, {seconds} s: interval of the healthy ones p50 {:.3} s, p99 {:.3} s; {:.2} % of the line's time lost ({} time-outs)",
        intervals[intervals.len() / 2],
        intervals[intervals.len() * 99 / 100],
        100.0 * lost / seconds as f64,
        status["timeouts"]
    );
}

fn cpu_of_this_process() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap())
        / rustix::param::clock_ticks_per_second() as f64
}

/// One transaction of ten registers over loopback: our driver and libmodbus, against the same slave
/// in another process.
fn cpu() {
    const COUNT: usize = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let client = folder.path().join("client");
    let built = Command::new("sh")
        .args([
            "-c",
            &format!(
                "gcc -O2 -o {} benches/field.c $(pkg-config --cflags --libs libmodbus)",
                client.display()
            ),
        ])
        .status()
        .unwrap();
    assert!(built.success(), "gcc and libmodbus-dev are needed");
    let port = free_port();
    let points: String = (0..10)
        .map(|address| format!("p{address}: {{ holding: {address}, type: u16 }}, "))
        .collect();
    let file = folder.path().join("slave.yaml");
    fs::write(&file, format!("site: x\nlines: [ {{ name: tcp, modbus_tcp: '127.0.0.1:{port}' }} ]\ndevices: [ {{ name: d, line: tcp, unit: 1, points: {{ {points} }} }} ]\n")).unwrap();
    let _slave = wellhead(&["simulate"], &file);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let device =
            device((0..10).map(|address| (address, DataType::U16, Duration::from_secs(1))));
        let used = runtime.block_on(async {
            let mut driver = Modbus::new(
                &line(Wire::ModbusTcp(format!("127.0.0.1:{port}")), device),
                counts(),
                None,
            );
            driver.connect().await.unwrap();
            for _ in 0..200 {
                driver.read(0).await.unwrap();
            }
            let before = cpu_of_this_process();
            for _ in 0..COUNT {
                assert_eq!(driver.read(0).await.unwrap().len(), 10);
            }
            cpu_of_this_process() - before
        });
        ours.push(used * 1e6 / COUNT as f64);
        let out = Command::new(&client)
            .args([port.to_string(), COUNT.to_string()])
            .output()
            .unwrap();
        theirs.push(
            String::from_utf8_lossy(&out.stdout)
                .trim()
                .parse::<f64>()
                .unwrap(),
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "CPU of the client for a transaction of 10 registers over loopback, decoded: {ours:.1} us; libmodbus (not decoded) {theirs:.1} us; ratio {:.2}",
        ours / theirs
    );
}

/// CPU seconds and resident bytes of a process.
fn used(id: u32) -> (f64, u64) {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let pages: u64 = fields[21].parse().unwrap();
    (
        ticks / rustix::param::clock_ticks_per_second() as f64,
        pages * rustix::param::page_size() as u64,
    )
}

/// 500 Modbus TCP devices with 30 points each, read once a second, every value published.
fn many() {
    let folder = tempfile::tempdir().unwrap();
    let listeners: Vec<std::net::TcpListener> = (0..500)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let device = device((0..30).map(|address| (address, DataType::U16, Duration::from_secs(1))));
    let own = OwnThread::start("slaves").unwrap();
    for listener in listeners {
        let image = Image::new(std::slice::from_ref(&device));
        own.handle().spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let faults = Arc::new(Mutex::new(FaultInjector::default()));
                let _ = stream.set_nodelay(true);
                let _ = serve_tcp(&image, &faults, WirePace::default(), stream).await;
            }
        });
    }
    let port = free_port();
    let points: String = (0..30)
        .map(|address| {
            format!("      p{address}: {{ holding: {address}, type: u16, every: 1s }}\n")
        })
        .collect();
    let lines: String = ports
        .iter()
        .enumerate()
        .map(|(index, port)| format!("  - {{ name: l{index}, modbus_tcp: '127.0.0.1:{port}' }}\n"))
        .collect();
    let devices: String = (0..500)
        .map(|index| format!("  - {{ name: d{index}, line: l{index}, unit: 1, profile: p }}\n"))
        .collect();
    let file = folder.path().join("gateway.yaml");
    let yaml = format!(
        "site: x\nlines:\n{lines}profiles:\n  p:\n    points:\n{points}devices:\n{devices}broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], keep: memory, max_retained: 20000 }}\noutbox: {{ folder: '{}' }}\n",
        folder.path().display()
    );
    fs::write(&file, yaml).unwrap();
    let gateway = wellhead(&["run"], &file);
    std::thread::sleep(Duration::from_secs(10));
    let id = gateway.0.id();
    let runs: Vec<(f64, f64)> = (0..3)
        .map(|_| {
            let before = used(id).0;
            std::thread::sleep(Duration::from_secs(10));
            let (after, memory) = used(id);
            ((after - before) * 10.0, memory as f64 / 1e6)
        })
        .collect();
    let seen = Command::new("mosquitto_sub")
        .args([
            "-p",
            &port.to_string(),
            "-t",
            "$SYS/wellhead/report",
            "-C",
            "2",
            "-W",
            "25",
        ])
        .output()
        .unwrap();
    println!(
        "500 devices x 30 points @ 1 s: {:.0} % of one core, {:.1} MB resident; {}",
        median(runs.iter().map(|run| run.0).collect()),
        median(runs.iter().map(|run| run.1).collect()),
        String::from_utf8_lossy(&seen.stdout)
            .lines()
            .last()
            .unwrap_or_default()
    );
}

fn main() {
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    if wants("plan") {
        plans();
    }
    if wants("line") {
        lines();
    }
    if wants("cpu") {
        cpu();
    }
    if wants("many") {
        many();
    }
    if wants("dead") {
        println!("dead devices");
        std::thread::scope(|scope| {
            scope.spawn(|| dead(1, 120));
            scope.spawn(|| dead(3, 120));
        });
    }
}
