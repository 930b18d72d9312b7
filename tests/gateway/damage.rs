//! Damaged files: a bit, a page or the end is lost in any file of a journal. It opens, returns the
//! other entries, and reports those that are missing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fastrand::Rng;
use wellhead::store::{Journal, PartitionBytes};

use super::crash::drain;

const PARTITION: PartitionBytes = PartitionBytes(4 << 20);

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A journal of some partitions, shut down cleanly or not. Returns the entries that wait in it, and
/// whether it was shut down cleanly.
fn fill(folder: &Path, random: &mut Rng) -> (BTreeSet<u64>, bool) {
    let mut journal = Journal::open(folder, PARTITION).unwrap();
    for _ in 0..random.u32(20..60) {
        let first = journal.next_seq();
        let batch: Vec<Bytes> = (first..first + random.u64(1..100))
            .map(|seq| {
                let mut bytes = seq.to_be_bytes().to_vec();
                bytes.resize(
                    if random.u8(..30) == 0 {
                        60_000
                    } else {
                        random.usize(8..3000)
                    },
                    seq.to_le_bytes()[0],
                );
                bytes.into()
            })
            .collect();
        journal.append(&batch).unwrap();
    }
    let settled = random.u64(..journal.next_seq());
    journal.settle(1, settled);
    let waiting = (settled + 1..journal.next_seq()).collect();
    let in_order = random.bool();
    if in_order {
        journal.close().unwrap();
    } else {
        journal.save().unwrap();
    }
    (waiting, in_order)
}

/// Damages a file; returns a description.
fn damage(path: &Path, random: &mut Rng) -> String {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let length = file.metadata().unwrap().len();
    if length == 0 {
        return "nothing".to_owned();
    }
    let at = random.u64(..length);
    match random.u8(..4) {
        0 => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << random.u8(..8)], at)
                .unwrap();
            format!("a bit at {at}")
        }
        1 => {
            file.set_len(at).unwrap();
            format!("the end from {at}")
        }
        kind => {
            let page = at / 4096 * 4096;
            let size = usize::try_from((length - page).min(4096)).unwrap();
            let noise: Vec<u8> = (0..size)
                .map(|_| if kind == 2 { 0 } else { random.u8(..) })
                .collect();
            file.write_all_at(&noise, page).unwrap();
            format!("the page at {page}")
        }
    }
}

/// Removes a whole file, or its partition; returns a description.
fn remove(path: &Path, random: &mut Rng) -> String {
    let partition = path.parent().unwrap();
    match random.u8(..3) {
        0 => {
            fs::File::create(path).unwrap();
            "everything".to_owned()
        }
        1 => {
            fs::remove_file(path).unwrap();
            "the file".to_owned()
        }
        _ if path.ends_with("db") => {
            fs::remove_dir_all(partition).unwrap();
            "the partition".to_owned()
        }
        _ => "nothing".to_owned(),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn damage_in_any_file_is_reported_and_all_other_entries_are_delivered() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        400
    } else {
        40
    };
    let mut random = Rng::with_seed(5);
    let (mut harmless, mut told, mut lost) = (0, 0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let (waiting, in_order) = fill(folder.path(), &mut random);
        let mut found = Vec::new();
        files(folder.path(), &mut found);
        found.sort();
        // Mostly databases, sometimes small files.
        let databases: Vec<&PathBuf> = found.iter().filter(|path| path.ends_with("db")).collect();
        let victim = if random.u8(..3) > 0 {
            databases[random.usize(..databases.len())]
        } else {
            &found[random.usize(..found.len())]
        };
        let is_removal = random.u8(..5) == 0;
        let done = if is_removal {
            remove(victim, &mut random)
        } else {
            damage(victim, &mut random)
        };
        let how = if in_order {
            "after an orderly end"
        } else {
            "after a kill"
        };
        let what = format!("round {round}: {done} of {} {how}", victim.display());
        let mut journal = Journal::open(folder.path(), PARTITION)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let got = drain(&mut journal);
        let gaps = journal.take_gaps();
        let missing: Vec<u64> = waiting.difference(&got).copied().collect();
        let silent: Vec<&u64> = missing
            .iter()
            .filter(|seq| !gaps.iter().any(|gap| (gap.first..=gap.last).contains(seq)))
            .collect();
        assert!(
            silent.is_empty(),
            "{what}: {} lost without a word, from {:?}",
            silent.len(),
            silent.first()
        );
        // Settled entries may come again if the commit record is gone; entries that were never
        // appended must not.
        assert!(
            got.last()
                .is_none_or(|last| waiting.last().is_some_and(|newest| last <= newest)),
            "{what}"
        );
        let mut spans: Vec<(u64, u64)> = gaps.iter().map(|gap| (gap.first, gap.last)).collect();
        spans.sort_unstable();
        assert!(
            spans.windows(2).all(|pair| pair[0].1 < pair[1].0),
            "{what}: told twice: {gaps:?}"
        );
        if !missing.is_empty() {
            assert!(
                is_removal || folder.path().join("quarantine").exists(),
                "{what}: what is damaged is kept"
            );
            assert!(
                is_removal || missing.len() < 1500,
                "{what}: {} of {} are lost",
                missing.len(),
                waiting.len()
            );
            assert!(
                gaps.iter().map(|gap| gap.count).sum::<u64>() >= missing.len() as u64,
                "{what}: {gaps:?}"
            );
            told += 1;
            lost += missing.len();
        } else {
            harmless += 1;
        }
        let seq = journal
            .append(&[Bytes::copy_from_slice(&journal.next_seq().to_be_bytes())])
            .unwrap();
        assert!(
            !waiting.contains(&seq),
            "{what}: a number is given out twice"
        );
        drop(journal);
        assert!(
            drain(&mut Journal::open(folder.path(), PARTITION).unwrap()).contains(&seq),
            "{what}"
        );
    }
    println!("{rounds} damages: {harmless} harmless, {told} told, {lost} entries lost in all");
}
