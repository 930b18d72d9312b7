//! One simulated unit: the registers that exist in it, their values, and the values that may be
//! written to them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use super::request::{ILLEGAL_ADDRESS, ILLEGAL_VALUE};
use super::sunspec::{self, Model};
use crate::field::decode::{Register, Table};
use crate::field::modbus::manners::Pause;
use crate::field::modbus::plan::Limits;
use crate::field::simulated::words;
use crate::field::typical;
use crate::field::{Device, Point, PointSource};

/// "Not implemented" of a SunSpec register, and of many others.
const NOT_IMPLEMENTED: u16 = 0x8000;

/// A register or bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cell {
    table: Table,
    address: u16,
}

impl Cell {
    fn of(register: &Register) -> Self {
        Self {
            table: register.table,
            address: register.address,
        }
    }
}

type Cells = HashMap<Cell, u16>;

/// Registers that one request must be able to read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AtomicRange {
    table: Table,
    place: Range<u32>,
}

/// A point at a place.
#[derive(Debug)]
struct PlacedPoint {
    point: Point,
    register: Register,
    exponent: Option<Cell>,
}

#[derive(Debug, Default)]
pub(super) struct SimulatedUnit {
    name: String,
    pause: Pause,
    limits: Limits,
    points: Vec<PlacedPoint>,
    models: Vec<Model>,
    /// Powers of ten that no point shows.
    exponents: Cells,
    /// Registers of a SunSpec map.
    fixed: BTreeMap<u16, u16>,
    ranges: Vec<AtomicRange>,
    written: Cells,
}

impl SimulatedUnit {
    /// Adds the points and models of a device.
    pub(super) fn add(&mut self, device: &Device) {
        self.name.clone_from(&device.name);
        self.limits = device.limits;
        self.pause = device.pause;
        for point in &device.points {
            let PointSource::Register { register, exponent } = &point.source else {
                continue;
            };
            self.points.push(PlacedPoint {
                point: point.clone(),
                register: Register::clone(register),
                exponent: exponent.as_deref().map(Cell::of),
            });
        }
        self.ranges.extend(read_together(device));
        self.models.extend(&device.models);
    }

    /// Adds the registers that no point shows, once all devices of the unit are added.
    pub(super) fn complete(&mut self) {
        let map = sunspec::map(&self.models, &self.name);
        self.fixed.extend(map.fixed);
        self.ranges
            .extend(map.blocks.into_iter().map(|place| AtomicRange {
                table: Table::Holding,
                place,
            }));
        if let Some(shift) = map.copied {
            let copies: Vec<PlacedPoint> = self
                .points
                .iter()
                .filter_map(|shown| shown.moved(shift))
                .collect();
            self.points.extend(copies);
        }
        self.choose_exponents();
    }

