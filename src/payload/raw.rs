//! A reading as it lies in the outbox: nothing is lost, and readings of one scan differ in few
//! bytes at their ends. Pure.
//!
//! ```text
//! boot 4 | wall clock when the machine started, unix ms 8 | time, unix ms 8 | column 4
//! | tag 1: bits 0-3 the kind of value, 4 details follow, 5 the clock was not set, 6 boot is unknown
//! | details: quality 1 | age, ns | queued so many ms after it was taken | reason length, reason
//! | value
//! kinds of value: 0 none · 1 false · 2 true · 3, 4 signed integer of 4, 8 bytes · 5, 6 unsigned
//!   · 7 f32 · 8 f64 · 9 decimal: digits after the point 1, signed integer 4
//!   · 10 text: length, text · 11 list: count, its values, each with its kind
//! ```
//! Small numbers have four bytes too: those of a scan line up, and chunks write what is the same in
//! all of them once. Numbers of fixed size are big endian, others LEB128. A decimal stands for the
//! same bits as the number that was measured: a register integer with its scale comes back as it
//! was read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::decimal::{self, MOST_DIGITS};
use crate::leb128;
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
use crate::time::SinceBoot;

const DETAILS: u8 = 1 << 4;
const CLOCK_UNSET: u8 = 1 << 5;
const NO_BOOT: u8 = 1 << 6;

const DECIMAL: u8 = 9;
const TEXT: u8 = 10;
const LIST: u8 = 11;
/// Lists in lists.
const DEEPEST: u8 = 8;
/// A reading that was queued this soon counts as queued when it was taken.
const AT_ONCE_MS: i64 = 1000;

/// Why bytes are no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged reading: {0}")]
pub struct RawError(&'static str);

fn short(_: bytes::TryGetError) -> RawError {
    RawError("cut short")
}

/// A reading that was queued; the point of the reading is its column.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedReading {
    /// The reading.
    pub reading: Reading,
    /// When it was queued, to the second.
    pub queued: Timestamp,
}

/// A number of no fixed size.
fn number(bytes: &mut Bytes) -> Result<u64, RawError> {
    leb128::take(bytes).ok_or(RawError("a number out of range"))
}

