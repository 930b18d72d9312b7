//! A Modbus slave for simulators: the points of a YAML file over RTU, ASCII or TCP, in raw frames of our own, with faults on demand.
//!
//! `image` (what stands in the registers), `fault` (what goes wrong, and when; pure), `serve` (wires).

mod fault;
mod image;
mod serve;

pub use fault::{Fault, FaultKind, Faults};
pub use image::Image;
pub use serve::{Framing, Pace, Tally, serve_frames, serve_tcp};
