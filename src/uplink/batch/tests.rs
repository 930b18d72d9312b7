//! Batches as an uplink uses them: what travels together, when it leaves, and what bounds it.

use std::sync::Arc;

use super::*;
use crate::payload::{BatchTerms, Compression, Payload, PayloadFormat};
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
use proptest::prelude::*;

const EVERY: Duration = Duration::from_secs(10);

fn join(device: &str) -> JoinTerms {
    let terms = BatchTerms {
        every: EVERY,
        up_to: 300,
    };
    JoinTerms {
        format: ReadingFormat {
            payload: PayloadFormat::Scan,
            batch: Some(terms),
            compression: Compression::None,
        },
        terms,
        device: Some(device.into()),
        time: None,
    }
}

/// A reading of 100 bytes.
fn joining(seq: u64, lane: Lane, device: &str, waited: Duration) -> Joining {
    let reading = Reading {
        point: PointId(0),
        value: Some(Value::UInt(seq)),
        time: Timestamp::at(1_769_847_330_250),
        quality: Quality::Good,
        age: Duration::ZERO,
    };
    Joining {
        waiting: Waiting {
            lane,
            seq,
            message: Outgoing {
                topic: TopicName::new("far").unwrap(),
                qos: QoS::AtLeastOnce,
                retain: true,
                if_session_lost: SessionLost::Resend,
                enqueued: reading.time,
                properties: Properties::default(),
                payload: Payload::Reading(Box::new(reading)),
                rated: None,
                source: None,
            },
        },
        join: join(device),
        rule: None,
        bytes: 100,
        waited,
    }
}

fn live(seq: u64) -> Joining {
    joining(seq, Lane::Live, "pump", Duration::ZERO)
}

fn place(seq: u64) -> EntryId {
    EntryId {
        queue: Lane::Live as usize,
        seq,
    }
}

fn seqs(batches: &mut Batches, head: &Waiting) -> Vec<u64> {
    let places = batches.places_of(head.place());
    places.iter().map(|place| place.seq).collect()
}

impl Batches {
    /// Panics if a total or an index is not what the batches say.
    fn check_invariants(&self) {
        let all = || self.open.iter().chain(self.sent.values());
        let weight: usize = all().map(Batch::weight).sum();
        let runs: usize = all().map(Batch::runs).sum();
        assert_eq!((self.weight, self.runs), (weight, runs));
        let places: Vec<EntryId> = all()
            .flat_map(|batch| batch.members.iter().map(Waiting::place))
            .collect();
        let different: HashSet<EntryId> = places.iter().copied().collect();
        assert_eq!(different.len(), places.len(), "a reading is in one batch");
        assert_eq!(different, self.held);
        assert!(all().all(|batch| !batch.members.is_empty()));
    }
}

#[test]
fn live_readings_go_together_after_a_time_or_when_they_are_many() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    assert_eq!(batches.add(live(1), start), None);
    let later = start + Duration::from_secs(4);
    assert_eq!(batches.add(live(2), later), None);
    assert_eq!(batches.next_due(later), Some(start + EVERY));
    assert_eq!(batches.close_due(later), None);
    let head = batches.close_due(start + EVERY).unwrap();
    assert_eq!((head.seq, head.message.retain), (1, false));
    assert!(batches.holds(place(2)) && batches.sent(place(1)).is_some());
    assert_eq!(seqs(&mut batches, &head), [1, 2]);
    assert!(!batches.holds(place(2)));
    for seq in 3..6 {
        assert_eq!(batches.add(live(seq), start), None);
    }
    let head = batches.add(live(6), start).unwrap();
    assert_eq!(seqs(&mut batches, &head), [3, 4, 5]);
    batches.check_invariants();
}

