//! What a link over a satellite or a cellular network carries: two network namespaces of this
//! machine, and an emulated link between them that counts every byte an operator would bill.
//!
//! `cargo bench --bench link` measures both cases; `-- catch-up` or `-- bytes` one of them. Words
//! choose from `catch-up`: a link (`geo`, `ltem`, `bgan`, `certus`), a format (`json`, `scan`,
//! `columns`), a remote (`no-limits`, `defaults`), a number of readings, keys of the uplink:
//! `-- catch-up certus columns 1000000 'tcp: { congestion: cubic }'`.
//!
//! Needs Linux, root, iproute2 and mosquitto; nothing outside of the namespaces is changed.
//!
//! Everything is TLS 1.3 with a P-256 certificate, QoS 1, without TCP timestamps.

// A bench that cannot go on stops with what it met; its figures are estimates.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    missing_docs
)]

mod bytes;
mod catch_up;
mod client;
mod gateway;
mod lab;
#[allow(dead_code)]
#[path = "../support/plant.rs"]
mod plant;
mod profile;
mod relay;

use catch_up::{CatchUpCase, FORMATS, REMOTES};
use profile::PROFILES;

/// The waiting readings of a run.
const READINGS: usize = 100_000;

fn main() {
    if let Some(what) = lab::what_is_missing() {
        eprintln!("this bench cannot run here: {what}");
        return;
    }
    let words = Words::read();
    let plant = plant::plant(7);
    if words.has("bytes") || words.0.is_empty() {
        bytes::run(&plant);
    }
    if words.has("bytes") && !words.has("catch-up") {
        return;
    }
    let readings = words.0.iter().find_map(|word| word.parse().ok());
    // Keys of the uplink.
    let keys = words.0.iter().find(|word| word.contains(": "));
    catch_up::print_head();
    for profile in words.chosen(&PROFILES, |profile| profile.name) {
        for format in words.chosen(&FORMATS, |format| format.name) {
            for remote in words.chosen(&REMOTES, |remote| remote.name) {
                catch_up::run(&CatchUpCase {
                    profile,
                    remote,
                    format,
                    plant: &plant,
                    readings: readings.unwrap_or(READINGS),
                    keys: keys.map_or("", String::as_str),
                });
            }
        }
    }
}

/// What the command line says besides options.
struct Words(Vec<String>);

impl Words {
    fn read() -> Self {
        let words = std::env::args().skip(1);
        Self(words.filter(|word| !word.starts_with("--")).collect())
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|known| known == word)
    }

    /// What it names, or else everything.
    fn chosen<T: Copy>(&self, all: &[T], name: impl Fn(&T) -> &str) -> Vec<T> {
        let named = all.iter().copied().filter(|one| self.has(name(one)));
        let named: Vec<T> = named.collect();
        if named.is_empty() {
            all.to_vec()
        } else {
            named
        }
    }
}
