//! The store as its users see it: early settling, queues by worth, limits, failures of one queue
//! alone.

use super::*;
use crate::store::Handover;
use crate::store::{AppendError, EntryId, Receipt, Stored, WhenFull};

const QUEUES: StoreQueues<'static> = StoreQueues {
    names: &["first", "second", "last"],
    usual: 1,
    handover: |_| None,
};

fn settings() -> Settings {
    Settings {
        save_every: Duration::from_millis(20),
        total_bytes: 1 << 30,
        age: None,
        when_full: WhenFull::DropOldest,
    }
}

fn start(folder: &Path, settings: Settings) -> (Store, oneshot::Receiver<()>) {
    open("test", folder, QUEUES, settings).unwrap()
}

async fn append(store: &Store, queue: usize, size: usize) -> Result<Receipt, AppendError> {
    store.append(queue, vec![7; size].into()).await
}

async fn stored(store: &Store, queue: usize, size: usize) -> Stored {
    append(store, queue, size)
        .await
        .unwrap()
        .stored()
        .await
        .unwrap()
}

fn waiting(store: &Store) -> Vec<u64> {
    store
        .counters()
        .waiting
        .iter()
        .map(crate::metrics::Gauge::value)
        .collect()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn what_is_settled_before_its_commit_is_due_is_never_written_and_counts_as_safe() {
    let folder = tempfile::tempdir().unwrap();
    let (store, closed) = start(
        folder.path(),
        Settings {
            save_every: Duration::from_secs(3600),
            ..settings()
        },
    );
    let mut receipts = Vec::new();
    for _ in 0..10 {
        receipts.push(append(&store, 1, 100).await.unwrap());
    }
    let read = store.read(1, 0, 100, 1 << 20).await.unwrap();
    assert_eq!(read.len(), 10, "what is not written yet can be read");
    store.settle(
        &read
            .iter()
            .map(|entry| EntryId {
                queue: 1,
                seq: entry.seq,
            })
            .collect::<Vec<_>>(),
    );
    for (receipt, entry) in receipts.into_iter().zip(&read) {
        assert_eq!(receipt.stored().await, Ok(Stored::Safe(entry.seq)));
    }
    assert_eq!(
        (store.counters().written.value(), waiting(&store)),
        (0, vec![0, 0, 0])
    );
    drop(store);
    closed.await.unwrap();
    let (store, _closed) = start(folder.path(), settings());
    assert_eq!(
        stored(&store, 1, 10).await,
        Stored::Safe(11),
        "an orderly end leaves no gap, a number is not used again"
    );
    assert_eq!(store.counters().lost.value(), 0);
}

#[tokio::test]
async fn a_handover_outlives_its_entry_until_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (store, closed) = start(folder.path(), settings());
    let handover = |receipt| Handover {
        source: 5,
        packet_id: 9,
        receipt,
    };
    let append = |receipt| store.append_as(1, vec![7; 10].into(), Some(handover(receipt)));
    let first = append(1).await.unwrap();
    let second = append(2).await.unwrap();
    let read = store.read(1, 0, 100, 1 << 20).await.unwrap();
    assert_eq!(read, [], "it is read once it is on disk");
    let mut newest = store.newest();
    newest.mark_unchanged();
    assert_eq!(first.stored().await, Ok(Stored::Safe(1)));
    assert_eq!(second.stored().await, Ok(Stored::Safe(2)));
    newest.changed().await.unwrap();
    assert_eq!(store.read(1, 0, 100, 1 << 20).await.unwrap().len(), 2);
    store.settle(&[1, 2].map(|seq| EntryId { queue: 1, seq }));
    store.handovers().forget(&mut [1]);
    drop(store);
    closed.await.unwrap();
    let (store, _closed) = start(folder.path(), settings());
    assert_eq!(waiting(&store), [0, 0, 0]);
    assert_eq!(store.handovers().list(), [handover(2)]);
}

#[tokio::test]
async fn states_come_back_with_their_queues_and_a_queue_is_made_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, closed) = start(folder.path(), settings());
    assert!(!folder.path().join("first").exists() && folder.path().join("second").exists());
    store
        .save(vec![
            (0, Bytes::from_static(b"one")),
            (1, Bytes::from_static(b"two")),
        ])
        .await
        .unwrap();
    let identity = store.identity().to_owned();
    drop(store);
    closed.await.unwrap();
    let (store, _closed) = start(folder.path(), settings());
    assert_eq!(
        (store.state(0), store.state(1), store.state(2)),
        (
            Bytes::from_static(b"one"),
            Bytes::from_static(b"two"),
            Bytes::new()
        )
    );
    assert_eq!(store.identity(), identity);
}

