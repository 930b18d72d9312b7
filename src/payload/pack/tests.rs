//! Frames come back as they were, from every coder; damaged ones are an error.

use std::sync::LazyLock;

use super::*;
use proptest::prelude::*;

const KINDS: [ColumnKind; 6] = [
    ColumnKind::Scaled,
    ColumnKind::Counter,
    ColumnKind::Status,
    ColumnKind::F32,
    ColumnKind::F64,
    ColumnKind::Text,
];

fn schema(model: Option<AdaptiveModel>) -> PackSchema {
    PackSchema {
        hash: 0xC0DE_2026,
        kinds: KINDS.to_vec(),
        model,
    }
}

/// Rows of a plant on its way.
fn rows(count: i64) -> Vec<Vec<i64>> {
    let row = |row: i64| {
        let wave = (row * 37 % 11 - 5) * (row % 3);
        let flow = 230.5 + f32::from(i8::try_from(wave).unwrap()) / 7.0;
        let (f32, f64) = (order_of_f32(flow), order_of_f64(flow.into()));
        vec![
            235 + wave,
            100_000 + 17 * row + wave / 5,
            5 + row / 50,
            f32,
            f64,
            0,
        ]
    };
    (0..count).map(row).collect()
}

/// Without a model, with one that knows nothing, and with one that has learned.
static SCHEMAS: LazyLock<[PackSchema; 3]> = LazyLock::new(|| {
    let rows = rows(801);
    let columns = |rows: &[Vec<i64>]| {
        let column = |place: usize| numbers(place, rows.iter().map(|row| row[place]));
        (0..5).map(column).collect()
    };
    let times = || (0..).map(|row: i64| row * 10_000);
    let seen = |rows: &[Vec<i64>]| frame(times().take(rows.len()).collect(), columns(rows));
    let frames: Vec<PackFrame> = rows.chunks(20).map(seen).collect();
    let learned = AdaptiveModel::learn(&KINDS, &frames);
    [None, Some(AdaptiveModel::new(KINDS.len())), Some(learned)].map(schema)
});

fn frame(times: Vec<i64>, columns: Vec<PackColumn>) -> PackFrame {
    let mut frame = PackFrame {
        times,
        clock_set: true,
        columns,
        not_good: Vec::new(),
        numbers: Vec::new(),
    };
    number(&mut frame);
    frame
}

/// Numbers the readings of a frame.
fn number(frame: &mut PackFrame) {
    let count = frame.readings() as u64;
    frame.numbers = NumberRun::of(100_000..100_000 + count);
}

fn message(frame: &PackFrame) -> PackMessage {
    PackMessage {
        series: 7,
        frames: vec![frame.clone()],
    }
}

fn numbers(place: usize, numbers: impl IntoIterator<Item = i64>) -> PackColumn {
    PackColumn {
        place,
        cells: PackCells::Numbers(numbers.into_iter().map(Some).collect()),
    }
}

fn check_round_trip(frame: &PackFrame) -> Vec<usize> {
    let round_trip = |schema: &PackSchema| {
        let message = message(frame);
        let bytes = message.encode(schema).unwrap();
        assert_eq!(hash_of(&bytes), Some(schema.hash));
        assert_eq!(PackMessage::decode(&bytes, schema).unwrap(), message);
        bytes.len()
    };
    SCHEMAS.iter().map(round_trip).collect()
}

#[test]
fn every_float_comes_back_bit_for_bit() {
    for float in [
        0.0,
        -0.0,
        1.5,
        -1.5,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NAN,
        -f32::NAN,
    ] {
        let back = f32_of_order(order_of_f32(float)).unwrap();
        assert_eq!(back.to_bits(), float.to_bits(), "{float}");
        let wide = f64::from(float);
        assert_eq!(
            f64_of_order(order_of_f64(wide)).to_bits(),
            wide.to_bits(),
            "{float}"
        );
    }
    assert_eq!([order_of_f32(0.0), order_of_f32(-0.0)], [0, -1]);
    assert_eq!(f32_of_order(1 << 40), None);
}

#[test]
fn a_step_of_any_size_comes_back() {
    let wild = [
        0,
        i64::MAX,
        i64::MIN,
        -1,
        1 << 62,
        0,
        1 << 47,
        -(1 << 47),
        i64::MIN,
        i64::MIN,
    ];
    let times = (0..10).map(|row| row * 10_000).collect();
    let columns = (0..5).map(|place| numbers(place, wild)).collect();
    check_round_trip(&frame(times, columns));
    check_round_trip(&frame(wild.to_vec(), vec![numbers(0, wild)]));
}

