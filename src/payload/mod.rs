//! Readings to bytes. Pure. One file per format.

pub mod json;
