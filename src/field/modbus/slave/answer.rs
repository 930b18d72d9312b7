//! The answers of a simulated unit: function code and data, or the code of an exception.

use std::time::Duration;

use super::request::{ILLEGAL_ADDRESS, ILLEGAL_VALUE, RecordGroup, Request};
use super::unit::SimulatedUnit;
use crate::field::decode::Table;

impl SimulatedUnit {
    /// The answer `elapsed` after the start.
    // A straight table of the functions of the standard.
    pub(super) fn answer(&mut self, request: &[u8], elapsed: Duration) -> Result<Vec<u8>, u8> {
        let function = request.first().copied().unwrap_or_default();
        let echo = |length: usize| {
            request
                .get(..length)
                .map(<[u8]>::to_vec)
                .ok_or(ILLEGAL_VALUE)
        };
        match Request::parse(request, self.limits())? {
            Request::Read {
                table,
                start,
                count,
            } => {
                let cells = self.read(table, start, count, elapsed)?;
                Ok(counted(function, data(table, &cells)))
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
                let after = before.iter().map(|word| (word & and) | (or & !and));
                self.write(Table::Holding, address, &after.collect::<Vec<_>>(), elapsed)?;
                echo(7)
            }
            Request::Exchange {
                start,
                count,
                to,
                values,
            } => {
                let read = |unit: &Self| unit.read(Table::Holding, start, count, elapsed);
                // Refused as a whole, before anything is written.
                read(self)?;
                self.write(Table::Holding, to, &values, elapsed)?;
                Ok(counted(function, bytes(&read(self)?)))
            }
            Request::Records(groups) => Ok(counted(function, self.records(&groups, elapsed)?)),
            Request::ServerId => Ok(counted(function, self.server_id())),
            Request::Identification { code, object } => self.identification(code, object),
        }
    }

    fn records(&self, groups: &[RecordGroup], elapsed: Duration) -> Result<Vec<u8>, u8> {
        let mut data = Vec::new();
        for group in groups {
            let cells = self.read(Table::File(group.file), group.start, group.count, elapsed)?;
            data.extend([u8::try_from(1 + 2 * group.count).unwrap_or(u8::MAX), 6]);
            data.extend(bytes(&cells));
        }
        Ok(data)
    }

    /// Function 17: an identifier, "running", and the name.
    fn server_id(&self) -> Vec<u8> {
        let mut data = vec![1, 0xFF];
        data.extend(self.name().bytes().take(200));
        data
    }

    /// Vendor, product and version [Modbus application protocol 1.1b3, 6.21]: all from an object
    /// on, or one alone (code 4).
    fn identification(&self, code: u8, object: u8) -> Result<Vec<u8>, u8> {
        const BASIC_AND_ALONE: u8 = 0x81;
        let objects = [
            (0_u8, "wellhead"),
            (1, self.name()),
            (2, env!("CARGO_PKG_VERSION")),
        ];
        let is_known = objects.iter().any(|(id, _)| *id == object);
        if code == 4 && !is_known {
            return Err(ILLEGAL_ADDRESS);
        }
        // An unknown object means the first.
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
}

fn data(table: Table, cells: &[u16]) -> Vec<u8> {
    if table.is_bits() {
        pack(cells)
    } else {
        bytes(cells)
    }
}

/// Data behind the function code and their byte count.
fn counted(function: u8, data: Vec<u8>) -> Vec<u8> {
    let mut answer = vec![function, u8::try_from(data.len()).unwrap_or(u8::MAX)];
    answer.extend(data);
    answer
}

fn bytes(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
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
