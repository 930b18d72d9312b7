//! Which registers are read together. Pure: an exact dynamic programme over the time that requests
//! take on the wire.
//!
//! Fields are sorted by address. The best plan of the first i fields is the best plan of the first
//! j and one request from j to i, for the j that costs least: costs are time on the wire times
//! requests per second. Registers between fields are read along where that is cheaper than a
//! request of their own.
//!
//! Invariants:
//! * A value is never split, nor is a group.
//! * No request is larger than the device takes, or crosses a barrier (a place where reading on was
//!   refused).
//! * A point is read at least as often as it asks for.
//!
//! Source of the limits: Modbus application protocol 1.1b3, 6.1 to 6.4.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::block::{Block, BlockPoint, bytes_of};
use super::unreadable::UnreadableRanges;
use crate::field::decode::{Register, Table};
use crate::field::serial::Speed;
use crate::field::{Device, PointSource};
use crate::reading::PointId;

/// Registers in one request.
pub const MAX_WORDS: u16 = 125;
/// Records of a file in one request: two more bytes precede them, and the whole answer has at most
/// 245.
pub const MAX_RECORDS: u16 = 121;
/// Bytes that frames around records of a file have beyond those around registers.
const AROUND_RECORDS: u32 = 6;
/// Coils or discrete inputs in one request.
pub const MAX_BITS: u16 = 2000;
/// The time until a device begins its answer, until it is measured.
pub const TURNAROUND: Duration = Duration::from_millis(5);
/// A round trip on a network, until it is known better.
const ROUND_TRIP: Duration = Duration::from_millis(2);

/// The most that one request may ask of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registers.
    pub words: u16,
    /// Bits.
    pub bits: u16,
    /// The longest time it may hold the line.
    pub hold: Option<Duration>,
}

impl Limits {
    /// The most that a request asks for of one table.
    pub fn of(self, table: Table) -> u16 {
        match table {
            Table::Coil | Table::Discrete => self.bits,
            Table::Input | Table::Holding => self.words,
            Table::File(_) => self.words.min(MAX_RECORDS),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            words: MAX_WORDS,
            bits: MAX_BITS,
            hold: None,
        }
    }
}

/// The cost of requests on a wire, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// A request without data.
    pub request: f64,
    /// A byte of data.
    pub byte: f64,
}

impl Costs {
    /// Of a serial line: eight bytes of request, five of frame around the data, the device's
    /// turnaround, silence.
    pub fn serial(speed: Speed, turnaround: Duration) -> Self {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let character = micros(speed.character());
        Self {
            request: 13.0 * character + micros(turnaround) + micros(speed.frame_gap()),
            byte: character,
        }
    }

    /// Of ASCII frames, where a byte takes two characters.
    pub fn ascii(speed: Speed, turnaround: Duration) -> Self {
        let rtu = Self::serial(speed, turnaround);
        Self {
            request: rtu.request + 17.0 * rtu.byte,
            byte: 2.0 * rtu.byte,
        }
    }

    /// Of a network.
    pub fn network() -> Self {
        Self {
            request: ROUND_TRIP.as_secs_f64() * 1e6,
            byte: 0.1,
        }
    }

    /// With a silence before each request, in place of a shorter one that the wire needs anyway.
    pub fn after(self, pause: Duration, gap: Duration) -> Self {
        Self {
            request: self.request + pause.saturating_sub(gap).as_secs_f64() * 1e6,
            ..self
        }
    }

    /// Of reading `count` registers or bits.
    pub fn of(self, table: Table, count: u16) -> f64 {
        let around = if matches!(table, Table::File(_)) {
            AROUND_RECORDS
        } else {
            0
        };
        self.request + self.byte * f64::from(bytes_of(table, count) + around)
    }

    /// The same as a time.
    pub fn time(self, table: Table, count: u16) -> Duration {
        Duration::from_secs_f64(self.of(table, count) / 1e6)
    }
}