#[test]
fn what_the_model_knows_saves_bytes() {
    let rows = rows(1000);
    let column = |place: usize| numbers(place, rows[900..920].iter().map(|row| row[place]));
    let times = (0..20)
        .map(|row| 1_769_847_330_250 + row * 10_000)
        .collect();
    let sizes = check_round_trip(&frame(times, (0..5).map(column).collect()));
    assert!(sizes[2] < sizes[1] && sizes[2] < sizes[0], "{sizes:?}");
}

#[test]
fn a_model_comes_back_from_its_bytes() {
    for model in SCHEMAS.iter().filter_map(|schema| schema.model.as_ref()) {
        let bytes = model.to_bytes();
        assert_eq!(
            &AdaptiveModel::from_bytes(&bytes, KINDS.len()).unwrap(),
            model
        );
        for cut in [0, 1, KINDS.len()] {
            assert!(AdaptiveModel::from_bytes(&bytes[..cut], KINDS.len()).is_err());
        }
    }
}

#[test]
fn what_is_no_frame_of_the_schema_is_refused() {
    let good = frame(vec![0, 10], vec![numbers(0, [1, 2]), numbers(1, [1, 2])]);
    check_round_trip(&good);
    let late = NotGood {
        row: 2,
        column: 0,
        quality: Quality::Bad("no answer".into()),
        age: Duration::ZERO,
    };
    let wrong = [
        PackFrame {
            times: Vec::new(),
            ..good.clone()
        },
        PackFrame {
            columns: Vec::new(),
            ..good.clone()
        },
        PackFrame {
            times: vec![0],
            ..good.clone()
        },
        PackFrame {
            columns: vec![numbers(1, [1, 2]), numbers(0, [1, 2])],
            ..good.clone()
        },
        PackFrame {
            columns: vec![numbers(5, [1, 2])],
            ..good.clone()
        },
        PackFrame {
            columns: vec![numbers(6, [1, 2])],
            ..good.clone()
        },
        PackFrame {
            not_good: vec![late],
            ..good.clone()
        },
    ];
    for mut wrong in wrong {
        number(&mut wrong);
        assert!(message(&wrong).encode(&SCHEMAS[0]).is_err(), "{wrong:?}");
    }
    let numbered_twice = PackFrame {
        numbers: NumberRun::of([7, 8, 9, 10, 11].into_iter()),
        ..good.clone()
    };
    assert!(message(&numbered_twice).encode(&SCHEMAS[0]).is_err());
    let empty = PackMessage {
        series: 7,
        frames: Vec::new(),
    };
    assert!(empty.encode(&SCHEMAS[0]).is_err());
    let bytes = message(&good).encode(&SCHEMAS[0]).unwrap();
    let other = PackSchema {
        hash: 1,
        ..SCHEMAS[0].clone()
    };
    assert!(PackMessage::decode(&bytes, &other).is_err());
    assert!(PackMessage::decode(&[2, 0, 0, 0, 0, 0], &SCHEMAS[0]).is_err());
}

#[test]
fn a_frame_of_many_rows_in_few_bytes_is_refused_before_it_is_filled() {
    // Every cell of a column that stands still takes no bytes: the count of rows is all there is.
    const STILL: u8 = 255;
    let head = [1, 0xC0, 0xDE, 0x20, 0x26, 7, 1];
    let rice_and_texts = [0x80, 3];
    let frame = |rows: &[u8]| {
        [
            &rice_and_texts,
            rows,
            &[0, 0, 9, 1, 0],
            &[0, STILL].repeat(6),
        ]
        .concat()
    };
    let decode = |frames: &[u8]| PackMessage::decode(&[&head, frames].concat(), &SCHEMAS[0]);
    let too_many = PackError("too many cells");
    assert_eq!(
        decode(&frame(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F])),
        Err(too_many)
    );
    // 131,072 rows of six columns and their times fit in, but not twice.
    let large = frame(&[0x80, 0x80, 8]);
    assert!(decode(&large).is_ok());
    let size = u8::try_from(large.len()).unwrap();
    let twice = [&head[..6], &[2, size], &large, &large].concat();
    assert_eq!(PackMessage::decode(&twice, &SCHEMAS[0]), Err(too_many));
}

#[test]
fn numbers_in_runs_of_one_length_take_few_bytes_however_many_there_are() {
    let turn = |row: u64| 5_000 + 50 * row..5_000 + 50 * row + 2;
    let size = |count: u64| {
        let rows = i64::try_from(count).unwrap();
        let times = (0..rows).map(|row| row * 10_000).collect();
        let columns = vec![numbers(0, vec![5; 40]), numbers(2, vec![5; 40])];
        let mut frame = frame(times, columns);
        frame.numbers = NumberRun::of((0..count).flat_map(turn));
        assert_eq!(frame.numbers.len(), 40);
        check_round_trip(&frame)
    };
    let in_turns = size(40);
    let mut in_a_row = frame(
        (0..40).map(|row| row * 10_000).collect(),
        vec![numbers(0, [5; 40])],
    );
    in_a_row.columns.push(numbers(2, [5; 40]));
    number(&mut in_a_row);
    for (one, other) in in_turns.iter().zip(check_round_trip(&in_a_row)) {
        assert!(*one <= other + 8, "{one} {other}");
    }
}

