//! kill -9 of a process that appends to a journal: what it was told to be durable is there, in order, once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use wellhead::store::{Journal, Limits};

const FOLDER: &str = "WELLHEAD_CRASH_FOLDER";

fn entry(seq: u64, random: &mut fastrand::Rng) -> Bytes {
    // Now and then one that does not fit a slot.
    let size = if random.u8(..20) == 0 { random.usize(30_000..90_000) } else { random.usize(8..600) };
    let mut bytes = seq.to_be_bytes().to_vec();
    bytes.resize(size, seq.to_le_bytes()[0]);
    bytes.into()
}

/// Not a test of its own: the process that is killed. Settles from the front as it goes, and prints what is durable.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut journal = Journal::open(Path::new(&folder), Limits::of(64 << 20)).unwrap();
    println!("\nopened");
    let mut random = fastrand::Rng::new();
    loop {
        let first = journal.next_seq();
        let batch: Vec<Bytes> = (first..first + random.u64(1..30)).map(|seq| entry(seq, &mut random)).collect();
        journal.append(&batch).unwrap();
        println!("durable {}", journal.next_seq() - 1);
        let low = journal.cursor().low();
        if journal.next_seq() - low > 200 {
            for seq in low + 1..low + 60 {
                journal.settle(seq);
            }
            println!("settled {}", low + 59);
        }
    }
}

/// Runs the child for a random time, and returns the last number it was told to be durable and the last it settled.
fn run_and_kill(folder: &Path, random: &mut fastrand::Rng) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_appends_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let killer = std::thread::spawn({
        // A third of the rounds die while the journal is being opened.
        let wait = if random.u8(..3) == 0 { random.u64(5..60) } else { random.u64(60..400) };
        move || {
            std::thread::sleep(Duration::from_millis(wait));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
    let (mut durable, mut settled) = (0, 0);
    while let Some(Ok(line)) = lines.next() {
        let number = |prefix| line.strip_prefix(prefix).and_then(|text: &str| text.parse().ok());
        durable = number("durable ").unwrap_or(durable);
        settled = number("settled ").unwrap_or(settled);
    }
    killer.join().unwrap();
    (durable, settled)
}

#[test]
fn kill_9_at_random_moments_loses_nothing_that_was_durable() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() { 300 } else { 25 };
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut durable, mut settled) = (0, 0);
    for round in 0..rounds {
        let (now_durable, now_settled) = run_and_kill(folder.path(), &mut random);
        durable = durable.max(now_durable);
        settled = settled.max(now_settled);
        let mut journal = Journal::open(folder.path(), Limits::of(64 << 20)).unwrap();
        assert!(journal.next_seq() > durable, "round {round}: {durable} was durable, the next would be {}", journal.next_seq());
        let low = journal.cursor().low();
        assert!(low <= settled, "round {round}: {low} counts as settled, but only {settled} was");
        let (mut after, mut next) = (0, low + 1);
        loop {
            let entries = journal.read(after, 64, 1 << 20).unwrap();
            let Some(last) = entries.last() else { break };
            after = last.seq;
            for found in &entries {
                assert_eq!(found.seq, next, "round {round}");
                assert_eq!(found.bytes[..8], found.seq.to_be_bytes(), "round {round}");
                next += 1;
            }
        }
        assert!(next > durable, "round {round}: the entries end before {next}, {durable} was durable");
        assert_eq!(journal.lost(), 0);
        assert!(!folder.path().join("quarantine").exists(), "round {round}");
        durable = next - 1;
    }
    assert!(durable > 100, "{durable} entries in all");
}
