//! What stands in the registers of simulated units: waves, until somebody writes.
//!
//! Registers that no point covers do not exist: exception 2, as in a real device. Inside of what one request must bring (a group, a value
//! with its power of ten, a SunSpec model) the others exist, too, and show that nothing is there; they cannot be written.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request::Request;
use super::sunspec::{self, Model};
use crate::field::decode::{Register, Table};
use crate::field::modbus::manners::Pause;
use crate::field::modbus::plan::Limits;
use crate::field::simulated::words;
use crate::field::typical;
use crate::field::{Device, Point, Source};
use crate::time::now;

pub(super) const ILLEGAL_FUNCTION: u8 = 1;
pub(super) const ILLEGAL_ADDRESS: u8 = 2;
pub(super) const ILLEGAL_VALUE: u8 = 3;
/// "Not implemented" of a SunSpec register, and of many others.
const NOT_THERE: u16 = 0x8000;

/// By table and address.
type Cells = HashMap<(Table, u16), u16>;

/// Registers that one request must be able to read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    table: Table,
    place: Range<u32>,
}

/// A point at a place.
#[derive(Debug)]
struct Shown {
    point: Point,
    register: Register,
    exponent: Option<(Table, u16)>,
}

#[derive(Debug, Default)]
struct Unit {
    name: String,
    pause: Pause,
    limits: Limits,
    points: Vec<Shown>,
    models: Vec<Model>,
    /// Powers of ten that no point shows.
    exponents: Cells,
    /// Registers of a SunSpec map.
    fixed: BTreeMap<u16, u16>,
    blocks: Vec<Block>,
    written: Cells,
}

/// The registers of some units, as their waves or their writers have them at the moment. Clones show the same.
#[derive(Debug, Clone)]
pub struct Image {
    units: Arc<Mutex<HashMap<u8, Unit>>>,
    started: Instant,
}

impl Image {
    /// The points of `devices` that have registers.
    pub fn new(devices: &[Arc<Device>]) -> Self {
        let mut units: HashMap<u8, Unit> = HashMap::new();
        for device in devices {
            units.entry(device.unit).or_default().take(device);
        }
        units.values_mut().for_each(Unit::complete);
        Self {
            units: Arc::new(Mutex::new(units)),
            started: now(),
        }
    }

    /// True if there is such a device.
    pub fn has(&self, unit: u8) -> bool {
        self.units
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&unit)
    }

    /// The silence that a unit needs before a request; one that comes sooner is lost.
    pub(super) fn pause(&self, unit: u8) -> Pause {
        self.units
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&unit)
            .map(|unit| unit.pause)
            .unwrap_or_default()
    }

    /// The answer to a request (function code and data); `None` if nobody answers: the unit is not there, or all of them are meant.
    pub fn answer(&self, unit: u8, request: &[u8]) -> Option<Vec<u8>> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now().saturating_duration_since(self.started);
        if unit == 0 && !units.contains_key(&0) {
            for unit in units.values_mut() {
                let _ = unit.answer(request, elapsed);
            }
            return None;
        }
        let function = *request.first()?;
        let answer = units.get_mut(&unit)?.answer(request, elapsed);
        Some(answer.unwrap_or_else(|code| vec![function | 0x80, code]))
    }
}

fn counted(function: u8, data: Vec<u8>) -> Vec<u8> {
    let mut answer = vec![function, u8::try_from(data.len()).unwrap_or(u8::MAX)];
    answer.extend(data);
    answer
}

