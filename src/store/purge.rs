//! Emptying a queue that no gateway has open.

use std::path::Path;

use super::emergency_reserve::EmergencyReserve;
use super::folder::lock;
use super::gap::Reason;
use super::handover::FindHandover;
use super::journal::JournalTerms;
use super::{Journal, PartitionBytes, StoreError};

/// Removes entries of a queue of the store in `folder`, by their numbers. Unknown numbers are
/// ignored.
pub fn remove(
    folder: &Path,
    queue: &str,
    handover: FindHandover,
    numbers: &[u64],
) -> Result<(), StoreError> {
    let _lock = lock(folder)?;
    let mut journal = open(folder, queue, handover)?;
    for number in numbers {
        journal.settle(*number, *number);
    }
    journal.save()?;
    journal.close()
}

/// Removes everything that waits in a queue of the store in `folder`, a partition at a time, and
/// returns how many entries that were. Their numbers are not used again. `progress` is called with
/// the number of entries left.
pub fn purge(
    folder: &Path,
    queue: &str,
    handover: FindHandover,
    mut progress: impl FnMut(u64),
) -> Result<u64, StoreError> {
    let _lock = lock(folder)?;
    let mut journal = open(folder, queue, handover)?;
    let count = journal.waiting() + journal.lost();
    while journal.drop_oldest(Reason::Purged)? {
        progress(journal.waiting());
    }
    journal.settle(1, journal.next_seq() - 1);
    journal.save()?;
    journal.close()?;
    progress(0);
    Ok(count)
}

fn open(folder: &Path, queue: &str, handover: FindHandover) -> Result<Journal, StoreError> {
    let terms = JournalTerms {
        reserve: EmergencyReserve::of(folder),
        handover,
    };
    Journal::open_with(&folder.join(queue), PartitionBytes::of(0), &terms)
}