/// Registers that one request must read: a value, with the power of ten beside it, or a group.
#[derive(Debug, Clone)]
struct Field {
    start: u32,
    end: u32,
    every: Duration,
    points: Vec<BlockPoint>,
}

/// The fields `from..=to` as one request.
#[derive(Debug, Clone)]
struct Piece {
    start: u32,
    end: u32,
    every: Duration,
    fields: Vec<Field>,
}

/// The requests that read every point of `device`, the `index`th of its line.
pub fn plan(
    index: usize,
    device: &Device,
    costs: Costs,
    unreadable: &UnreadableRanges,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    if device.is_broadcast {
        return blocks;
    }
    for (table, mut fields) in fields(device, unreadable) {
        fields.sort_by_key(|field| (field.start, field.end));
        let planner = Planner {
            table,
            costs,
            limits: device.limits,
            unreadable,
        };
        let layered = planner.by_interval(&fields);
        let together = planner.partition(&fields);
        let best = if planner.load(&layered) < planner.load(&together) {
            layered
        } else {
            together
        };
        for piece in best {
            let count = u16::try_from(piece.end - piece.start).unwrap_or(u16::MAX);
            let start = u16::try_from(piece.start).unwrap_or(u16::MAX);
            let numbered = piece.fields.into_iter().zip(0..);
            let points = numbered.flat_map(|(field, number)| {
                field.points.into_iter().map(move |point| BlockPoint {
                    field: number,
                    ..point
                })
            });
            let points = points.collect();
            blocks.push(Block {
                device: index,
                unit: device.unit,
                table,
                start,
                count,
                every: piece.every,
                points,
            });
        }
    }
    blocks
}

/// The fields to read, by table. A group, or a value with its power of ten, is one field if that
/// fits into a request.
fn fields(device: &Device, unreadable: &UnreadableRanges) -> BTreeMap<Table, Vec<Field>> {
    let mut tables: BTreeMap<Table, Vec<Field>> = BTreeMap::new();
    let mut groups: BTreeMap<(Table, &str), Field> = BTreeMap::new();
    for point in &device.points {
        let PointSource::Register { register, exponent } = &point.source else {
            continue;
        };
        let every = unreadable
            .retry_of(point.id)
            .map_or(point.every, |pause| point.every.max(pause));
        let field = Field::new(point.id, register, exponent.as_ref(), every);
        let Some(name) = &point.group else {
            tables.entry(register.table).or_default().push(field);
            continue;
        };
        let key = (register.table, name.as_ref());
        let joined = match groups.remove(&key) {
            Some(group) => group.joined(field),
            None => field,
        };
        if joined.end - joined.start <= u32::from(device.limits.of(register.table)) {
            groups.insert(key, joined);
        } else {
            // The configuration refuses such groups.
            tables.entry(register.table).or_default().push(joined);
        }
    }
    for ((table, _), field) in groups {
        tables.entry(table).or_default().push(field);
    }
    tables
}

impl Field {
    /// A value, with its power of ten.
    fn new(
        id: PointId,
        register: &Arc<Register>,
        exponent: Option<&Arc<Register>>,
        every: Duration,
    ) -> Self {
        let (mut start, mut end) = (u32::MAX, 0);
        for register in [Some(register), exponent].into_iter().flatten() {
            let address = u32::from(register.address);
            start = start.min(address);
            end = end.max(address + u32::from(register.width()));
        }
        Self {
            start,
            end,
            every,
            points: vec![BlockPoint {
                id,
                register: Arc::clone(register),
                exponent: exponent.cloned(),
                field: 0,
            }],
        }
    }

    fn joined(mut self, other: Self) -> Self {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.every = self.every.min(other.every);
        self.points.extend(other.points);
        self
    }
}

struct Planner<'a> {
    table: Table,
    costs: Costs,
    limits: Limits,
    unreadable: &'a UnreadableRanges,
}

fn rate(every: Duration) -> f64 {
    1.0 / every.as_secs_f64().max(1e-6)
}

