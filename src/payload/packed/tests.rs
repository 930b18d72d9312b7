//! A receiver finds every reading, its number, and every bit of its value.

use super::*;
use crate::payload::pack::{ColumnKind, hash_of};
use crate::payload::samples::{NamedSample, named};
use proptest::prelude::*;

const AT: i64 = 1_769_847_330_250;

/// The readings with their numbers, in an order of their own: that of numbers.
fn told(readings: &[UnpackedReading]) -> Vec<String> {
    let told = |own: &UnpackedReading| {
        let reading = &own.reading;
        let age = reading.age.as_millis();
        let value = reading.value.as_ref().map(bits);
        format!(
            "{} {} {value:?} {} {} {:?} {age}",
            own.number, own.topic, reading.time.unix_ms, reading.time.clock_set, reading.quality
        )
    };
    readings.iter().map(told).collect()
}

/// NaN is not equal to itself, and 0 is equal to -0: floats are compared by their bits.
fn bits(value: &Value) -> String {
    match value {
        Value::F32(float) => format!("f32 {:x}", float.to_bits()),
        Value::F64(float) => format!("f64 {:x}", float.to_bits()),
        other => format!("{other:?}"),
    }
}

/// The samples as formats take them, with the numbers from 5,000 on.
fn numbered(samples: &[NamedSample]) -> Vec<NamedReading<'_>> {
    let mut readings = named(samples);
    for (number, reading) in (5_000..).zip(&mut readings) {
        reading.number = number;
    }
    readings
}

/// What a receiver makes of readings that are sent by a schema, which has grown for them.
fn sent(schema: &mut FrameSchema, samples: &[NamedSample]) -> Vec<UnpackedReading> {
    let readings = numbered(samples);
    if let Some(grown) = schema.grown(&readings) {
        assert_ne!(grown.hash(), schema.hash());
        *schema = grown;
    }
    assert_eq!(schema.grown(&readings), None);
    let message = schema.encode(7, schema.frames(&readings)).unwrap();
    let there = FrameSchema::from_json(schema.to_json().as_bytes()).unwrap();
    assert_eq!(&there, schema);
    assert_eq!(hash_of(&message), Some(schema.codes.hash));
    there.decode(&message).unwrap()
}

fn expected(samples: &[NamedSample]) -> Vec<UnpackedReading> {
    let own = |(number, sample): (u64, &NamedSample)| UnpackedReading {
        series: Some(7),
        number,
        topic: sample.names.topic.clone(),
        unit: sample.names.unit.clone(),
        reading: sample.reading.clone(),
    };
    (5_000..).zip(samples).map(own).collect()
}

fn sample(topic: &'static str, after: i64, value: Value) -> NamedSample {
    NamedSample::new(topic, AT + after, value)
}

#[test]
fn a_schema_grows_with_the_values_and_writes_what_it_wrote_before() {
    let mut schema = FrameSchema::default();
    let mut check = |value: Value, columns: &str| {
        let samples = [sample("s7/pump/flow", 0, value)];
        assert_eq!(
            told(&sent(&mut schema, &samples)),
            told(&expected(&samples))
        );
        let own = schema.columns.iter();
        let own: Vec<String> = own
            .map(|own| format!("{:?}{}", own.of, own.decimals))
            .collect();
        assert_eq!(own.join(" "), columns);
    };
    check(Value::F64(12.3), "Decimal1");
    check(Value::F64(12.0), "Decimal1");
    check(Value::F64(0.125), "Decimal3");
    check(Value::F64(1e15), "Decimal3 F640");
    check(Value::F64(-0.0), "Decimal3 F640");
    check(Value::UInt(u64::MAX), "Decimal3 F640 UInt0");
    check(Value::F32(f32::NAN), "Decimal3 F640 UInt0 F320");
}

#[test]
fn a_point_without_a_value_gets_its_type_with_the_first_one() {
    let mut schema = FrameSchema::default();
    let mut samples = [sample("s7/pump/mode", 0, Value::Bool(true))];
    samples[0].reading.value = None;
    samples[0].reading.quality = Quality::Bad("no answer".into());
    assert_eq!(
        told(&sent(&mut schema, &samples)),
        told(&expected(&samples))
    );
    assert_eq!(schema.columns[0].of, ColumnType::None);
    let text = [sample("s7/pump/mode", 0, Value::Text("auto".into()))];
    assert_eq!(told(&sent(&mut schema, &text)), told(&expected(&text)));
    assert_eq!(schema.columns[0].of, ColumnType::Text);
    assert_eq!(
        told(&sent(&mut schema, &samples)),
        told(&expected(&samples))
    );
    assert_eq!(schema.columns(), 1);
}

