//! The transmission modes of Modbus on serial lines [Modbus over serial line 1.02, 2.5]. Pure.

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransmissionMode {
    /// Binary, with a checksum.
    Rtu,
    /// Text.
    Ascii,
}
