//! A Modbus slave for simulators: the points of a YAML file over RTU, ASCII or TCP, in raw frames
//! of our own, with faults on demand.
//!
//! `image` (all units), `unit` (the registers of one), `request` (parsing and refusing; pure),
//! `answer`, `fault` (injected faults; pure), `serve` (RTU and ASCII wires), `serve_tcp` (Modbus
//! TCP), `spoil` (applies faults to answers), `sunspec` (the map around the models of a SunSpec
//! device; pure).

mod answer;
mod fault;
mod image;
mod request;
mod serve;
mod serve_tcp;
mod spoil;
mod sunspec;
mod unit;

pub use super::mode::TransmissionMode;
pub use fault::{FaultInjector, FaultKind, InjectedFault, SharedFaults};
pub use image::Image;
pub use serve::{Tally, WirePace, serve_frames};
pub use serve_tcp::serve_tcp;
pub use sunspec::Model;