/// Messages of everything that there is, each with the number of its schema.
fn samples() -> Vec<(&'static str, usize, Vec<PackFrame>)> {
    let rows = rows(930);
    let of_rows = |from: usize, count: usize, places: &[usize]| {
        let column = |place: &usize| {
            let numbers = rows[from..from + count].iter().map(|row| row[*place]);
            self::numbers(*place, numbers)
        };
        let times = (0..).map(|row: i64| 1_769_847_330_250 + row * 10_000);
        frame(
            times.take(count).collect(),
            places.iter().map(column).collect(),
        )
    };
    let numbers_only = [0, 1, 2, 3, 4];
    let wild = [0, i64::MAX, i64::MIN, -1, 1 << 62, 0, -(1 << 47), i64::MIN];
    let texts = ["auto", "auto", "man \u{fc}"].map(|text| Some(text.into()));
    let mut mixed = of_rows(900, 3, &[0, 1]);
    mixed.columns.push(PackColumn {
        place: 5,
        cells: PackCells::Texts(texts.to_vec()),
    });
    mixed.columns[0].cells = PackCells::Numbers(vec![Some(235), None, Some(-236)]);
    mixed.times = vec![-5, 9_995, 20_007];
    mixed.clock_set = false;
    mixed.not_good = [
        (0, Quality::Stale("no answer".into())),
        (1, Quality::Bad("auto".into())),
    ]
    .map(|(row, quality)| NotGood {
        row,
        column: 0,
        quality,
        age: Duration::from_millis(1500),
    })
    .to_vec();
    mixed.numbers = NumberRun::of([7, 8, 9, 20, 22, 24, 26, 5, 6].into_iter());
    let mut samples = Vec::new();
    for (coder, schema) in [("packed", 0), ("adaptive", 1), ("learned", 2)] {
        samples.extend([
            (coder, schema, vec![of_rows(900, 1, &numbers_only)]),
            (coder, schema, vec![of_rows(900, 2, &numbers_only)]),
            (coder, schema, vec![of_rows(900, 30, &numbers_only)]),
            (
                coder,
                schema,
                vec![frame(
                    wild.to_vec(),
                    numbers_only.map(|place| numbers(place, wild)).to_vec(),
                )],
            ),
            (
                coder,
                schema,
                vec![
                    of_rows(900, 20, &[0, 2]),
                    mixed.clone(),
                    of_rows(900, 1, &[4]),
                ],
            ),
            (coder, schema, vec![mixed.clone()]),
        ]);
    }
    samples
}

fn json(frame: &PackFrame) -> serde_json::Value {
    let cells = |column: &PackColumn| match &column.cells {
        PackCells::Numbers(cells) => serde_json::json!(cells),
        PackCells::Texts(cells) => serde_json::json!(cells),
    };
    let columns: Vec<_> = frame
        .columns
        .iter()
        .map(|own| (own.place, cells(own)))
        .collect();
    let not_good = frame.not_good.iter().map(|not_good| {
        let NotGood {
            row,
            column,
            quality,
            age,
        } = not_good;
        serde_json::json!([
            row,
            column,
            quality.name(),
            quality.reason(),
            u64::try_from(age.as_millis()).unwrap()
        ])
    });
    serde_json::json!({
        "times": frame.times, "clock_set": frame.clock_set,
        "columns": columns, "not_good": not_good.collect::<Vec<_>>(),
        "numbers": frame.numbers.iter().flat_map(|run| run.numbers()).collect::<Vec<_>>(),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bytes_are_frozen() {
    let kinds = ["scaled", "counter", "status", "f32", "f64", "text"];
    let frozen = include_str!("../../../tests/vectors/pack.jsonl");
    let line = |(coder, schema, frames): &(&str, usize, Vec<PackFrame>)| {
        let schema = &SCHEMAS[*schema];
        let model = schema
            .model
            .as_ref()
            .map(|model| hexadecimal(&model.to_bytes()));
        let message = PackMessage {
            series: 7,
            frames: frames.clone(),
        };
        let bytes = hexadecimal(&message.encode(schema).unwrap());
        let decoded: Vec<_> = frames.iter().map(json).collect();
        let line = serde_json::json!({
            "coder": coder, "kinds": kinds, "model": model.unwrap_or_default(), "message": bytes,
            "series": 7, "frames": decoded,
        });
        format!("{line}\n")
    };
    let found: String = samples().iter().map(line).collect();
    assert!(
        found == frozen,
        "frames of earlier versions could not be read any more:\n{found}"
    );
}

/// Numbers on their way, with jumps.
fn any_numbers(rows: usize) -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        4 => Just(0_i64),
        8 => -3..=3_i64,
        2 => -5000..5000_i64,
        1 => any::<i64>(),
    ];
    (any::<i16>(), prop::collection::vec(step, rows)).prop_map(|(first, steps)| {
        let next = |number: &mut i64, step: i64| {
            *number = number.wrapping_add(step);
            Some(*number)
        };
        steps.into_iter().scan(i64::from(first), next).collect()
    })
}

fn any_column(place: usize, rows: usize) -> BoxedStrategy<PackColumn> {
    let gaps = prop_oneof![
        2 => Just(vec![true; rows]),
        1 => prop::collection::vec(prop::bool::weighted(0.8), rows),
    ];
    let of_text = KINDS[place] == ColumnKind::Text;
    let texts = || prop::collection::vec("[a-c\u{fc}]{0,2}", rows);
    (any_numbers(rows), texts(), gaps)
        .prop_map(move |(numbers, texts, gaps)| {
            let numbers = numbers.into_iter().zip(&gaps);
            let texts = texts.into_iter().zip(&gaps);
            let cells = if of_text {
                PackCells::Texts(
                    texts
                        .map(|(text, there)| there.then(|| text.into()))
                        .collect(),
                )
            } else {
                PackCells::Numbers(
                    numbers
                        .map(|(number, there)| there.then_some(number))
                        .collect(),
                )
            };
            PackColumn { place, cells }
        })
        .boxed()
}

fn any_quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        "[a-c]{0,2}".prop_map(|reason| Quality::Stale(reason.into())),
        "[a-c]{0,2}".prop_map(|reason| Quality::Bad(reason.into())),
    ]
}