#[test]
fn late_readings_go_in_large_messages() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    let late = |seq| joining(seq, Lane::Live, "pump", EVERY);
    let most = (CATCH_UP / 100) as u64;
    for seq in 0..most {
        assert_eq!(batches.add(late(seq), start), None);
    }
    let head = batches.add(late(most), start).unwrap();
    assert_eq!(seqs(&mut batches, &head).len() as u64, most);
    let last = batches.close_due(start).unwrap();
    assert_eq!(
        seqs(&mut batches, &last),
        [most],
        "nothing more can be taken"
    );
    // A slow link.
    batches.limit_late(2_000);
    for seq in 0..20 {
        assert_eq!(batches.add(late(seq), start), None);
    }
    let head = batches.add(late(20), start).unwrap();
    assert_eq!(seqs(&mut batches, &head).len(), 20);
    let last = batches.close_due(start).unwrap();
    assert_eq!(seqs(&mut batches, &last), [20]);
    // A remote that takes no such packets.
    batches.limit_packets(Some(1_250));
    assert_eq!(batches.add(late(1), start), None);
    assert_eq!(batches.add(late(2), start), None);
    let head = batches.add(late(3), start).unwrap();
    assert_eq!(seqs(&mut batches, &head), [1, 2]);
}

#[test]
fn a_batch_whose_size_is_only_guessed_is_measured_before_it_is_closed() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    let mut compressed = |seq| {
        let mut joining = live(seq);
        joining.join.format.compression = Compression::Deflate;
        // What the batch would have after it: readings of 100 bytes become 20.
        let mut measured = 0;
        while let Some(batch) = batches.to_measure(&joining) {
            let bytes = 20 * batch.members().count();
            batches.measured(&joining, bytes);
            measured += 1;
        }
        (batches.add(joining, start), measured)
    };
    for seq in 1..=3 {
        assert_eq!(compressed(seq), (None, 0));
    }
    assert_eq!(compressed(4), (None, 1), "60 bytes, not 300");
    for seq in 5..=15 {
        assert_eq!(compressed(seq), (None, 0));
    }
    let (head, measured) = compressed(16);
    assert_eq!(measured, 1, "300 bytes, as guessed");
    assert_eq!(seqs(&mut batches, &head.unwrap()).len(), 15);
    batches.check_invariants();
}

#[test]
fn alarms_wait_for_nothing() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    for seq in 1..=2 {
        let alarm = joining(seq, Lane::Alarm, "pump", Duration::ZERO);
        assert_eq!(batches.add(alarm, start), None);
    }
    let head = batches.close_due(start).unwrap();
    assert_eq!(seqs(&mut batches, &head), [1, 2], "those of one moment");
}

#[test]
fn a_batch_of_a_lane_that_gives_no_more_is_closed_before_lower_lanes_go_on() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    let backlog = joining(1, Lane::Backlog, "pump", Duration::from_secs(1000));
    assert_eq!(batches.add(backlog, start), None);
    let alarm = joining(2, Lane::Alarm, "pump", Duration::ZERO);
    assert_eq!(batches.add(alarm, start), None);
    assert_eq!(batches.close_due_of(start, |_| false), None);
    let head = batches.close_due_of(start, |lane| lane != Lane::Backlog);
    assert_eq!(seqs(&mut batches, &head.unwrap()), [2]);
    assert_eq!(
        batches.close_due_of(start, |lane| lane != Lane::Backlog),
        None
    );
}

#[test]
fn readings_that_differ_in_more_than_the_value_stay_apart() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    let qos_0 = Waiting {
        message: Outgoing {
            qos: QoS::AtMostOnce,
            ..live(5).waiting.message
        },
        ..live(5).waiting
    };
    let others = [
        live(1),
        joining(2, Lane::Backlog, "pump", Duration::ZERO),
        joining(3, Lane::Live, "valve", Duration::ZERO),
        Joining {
            rule: Some(7),
            ..live(4)
        },
        Joining {
            waiting: qos_0,
            ..live(5)
        },
    ];
    for other in others {
        assert_eq!(batches.last_before(&other), None);
        batches.add(other, start);
    }
    assert_eq!(batches.open.len(), 5);
    assert!(batches.last_before(&live(6)).is_some());
    batches.check_invariants();
}