#[test]
fn what_is_learned_makes_frames_smaller_and_stays_when_a_schema_grows() {
    let flow = |row: i64| 200.0 + 0.1 * f64::from(i32::try_from(row * 37 % 11).unwrap());
    let row = |row: i64| {
        let total = u64::try_from(1_000 + 17 * row).unwrap();
        let flow = (flow(row) * 10.0).round() / 10.0;
        [
            sample("s7/pump/flow", row * 10_000, Value::F64(flow)),
            sample("s7/pump/total", row * 10_000, Value::UInt(total)),
            sample("s7/pump/on", row * 10_000, Value::Bool(true)),
        ]
    };
    let rows = |from: i64, to: i64| -> Vec<NamedSample> { (from..to).flat_map(row).collect() };
    let mut schema = FrameSchema::default();
    let samples = rows(0, 400);
    sent(&mut schema, &samples);
    let frames = schema.frames(&named(&samples));
    let learned = schema.clone().learned(&frames);
    let kinds = [ColumnKind::Scaled, ColumnKind::Counter, ColumnKind::Status];
    assert_eq!(learned.codes.kinds, kinds);
    let size = |schema: &FrameSchema, rows: &[NamedSample]| {
        schema.encode(7, schema.frames(&named(rows))).unwrap().len()
    };
    let next = rows(400, 420);
    assert!(size(&learned, &next) * 4 < size(&schema, &next) * 3);
    let mut grown = learned.clone();
    let mut other = rows(420, 421);
    other.push(sample("s7/pump/level", 4_200_000, Value::F64(0.125)));
    assert_eq!(told(&sent(&mut grown, &other)), told(&expected(&other)));
    assert!(grown.has_model());
    assert!(size(&grown, &next) * 4 < size(&schema, &next) * 3);
    other[0].reading.value = Some(Value::F64(200.125));
    assert_eq!(told(&sent(&mut grown, &other)), told(&expected(&other)));
    assert!(grown.has_model());
}

