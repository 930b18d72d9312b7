//! kill -9 of a process that appends to a journal: every entry reported as durable is there, in its
//! order, once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use wellhead::store::{Entry, Journal, PartitionBytes};

pub const FOLDER: &str = "WELLHEAD_CRASH_FOLDER";
/// The number of commits; unset for a child that runs until it is killed.
pub const COMMITS: &str = "WELLHEAD_CRASH_COMMITS";
const PARTITION: PartitionBytes = PartitionBytes(8 << 20);

fn entry(seq: u64, random: &mut fastrand::Rng) -> Entry {
    // Some do not fit a slot.
    let size = if random.u8(..20) == 0 {
        random.usize(30_000..90_000)
    } else {
        random.usize(8..600)
    };
    let mut bytes = seq.to_be_bytes().to_vec();
    bytes.resize(size, seq.to_le_bytes()[0]);
    Entry {
        seq,
        bytes: bytes.into(),
    }
}

/// Not a test of its own: the process that is killed. Settles entries from the front, sometimes
/// numbers that were never written, and prints which are durable.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let mut journal = Journal::open(Path::new(&folder), PARTITION).unwrap();
    println!("\nopened");
    let mut random = fastrand::Rng::new();
    let mut next = journal.next_seq();
    let commits = std::env::var(COMMITS)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(u64::MAX);
    for _ in 0..commits {
        let mut batch: Vec<Entry> = Vec::new();
        for _ in 0..random.u64(1..30) {
            // Numbers that are used without being written.
            next += u64::from(random.u8(..8) == 0);
            batch.push(entry(next, &mut random));
            next += 1;
        }
        if next >= journal.reserved() {
            journal.save().unwrap();
        }
        journal.give_out(next);
        let mut expected = journal.written() + 1;
        for entry in &batch {
            journal.settle(expected, entry.seq - 1);
            expected = entry.seq + 1;
        }
        journal.set_state(Bytes::copy_from_slice(&next.to_be_bytes()));
        journal.write(&batch).unwrap();
        let numbers: Vec<String> = batch.iter().map(|entry| entry.seq.to_string()).collect();
        println!("durable {}", numbers.join(" "));
        let low = journal.cursor().low();
        if next - low > 200 {
            journal.settle(low + 1, low + 60);
            println!("settled {}", low + 60);
        }
    }
}

/// Runs the child for a random time; adds the entries it reported as durable, and returns the last
/// number it settled.
fn run_and_kill(folder: &Path, random: &mut fastrand::Rng, durable: &mut BTreeSet<u64>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::child_that_appends_until_it_is_killed",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (opened, is_opened) = std::sync::mpsc::channel();
    let killer = std::thread::spawn({
        // A third of the rounds die while the journal is being opened.
        let dies_early = random.u8(..3) == 0;
        let wait = if dies_early {
            random.u64(5..60)
        } else {
            random.u64(5..350)
        };
        move || {
            // If the line is missing, the child has ended already.
            let _ = dies_early || is_opened.recv().is_ok();
            std::thread::sleep(Duration::from_millis(wait));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
    let mut settled = 0;
    while let Some(Ok(line)) = lines.next() {
        if let Some(numbers) = line.strip_prefix("durable ") {
            durable.extend(
                numbers
                    .split(' ')
                    .filter_map(|number| number.parse::<u64>().ok()),
            );
        }
        if line == "opened" {
            // A round that dies early does not wait for it.
            let _ = opened.send(());
        }
        settled = line
            .strip_prefix("settled ")
            .and_then(|text| text.parse().ok())
            .unwrap_or(settled);
    }
    drop(opened);
    killer.join().unwrap();
    settled
}

/// Everything that waits in a journal, checked for order and content.
pub fn drain(journal: &mut Journal) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut after = 0;
    loop {
        let entries = journal.read(after, 64, 1 << 20).unwrap();
        if entries.is_empty() {
            return found;
        }
        for entry in entries {
            assert!(entry.seq > after, "{} after {after}", entry.seq);
            assert_eq!(entry.bytes[..8], entry.seq.to_be_bytes());
            after = entry.seq;
            found.insert(after);
        }
    }
}

#[test]
fn kill_9_at_random_moments_loses_no_durable_entry() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        300
    } else {
        25
    };
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut durable, mut settled) = (BTreeSet::new(), 0);
    let mut total = 0;
    for round in 0..rounds {
        let mut said = BTreeSet::new();
        settled = settled.max(run_and_kill(folder.path(), &mut random, &mut said));
        let newest_said = said.last().copied().unwrap_or(0);
        durable.append(&mut said);
        let mut journal = Journal::open(folder.path(), PARTITION).unwrap();
        let newest = durable.last().copied().unwrap_or(0);
        assert!(
            journal.next_seq() > newest,
            "round {round}: {newest} was durable, the next would be {}",
            journal.next_seq()
        );
        let low = journal.cursor().low();
        // It may have settled a run without having reported it.
        assert!(
            low <= settled.max(newest),
            "round {round}: {low} counts as settled, but only {settled} was"
        );
        let state = journal
            .state()
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        assert!(
            newest_said == 0 || state > newest_said,
            "round {round}: the state is older than the entries of its commit"
        );
        let found = drain(&mut journal);
        let missing: Vec<&u64> = durable
            .range(low + 1..)
            .filter(|seq| !found.contains(seq))
            .collect();
        assert!(
            missing.is_empty(),
            "round {round}: {missing:?} were durable"
        );
        assert_eq!(journal.lost(), 0, "round {round}");
        assert!(!folder.path().join("quarantine").exists(), "round {round}");
        total += durable.len();
        durable = found;
    }
    assert!(total > 100, "{total} entries in all");
}
