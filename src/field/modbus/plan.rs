//! Which registers are read together. Pure.
//!
//! Points of one device, table and interval whose registers touch or overlap become one request, up to what a request may hold
//! [Modbus application protocol 1.1b3, 6.1 to 6.4]. A value is never split.

use std::time::Duration;

use super::decode::{Register, Table};
use crate::field::Device;
use crate::field::serial::Speed;
use crate::reading::PointId;

/// Registers in one request.
const MAX_WORDS: u16 = 125;
/// Coils or discrete inputs in one request.
const MAX_BITS: u16 = 2000;

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Index of the device in its line.
    pub device: usize,
    /// Modbus unit.
    pub unit: u8,
    /// Where it reads.
    pub table: Table,
    /// First address, from zero.
    pub start: u16,
    /// Registers or bits.
    pub count: u16,
    /// How often.
    pub every: Duration,
    /// What it brings.
    pub points: Vec<BlockPoint>,
}

/// A point inside a block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPoint {
    /// Which point.
    pub id: PointId,
    /// Its registers.
    pub register: Register,
}

impl Block {
    fn end(&self) -> u32 {
        u32::from(self.start) + u32::from(self.count)
    }

    /// How long request and answer for `count` registers take on an RTU line, without the device's own delay.
    pub fn wire_time(&self, speed: Speed, count: u16) -> Duration {
        let payload = if self.table.is_bits() { u32::from(count).div_ceil(8) } else { 2 * u32::from(count) };
        speed.character() * (8 + 5 + payload) + 2 * speed.frame_gap()
    }
}

/// The requests that read every point of `device`, the `index`th of its line.
pub fn plan(index: usize, device: &Device) -> Vec<Block> {
    let mut points: Vec<(&Register, Duration, PointId)> =
        device.points.iter().filter_map(|point| Some((point.register.as_ref()?, point.every, point.id))).collect();
    points.sort_by_key(|(register, every, _)| (*every, register.table, register.address));
    let mut blocks: Vec<Block> = Vec::new();
    for (register, every, id) in points {
        let point = BlockPoint { id, register: register.clone() };
        match blocks.last_mut() {
            Some(block) if block.every == every && joins(block, register) => {
                let end = block.end().max(u32::from(register.address) + u32::from(register.width()));
                block.count = u16::try_from(end - u32::from(block.start)).unwrap_or(u16::MAX);
                block.points.push(point);
            }
            _ => blocks.push(Block {
                device: index,
                unit: device.unit,
                table: register.table,
                start: register.address,
                count: register.width(),
                every,
                points: vec![point],
            }),
        }
    }
    blocks
}

fn joins(block: &Block, register: &Register) -> bool {
    let limit = if block.table.is_bits() { MAX_BITS } else { MAX_WORDS };
    let end = u32::from(register.address) + u32::from(register.width());
    block.table == register.table
        && u32::from(register.address) <= block.end()
        && end.max(block.end()) - u32::from(block.start) <= u32::from(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Point;
    use crate::field::modbus::decode::Kind;
    use crate::field::wave::Wave;
    use crate::reading::DeviceId;

    fn device(points: &[(Table, u16, Kind, u64)]) -> Device {
        let points = points.iter().enumerate().map(|(n, (table, address, kind, every))| Point {
            id: PointId(u32::try_from(n).unwrap()),
            name: format!("p{n}"),
            every: Duration::from_secs(*every),
            register: Some(Register::new(*table, *address, *kind)),
            wave: Wave::default(),
        });
        Device { id: DeviceId(0), name: "d".to_owned(), unit: 7, points: points.collect() }
    }

    fn check(points: &[(Table, u16, Kind, u64)], expected: &[(u16, u16)]) {
        let blocks = plan(0, &device(points));
        let found: Vec<(u16, u16)> = blocks.iter().map(|block| (block.start, block.count)).collect();
        assert_eq!(found, expected);
        let read: usize = blocks.iter().map(|block| block.points.len()).sum();
        assert_eq!(read, points.len());
    }

    #[test]
    fn neighbours_are_read_together() {
        use Kind::{F32, U16};
        use Table::{Coil, Holding, Input};
        check(&[(Holding, 2, U16, 1), (Holding, 0, F32, 1)], &[(0, 3)]);
        check(&[(Holding, 0, F32, 1), (Holding, 3, U16, 1)], &[(0, 2), (3, 1)]);
        check(&[(Holding, 0, U16, 1), (Input, 1, U16, 1)], &[(1, 1), (0, 1)]);
        check(&[(Holding, 0, U16, 1), (Holding, 1, U16, 5)], &[(0, 1), (1, 1)]);
        check(&[(Holding, 5, U16, 1), (Holding, 5, U16, 1)], &[(5, 1)]);
        check(&[(Coil, 0, Kind::Bool, 1), (Coil, 1, Kind::Bool, 1)], &[(0, 2)]);
    }

    #[test]
    fn a_request_holds_no_more_than_it_may_and_splits_no_value() {
        let many: Vec<_> = (0..100).map(|n| (Table::Holding, n * 2, Kind::F32, 1)).collect();
        check(&many, &[(0, 124), (124, 76)]);
    }

    #[test]
    fn the_last_register_of_a_table_can_be_read() {
        check(&[(Table::Holding, 65_534, Kind::U16, 1), (Table::Holding, 65_535, Kind::U16, 1)], &[(65_534, 2)]);
    }
}