#[test]
fn what_is_no_schema_is_refused() {
    let mut schema = FrameSchema::default();
    sent(&mut schema, &[sample("s7/pump/flow", 0, Value::F64(12.5))]);
    let good = schema.to_json();
    for (part, other) in [
        ("\"version\":1", "\"version\":2"),
        ("[\"decimal\"]", "[\"decimal\",\"uint\"]"),
        ("\"decimals\":[1]", "\"decimals\":[10]"),
        ("\"names\":[\"flow\"]", "\"names\":[\"#\"]"),
        ("\"hash\":\"", "\"hash\":\"x"),
        ("\"units\":[null]", "\"units\":[null],\"model\":\"AAE=\""),
    ] {
        assert!(good.contains(part), "{good}");
        let bad = good.replace(part, other);
        assert!(FrameSchema::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// A schema, and what is sent by it.
struct Vector {
    schema: FrameSchema,
    samples: Vec<NamedSample>,
}

impl Vector {
    /// By a schema that has grown for the samples, out of another one.
    fn grown(from: &FrameSchema, samples: Vec<NamedSample>) -> Self {
        let mut schema = from.clone();
        sent(&mut schema, &samples);
        Self { schema, samples }
    }
}

fn not_good(topic: &'static str, after: i64, quality: Quality, age: u64) -> NamedSample {
    let mut sample = sample(topic, after, Value::Bool(true));
    sample.reading.value = None;
    sample.reading.quality = quality;
    sample.reading.age = Duration::from_millis(age);
    sample
}

/// A row with a value of each type.
fn of_every_type() -> Vec<NamedSample> {
    let word = |text: &str| Value::Text(text.into());
    let mut samples = vec![
        sample("s7/pump/on", 0, Value::Bool(true)),
        sample("s7/pump/level", 0, Value::Int(-3)),
        sample("s7/pump/total", 0, Value::UInt(70_000)),
        sample("s7/pump/flow", 0, Value::F64(12.34)),
        sample("s7/pump/power", 0, Value::F32(229.4)),
        sample("s7/pump/ratio", 0, Value::F64(1.0 / 3.0)),
        sample("s7/pump/mode", 0, word("man \u{fc}")),
        sample(
            "s7/pump/alarms",
            0,
            Value::List(vec![word("a\"b"), Value::Int(-1)]),
        ),
        not_good("s7/pump/dead", 0, Quality::Bad("no answer".into()), 0),
    ];
    samples[3].names.unit = Some("m\u{b3}/h".into());
    samples
}

/// A plant of two devices that are read at different times, some points not every time.
fn rows(from: i64, to: i64) -> Vec<NamedSample> {
    let mut samples = Vec::new();
    for row in from..to {
        let (at, wave) = (
            row * 10_000,
            f64::from(i32::try_from(row * 37 % 11).unwrap()),
        );
        let mode = if row % 16 < 9 { "auto" } else { "man" };
        samples.extend([
            sample("s7/pump/flow", at, Value::F64((2000.0 + wave) / 10.0)),
            sample("s7/pump/mode", at, Value::Text(mode.into())),
            sample("s7/pump/power", at, Value::F32(229.5)),
        ]);
        if row % 3 != 1 {
            let total = u64::try_from(70_000 + 17 * row).unwrap();
            samples.push(sample("s7/pump/total", at, Value::UInt(total)));
        }
        let late = at + 1_500 + row * row % 7;
        samples.extend([
            sample("s7/valve/on", late, Value::Bool(row % 20 != 0)),
            sample("s7/valve/heat", late, Value::F64(20.0 + wave / 7.0)),
        ]);
    }
    samples
}

fn with_some_not_good(mut samples: Vec<NamedSample>) -> Vec<NamedSample> {
    let stale = &mut samples[4].reading;
    stale.quality = Quality::Stale("no answer".into());
    stale.age = Duration::from_millis(12_500);
    let bad = &mut samples[11].reading;
    bad.value = None;
    bad.quality = Quality::Bad("out of range".into());
    samples.push(not_good(
        "s7/tank/level",
        0,
        Quality::Bad("no answer".into()),
        0,
    ));
    samples
}

/// Values at the ends of their types, and floats that are easily taken for others.
fn extremes() -> Vec<NamedSample> {
    let ints = [i64::MAX, i64::MIN, 0, -1, 1 << 53, (1 << 53) + 1].map(Value::Int);
    let uints = [u64::MAX, 0, 1 << 63, u64::MAX, 1, (1 << 53) + 1].map(Value::UInt);
    let f64s = [-0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, -1e300, 0.1 + 0.2].map(Value::F64);
    let f32s = [-0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, 0.1].map(Value::F32);
    let decimals = [12.5, -0.001, 1e15, 0.0, -2e9, 3.25].map(Value::F64);
    let columns = [
        ("s7/e/int", ints),
        ("s7/e/uint", uints),
        ("s7/e/f64", f64s),
        ("s7/e/f32", f32s),
        ("s7/e/decimal", decimals),
    ];
    let of_column = |(topic, values): (&'static str, [Value; 6])| {
        (0..)
            .zip(values)
            .map(move |(row, value)| sample(topic, row * 1_000, value))
    };
    columns.into_iter().flat_map(of_column).collect()
}

fn without_clock_set() -> Vec<NamedSample> {
    let mut samples = rows(400, 403);
    for sample in &mut samples {
        sample.reading.time = Timestamp::at(sample.reading.time.unix_ms - AT);
    }
    samples
}

/// Messages of everything that there is.
fn vectors() -> Vec<Vector> {
    let none = FrameSchema::default();
    let plain = Vector::grown(&none, with_some_not_good(rows(400, 420))).schema;
    let lessons = rows(0, 400);
    let frames = plain.frames(&named(&lessons));
    let learned = plain.clone().learned(&frames);
    let mut vectors = Vec::new();
    for schema in [none, plain, learned] {
        vectors.extend([
            Vector::grown(&schema, of_every_type()),
            Vector::grown(&schema, extremes()),
            Vector::grown(&schema, rows(400, 401)),
            Vector::grown(&schema, rows(400, 440)),
            Vector::grown(&schema, with_some_not_good(rows(400, 420))),
            Vector::grown(&schema, without_clock_set()),
        ]);
    }
    vectors
}

/// The type, and the value; a float with its bits.
fn typed(value: &Value) -> (&'static str, serde_json::Value) {
    use serde_json::json;
    match value {
        Value::Bool(truth) => ("bool", json!(truth)),
        Value::Int(int) => ("int", json!(int)),
        Value::UInt(uint) => ("uint", json!(uint)),
        Value::F32(float) => ("f32", json!([format!("{:08x}", float.to_bits()), float])),
        Value::F64(float) => ("f64", json!([format!("{:016x}", float.to_bits()), float])),
        Value::Text(text) => ("text", json!(&**text)),
        Value::List(list) => {
            let list = list.iter().map(|value| typed(value).1);
            ("list", list.collect())
        }
    }
}

fn json_of(own: &UnpackedReading) -> serde_json::Value {
    let (of, value) = own.reading.value.as_ref().map(typed).unzip();
    serde_json::json!([
        own.number,
        own.topic.as_str(),
        own.unit,
        own.reading.time.unix_ms,
        own.reading.time.clock_set,
        of,
        value,
        own.reading.quality.name(),
        own.reading.quality.reason(),
        u64::try_from(own.reading.age.as_millis()).unwrap(),
    ])
}

#[test]
fn bytes_of_schemas_are_frozen() {
    let frozen = include_str!("../../../tests/vectors/schemas.jsonl");
    let line = |vector: &Vector| {
        let mut schema = vector.schema.clone();
        let readings = sent(&mut schema, &vector.samples);
        assert_eq!(told(&readings), told(&expected(&vector.samples)));
        let document: serde_json::Value = serde_json::from_str(&schema.to_json()).unwrap();
        let message = schema.encode(7, schema.frames(&numbered(&vector.samples)));
        let message: String = message
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let readings: Vec<_> = readings.iter().map(json_of).collect();
        let line = serde_json::json!({
            "schema": document, "message": message, "series": 7, "readings": readings,
        });
        format!("{line}\n")
    };
    let found: String = vectors().iter().map(line).collect();
    assert!(
        found == frozen,
        "messages of earlier versions could not be read any more:\n{found}"
    );
}

#[test]
fn frozen_bytes_are_read() {
    for line in include_str!("../../../tests/vectors/schemas.jsonl").lines() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let schema = FrameSchema::from_json(vector["schema"].to_string().as_bytes()).unwrap();
        let message = vector["message"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&message[at..at + 2], 16).unwrap();
        let message: Vec<u8> = (0..message.len()).step_by(2).map(byte).collect();
        let readings = schema.decode(&message).unwrap();
        let is_of_series = |own: &UnpackedReading| own.series == vector["series"].as_u64();
        assert!(readings.iter().all(is_of_series));
        let readings: Vec<_> = readings.iter().map(json_of).collect();
        // As text: every digit of a float counts.
        let written = format!("\"readings\":{}", serde_json::json!(readings));
        assert!(line.contains(&written), "{written}");
    }
}

#[test]
fn more_digits_for_one_value_leave_a_place_to_a_large_one_of_the_same_message() {
    let mut schema = FrameSchema::default();
    let samples = [
        sample("s7/pump/total", 0, Value::F64(2e15)),
        sample("s7/pump/total", 10_000, Value::F64(0.125)),
    ];
    assert_eq!(
        told(&sent(&mut schema, &samples)),
        told(&expected(&samples))
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-3000_i32..3000, 0..4_i32).prop_map(|(int, digits)| {
            Value::F64(f64::from(int) / 10_f64.powi(digits))
        }),
        2 => any::<i64>().prop_map(Value::Int),
        2 => any::<u64>().prop_map(Value::UInt),
        1 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        1 => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => "[a-z\"]{0,3}".prop_map(|text| Value::Text(text.into())),
        1 => prop::collection::vec("[a-z\"]{0,3}", 0..3).prop_map(|list| {
            Value::List(list.into_iter().map(|text| Value::Text(text.into())).collect())
        }),
    ]
}

fn any_quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        8 => Just(Quality::Good),
        1 => "[a-c]{0,2}".prop_map(|reason| Quality::Stale(reason.into())),
        1 => "[a-c]{0,2}".prop_map(|reason| Quality::Bad(reason.into())),
    ]
}

proptest! {
    #![proptest_config(crate::testing::cases(256, module_path!()))]
    #[test]
    fn a_receiver_finds_every_reading_and_its_number(
        batches in prop::collection::vec(prop::collection::vec(
            (0..4_usize, 0..4_i64, prop::option::weighted(0.9, any_value()), any_quality(), any::<bool>(), 0..1000_u64),
            1..40,
        ), 1..4),
    ) {
        let topics = ["s7/pump/a", "s7/pump/b", "s7/valve/a", "s8/c"];
        let mut schema = FrameSchema::default();
        for batch in batches {
            let mut samples = Vec::new();
            for (point, time, value, quality, is_set, age) in batch {
                let mut sample = sample(topics[point], time * 1000, Value::Bool(true));
                sample.reading.time.clock_set = is_set;
                sample.reading.age = Duration::from_millis(age);
                let is_good = quality == Quality::Good;
                if is_good {
                    sample.reading.age = Duration::ZERO;
                }
                sample.reading.quality = quality;
                sample.reading.value = value.or(is_good.then_some(Value::UInt(3)));
                samples.push(sample);
            }
            prop_assert_eq!(told(&sent(&mut schema, &samples)), told(&expected(&samples)));
        }
    }
}