fn any_times(rows: usize) -> impl Strategy<Value = Vec<i64>> {
    let regular = (any::<i64>(), -20_000..20_000_i64).prop_map(move |(first, step)| {
        (0..)
            .map(|row: i64| first.wrapping_add(row * step))
            .take(rows)
            .collect()
    });
    prop_oneof![2 => regular, 1 => any_numbers(rows)]
}

fn any_frame() -> impl Strategy<Value = PackFrame> {
    let places = prop::sample::subsequence((0..KINDS.len()).collect::<Vec<_>>(), 1..=KINDS.len());
    (1..30_usize, places).prop_flat_map(|(rows, places)| {
        let cells = rows * places.len();
        let width = places.len();
        let columns: Vec<_> = places
            .into_iter()
            .map(|place| any_column(place, rows))
            .collect();
        let not_good = prop::collection::btree_map(0..cells, (any_quality(), 0..100_000_u64), 0..3);
        (
            any_times(rows),
            columns,
            not_good,
            prop::collection::vec(
                prop_oneof![8 => Just(0_u64), 1 => 0..3_u64, 1 => any::<u64>()],
                2 * cells,
            ),
            any::<bool>(),
        )
            .prop_map(move |(times, columns, not_good, skipped, clock_set)| {
                let not_good = not_good.into_iter();
                let mut frame = PackFrame {
                    times,
                    clock_set,
                    columns,
                    not_good: not_good
                        .map(|(cell, (quality, age))| NotGood {
                            row: cell / width,
                            column: cell % width,
                            quality,
                            age: Duration::from_millis(age),
                        })
                        .collect(),
                    numbers: Vec::new(),
                };
                let mut next = 0_u64;
                let numbers = skipped.into_iter().map(|skipped| {
                    let number = next.wrapping_add(skipped);
                    next = number.wrapping_add(1);
                    number
                });
                frame.numbers = NumberRun::of(numbers.take(frame.readings()));
                frame
            })
    })
}

proptest! {
    #![proptest_config(crate::testing::cases(512, module_path!()))]
    #[test]
    fn a_frame_comes_back_as_it_was(frame in any_frame()) {
        check_round_trip(&frame);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_frame(
        frame in any_frame(),
        cut in 0..200_usize,
        damage in prop::collection::vec((0..200_usize, any::<u8>()), 0..4),
        any in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        for schema in SCHEMAS.iter() {
            let mut bytes = message(&frame).encode(schema).unwrap();
            bytes.truncate(cut.max(7));
            for (at, with) in &damage {
                if let Some(byte) = bytes.get_mut(*at) {
                    *byte = *with;
                }
            }
            let _ = PackMessage::decode(&bytes, schema);
            let mut made = bytes[..6].to_vec();
            made.extend(&any);
            let _ = PackMessage::decode(&made, schema);
            let _ = AdaptiveModel::from_bytes(&any, 6);
        }
    }
}