fn put_text(text: &str, out: &mut BytesMut) {
    leb128::put(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

fn text(bytes: &mut Bytes) -> Result<Arc<str>, RawError> {
    let length = usize::try_from(number(bytes)?)
        .ok()
        .filter(|length| *length <= bytes.len())
        .ok_or(RawError("cut short"))?;
    let text = bytes.split_to(length);
    std::str::from_utf8(&text)
        .map(Arc::from)
        .map_err(|_| RawError("not text"))
}

/// The column of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnHint {
    /// Its number.
    pub column: PointId,
    /// Digits after the point that its values are written with, at least.
    pub digits: u8,
}

/// Writes a reading that is queued at `queued`. Returns the digits after the point that its value
/// needed.
pub fn put(reading: &Reading, place: ColumnHint, queued: Timestamp, out: &mut BytesMut) -> u8 {
    let Timestamp {
        unix_ms,
        clock_set,
        since_boot,
    } = reading.time;
    let SinceBoot { boot, ms } = since_boot.unwrap_or(SinceBoot { boot: 0, ms: 0 });
    out.put_u32(boot);
    out.put_i64(unix_ms.wrapping_sub(ms));
    out.put_i64(unix_ms);
    out.put_u32(place.column.0);
    let later = queued.unix_ms.wrapping_sub(unix_ms);
    let is_plain = reading.quality == Quality::Good
        && reading.age.is_zero()
        && (0..AT_ONCE_MS).contains(&later);
    let mut tag = 0;
    for (flag, is_set) in [
        (DETAILS, !is_plain),
        (CLOCK_UNSET, !clock_set),
        (NO_BOOT, since_boot.is_none()),
    ] {
        tag |= if is_set { flag } else { 0 };
    }
    let tag_at = out.len();
    out.put_u8(tag);
    if !is_plain {
        put_details(reading, later, out);
    }
    let value_at = out.len();
    let kind = reading
        .value
        .as_ref()
        .map_or(0, |value| put_value(value, place.digits, out));
    if let Some(byte) = out.get_mut(tag_at) {
        *byte |= kind;
    }
    out.get(value_at)
        .copied()
        .filter(|_| kind == DECIMAL)
        .unwrap_or(0)
}

fn put_details(reading: &Reading, later: i64, out: &mut BytesMut) {
    out.put_u8(match reading.quality {
        Quality::Good => 0,
        Quality::Stale(_) => 1,
        Quality::Bad(_) => 2,
    });
    leb128::put(
        u64::try_from(reading.age.as_nanos()).unwrap_or(u64::MAX),
        out,
    );
    // Zigzag: a clock that was set backwards makes it negative.
    leb128::put((later << 1 ^ later >> 63).cast_unsigned(), out);
    put_text(reading.quality.reason().unwrap_or_default(), out);
}

/// Writes a value, a decimal with so many digits at least, and returns its kind.
fn put_value(value: &Value, digits: u8, out: &mut BytesMut) -> u8 {
    match value {
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Int(int) => put_int(*int, out),
        Value::UInt(uint) => put_uint(*uint, out),
        Value::F32(float) => {
            out.put_f32(*float);
            7
        }
        Value::F64(float) => put_decimal(*float, digits, out).unwrap_or_else(|| {
            out.put_f64(*float);
            8
        }),
        Value::Text(text) => {
            put_text(text, out);
            TEXT
        }
        Value::List(list) => {
            leb128::put(list.len() as u64, out);
            for value in list {
                let kind_at = out.len();
                out.put_u8(0);
                let kind = put_value(value, digits, out);
                if let Some(byte) = out.get_mut(kind_at) {
                    *byte = kind;
                }
            }
            LIST
        }
    }
}

fn put_int(int: i64, out: &mut BytesMut) -> u8 {
    if let Ok(int) = i32::try_from(int) {
        out.put_i32(int);
        3
    } else {
        out.put_i64(int);
        4
    }
}

fn put_uint(uint: u64, out: &mut BytesMut) -> u8 {
    if let Ok(uint) = u32::try_from(uint) {
        out.put_u32(uint);
        5
    } else {
        out.put_u64(uint);
        6
    }
}

/// An integer and its digits after the point; `None` if that is not the same number bit for bit.
fn put_decimal(float: f64, least: u8, out: &mut BytesMut) -> Option<u8> {
    let (digits, int) = (least..=MOST_DIGITS)
        .chain(0..least.min(MOST_DIGITS))
        .find_map(|digits| {
            let int = i32::try_from(decimal::units(float, digits)?).ok()?;
            Some((digits, int))
        })?;
    out.put_u8(digits);
    out.put_i32(int);
    Some(DECIMAL)
}

/// Reads what [`put`] wrote, to the end.
pub fn take(mut bytes: Bytes) -> Result<QueuedReading, RawError> {
    let boot = bytes.try_get_u32().map_err(short)?;
    let started = bytes.try_get_i64().map_err(short)?;
    let unix_ms = bytes.try_get_i64().map_err(short)?;
    let point = PointId(bytes.try_get_u32().map_err(short)?);
    let tag = bytes.try_get_u8().map_err(short)?;
    let mut time = Timestamp::at(unix_ms);
    time.clock_set &= tag & CLOCK_UNSET == 0;
    time.since_boot = (tag & NO_BOOT == 0).then(|| SinceBoot {
        boot,
        ms: unix_ms.wrapping_sub(started),
    });
    let mut reading = Reading {
        point,
        value: None,
        time,
        quality: Quality::Good,
        age: Duration::ZERO,
    };
    let later = if tag & DETAILS == 0 {
        0
    } else {
        take_details(&mut reading, &mut bytes)?
    };
    reading.value = value(tag & 15, &mut bytes, DEEPEST)?;
    if !bytes.is_empty() {
        return Err(RawError("too long"));
    }
    let queued = Timestamp {
        since_boot: time.since_boot.map(|SinceBoot { boot, ms }| SinceBoot {
            boot,
            ms: ms.wrapping_add(later),
        }),
        unix_ms: unix_ms.wrapping_add(later),
        ..time
    };
    Ok(QueuedReading { reading, queued })
}

/// Fills in quality and age; returns by how many milliseconds it was queued later.
fn take_details(reading: &mut Reading, bytes: &mut Bytes) -> Result<i64, RawError> {
    let quality = bytes.try_get_u8().map_err(short)?;
    reading.age = Duration::from_nanos(number(bytes)?);
    let zigzag = number(bytes)?;
    let reason = text(bytes)?;
    reading.quality = match quality {
        0 => Quality::Good,
        1 => Quality::Stale(reason),
        2 => Quality::Bad(reason),
        _ => return Err(RawError("an unknown quality")),
    };
    Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

fn value(kind: u8, bytes: &mut Bytes, depth: u8) -> Result<Option<Value>, RawError> {
    let value = match kind {
        0 => return Ok(None),
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Int(bytes.try_get_i32().map_err(short)?.into()),
        4 => Value::Int(bytes.try_get_i64().map_err(short)?),
        5 => Value::UInt(bytes.try_get_u32().map_err(short)?.into()),
        6 => Value::UInt(bytes.try_get_u64().map_err(short)?),
        7 => Value::F32(bytes.try_get_f32().map_err(short)?),
        8 => Value::F64(bytes.try_get_f64().map_err(short)?),
        DECIMAL => {
            let digits = bytes.try_get_u8().map_err(short)?;
            let units = bytes.try_get_i32().map_err(short)?;
            Value::F64(decimal::number(units.into(), digits))
        }
        TEXT => Value::Text(text(bytes)?),
        LIST => Value::List(list(bytes, depth)?),
        _ => return Err(RawError("an unknown value")),
    };
    Ok(Some(value))
}

fn list(bytes: &mut Bytes, depth: u8) -> Result<Vec<Value>, RawError> {
    let count = number(bytes)?;
    let depth = depth.checked_sub(1).ok_or(RawError("too deep"))?;
    let mut list = Vec::new();
    for _ in 0..count {
        let kind = bytes.try_get_u8().map_err(short)?;
        list.push(value(kind, bytes, depth)?.ok_or(RawError("an unknown value"))?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good(value: Value) -> Reading {
        Reading {
            point: PointId(7),
            value: Some(value),
            time: Timestamp {
                since_boot: Some(SinceBoot { boot: 5, ms: 99 }),
                ..Timestamp::at(1_769_847_330_250)
            },
            quality: Quality::Good,
            age: Duration::ZERO,
        }
    }

    fn place(reading: &Reading, digits: u8) -> ColumnHint {
        ColumnHint {
            column: reading.point,
            digits,
        }
    }

    fn raw(reading: &Reading, queued: Timestamp) -> Bytes {
        let mut out = BytesMut::new();
        put(reading, place(reading, 0), queued, &mut out);
        out.freeze()
    }

    #[test]
    fn a_register_with_a_scale_takes_no_more_bytes_than_an_integer_and_its_digits() {
        let size = |value: Value| {
            let reading = good(value);
            raw(&reading, reading.time).len() - 25
        };
        assert_eq!(size(Value::F64(229.4)), 5);
        assert_eq!(size(Value::F64(123_456.78)), 5);
        assert_eq!(size(Value::F64(0.1 + 0.2)), 8);
        assert_eq!(size(Value::F64(-0.0)), 8);
        assert_eq!(size(Value::UInt(65_535)), 4);
        assert_eq!(size(Value::Bool(true)), 0);
        assert_eq!(size(Value::F32(229.4)), 4);
    }

    #[test]
    fn the_values_of_a_column_get_the_same_digits() {
        let reading = good(Value::F64(300.0));
        for (least, digits) in [(0, 0), (1, 1), (3, 3), (9, 0)] {
            let mut out = BytesMut::new();
            let needed = put(&reading, place(&reading, least), reading.time, &mut out);
            assert_eq!(needed, digits, "{least}");
            assert_eq!(take(out.freeze()).unwrap().reading, reading);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<i16>().prop_map(|int| Value::Int(int.into())),
            any::<u64>().prop_map(Value::UInt),
            any::<u8>().prop_map(|int| Value::UInt(int.into())),
            any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
            any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
            (any::<i32>(), 0_i32..6)
                .prop_map(|(int, digits)| Value::F64(f64::from(int) * 10_f64.powi(-digits))),
            ".{0,20}".prop_map(|text| Value::Text(text.into())),
        ];
        number.prop_recursive(3, 12, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(Value::List)
        })
    }

    /// NaN is not equal to itself: compared by their bits.
    fn bits(value: &Value) -> String {
        match value {
            Value::F32(float) => format!("f32 {:x}", float.to_bits()),
            Value::F64(float) => format!("f64 {:x}", float.to_bits()),
            Value::List(list) => format!("{:?}", list.iter().map(bits).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        }
    }

    fn any_quality() -> impl Strategy<Value = Quality> {
        prop_oneof![
            Just(Quality::Good),
            ".{0,9}".prop_map(|reason| Quality::Stale(reason.into())),
            ".{0,9}".prop_map(|reason| Quality::Bad(reason.into())),
        ]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(512, module_path!()))]
        #[test]
        fn a_reading_comes_back_bit_for_bit(
            value in prop::option::of(any_value()),
            quality in any_quality(),
            age in 0_u64..1 << 50,
            unix_ms in -5_000_000_000_000_i64..5_000_000_000_000,
            boot in prop::option::of((any::<u32>(), 0_i64..1 << 40)),
            is_set: bool,
            later in -10_000_i64..10_000,
        ) {
            let mut time = Timestamp::at(unix_ms);
            time.clock_set &= is_set;
            time.since_boot = boot.map(|(boot, ms)| SinceBoot { boot, ms });
            let reading = Reading { point: PointId(70_000), value, time, quality, age: Duration::from_nanos(age) };
            let queued = Timestamp { unix_ms: unix_ms + later, ..time };
            let back = take(raw(&reading, queued)).unwrap();
            prop_assert_eq!(back.reading.value.as_ref().map(bits), reading.value.as_ref().map(bits));
            prop_assert_eq!(Reading { value: None, ..back.reading }, Reading { value: None, ..reading });
            prop_assert!((back.queued.unix_ms - queued.unix_ms).abs() < AT_ONCE_MS);
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0_usize..40) {
            let _ = take(bytes.into());
            let reading = good(Value::List(vec![Value::F64(1.5), Value::Text("on".into())]));
            let mut damaged = raw(&reading, reading.time).to_vec();
            damaged.truncate(cut);
            let _ = take(damaged.into());
        }
    }
}
