//! Simulated power cuts: writes since the last real sync of a process are kept, dropped or torn,
//! and the journal is opened on the result.

pub mod disk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use fastrand::Rng;
use wellhead::store::{Journal, PartitionBytes};

use disk::{Disk, Record, records, tracer};

const PARTITION: PartitionBytes = PartitionBytes(4 << 20);

/// The file operations of the child of the kill -9 test below `folder`, for a number of commits.
fn trace(library: &Path, folder: &Path, log: &Path, commits: u32) -> Vec<Record> {
    let _ = fs::remove_file(log);
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::child_that_appends_until_it_is_killed",
            "--nocapture",
        ])
        .env(super::crash::FOLDER, folder)
        .env(super::crash::COMMITS, commits.to_string())
        .env("LD_PRELOAD", library)
        .env("TRACE_ROOT", folder)
        .env("TRACE_LOG", log)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    records(&fs::read(log).unwrap())
}

/// The output of the child up to some moment.
#[derive(Default, Clone)]
struct Promised {
    durable: BTreeSet<u64>,
    settled: u64,
}

impl Promised {
    fn hear(&mut self, said: &[u8]) {
        for line in String::from_utf8_lossy(said).lines() {
            if let Some(numbers) = line.strip_prefix("durable ") {
                self.durable.extend(
                    numbers
                        .split(' ')
                        .filter_map(|number| number.parse::<u64>().ok()),
                );
            }
            self.settled = line
                .strip_prefix("settled ")
                .and_then(|text| text.parse().ok())
                .unwrap_or(self.settled);
        }
    }
}

/// Opens the files after a cut, and compares them with the promises. Returns the promises that hold
/// from here on.
fn check(folder: &Path, promised: &Promised, told: &str) -> Promised {
    let mut journal =
        Journal::open(folder, PARTITION).unwrap_or_else(|error| panic!("{told}: {error}"));
    let low = journal.cursor().low();
    let newest = promised.durable.last().copied().unwrap_or(0);
    assert!(
        journal.next_seq() > newest,
        "{told}: number {} would be given out again",
        journal.next_seq()
    );
    // Entries settled just before the cut were not reported yet.
    assert!(
        low <= promised.settled.max(newest) + 100,
        "{told}: {low} counts as settled"
    );
    let found = super::crash::drain(&mut journal);
    let missing: Vec<&u64> = promised
        .durable
        .range(low + 1..)
        .filter(|seq| !found.contains(seq))
        .collect();
    assert!(missing.is_empty(), "{told}: {missing:?} were durable");
    assert_eq!(journal.lost(), 0, "{told}");
    // The journal works.
    let seq = journal
        .append(&[Bytes::copy_from_slice(&journal.next_seq().to_be_bytes())])
        .unwrap();
    drop(journal);
    let mut journal = Journal::open(folder, PARTITION).unwrap();
    let durable = super::crash::drain(&mut journal);
    assert!(durable.contains(&seq), "{told}");
    Promised {
        durable,
        settled: journal.cursor().low(),
    }
}

#[test]
fn power_cuts_lose_no_durable_entry_and_never_prevent_a_start() {
    let (rounds, cuts) = if std::env::var_os("WELLHEAD_LONG").is_some() {
        (25, 24)
    } else {
        (3, 12)
    };
    let workshop = tempfile::tempdir().unwrap();
    let library = tracer(workshop.path());
    let mut random = Rng::with_seed(3);
    let mut folder = workshop.path().join("0");
    fs::create_dir(&folder).unwrap();
    let (mut played, mut rotations) = (0, 0);
    let mut base = Promised::default();
    for round in 0..rounds {
        let before = Disk::of(&folder);
        let records = trace(&library, &folder, &workshop.path().join("log"), 1500);
        // A third of the cuts hit the opening.
        let opened = records
            .iter()
            .position(|record| record.kind == b'A' && record.data.starts_with(b"opened"))
            .unwrap_or(records.len());
        let mut moments: Vec<usize> = (0..cuts)
            .map(|n| {
                if n % 3 == 0 {
                    random.usize(..opened.max(1))
                } else {
                    random.usize(..records.len())
                }
            })
            .collect();
        moments.sort_unstable();
        rotations += records
            .iter()
            .filter(|record| record.kind == b'R' && record.name2.starts_with("p-3-"))
            .count();
        let mut disk = before;
        let mut promised = base.clone();
        let mut at = 0;
        let mut next = None;
        for (number, moment) in moments.iter().enumerate() {
            for record in &records[at..*moment] {
                if record.kind == b'A' {
                    promised.hear(&record.data);
                } else {
                    disk.apply(record);
                }
            }
            at = *moment;
            let image = workshop.path().join(format!("{}-{number}", round + 1));
            disk.cut(&mut random, &image);
            let left = check(
                &image,
                &promised,
                &format!("round {round}, cut at record {moment} of {}", records.len()),
            );
            played += 1;
            // The next round begins where one of these cuts left off.
            if number == cuts / 2 {
                next = Some((image, left));
            } else {
                fs::remove_dir_all(&image).unwrap();
            }
        }
        fs::remove_dir_all(&folder).unwrap();
        (folder, base) = next.unwrap();
    }
    println!("{played} power cuts, {rotations} partitions");
    assert!(rotations > 2 * rounds);
}
