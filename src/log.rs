//! What keeps the log, and terminals, readable whoever talks to this gateway: [`LogLimiter`] bounds the lines that peers can cause,
//! [`Printable`] shows their texts without control characters.
//!
//! Where log lines go is for [`crate::cli`] to decide; every text that reaches the log passes [`Printable`] there.

mod format;
mod limiter;
mod printable;
mod source;

pub use format::Format;
pub use limiter::LogLimiter;
pub use printable::{Printable, chosen};
pub use source::{Source, network};