#[test]
fn a_batch_that_is_too_large_goes_in_halves_which_later_ones_do_not_exceed() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    for seq in 1..=3 {
        batches.add(live(seq), start);
    }
    let head = batches.close_any().unwrap();
    let [first, second] = batches.split(head.place()).unwrap();
    batches.check_invariants();
    assert_eq!(batches.split(first.place()), None, "one reading");
    assert_eq!(seqs(&mut batches, &first), [1]);
    assert_eq!(seqs(&mut batches, &second), [2, 3]);
    assert_eq!(batches.add(live(4), start), None);
    assert!(batches.add(live(5), start).is_some(), "150 bytes at most");
}

#[test]
fn memory_and_pieces_are_bounded() {
    let (mut batches, start) = (Batches::default(), crate::time::now());
    let mut seq = 0;
    while !batches.is_full() {
        // Every other number: each reading is a piece of its own.
        batches.add(live(2 * seq), start);
        seq += 1;
    }
    assert_eq!(seq, MOST_RUNS as u64);
    let (mut batches, mut seq) = (Batches::default(), 0);
    while !batches.is_full() {
        batches.add(live(seq), start);
        seq += 1;
    }
    assert!(batches.weight < MOST_WEIGHT + live(0).waiting.message.weight());
    batches.check_invariants();
}

/// An operation on batches.
#[derive(Debug, Clone)]
enum Operation {
    Add {
        device: usize,
        waited: u64,
        skips: u64,
    },
    Close,
    End(usize),
    Split(usize),
    Drop(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..3_usize, 0..20_u64, 1..3_u64)
            .prop_map(|(device, waited, skips)| Operation::Add { device, waited, skips }),
        2 => Just(Operation::Close),
        1 => (0..8_usize).prop_map(Operation::End),
        1 => (0..8_usize).prop_map(Operation::Split),
        1 => (0..8_usize).prop_map(Operation::Drop),
    ]
}

proptest! {
    #![proptest_config(crate::testing::cases(256, module_path!()))]
    #[test]
    fn each_reading_ends_once_and_in_the_order_of_its_device(
        operations in prop::collection::vec(operation(), 0..60),
    ) {
        let (mut batches, start) = (Batches::default(), crate::time::now());
        let devices = ["a", "b", "c"].map(Arc::<str>::from);
        let (mut seq, mut device_of) = (0, HashMap::new());
        let mut heads: Vec<EntryId> = Vec::new();
        let mut ended: Vec<u64> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Add { device, waited, skips } => {
                    seq += skips;
                    device_of.insert(seq, device);
                    let waited = Duration::from_secs(waited);
                    let reading = joining(seq, Lane::Live, &devices[device], waited);
                    heads.extend(batches.add(reading, start).map(|head| head.place()));
                }
                Operation::Close => heads.extend(batches.close_due(start).map(|head| head.place())),
                Operation::End(index) if index < heads.len() => {
                    let places = batches.places_of(heads.remove(index));
                    let own: HashSet<usize> =
                        places.iter().map(|place| device_of[&place.seq]).collect();
                    prop_assert_eq!(own.len(), 1);
                    prop_assert!(places.is_sorted_by_key(|place| place.seq));
                    ended.extend(places.iter().map(|place| place.seq));
                }
                Operation::Split(index) if index < heads.len() => {
                    if let Some(halves) = batches.split(heads[index]) {
                        prop_assert_eq!(halves[0].place(), heads[index]);
                        heads.push(halves[1].place());
                    }
                }
                Operation::Drop(index) => {
                    let place = place(index as u64);
                    let is_sent = batches.sent.values()
                        .any(|batch| batch.members.iter().any(|member| member.place() == place));
                    if batches.holds(place) && batches.drop_open(place) {
                        prop_assert!(!is_sent);
                        ended.push(place.seq);
                    }
                }
                Operation::End(_) | Operation::Split(_) => {}
            }
            batches.check_invariants();
        }
        while let Some(head) = batches.close_any() {
            heads.push(head.place());
        }
        for head in heads {
            ended.extend(batches.places_of(head).iter().map(|place| place.seq));
        }
        batches.check_invariants();
        prop_assert_eq!((batches.weight, batches.runs), (0, 0));
        ended.sort_unstable();
        let mut all: Vec<u64> = device_of.into_keys().collect();
        all.sort_unstable();
        prop_assert_eq!(ended, all);
    }
}
