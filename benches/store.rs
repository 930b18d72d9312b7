//! The store beside a plain append log: what reaches the device, how fast, and what a large backlog
//! costs.
//!
//! `cargo bench --bench store` (as root: a file system of its own is mounted, whose writes are
//! counted exactly; without root only speeds are told). `cargo bench --bench store -- 1000000`
//! takes so many messages for the backlog instead of five million; `-- readings` measures only what
//! a reading takes on disk.

// A bench that cannot go on stops with what it met; its figures are estimates.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::too_many_lines
)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

#[path = "support/readings.rs"]
mod readings;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wellhead::message::SessionLost;
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::Outgoing;
use wellhead::reading::Timestamp;
use wellhead::store::{Entry, Journal, PartitionBytes};

const MESSAGE: usize = 200;
const PARTITION: PartitionBytes = PartitionBytes(8 << 20);

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["readings"] => readings::readings(disk_use),
        ["fill", folder, count] => fill(Path::new(folder), count.parse().unwrap()),
        [count] => bench(count.parse().expect("how many messages wait")),
        _ => bench(5_000_000),
    }
}

fn bench(backlog: u64) {
    let workshop = tempfile::tempdir().unwrap();
    let disk = Disk::mount(workshop.path());
    commits(&disk);
    drop(disk);
    readings::readings(disk_use);
    waiting(backlog);
}

/// A file system that nothing else uses.
struct Disk {
    at: PathBuf,
    device: Option<String>,
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Disk {
    fn mount(workshop: &Path) -> Self {
        let (image, at) = (workshop.join("image"), workshop.join("disk"));
        fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(2 << 30).unwrap();
        let device =
            run("losetup", &["-f", "--show", image.to_str().unwrap()]).and_then(|device| {
                run(
                    "mkfs.ext4",
                    &[
                        "-q",
                        "-E",
                        "lazy_itable_init=0,lazy_journal_init=0",
                        &device,
                    ],
                )?;
                run("mount", &[&device, at.to_str().unwrap()])?;
                Some(device)
            });
        if device.is_none() {
            println!(
                "no file system of its own (needs root, losetup, mkfs.ext4): bytes and flushes are not counted"
            );
        }
        Self { at, device }
    }

    /// Bytes written to the device, and flushes.
    fn counters(&self) -> (u64, u64) {
        let Some(device) = &self.device else {
            return (0, 0);
        };
        let _ = run("sync", &["-f", self.at.to_str().unwrap()]);
        let text = fs::read_to_string(format!(
            "/sys/block/{}/stat",
            device.trim_start_matches("/dev/")
        ))
        .unwrap();
        let fields: Vec<u64> = text
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        (fields[6] * 512, fields[15])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            run("umount", &[self.at.to_str().unwrap()]);
            run("losetup", &["-d", device]);
        }
    }
}

fn entries(first: u64, count: u64, random: &mut fastrand::Rng) -> Vec<Entry> {
    let noise = |random: &mut fastrand::Rng| {
        Bytes::from((0..MESSAGE).map(|_| random.u8(..)).collect::<Vec<u8>>())
    };
    (first..first + count)
        .map(|seq| Entry {
            seq,
            bytes: noise(random),
        })
        .collect()
}

#[derive(Default, Clone, Copy)]
struct Cost {
    bytes: u64,
    flushes: u64,
    seconds: f64,
}

fn measured(disk: &Disk, work: impl FnOnce()) -> Cost {
    let before = disk.counters();
    let start = Instant::now();
    work();
    let seconds = start.elapsed().as_secs_f64();
    let after = disk.counters();
    Cost {
        bytes: after.0 - before.0,
        flushes: after.1 - before.1,
        seconds,
    }
}

/// The limit: length, checksum, bytes, one `fdatasync` a commit.
fn plain_log(folder: &Path, batches: &[Vec<Entry>]) {
    let mut file = File::create(folder.join("log")).unwrap();
    for batch in batches {
        let mut out = Vec::new();
        for entry in batch {
            out.extend(u32::try_from(entry.bytes.len()).unwrap().to_be_bytes());
            out.extend(crc32c::crc32c(&entry.bytes).to_be_bytes());
            out.extend(&entry.bytes);
        }
        file.write_all(&out).unwrap();
        file.sync_data().unwrap();
    }
}

