//! Meters on an M-Bus [EN 13757-2, EN 13757-3]: heat, water, gas and electricity, wired.
//!
//! Invariants:
//! * A number is published in the unit of its point, converted from that of the telegram; one that
//!   cannot be converted is a bad reading.
//! * A record that is missing, or not the only one that fits, is a bad reading with its reason.
//! * What the status byte of a meter says about its values goes into their quality.
//!
//! `frame`, `telegram`, `record`, `qualifier`, `vif`, `data`, `fixed` decode and `show`
//! prints (pure; any bytes end), `spec` is what the YAML says (pure); `bus` asks, `readout` reads a
//! meter, `driver` a line, `search` finds meters; `simulator` plays them.

mod bus;
mod data;
mod driver;
mod fixed;
pub mod frame;
mod qualifier;
mod readout;
mod record;
pub mod search;
mod show;
pub mod simulator;
pub mod spec;
pub mod telegram;
pub mod vif;

pub use data::RawValue;
pub use driver::{Mbus, readouts};
pub use qualifier::Qualifier;
pub use record::{MeterRecord, MeterRecords, Occasion};
pub use show::in_words;
