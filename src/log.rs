//! Keeps the log, and terminals, readable whatever peers send: [`LogLimiter`] bounds the lines that
//! they can cause, [`Printable`] shows their texts without control characters.
//!
//! [`crate::cli`] decides where log lines go; every text that reaches the log passes [`Printable`]
//! there.

mod format;
mod limiter;
mod printable;
mod source;

pub use format::Format;
pub use limiter::LogLimiter;
pub use printable::{Printable, chosen};
pub use source::{Source, network};
