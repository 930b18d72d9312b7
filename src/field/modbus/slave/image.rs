//! What stands in the registers of simulated units: waves, until somebody writes.
//!
//! Registers that no point covers do not exist: exception 2, as in a real device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::field::Device;
use crate::field::decode::{Part, Register, Table};
use crate::field::wave::Wave;
use crate::time::now;

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// By table and address.
type Cells = HashMap<(Table, u16), u16>;

#[derive(Debug, Default)]
struct Unit {
    name: String,
    points: Vec<(Register, Wave)>,
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
            let unit = units.entry(device.unit).or_default();
            unit.name.clone_from(&device.name);
            unit.points.extend(device.points.iter().filter_map(|point| Some((point.register()?.clone(), point.wave))));
        }
        Self { units: Arc::new(Mutex::new(units)), started: now() }
    }

    /// True if there is such a device.
    pub fn has(&self, unit: u8) -> bool {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&unit)
    }

    /// The answer to a request (function code and data); `None` if nobody answers: the unit is not there, or all of them are meant.
    pub fn answer(&self, unit: u8, request: &[u8]) -> Option<Vec<u8>> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now().saturating_duration_since(self.started).as_secs_f64();
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

fn number(bytes: &[u8], at: usize) -> Result<u16, u8> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).map(|pair| u16::from_be_bytes(*pair)).ok_or(ILLEGAL_VALUE)
}

fn count(bytes: &[u8], most: u16) -> Result<u16, u8> {
    number(bytes, 3).and_then(|count| if (1..=most).contains(&count) { Ok(count) } else { Err(ILLEGAL_VALUE) })
}

fn counted(function: u8, data: Vec<u8>) -> Vec<u8> {
    let mut answer = vec![function, u8::try_from(data.len()).unwrap_or(u8::MAX)];
    answer.extend(data);
    answer
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u16::from(*byte))).collect()
}

impl Unit {
    fn answer(&mut self, request: &[u8], elapsed: f64) -> Result<Vec<u8>, u8> {
        let [function, ..] = *request else { return Err(ILLEGAL_FUNCTION) };
        let echo = |bytes: usize| request.get(..bytes).map(<[u8]>::to_vec).ok_or(ILLEGAL_VALUE);
        match function {
            1 | 2 => {
                let table = if function == 1 { Table::Coil } else { Table::Discrete };
                let cells = self.read(table, number(request, 1)?, count(request, 2000)?, elapsed)?;
                Ok(counted(function, pack(&cells)))
            }
            3 | 4 => {
                let table = if function == 3 { Table::Holding } else { Table::Input };
                let cells = self.read(table, number(request, 1)?, count(request, 125)?, elapsed)?;
                Ok(counted(function, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()))
            }
            5 => {
                let value = number(request, 3)?;
                if value != 0 && value != 0xFF00 {
                    return Err(ILLEGAL_VALUE);
                }
                self.write(Table::Coil, number(request, 1)?, &[u16::from(value != 0)], elapsed)?;
                echo(5)
            }
            6 => {
                self.write(Table::Holding, number(request, 1)?, &[number(request, 3)?], elapsed)?;
                echo(5)
            }
            15 => {
                let count = count(request, 1968)?;
                let data = request.get(6..).unwrap_or_default();
                let bit = |index: u16| data.get(usize::from(index / 8)).map(|byte| u16::from(byte >> (index % 8) & 1)).ok_or(ILLEGAL_VALUE);
                let bits: Vec<u16> = (0..count).map(bit).collect::<Result<_, u8>>()?;
                self.write(Table::Coil, number(request, 1)?, &bits, elapsed)?;
                echo(5)
            }
            16 => {
                let values = words(request.get(6..).unwrap_or_default());
                if values.len() != usize::from(count(request, 123)?) {
                    return Err(ILLEGAL_VALUE);
                }
                self.write(Table::Holding, number(request, 1)?, &values, elapsed)?;
                echo(5)
            }
            17 => {
                let mut data = vec![1, 0xFF];
                data.extend(self.name.bytes().take(200));
                Ok(counted(function, data))
            }
            22 => {
                let (address, and, or) = (number(request, 1)?, number(request, 3)?, number(request, 5)?);
                let before = self.read(Table::Holding, address, 1, elapsed)?;
                let after: Vec<u16> = before.iter().map(|word| (word & and) | (or & !and)).collect();
                self.write(Table::Holding, address, &after, elapsed)?;
                echo(7)
            }
            23 => {
                let values = words(request.get(10..).unwrap_or_default());
                if values.len() != usize::from(number(request, 7)?) || values.is_empty() {
                    return Err(ILLEGAL_VALUE);
                }
                self.write(Table::Holding, number(request, 5)?, &values, elapsed)?;
                let cells = self.read(Table::Holding, number(request, 1)?, count(request, 125)?, elapsed)?;
                Ok(counted(function, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()))
            }
            43 => self.identification(request),
            _ => Err(ILLEGAL_FUNCTION),
        }
    }

    /// Vendor, product and version [Modbus application protocol 1.1b3, 6.21].
    fn identification(&self, request: &[u8]) -> Result<Vec<u8>, u8> {
        let [_, 14, 1..=3, ..] = *request else { return Err(ILLEGAL_VALUE) };
        let mut answer = vec![43, 14, 1, 1, 0, 0, 3];
        for (id, text) in [(0, "wellhead"), (1, self.name.as_str()), (2, env!("CARGO_PKG_VERSION"))] {
            answer.extend([id, u8::try_from(text.len().min(60)).unwrap_or(0)]);
            answer.extend(text.bytes().take(60));
        }
        Ok(answer)
    }

    fn read(&self, table: Table, start: u16, count: u16, elapsed: f64) -> Result<Vec<u16>, u8> {
        let mut cells: Vec<Option<u16>> = vec![None; usize::from(count)];
        let at = |address: u32| address.checked_sub(u32::from(start)).map(|index| index as usize);
        let elapsed = std::time::Duration::from_secs_f64(elapsed);
        for (register, wave) in self.points.iter().filter(|(register, _)| register.table == table) {
            let first = u32::from(register.address);
            if first >= u32::from(start) + u32::from(count) || first + u32::from(register.width()) <= u32::from(start) {
                continue;
            }
            for (word, address) in register.encode(wave.value(elapsed)).into_iter().zip(first..) {
                if let Some(cell) = at(address).and_then(|index| cells.get_mut(index)) {
                    // Parts of one register are points of their own: they share it.
                    *cell = Some(if register.meaning.part == Part::Whole { word } else { cell.unwrap_or(0) | word });
                }
            }
        }
        for ((written, address), word) in self.written.iter().filter(|((written, _), _)| *written == table) {
            debug_assert_eq!(*written, table);
            if let Some(cell) = at(u32::from(*address)).and_then(|index| cells.get_mut(index)) {
                *cell = Some(*word);
            }
        }
        cells.into_iter().collect::<Option<Vec<u16>>>().ok_or(ILLEGAL_ADDRESS)
    }

    /// Registers that exist keep what is written.
    fn write(&mut self, table: Table, start: u16, words: &[u16], elapsed: f64) -> Result<(), u8> {
        let count = u16::try_from(words.len()).map_err(|_| ILLEGAL_VALUE)?;
        self.read(table, start, count, elapsed)?;
        self.written.extend((start..=u16::MAX).zip(words).map(|(address, word)| ((table, address), *word)));
        Ok(())
    }
}

fn pack(bits: &[u16]) -> Vec<u8> {
    bits.chunks(8).map(|eight| eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | u8::from(*bit != 0) << place)).collect()
}