impl Planner<'_> {
    fn cost(&self, start: u32, end: u32) -> f64 {
        self.costs
            .of(self.table, u16::try_from(end - start).unwrap_or(u16::MAX))
    }

    /// Time on the wire a second.
    fn load(&self, pieces: &[Piece]) -> f64 {
        pieces
            .iter()
            .map(|piece| self.cost(piece.start, piece.end) * rate(piece.every))
            .sum()
    }

    fn fits(&self, start: u32, end: u32) -> bool {
        end - start <= u32::from(self.limits.of(self.table))
            && self
                .limits
                .hold
                .is_none_or(|hold| self.cost(start, end) <= hold.as_secs_f64() * 1e6)
            && !self.unreadable.crosses(self.table, start, end)
    }

    /// The cheapest requests for `fields`, each as fast as its fastest field.
    fn partition(&self, fields: &[Field]) -> Vec<Piece> {
        // best[i]: cost of the first i fields, and where the last request of that plan begins.
        let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
        for last in 0..fields.len() {
            let mut cheapest = (f64::INFINITY, last);
            let (mut end, mut every) = (0, Duration::MAX);
            for first in (0..=last).rev() {
                let Some(field) = fields.get(first) else {
                    break;
                };
                end = end.max(field.end);
                every = every.min(field.every);
                let alone = first == last;
                // A field further left only makes it longer.
                if !alone && !self.fits(field.start, end) {
                    break;
                }
                let before = best.get(first).map_or(f64::INFINITY, |best| best.0);
                let cost = before + self.cost(field.start, end) * rate(every);
                if cost < cheapest.0 {
                    cheapest = (cost, first);
                }
            }
            best.push(cheapest);
        }
        let mut pieces = Vec::new();
        let mut to = fields.len();
        while to > 0 {
            let from = best.get(to).map_or(0, |best| best.1);
            pieces.push(Piece::of(fields.get(from..to).unwrap_or_default()));
            to = from;
        }
        pieces.reverse();
        pieces
    }

    /// Interval by interval, the fastest first; slower fields inside a request ride along, and a
    /// request reaches out for one where that is cheaper than a request of its own.
    fn by_interval(&self, fields: &[Field]) -> Vec<Piece> {
        let mut classes: BTreeMap<Duration, Vec<Field>> = BTreeMap::new();
        for field in fields {
            classes.entry(field.every).or_default().push(field.clone());
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (every, class) in classes {
            let mut left = Vec::new();
            for field in class {
                if let Some(piece) = self.carrier(&mut pieces, &field) {
                    piece.take(field);
                } else {
                    left.push(field);
                }
            }
            let own = self.partition(&left);
            debug_assert!(own.iter().all(|piece| piece.every == every));
            pieces.extend(own);
        }
        pieces
    }

    /// The faster request that carries a field for less than a request of its own would cost.
    fn carrier<'a>(&self, pieces: &'a mut [Piece], field: &Field) -> Option<&'a mut Piece> {
        let own = self.cost(field.start, field.end) * rate(field.every);
        let extra = |piece: &Piece| {
            let (start, end) = (piece.start.min(field.start), piece.end.max(field.end));
            let stretched = self.cost(start, end) - self.cost(piece.start, piece.end);
            let fits = (start, end) == (piece.start, piece.end) || self.fits(start, end);
            fits.then(|| stretched * rate(piece.every))
        };
        let candidates = pieces
            .iter_mut()
            .filter_map(|piece| Some((extra(piece)?, piece)));
        let cheapest = candidates.min_by(|one, other| one.0.total_cmp(&other.0));
        cheapest
            .filter(|(extra, _)| *extra < own)
            .map(|(_, piece)| piece)
    }
}

impl Piece {
    fn of(fields: &[Field]) -> Self {
        Self {
            start: fields.iter().map(|field| field.start).min().unwrap_or(0),
            end: fields.iter().map(|field| field.end).max().unwrap_or(0),
            every: fields
                .iter()
                .map(|field| field.every)
                .min()
                .unwrap_or(Duration::MAX),
            fields: fields.to_vec(),
        }
    }