fn commits(disk: &Disk) {
    println!(
        "{MESSAGE} B a message; median of five runs in turn; ratios to a plain append log with one fdatasync a commit"
    );
    println!(
        "{:>12} {:>14} {:>14} {:>7} {:>14} {:>14} {:>12} {:>12} {:>7}",
        "a commit",
        "log B/msg",
        "store B/msg",
        "ratio",
        "log flushes",
        "store flushes",
        "log msg/s",
        "store msg/s",
        "ratio"
    );
    for (size, commits) in [(1_u64, 300), (20, 1000), (100, 600), (200, 400)] {
        let mut random = fastrand::Rng::with_seed(size);
        let mut pairs = Vec::new();
        for round in 0..5 {
            let folder = disk.at.join(format!("{size}-{round}"));
            fs::create_dir(&folder).unwrap();
            let mut journal = Journal::open(&folder.join("store"), PARTITION).unwrap();
            let mut next = journal.next_seq();
            let batches: Vec<Vec<Entry>> = (0..commits)
                .map(|_| {
                    next += size;
                    entries(next - size, size, &mut random)
                })
                .collect();
            let store = measured(disk, || {
                for batch in &batches {
                    journal.give_out(batch[0].seq + size);
                    journal.write(batch).unwrap();
                }
            });
            let log = measured(disk, || plain_log(&folder, &batches));
            drop(journal);
            fs::remove_dir_all(&folder).unwrap();
            pairs.push((log, store));
        }
        let messages = (size * commits) as f64;
        let median = |value: &dyn Fn(&(Cost, Cost)) -> f64| {
            let mut values: Vec<f64> = pairs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[2]
        };
        println!(
            "{size:>12} {:>14.0} {:>14.0} {:>7.2} {:>14.2} {:>14.2} {:>12.0} {:>12.0} {:>7.2}",
            median(&|(log, _)| log.bytes as f64 / messages),
            median(&|(_, store)| store.bytes as f64 / messages),
            median(&|(log, store)| store.bytes as f64 / (log.bytes as f64).max(1.0)),
            median(&|(log, _)| log.flushes as f64 / commits as f64),
            median(&|(_, store)| store.flushes as f64 / commits as f64),
            median(&|(log, _)| messages / log.seconds),
            median(&|(_, store)| messages / store.seconds),
            median(&|(log, store)| log.seconds / store.seconds),
        );
    }
}

/// Not a bench of its own: a process that leaves so many messages behind, and dies.
fn fill(folder: &Path, count: u64) {
    let mut journal = Journal::open(folder, PARTITION).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut next = journal.next_seq();
    while next <= count {
        let batch: Vec<Entry> = (next..(next + 110).min(count + 1))
            .map(|seq| {
                let payload: Vec<u8> = (0..MESSAGE - 31).map(|_| random.u8(..)).collect();
                let message = Outgoing {
                    topic: TopicName::new("plant/pump-7/flow").unwrap(),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    if_session_lost: SessionLost::Resend,
                    enqueued: Timestamp::at(1_769_847_330_250),
                    properties: Properties::default(),
                    payload: payload.into(),
                    rated: None,
                    source: None,
                };
                Entry {
                    seq,
                    bytes: message.encode(),
                }
            })
            .collect();
        next += batch.len() as u64;
        journal.give_out(next);
        journal.write(&batch).unwrap();
    }
    std::process::abort();
}

fn disk_use(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(folder).unwrap();
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().exists()))
        .map(|entry| disk_use(&entry.path()))
        .sum()
}