    /// Gives each scale register that no point of the file shows a power of ten that fits the
    /// values.
    fn choose_exponents(&mut self) {
        let mut users: HashMap<Cell, Vec<&PlacedPoint>> = HashMap::new();
        for shown in &self.points {
            if let Some(cell) = shown.exponent {
                users.entry(cell).or_default().push(shown);
            }
        }
        let is_shown = |cell: &Cell| {
            self.points
                .iter()
                .any(|shown| Cell::of(&shown.register) == *cell)
        };
        let chosen = users
            .into_iter()
            .filter(|(cell, _)| !cell.table.is_bits() && !is_shown(cell))
            .map(|(cell, users)| {
                let values = users
                    .iter()
                    .map(|shown| (&shown.point.signal, &shown.register.meaning));
                (cell, typical::exponent(values).cast_unsigned())
            });
        self.exponents = chosen.collect();
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn pause(&self) -> Pause {
        self.pause
    }

    /// The values of registers or bits `elapsed` after the start. The error is the exception code.
    pub(super) fn read(
        &self,
        table: Table,
        start: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u16>, u8> {
        let asked = u32::from(start)..u32::from(start) + u32::from(count);
        let mut cells: Vec<Option<u16>> = asked
            .clone()
            .map(|at| self.without_points(table, at))
            .collect();
        let points = self.points.iter();
        for shown in points.filter(|shown| shown.overlaps(table, &asked)) {
            self.show(shown, &mut cells, asked.start, elapsed);
        }
        for (cell, address) in cells.iter_mut().zip(start..=u16::MAX) {
            *cell = self
                .written
                .get(&Cell { table, address })
                .copied()
                .or(*cell);
        }
        cells
            .into_iter()
            .collect::<Option<Vec<u16>>>()
            .ok_or(ILLEGAL_ADDRESS)
    }

    /// The content of a register beside that of the points: a power of ten, the SunSpec map, or
    /// filling.
    fn without_points(&self, table: Table, at: u32) -> Option<u16> {
        let nothing = self.nothing_at(table, at);
        let Ok(address) = u16::try_from(at) else {
            return nothing;
        };
        let fixed = self.fixed.get(&address).filter(|_| table == Table::Holding);
        self.exponents
            .get(&Cell { table, address })
            .or(fixed)
            .copied()
            .or(nothing)
    }

    /// Puts the value of a point into `cells`, the first of which has the address `first`.
    fn show(&self, shown: &PlacedPoint, cells: &mut [Option<u16>], first: u32, elapsed: Duration) {
        let own = shown.register.own_bits();
        let words = shown.words(elapsed, |place| self.exponent_at(place, elapsed));
        for (word, at) in words.into_iter().zip(shown.place()) {
            let cell = at
                .checked_sub(first)
                .and_then(|index| cells.get_mut(usize::try_from(index).ok()?));
            if let Some(cell) = cell {
                // Parts of one register are points of their own: they share it.
                *cell = Some(cell.filter(|_| own != u16::MAX).unwrap_or(0) & !own | word & own);
            }
        }
    }

    /// The filling of a register that no point covers: 0x8000, or 0 behind a text, a counter or
    /// another wide value.
    fn nothing_at(&self, table: Table, at: u32) -> Option<u16> {
        self.ranges
            .iter()
            .find(|range| range.table == table && range.place.contains(&at))?;
        let before = self
            .points
            .iter()
            .filter(|shown| shown.register.table == table && shown.place().start <= at);
        let nearest = before.max_by_key(|shown| shown.place().start);
        let is_wide = nearest.is_some_and(|shown| shown.register.meaning.kind.words() != Some(1));
        Some(if table.is_bits() || is_wide {
            0
        } else {
            NOT_IMPLEMENTED
        })
    }

    /// The power of ten in a scale register; 0 if it holds none.
    fn exponent_at(&self, cell: Cell, elapsed: Duration) -> i16 {
        let shown = self
            .points
            .iter()
            .find(|shown| shown.exponent.is_none() && Cell::of(&shown.register) == cell);
        let written = self
            .written
            .get(&cell)
            .or(self.exponents.get(&cell))
            .copied();
        let word = written.or_else(|| shown?.words(elapsed, |_| 0).first().copied());
        let word = word.unwrap_or(0);
        #[allow(clippy::cast_possible_truncation)]
        let exponent = match shown {
            Some(shown) => shown
                .register
                .decode(&[word], None)
                .ok()
                .and_then(|value| value.as_f64())
                .unwrap_or(0.0) as i16,
            None => word.cast_signed(),
        };
        if (-30..=30).contains(&exponent) {
            exponent
        } else {
            0
        }
    }

    /// Registers that exist keep what is written, if it is what may be written there. The error is
    /// the exception code.
    pub(super) fn write(
        &mut self,
        table: Table,
        start: u16,
        values: &[u16],
        elapsed: Duration,
    ) -> Result<(), u8> {
        let cells: Vec<Cell> = (start..=u16::MAX)
            .zip(values)
            .map(|(address, _)| Cell { table, address })
            .collect();
        if cells.len() != values.len() || !cells.iter().all(|cell| self.has_point_at(*cell)) {
            return Err(ILLEGAL_ADDRESS);
        }
        let before: Vec<Option<u16>> = cells
            .iter()
            .map(|cell| self.written.get(cell).copied())
            .collect();
        self.written
            .extend(cells.iter().copied().zip(values.iter().copied()));
        let asked = u32::from(start)..u32::from(start) + u32::try_from(values.len()).unwrap_or(0);
        let mut changed = self
            .points
            .iter()
            .filter(|shown| shown.overlaps(table, &asked));
        if changed.all(|shown| self.allows(shown, elapsed)) {
            return Ok(());
        }
        for (cell, word) in cells.into_iter().zip(before) {
            match word {
                Some(word) => self.written.insert(cell, word),
                None => self.written.remove(&cell),
            };
        }
        Err(ILLEGAL_VALUE)
    }

    fn has_point_at(&self, cell: Cell) -> bool {
        self.points.iter().any(|shown| {
            shown.register.table == cell.table && shown.place().contains(&cell.address.into())
        })
    }

    /// True if a point shows a value now that may be written to it.
    fn allows(&self, shown: &PlacedPoint, elapsed: Duration) -> bool {
        let Some(rules) = &shown.point.write else {
            return true;
        };
        let exponent = shown
            .exponent
            .map(|place| i32::from(self.exponent_at(place, elapsed)));
        let words = self.read(
            shown.register.table,
            shown.register.address,
            shown.register.width(),
            elapsed,
        );
        let value = words
            .ok()
            .and_then(|words| shown.register.decode(&words, exponent).ok()?.as_f64());
        value.is_none_or(|value| {
            rules.min.is_none_or(|min| value >= min) && rules.max.is_none_or(|max| value <= max)
        })
    }
}

impl PlacedPoint {
    fn place(&self) -> Range<u32> {
        let start = u32::from(self.register.address);
        start..start + u32::from(self.register.width())
    }

    fn overlaps(&self, table: Table, asked: &Range<u32>) -> bool {
        let place = self.place();
        self.register.table == table && place.start < asked.end && asked.start < place.end
    }

    fn words(&self, elapsed: Duration, exponent_at: impl Fn(Cell) -> i16) -> Vec<u16> {
        words(
            &self.point,
            &self.register,
            elapsed,
            self.exponent.map(exponent_at),
        )
    }

    /// The same further behind; only registers of the models are moved.
    fn moved(&self, by: u16) -> Option<Self> {
        let address = self
            .register
            .address
            .checked_add(by)
            .filter(|_| self.register.table == Table::Holding)?;
        let exponent = self.exponent.and_then(|cell| {
            Some(Cell {
                address: cell.address.checked_add(by)?,
                ..cell
            })
        });
        Some(Self {
            point: self.point.clone(),
            register: Register {
                address,
                ..self.register.clone()
            },
            exponent,
        })
    }
}

/// Registers of a device that one request must bring: a group, or a value with its power of ten.
fn read_together(device: &Device) -> Vec<AtomicRange> {
    let mut groups: HashMap<(Table, &str), Range<u32>> = HashMap::new();
    let mut ranges = Vec::new();
    for point in &device.points {
        let PointSource::Register { register, exponent } = &point.source else {
            continue;
        };
        let registers = [Some(register), exponent.as_ref()];
        let places = || {
            registers
                .into_iter()
                .flatten()
                .map(|register| u32::from(register.address))
        };
        let ends = registers
            .into_iter()
            .flatten()
            .map(|register| u32::from(register.address) + u32::from(register.width()));
        let place = places().min().unwrap_or(0)..ends.max().unwrap_or(0);
        match &point.group {
            Some(name) => {
                let whole = groups
                    .entry((register.table, name))
                    .or_insert_with(|| place.clone());
                *whole = whole.start.min(place.start)..whole.end.max(place.end);
            }
            None if exponent.is_some() => ranges.push(AtomicRange {
                table: register.table,
                place,
            }),
            None => {}
        }
    }
    ranges.extend(
        groups
            .into_iter()
            .map(|((table, _), place)| AtomicRange { table, place }),
    );
    ranges
}