    fn take(&mut self, field: Field) {
        self.start = self.start.min(field.start);
        self.end = self.end.max(field.end);
        self.fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::DataType;
    use crate::field::signal::Signal;
    use crate::field::{Point, PointSource};
    use crate::reading::DeviceId;
    use proptest::prelude::*;

    fn costs() -> Costs {
        Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND)
    }

    fn device(points: &[(Table, u16, DataType, u64)]) -> Device {
        let points = points
            .iter()
            .enumerate()
            .map(|(n, (table, address, kind, every))| Point {
                id: PointId(u32::try_from(n).unwrap()),
                every: Duration::from_secs(*every),
                source: PointSource::Register {
                    register: Arc::new(Register::new(*table, *address, *kind)),
                    exponent: None,
                },
                ..Point::simulated(format!("p{n}"), Signal::default())
            });
        Device {
            points: points.collect(),
            ..Device::new(DeviceId(0), "d", 7)
        }
    }

    fn spans(blocks: &[Block]) -> Vec<(u16, u16)> {
        let mut spans: Vec<(u16, u16)> = blocks
            .iter()
            .map(|block| (block.start, block.count))
            .collect();
        spans.sort_unstable();
        spans
    }

    fn check(points: &[(Table, u16, DataType, u64)], expected: &[(u16, u16)]) {
        let blocks = plan(0, &device(points), costs(), &UnreadableRanges::default());
        assert_eq!(spans(&blocks), expected);
        let read: usize = blocks.iter().map(|block| block.points.len()).sum();
        assert_eq!(read, points.len());
    }

    #[test]
    fn what_is_near_is_read_together_and_what_is_far_is_not() {
        use DataType::{F32, U16};
        use Table::{Coil, Holding, Input};
        check(&[(Holding, 2, U16, 1), (Holding, 0, F32, 1)], &[(0, 3)]);
        check(&[(Holding, 0, U16, 1), (Holding, 11, U16, 1)], &[(0, 12)]);
        check(
            &[(Holding, 0, U16, 1), (Holding, 12, U16, 1)],
            &[(0, 1), (12, 1)],
        );
        check(
            &[(Holding, 0, U16, 1), (Input, 1, U16, 1)],
            &[(0, 1), (1, 1)],
        );
        check(&[(Holding, 5, U16, 1), (Holding, 5, U16, 1)], &[(5, 1)]);
        check(
            &[(Coil, 0, DataType::Bool, 1), (Coil, 300, DataType::Bool, 1)],
            &[(0, 1), (300, 1)],
        );
        check(
            &[(Coil, 0, DataType::Bool, 1), (Coil, 100, DataType::Bool, 1)],
            &[(0, 101)],
        );
        check(
            &[(Holding, 65_534, U16, 1), (Holding, 65_535, U16, 1)],
            &[(65_534, 2)],
        );
        let (one, other) = (Table::File(1), Table::File(2));
        check(
            &[(one, 0, U16, 1), (one, 2, F32, 1), (other, 1, U16, 1)],
            &[(0, 4), (1, 1)],
        );
        let many: Vec<_> = (0..124).map(|n| (one, n, U16, 1)).collect();
        assert!(
            plan(0, &device(&many), costs(), &UnreadableRanges::default())
                .iter()
                .all(|block| block.count <= MAX_RECORDS)
        );
    }

    #[test]
    fn slow_points_ride_along_where_that_is_cheaper() {
        use DataType::U16;
        use Table::Holding;
        check(
            &[
                (Holding, 0, U16, 1),
                (Holding, 1, U16, 10),
                (Holding, 2, U16, 1),
            ],
            &[(0, 3)],
        );
        check(&[(Holding, 0, U16, 1), (Holding, 1, U16, 5)], &[(0, 2)]);
        check(
            &[(Holding, 0, U16, 1), (Holding, 1, U16, 60)],
            &[(0, 1), (1, 1)],
        );
        check(
            &[
                (Holding, 0, U16, 60),
                (Holding, 5, U16, 1),
                (Holding, 10, U16, 60),
            ],
            &[(0, 11), (5, 1)],
        );
    }

