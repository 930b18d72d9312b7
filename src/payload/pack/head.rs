//! What messages and frames begin with.

/// The only one there is.
pub(super) const VERSION: u8 = 1;

pub(super) const ADAPTIVE: u64 = 1;
pub(super) const IRREGULAR: u64 = 1 << 1;
pub(super) const GAPS: u64 = 1 << 2;
pub(super) const SOME_COLUMNS: u64 = 1 << 3;
pub(super) const NOT_GOOD: u64 = 1 << 4;
pub(super) const CLOCK_UNSET: u64 = 1 << 5;
pub(super) const NUMBERS: u64 = 1 << 6;
pub(super) const RICE: u64 = 1 << 7;
pub(super) const TEXTS: u64 = 1 << 8;

pub(super) const STALE: u8 = 1;
pub(super) const BAD: u8 = 2;