fn bytes(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

impl Unit {
    /// Takes what a device has.
    fn take(&mut self, device: &Device) {
        self.name.clone_from(&device.name);
        self.limits = device.limits;
        self.pause = device.pause;
        for point in &device.points {
            let Source::Register { register, exponent } = &point.source else {
                continue;
            };
            let place = exponent
                .as_ref()
                .map(|exponent| (exponent.table, exponent.address));
            let shown = Shown {
                point: point.clone(),
                register: Register::clone(register),
                exponent: place,
            };
            self.points.push(shown);
        }
        self.blocks.extend(together(device));
        self.models.extend(&device.models);
    }

    /// Adds what no point shows.
    fn complete(&mut self) {
        let map = sunspec::map(&self.models, &self.name);
        self.fixed.extend(map.fixed);
        self.blocks
            .extend(map.blocks.into_iter().map(|place| Block {
                table: Table::Holding,
                place,
            }));
        if let Some(shift) = map.copied {
            let copies: Vec<Shown> = self
                .points
                .iter()
                .filter_map(|shown| shown.moved(shift))
                .collect();
            self.points.extend(copies);
        }
        self.choose_exponents();
    }

    /// Powers of ten that no point of the file shows are those that fit the values.
    fn choose_exponents(&mut self) {
        let mut users: HashMap<(Table, u16), Vec<&Shown>> = HashMap::new();
        for shown in &self.points {
            users
                .entry(shown.exponent.unwrap_or((Table::Coil, 0)))
                .or_default()
                .push(shown);
        }
        let is_shown = |place: &(Table, u16)| {
            self.points
                .iter()
                .any(|shown| (shown.register.table, shown.register.address) == *place)
        };
        let chosen = users
            .into_iter()
            .filter(|(place, _)| !place.0.is_bits() && !is_shown(place));
        let chosen = chosen.map(|(place, users)| {
            (
                place,
                typical::exponent(
                    users
                        .iter()
                        .map(|shown| (&shown.point.wave, &shown.register.meaning)),
                ),
            )
        });
        self.exponents = chosen
            .map(|(place, exponent)| (place, exponent.cast_unsigned()))
            .collect();
    }

    fn answer(&mut self, request: &[u8], elapsed: Duration) -> Result<Vec<u8>, u8> {
        let function = request.first().copied().unwrap_or_default();
        let echo = |length: usize| {
            request
                .get(..length)
                .map(<[u8]>::to_vec)
                .ok_or(ILLEGAL_VALUE)
        };
        match Request::parse(request, self.limits)? {
            Request::Read {
                table,
                start,
                count,
            } => {
                let cells = self.read(table, start, count, elapsed)?;
                Ok(counted(
                    function,
                    if table.is_bits() {
                        pack(&cells)
                    } else {
                        bytes(&cells)
                    },
                ))
            }
            Request::Write {
                table,
                start,
                values,
            } => {
                self.write(table, start, &values, elapsed)?;
                echo(5)
            }
            Request::Mask { address, and, or } => {
                let before = self.read(Table::Holding, address, 1, elapsed)?;
                let after: Vec<u16> = before
                    .iter()
                    .map(|word| (word & and) | (or & !and))
                    .collect();
                self.write(Table::Holding, address, &after, elapsed)?;
                echo(7)
            }
            Request::Exchange {
                start,
                count,
                to,
                values,
            } => {
                // Refused as a whole, before anything is written.
                self.read(Table::Holding, start, count, elapsed)?;
                self.write(Table::Holding, to, &values, elapsed)?;
                Ok(counted(
                    function,
                    bytes(&self.read(Table::Holding, start, count, elapsed)?),
                ))
            }
            Request::Records(groups) => {
                let mut data = Vec::new();
                for (file, start, count) in groups {
                    let cells = self.read(Table::File(file), start, count, elapsed)?;
                    data.extend([u8::try_from(1 + 2 * count).unwrap_or(u8::MAX), 6]);
                    data.extend(bytes(&cells));
                }
                Ok(counted(function, data))
            }
            Request::ServerId => {
                let mut data = vec![1, 0xFF];
                data.extend(self.name.bytes().take(200));
                Ok(counted(function, data))
            }
            Request::Identification { code, object } => self.identification(code, object),
        }
    }

    /// Vendor, product and version [Modbus application protocol 1.1b3, 6.21]: all from an object on, or one alone (code 4).
    fn identification(&self, code: u8, object: u8) -> Result<Vec<u8>, u8> {
        const BASIC_AND_ALONE: u8 = 0x81;
        let objects = [
            (0_u8, "wellhead"),
            (1, self.name.as_str()),
            (2, env!("CARGO_PKG_VERSION")),
        ];
        let is_known = objects.iter().any(|(id, _)| *id == object);
        if code == 4 && !is_known {
            return Err(ILLEGAL_ADDRESS);
        }
        // What is not known stands for the first.
        let first = if is_known { object } else { 0 };
        let wanted = objects.iter().filter(|(id, _)| {
            if code == 4 {
                *id == object
            } else {
                *id >= first
            }
        });
        let wanted: Vec<Vec<u8>> = wanted
            .map(|(id, text)| {
                let text: Vec<u8> = text.bytes().take(60).collect();
                [vec![*id, u8::try_from(text.len()).unwrap_or(0)], text].concat()
            })
            .collect();
        let mut answer = vec![
            43,
            14,
            code,
            BASIC_AND_ALONE,
            0,
            0,
            u8::try_from(wanted.len()).unwrap_or(0),
        ];
        answer.extend(wanted.concat());
        Ok(answer)
    }

    fn read(
        &self,
        table: Table,
        start: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u16>, u8> {
        let asked = u32::from(start)..u32::from(start) + u32::from(count);
        let mut cells: Vec<Option<u16>> =
            asked.clone().map(|at| self.nothing_at(table, at)).collect();
        for (cell, at) in cells.iter_mut().zip(asked.clone()) {
            let Ok(at) = u16::try_from(at) else { continue };
            let fixed = self.fixed.get(&at).filter(|_| table == Table::Holding);
            *cell = self
                .exponents
                .get(&(table, at))
                .or(fixed)
                .copied()
                .or(*cell);
        }
        for shown in self
            .points
            .iter()
            .filter(|shown| shown.overlaps(table, &asked))
        {
            for (word, at) in shown
                .words(elapsed, |place| self.exponent_at(place, elapsed))
                .into_iter()
                .zip(shown.place())
            {
                let cell = at
                    .checked_sub(asked.start)
                    .and_then(|index| cells.get_mut(usize::try_from(index).ok()?));
                let own = shown.register.own_bits();
                // Parts of one register are points of their own: they share it.
                cell.into_iter().for_each(|cell| {
                    *cell = Some(cell.filter(|_| own != u16::MAX).unwrap_or(0) & !own | word & own);
                });
            }
        }
        for (cell, at) in cells.iter_mut().zip(start..=u16::MAX) {
            *cell = self.written.get(&(table, at)).copied().or(*cell);
        }
        cells
            .into_iter()
            .collect::<Option<Vec<u16>>>()
            .ok_or(ILLEGAL_ADDRESS)
    }

    /// What a register shows that no point covers: 0x8000, or 0 where it stands behind a text, a counter or another wide value.
    fn nothing_at(&self, table: Table, at: u32) -> Option<u16> {
        self.blocks
            .iter()
            .find(|block| block.table == table && block.place.contains(&at))?;
        let before = self
            .points
            .iter()
            .filter(|shown| shown.register.table == table && shown.place().start <= at);
        let nearest = before.max_by_key(|shown| shown.place().start);
        let is_wide = nearest.is_some_and(|shown| shown.register.meaning.kind.words() != Some(1));
        Some(if table.is_bits() || is_wide {
            0
        } else {
            NOT_THERE
        })
    }

    /// What the register at a place says as a power of ten.
    fn exponent_at(&self, place: (Table, u16), elapsed: Duration) -> i16 {
        let shown = self.points.iter().find(|shown| {
            shown.exponent.is_none() && (shown.register.table, shown.register.address) == place
        });
        let written = self
            .written
            .get(&place)
            .or(self.exponents.get(&place))
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

    /// Registers that exist keep what is written, if it is what may be written there.
    fn write(
        &mut self,
        table: Table,
        start: u16,
        values: &[u16],
        elapsed: Duration,
    ) -> Result<(), u8> {
        let places: Vec<(Table, u16)> = (start..=u16::MAX)
            .zip(values)
            .map(|(at, _)| (table, at))
            .collect();
        let is_covered = |at: u16| {
            self.points
                .iter()
                .any(|shown| shown.register.table == table && shown.place().contains(&at.into()))
        };
        if places.len() != values.len() || !places.iter().all(|(_, at)| is_covered(*at)) {
            return Err(ILLEGAL_ADDRESS);
        }
        let before: Vec<Option<u16>> = places
            .iter()
            .map(|place| self.written.get(place).copied())
            .collect();
        self.written
            .extend(places.iter().copied().zip(values.iter().copied()));
        let asked = u32::from(start)..u32::from(start) + u32::try_from(values.len()).unwrap_or(0);
        if self
            .points
            .iter()
            .filter(|shown| shown.overlaps(table, &asked))
            .all(|shown| self.allows(shown, elapsed))
        {
            return Ok(());
        }
        for (place, word) in places.into_iter().zip(before) {
            match word {
                Some(word) => self.written.insert(place, word),
                None => self.written.remove(&place),
            };
        }
        Err(ILLEGAL_VALUE)
    }

    /// True if a point shows a value now that may be written to it.
    fn allows(&self, shown: &Shown, elapsed: Duration) -> bool {
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

impl Shown {
    fn place(&self) -> Range<u32> {
        let start = u32::from(self.register.address);
        start..start + u32::from(self.register.width())
    }

    fn overlaps(&self, table: Table, asked: &Range<u32>) -> bool {
        let place = self.place();
        self.register.table == table && place.start < asked.end && asked.start < place.end
    }

    fn words(&self, elapsed: Duration, exponent_at: impl Fn((Table, u16)) -> i16) -> Vec<u16> {
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
        let exponent = self
            .exponent
            .and_then(|(table, address)| Some((table, address.checked_add(by)?)));
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

/// What one request must bring of a device: a group, or a value with its power of ten.
fn together(device: &Device) -> Vec<Block> {
    let mut groups: HashMap<(Table, &str), Range<u32>> = HashMap::new();
    let mut blocks = Vec::new();
    for point in &device.points {
        let Source::Register { register, exponent } = &point.source else {
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
            None if exponent.is_some() => blocks.push(Block {
                table: register.table,
                place,
            }),
            None => {}
        }
    }
    blocks.extend(
        groups
            .into_iter()
            .map(|((table, _), place)| Block { table, place }),
    );
    blocks
}

fn pack(bits: &[u16]) -> Vec<u8> {
    bits.chunks(8)
        .map(|eight| {
            eight
                .iter()
                .enumerate()
                .fold(0, |byte, (place, bit)| byte | u8::from(*bit != 0) << place)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::Kind;
    use crate::field::wave::{Shape, Wave};
    use crate::field::write::Rules;
    use crate::reading::DeviceId;

    fn point(name: &str, register: Register, group: Option<&str>, value: f64) -> Point {
        let wave = Wave {
            shape: Shape::Constant,
            from: value,
            ..Wave::default()
        };
        let source = Source::Register {
            register: Arc::new(register),
            exponent: None,
        };
        Point {
            source,
            group: group.map(Arc::from),
            ..Point::made(name, wave)
        }
    }

    fn image(points: Vec<Point>, change: impl FnOnce(&mut Device)) -> Image {
        let mut device = Device::new(DeviceId(0), "d", 1);
        device.points = points;
        change(&mut device);
        Image::new(&[Arc::new(device)])
    }

    fn holding(address: u16, kind: Kind) -> Register {
        Register::new(Table::Holding, address, kind)
    }

    #[track_caller]
    fn check(image: &Image, request: &[u8], answer: &[u8]) {
        assert_eq!(image.answer(1, request).unwrap(), answer, "{request:?}");
    }

    #[test]
    fn holes_inside_of_a_group_are_there_and_others_are_not() {
        let points = vec![
            point("a", holding(0, Kind::U16), Some("g"), 7.0),
            point("b", holding(2, Kind::U32), Some("g"), 8.0),
            point("c", holding(5, Kind::U16), Some("g"), 9.0),
            point("d", holding(8, Kind::U16), None, 10.0),
        ];
        let image = image(points, |_| {});
        check(
            &image,
            &[3, 0, 0, 0, 6],
            &[3, 12, 0, 7, 0x80, 0, 0, 0, 0, 8, 0, 0, 0, 9],
        );
        check(&image, &[3, 0, 8, 0, 1], &[3, 2, 0, 10]);
        for outside in [[3, 0, 6, 0, 1], [3, 0, 5, 0, 4], [4, 0, 0, 0, 1]] {
            check(&image, &outside, &[outside[0] | 0x80, ILLEGAL_ADDRESS]);
        }
        // What is not there cannot be written, and nothing beside it is.
        check(
            &image,
            &[16, 0, 0, 0, 2, 4, 0, 1, 0, 1],
            &[0x90, ILLEGAL_ADDRESS],
        );
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 7]);
    }

    #[test]
    fn a_value_and_its_power_of_ten_fit_also_when_one_is_written() {
        let mut power = point("power", holding(0, Kind::I16), None, 3450.0);
        power.source = Source::Register {
            register: Arc::new(holding(0, Kind::I16)),
            exponent: Some(Arc::new(holding(3, Kind::I16))),
        };
        let alone = image(vec![power.clone()], |_| {});
        check(
            &alone,
            &[3, 0, 0, 0, 4],
            &[3, 8, 0x0D, 0x7A, 0x80, 0, 0x80, 0, 0, 0],
        );
        let image = image(
            vec![power, point("sf", holding(3, Kind::I16), None, 1.0)],
            |_| {},
        );
        check(
            &image,
            &[3, 0, 0, 0, 4],
            &[3, 8, 1, 0x59, 0x80, 0, 0x80, 0, 0, 1],
        );
        check(&image, &[6, 0, 3, 0, 0], &[6, 0, 3, 0, 0]);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0x0D, 0x7A]);
    }

    #[test]
    fn parts_of_a_register_share_it() {
        let points = vec![
            point("low", holding(0, Kind::U8L), None, 5.0),
            point("high", holding(0, Kind::U8H), None, 6.0),
        ];
        check(&image(points, |_| {}), &[3, 0, 0, 0, 1], &[3, 2, 6, 5]);
    }

    #[test]
    fn what_may_not_be_written_and_what_is_too_much_is_refused() {
        let rules = Rules {
            min: Some(0.0),
            max: Some(50.0),
            step: None,
            at_most_every: None,
            good_for: Duration::from_secs(1),
            read_back: None,
            function: crate::field::write::Function::default(),
            repeat: true,
            allow_split: false,
        };
        let setpoint = Point {
            write: Some(Box::new(rules)),
            ..point("setpoint", holding(0, Kind::U16), None, 20.0)
        };
        let image = image(
            vec![setpoint, point("other", holding(1, Kind::U16), None, 1.0)],
            |device| device.limits.words = 1,
        );
        check(&image, &[6, 0, 0, 0, 51], &[0x86, ILLEGAL_VALUE]);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 20]);
        check(&image, &[6, 0, 0, 0, 50], &[6, 0, 0, 0, 50]);
        check(&image, &[3, 0, 0, 0, 2], &[0x83, ILLEGAL_VALUE]);
        // One that is refused as a whole writes nothing: there is no register 9 to read.
        check(
            &image,
            &[23, 0, 9, 0, 1, 0, 0, 0, 1, 2, 0, 7],
            &[0x97, ILLEGAL_ADDRESS],
        );
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 50]);
        check(
            &image,
            &[23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 7],
            &[23, 2, 0, 7],
        );
        // All are meant by unit 0, and none answers.
        assert_eq!(image.answer(0, &[6, 0, 0, 0, 9]), None);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 9]);
    }

    #[test]
    fn an_identification_is_given_whole_or_one_by_one() {
        let image = image(vec![point("a", holding(0, Kind::U16), None, 1.0)], |_| {});
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        let third = [&[2, u8::try_from(version.len()).unwrap()][..], version].concat();
        let all = [
            &[43, 14, 1, 0x81, 0, 0, 3, 0, 8][..],
            b"wellhead",
            &[1, 1],
            b"d",
            &third,
        ]
        .concat();
        check(&image, &[43, 14, 1, 0], &all);
        check(
            &image,
            &[43, 14, 4, 1],
            &[43, 14, 4, 0x81, 0, 0, 1, 1, 1, b'd'],
        );
        check(&image, &[43, 14, 4, 9], &[0xAB, ILLEGAL_ADDRESS]);
    }

    #[test]
    fn a_counter_that_is_full_starts_again_from_zero() {
        let mut counter = point("count", holding(0, Kind::U16), None, 0.0);
        counter.wave = Wave {
            shape: Shape::Counter,
            from: 65_540.0,
            ..Wave::default()
        };
        check(
            &image(vec![counter], |_| {}),
            &[3, 0, 0, 0, 1],
            &[3, 2, 0, 4],
        );
    }
}