    #[test]
    fn a_request_holds_no_more_than_it_may_and_splits_no_value() {
        let many: Vec<_> = (0..100)
            .map(|n| (Table::Holding, n * 2, DataType::F32, 1))
            .collect();
        check(&many, &[(0, 124), (124, 76)]);
        let mut small = device(&many);
        small.limits = Limits {
            words: 21,
            ..Limits::default()
        };
        let blocks = plan(0, &small, costs(), &UnreadableRanges::default());
        assert!(
            blocks
                .iter()
                .all(|block| block.count <= 20 && block.count % 2 == 0)
                && blocks.len() == 10
        );
        small.limits = Limits {
            hold: Some(Duration::from_millis(60)),
            ..Limits::default()
        };
        let blocks = plan(0, &small, costs(), &UnreadableRanges::default());
        assert!(
            blocks
                .iter()
                .all(|block| costs().time(block.table, block.count) <= Duration::from_millis(60))
        );
    }

    #[test]
    fn groups_and_powers_of_ten_come_from_one_request() {
        use DataType::U16;
        let mut grouped = device(&[
            (Table::Holding, 0, U16, 1),
            (Table::Holding, 90, U16, 5),
            (Table::Holding, 45, U16, 1),
        ]);
        for index in [0, 1] {
            grouped.points[index].group = Some("total".into());
        }
        assert_eq!(
            spans(&plan(0, &grouped, costs(), &UnreadableRanges::default())),
            [(0, 91)]
        );
        let mut scaled = device(&[(Table::Holding, 0, U16, 1)]);
        let register = Arc::new(Register::new(Table::Holding, 0, U16));
        let exponent = Some(Arc::new(Register::new(Table::Holding, 60, DataType::I16)));
        scaled.points[0].source = PointSource::Register { register, exponent };
        assert_eq!(
            spans(&plan(0, &scaled, costs(), &UnreadableRanges::default())),
            [(0, 61)]
        );
    }

    /// The best of all partitions, by trying them.
    fn exhaustive(planner: &Planner<'_>, fields: &[Field]) -> f64 {
        let cuts = fields.len() - 1;
        (0..1_u32 << cuts)
            .filter_map(|mask| {
                let mut pieces = vec![vec![fields[0].clone()]];
                for (index, field) in fields.iter().enumerate().skip(1) {
                    if mask >> (index - 1) & 1 == 1 {
                        pieces.push(Vec::new());
                    }
                    pieces.last_mut().unwrap().push(field.clone());
                }
                let pieces: Vec<Piece> = pieces.iter().map(|fields| Piece::of(fields)).collect();
                let legal = pieces
                    .iter()
                    .all(|piece| piece.fields.len() == 1 || planner.fits(piece.start, piece.end));
                legal.then(|| planner.load(&pieces))
            })
            .fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn no_partition_is_cheaper(gaps in prop::collection::vec((0_u32..40, 1_u32..4, prop::sample::select(vec![1_u64, 1, 5, 60])), 1..9)) {
            let mut fields = Vec::new();
            let mut at = 0;
            for (gap, width, every) in gaps {
                fields.push(Field { start: at + gap, end: at + gap + width, every: Duration::from_secs(every), points: Vec::new() });
                at += gap + width;
            }
            let unreadable = UnreadableRanges::default();
            let limits = Limits { words: 60, ..Limits::default() };
            let planner = Planner { table: Table::Holding, costs: costs(), limits, unreadable: &unreadable };
            let found = planner.load(&planner.partition(&fields));
            prop_assert!((found - exhaustive(&planner, &fields)).abs() < 1e-6 * found);
        }
    }
}
