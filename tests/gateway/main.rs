//! The one integration binary: architecture, configuration, broker, store, and the whole way of the
//! data against software we did not write. `tests/run` installs that software.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    clippy::cast_possible_truncation
)]

mod architecture;
mod attack;
mod batches;
mod broker_crash;
mod broker_peers;
mod brokers;
mod budget;
mod catch_up;
mod cli;
mod client_log;
mod clouds;
mod conditions;
mod config;
mod conformance;
mod costs;
mod crash;
mod damage;
mod decoders;
mod docs;
mod dummy_protocol;
mod early_outbox;
mod exactly_once;
mod far_side;
mod faults;
mod field_faults;
mod field_peers;
mod field_writes;
mod formats;
mod frames;
mod handover;
mod health_messages;
mod hostile;
mod house;
mod instruments;
mod link_words;
mod listeners;
mod login;
mod logins;
mod manners;
mod manners_north;
mod mapping;
mod mbus;
mod memory;
mod meters;
mod metrics;
mod model;
mod named_files;
mod north;
mod notices;
mod outage;
mod packaging;
mod packed;
mod packets;
mod played_profiles;
mod power;
mod presence;
mod profile_facts;
mod profiles;
mod queues;
mod real_remotes;
mod reload;
mod remote;
mod repetitions;
mod replays;
mod returning_client;
mod rivals;
mod scripts;
mod service;
mod simulation;
mod stage;
mod support;
mod talk;
mod telegrams;
mod terminal;
mod text_writes;
mod tools;
mod trace;
mod uplink_peers;
mod uplink_remotes;
mod users_file;
mod web_peers;
