//! A Modbus slave for simulators: the points of a YAML file over RTU, ASCII or TCP, in raw frames of our own, with faults on demand.
//!
//! `image` (what stands in the registers), `request` (what a slave takes and refuses; pure),
//! `fault` (what goes wrong, and when; pure), `serve` (wires),
//! `sunspec` (the map around the models of a SunSpec device; pure).

mod fault;
mod image;
mod request;
mod serve;
mod sunspec;

pub use fault::{Fault, FaultKind, Faults};
pub use image::Image;
pub use serve::{Framing, Pace, Tally, serve_frames, serve_tcp};
pub use sunspec::Model;