#[tokio::test]
async fn at_its_size_the_last_queue_gives_way_first() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _closed) = start(
        folder.path(),
        Settings {
            total_bytes: 24 << 20,
            ..settings()
        },
    );
    for _ in 0..40 {
        stored(&store, 2, 50_000).await;
        stored(&store, 1, 50_000).await;
    }
    for _ in 0..500 {
        stored(&store, 0, 50_000).await;
    }
    let gaps = store.take_gaps();
    assert_eq!(gaps.first().map(|(queue, _)| *queue), Some(2), "{gaps:?}");
    let given_up = |queue| {
        gaps.iter()
            .filter(|(other, _)| *other == queue)
            .map(|(_, gap)| gap.count)
            .sum::<u64>()
    };
    assert_eq!(
        (given_up(2), given_up(1)),
        (40, 40),
        "before the first lost anything: {gaps:?}"
    );
    assert_eq!(store.counters().lost.value(), given_up(0) + 80);
}

#[tokio::test]
async fn a_full_store_that_refuses_takes_entries_again_when_it_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _closed) = start(
        folder.path(),
        Settings {
            total_bytes: 16 << 20,
            when_full: WhenFull::Refuse,
            ..settings()
        },
    );
    let mut taken = Vec::new();
    for queue in [0, 1, 1, 0, 1].into_iter().cycle().take(2000) {
        match stored(&store, queue, 30_000).await {
            Stored::Safe(seq) => taken.push(EntryId { queue, seq }),
            Stored::Refused => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(taken.len() > 50 && taken.len() < 2000, "{}", taken.len());
    store.settle(&taken);
    let mut refusals = 0;
    while stored(&store, 1, 10).await == Stored::Refused {
        refusals += 1;
        assert!(refusals < 1000, "nothing waits, and nothing is taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.counters().lost.value(), 0);
}

#[tokio::test]
async fn a_full_store_that_refuses_goes_on_to_drop_what_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let age = Some(Duration::from_secs(1));
    let (store, _closed) = start(
        folder.path(),
        Settings {
            total_bytes: 16 << 20,
            when_full: WhenFull::Refuse,
            age,
            ..settings()
        },
    );
    let mut taken = 0;
    while let Stored::Safe(_) = stored(&store, 1, 30_000).await {
        taken += 1;
        assert!(taken < 2000, "it is never full");
    }
    // Nobody delivers anything.
    until("all of it is too old", || waiting(&store) == [0, 0, 0]).await;
    assert_eq!(store.counters().lost.value(), taken);
    assert!(
        store
            .take_gaps()
            .iter()
            .all(|(_, gap)| gap.reason == crate::store::Reason::Age)
    );
    until("it is not full any more", || {
        store.counters().full.value() == 0
    })
    .await;
    assert!(matches!(stored(&store, 1, 30_000).await, Stored::Safe(_)));
}

#[tokio::test]
async fn a_queue_that_cannot_be_written_is_not_answered_for_and_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder of the first queue is to be.
    fs::write(folder.path().join("first"), "in the way").unwrap();
    let opened = open("test", folder.path(), QUEUES, settings());
    assert!(opened.is_err(), "it is told at the start");
    fs::remove_file(folder.path().join("first")).unwrap();
    let (store, _closed) = start(folder.path(), settings());
    fs::write(folder.path().join("first"), "in the way").unwrap();
    let mut both = store.save(vec![
        (0, Bytes::from_static(b"one")),
        (1, Bytes::from_static(b"two")),
    ]);
    store
        .save(vec![(1, Bytes::from_static(b"three"))])
        .await
        .unwrap();
    assert_eq!(
        stored(&store, 1, 10).await,
        Stored::Safe(1),
        "the other queue goes on"
    );
    assert!(
        both.try_recv().is_err(),
        "the first queue has not been saved"
    );
    assert_eq!(store.counters().stalled.value(), 1);
    fs::remove_file(folder.path().join("first")).unwrap();
    both.await.unwrap();
    until("it says so", || store.counters().stalled.value() == 0).await;
}
