//! Meters that send SML by themselves: electricity meters of German metering points [BSI
//! TR-03109-1, annex IV; IEC 62056-21 optical interface].
//!
//! Invariants:
//! * A frame or message with a wrong checksum is counted and never looked into.
//! * A number is published in the unit of its point, converted from that of the telegram; one that
//!   cannot be converted is a bad reading.
//! * A point is reported as often as its `every` says, however often its meter sends.
//!
//! `frame`, `tlv`, `list` decode (pure; any bytes end), `spec` is what the YAML says (pure),
//! `show` prints, `driver` listens, `simulator` plays a meter.

mod driver;
mod frame;
pub mod list;
mod show;
pub mod simulator;
pub mod spec;
mod tlv;

pub use driver::Sml;
pub use frame::SmlFramer;
pub use show::in_words;
