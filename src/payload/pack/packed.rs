//! The simple coders: differences as LEB128, or in Rice codes, column by column. Each column begins
//! on a byte.
//!
//! ```text
//! if cells may be empty: 0 all are there | 1, and a bit for each cell, the highest first
//! plain: each difference, zigzag
//! Rice: first number, zigzag | if there are more: k 1 | differences in bits, zigzag, the highest bit first
//!   k 255: all are 0 | else the number shifted right by k in ones and a zero, then the k lowest bits
//!   · forty ones, and no zero: all 64 bits follow
//! ```
//! The differences of a counter are, from the third number on, those of its differences.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::body::{Body, BodyColumn};
use super::zigzag::{put_zigzag, take_zigzag, unzigzag, zigzag};
use super::{ColumnKind, PackError};

/// So many ones and no zero: a number in all its bits follows.
const ESCAPE: u32 = 40;
const MOST_K: u8 = 40;
const ALL_ZERO: u8 = 255;

/// Writes the columns of a frame one after the other.
fn write(body: &Body, put: impl Fn(&[i64], &mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    if let Some(times) = &body.times {
        put(&differences(times, ColumnKind::Counter), &mut out);
    }
    for column in &body.columns {
        if body.has_gaps {
            put_gaps(&column.numbers, &mut out);
        }
        let numbers: Vec<i64> = column.numbers.iter().flatten().copied().collect();
        put(&differences(&numbers, column.kind), &mut out);
    }
    out.to_vec()
}

pub(super) fn write_plain(body: &Body) -> Vec<u8> {
    write(body, |differences, out| {
        for difference in differences {
            put_zigzag(*difference, out);
        }
    })
}

pub(super) fn write_rice(body: &Body) -> Vec<u8> {
    write(body, put_rice)
}

fn put_gaps(cells: &[Option<i64>], out: &mut BytesMut) {
    if cells.iter().all(Option::is_some) {
        out.put_u8(0);
        return;
    }
    out.put_u8(1);
    for cells in cells.chunks(8) {
        let bit = |(place, cell): (usize, &Option<i64>)| u8::from(cell.is_some()) << (7 - place);
        out.put_u8(cells.iter().enumerate().map(bit).sum());
    }
}

fn put_rice(differences: &[i64], out: &mut BytesMut) {
    let Some((first, others)) = differences.split_first() else {
        return;
    };
    put_zigzag(*first, out);
    if others.is_empty() {
        return;
    }
    let numbers: Vec<u64> = others.iter().map(|other| zigzag(*other)).collect();
    if numbers.iter().all(|number| *number == 0) {
        out.put_u8(ALL_ZERO);
        return;
    }
    let bits = |k: &u8| {
        numbers
            .iter()
            .map(|number| rice_bits(*number, *k))
            .sum::<u64>()
    };
    let k = (0..=MOST_K).min_by_key(bits).unwrap_or(0);
    out.put_u8(k);
    let mut bits = BitWriter {
        out,
        byte: 0,
        filled: 0,
    };
    for number in numbers {
        bits.rice(number, k);
    }
    bits.finish();
}

fn rice_bits(number: u64, k: u8) -> u64 {
    match number >> k {
        ones if ones < u64::from(ESCAPE) => ones + 1 + u64::from(k),
        _ => u64::from(ESCAPE + u64::BITS),
    }
}

/// The first number and the steps to the others; of a counter the changes of steps.
fn differences(numbers: &[i64], kind: ColumnKind) -> Vec<i64> {
    let (mut last, mut last_step) = (0_i64, 0_i64);
    let difference = |(place, number): (usize, &i64)| {
        let step = number.wrapping_sub(last);
        let change = step.wrapping_sub(last_step);
        (last, last_step) = (*number, step);
        if kind == ColumnKind::Counter && place >= 2 {
            change
        } else {
            step
        }
    };
    numbers.iter().enumerate().map(difference).collect()
}

fn numbers(differences: Vec<i64>, kind: ColumnKind) -> Vec<i64> {
    let (mut last, mut last_step) = (0_i64, 0_i64);
    let number = |(place, difference): (usize, i64)| {
        let is_change = kind == ColumnKind::Counter && place >= 2;
        let step = if is_change {
            last_step.wrapping_add(difference)
        } else {
            difference
        };
        (last, last_step) = (last.wrapping_add(step), step);
        last
    };
    differences.into_iter().enumerate().map(number).collect()
}

/// Fills the columns of a frame, one after the other.
fn read(
    mut body: Body,
    bytes: &Bytes,
    take: impl Fn(usize, &mut Bytes) -> Result<Vec<i64>, PackError>,
) -> Result<Body, PackError> {
    let mut bytes = bytes.clone();
    if let Some(times) = &mut body.times {
        *times = numbers(take(body.rows, &mut bytes)?, ColumnKind::Counter);
    }
    for column in &mut body.columns {
        read_column(column, body.rows, body.has_gaps, &mut bytes, &take)?;
    }
    if !bytes.is_empty() {
        return Err(PackError("too long"));
    }
    Ok(body)
}

fn read_column(
    column: &mut BodyColumn,
    rows: usize,
    has_gaps: bool,
    bytes: &mut Bytes,
    take: impl Fn(usize, &mut Bytes) -> Result<Vec<i64>, PackError>,
) -> Result<(), PackError> {
    let there = if has_gaps {
        take_gaps(rows, bytes)?
    } else {
        None
    };
    let count = there
        .as_ref()
        .map_or(rows, |there| there.iter().filter(|is| **is).count());
    let mut numbers = numbers(take(count, bytes)?, column.kind).into_iter();
    column.numbers = match there {
        Some(there) => {
            let cell = |is_there: bool| is_there.then(|| numbers.next()).flatten();
            there.into_iter().map(cell).collect()
        }
        None => numbers.map(Some).collect(),
    };
    Ok(())
}

pub(super) fn read_plain(body: Body, bytes: &Bytes) -> Result<Body, PackError> {
    read(body, bytes, |count, bytes| {
        let number = |_| take_zigzag(bytes).ok_or(SHORT);
        (0..count).map(number).collect()
    })
}

pub(super) fn read_rice(body: Body, bytes: &Bytes) -> Result<Body, PackError> {
    read(body, bytes, take_rice)
}

const SHORT: PackError = PackError("cut short");

/// Which cells are there; `None` if all are.
fn take_gaps(rows: usize, bytes: &mut Bytes) -> Result<Option<Vec<bool>>, PackError> {
    match bytes.try_get_u8().map_err(|_| SHORT)? {
        0 => Ok(None),
        1 => {
            let length = rows.div_ceil(8);
            if length > bytes.len() {
                return Err(SHORT);
            }
            let bits = bytes.split_to(length);
            let bits = bits
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1));
            Ok(Some(bits.take(rows).collect()))
        }
        _ => Err(PackError("an unknown mark of empty cells")),
    }
}