/// Resident memory of a process now, and at most, in MB.
fn memory(child: &Child) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let field = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<f64>().ok())
            .unwrap_or(0.0)
            / 1e3
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn gateway(folder: &Path, remote: u16) -> Child {
    let yaml = format!(
        "site: bench\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state, keep: {{ size: 20GB }} }}\nuplinks:\n  - {{ name: cloud, to: 'mqtt://127.0.0.1:{remote}', window: 1000, send: [ {{ filter: '#' }} ] }}\n"
    );
    fs::write(folder.join("gateway.yaml"), yaml).unwrap();
    let log = File::create(folder.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_wellhead"))
        .arg("run")
        .arg(folder.join("gateway.yaml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A remote in the fewest lines: CONNACK for CONNECT, PUBACK for PUBLISH as long as `acknowledges`.
/// Returns when the first PUBLISH came.
fn remote(
    mut stream: TcpStream,
    acknowledges: bool,
    mut acknowledged: impl FnMut(u64) -> bool,
) -> Instant {
    stream.set_nodelay(true).unwrap();
    let mut input = Vec::new();
    let mut space = vec![0; 1 << 16];
    let mut first = None;
    let mut count = 0;
    loop {
        let n = stream.read(&mut space).unwrap_or(0);
        assert!(n > 0 || first.is_some(), "the gateway went away");
        if n == 0 {
            return first.unwrap();
        }
        input.extend_from_slice(&space[..n]);
        let mut output = Vec::new();
        let mut at = 0;
        while let Some((length, header)) = frame(&input[at..]) {
            let packet = &input[at..at + length];
            match packet[0] >> 4 {
                // Receive Maximum 1000 and nothing else.
                1 => output.extend([0x20, 6, 0, 0, 3, 0x21, 0x03, 0xE8]),
                3 => {
                    first.get_or_insert_with(Instant::now);
                    let topic =
                        usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
                    output.extend([0x40, 2]);
                    output.extend(&packet[header + 2 + topic..header + 4 + topic]);
                    count += 1;
                }
                _ => {}
            }
            at += length;
        }
        input.drain(..at);
        if let Some(first) = first.filter(|_| !acknowledges) {
            return first;
        }
        let _ = stream.write_all(&output);
        if !acknowledged(count) {
            return first.unwrap();
        }
    }
}

fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let total = 2 + index + length;
            return (bytes.len() >= total).then_some((total, 2 + index));
        }
    }
    None
}

fn waiting(most: u64) {
    println!("\nbacklog left by a process that was killed; a gateway on it");
    println!(
        "{:>10} {:>12} {:>10} {:>22} {:>14} {:>16} {:>14} {:>16}",
        "messages",
        "disk MB",
        "x payload",
        "start to first, ms",
        "RSS then, MB",
        "RSS drained, MB",
        "drain msg/s",
        "disk after, MB"
    );
    for count in [most / 5, most] {
        let workshop = tempfile::tempdir_in(
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
        )
        .unwrap();
        let folder = workshop.path();
        let live = folder.join("state/outbox/cloud/live");
        let filler = std::env::current_exe().unwrap();
        let _ = Command::new(filler)
            .args(["fill", live.to_str().unwrap(), &count.to_string()])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let full = disk_use(&live);
        let mut starts = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let start = Instant::now();
            let mut child = gateway(folder, listener.local_addr().unwrap().port());
            let first = remote(listener.accept().unwrap().0, false, |_| true);
            starts.push((first - start).as_secs_f64() * 1e3);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        starts.sort_by(f64::total_cmp);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = gateway(folder, listener.local_addr().unwrap().port());
        let stream = listener.accept().unwrap().0;
        let idle = memory(&child).0;
        let start = Instant::now();
        remote(stream, true, |acknowledged| acknowledged < count);
        let drained = start.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(4));
        let most = memory(&child).1;
        let left = disk_use(&folder.join("state"));
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap();
        child.wait().unwrap();
        println!(
            "{count:>10} {:>12.1} {:>10.3} {:>22.0} {idle:>14.1} {most:>16.1} {:>14.0} {:>16.1}",
            full as f64 / 1e6,
            full as f64 / (count * MESSAGE as u64) as f64,
            starts[1],
            count as f64 / drained,
            left as f64 / 1e6
        );
    }
}
