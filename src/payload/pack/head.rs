//! What a frame begins with.

/// The only one there is.
pub(super) const VERSION: u8 = 1;

pub(super) const ADAPTIVE: u8 = 1;
pub(super) const IRREGULAR: u8 = 1 << 1;
pub(super) const GAPS: u8 = 1 << 2;
pub(super) const SOME_COLUMNS: u8 = 1 << 3;
pub(super) const NOT_GOOD: u8 = 1 << 4;
pub(super) const CLOCK_UNSET: u8 = 1 << 5;
pub(super) const RICE: u8 = 1 << 6;
pub(super) const TEXTS: u8 = 1 << 7;

pub(super) const STALE: u8 = 1;
pub(super) const BAD: u8 = 2;