fn take_rice(count: usize, bytes: &mut Bytes) -> Result<Vec<i64>, PackError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut found = vec![take_zigzag(bytes).ok_or(SHORT)?];
    if count == 1 {
        return Ok(found);
    }
    let k = bytes.try_get_u8().map_err(|_| SHORT)?;
    if k == ALL_ZERO {
        found.resize(count, 0);
        return Ok(found);
    }
    if k > MOST_K {
        return Err(PackError("an unknown Rice code"));
    }
    let mut bits = BitReader {
        bytes,
        byte: 0,
        left: 0,
    };
    for _ in 1..count {
        found.push(unzigzag(bits.rice(k)?));
    }
    Ok(found)
}

/// Bits, the highest of a byte first.
struct BitWriter<'a> {
    out: &'a mut BytesMut,
    byte: u8,
    filled: u8,
}

impl BitWriter<'_> {
    fn bit(&mut self, bit: bool) {
        self.byte = self.byte << 1 | u8::from(bit);
        self.filled += 1;
        if self.filled == 8 {
            self.out.put_u8(self.byte);
            (self.byte, self.filled) = (0, 0);
        }
    }

    fn bits(&mut self, number: u64, count: u32) {
        for place in (0..count).rev() {
            self.bit(number >> place & 1 == 1);
        }
    }

    fn rice(&mut self, number: u64, k: u8) {
        let ones = number >> k;
        for _ in 0..ones.min(u64::from(ESCAPE)) {
            self.bit(true);
        }
        if ones < u64::from(ESCAPE) {
            self.bit(false);
            self.bits(number, u32::from(k));
        } else {
            self.bits(number, u64::BITS);
        }
    }

    fn finish(mut self) {
        while self.filled != 0 {
            self.bit(false);
        }
    }
}

struct BitReader<'a> {
    bytes: &'a mut Bytes,
    byte: u8,
    left: u8,
}

impl BitReader<'_> {
    fn bit(&mut self) -> Result<bool, PackError> {
        if self.left == 0 {
            self.byte = self.bytes.try_get_u8().map_err(|_| SHORT)?;
            self.left = 8;
        }
        self.left -= 1;
        Ok(self.byte >> self.left & 1 == 1)
    }

    fn bits(&mut self, count: u32) -> Result<u64, PackError> {
        (0..count).try_fold(0, |number, _| Ok(number << 1 | u64::from(self.bit()?)))
    }

    fn rice(&mut self, k: u8) -> Result<u64, PackError> {
        let mut ones = 0;
        while ones < ESCAPE && self.bit()? {
            ones += 1;
        }
        if ones == ESCAPE {
            return self.bits(u64::BITS);
        }
        let low = self.bits(u32::from(k))?;
        Ok(u64::from(ones) << k | low)
    }
}
