//! A block of neighbouring registers or bits that one request reads, and the points in it. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::field::decode::{Register, Table};
use crate::reading::PointId;

/// One request of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Index of the device in its line.
    pub device: usize,
    /// Modbus unit.
    pub unit: u8,
    /// The table it reads.
    pub table: Table,
    /// First address, from zero.
    pub start: u16,
    /// Registers or bits.
    pub count: u16,
    /// The interval between two reads.
    pub every: Duration,
    /// The points whose values it brings.
    pub points: Vec<BlockPoint>,
}

/// A point inside a block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPoint {
    /// The point.
    pub id: PointId,
    /// Its registers.
    pub register: Arc<Register>,
    /// The register with its power of ten.
    pub exponent: Option<Arc<Register>>,
    /// Points with the same number cannot be read apart.
    pub field: u16,
}

impl Block {
    /// A single register or bit that no point of the plan needs.
    pub(super) fn single(target: Target, table: Table, start: u16) -> Self {
        Self {
            device: target.device,
            unit: target.unit,
            table,
            start,
            count: 1,
            every: Duration::MAX,
            points: Vec::new(),
        }
    }
}

/// The device that a request is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// Index of the device in its line.
    pub(super) device: usize,
    /// Its Modbus unit.
    pub(super) unit: u8,
}

/// Bytes of data in the answer to a request for `count` registers or bits.
pub fn bytes_of(table: Table, count: u16) -> u32 {
    let count = u32::from(count);
    if table.is_bits() {
        count.div_ceil(8)
    } else {
        2 * count
    }
}
