//! What `tests/arm` runs under an emulator: a few modules of the integration binary, which compile
//! in a fraction of its time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    clippy::cast_possible_truncation,
    dead_code
)]

mod broker_crash;
mod crash;
mod far_side;
mod returning_client;
mod scripts;
mod stage;
mod support;
