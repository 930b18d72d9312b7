//! House rules that a program can check: rows of dependency, who may name which package, which
//! files do I/O.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::house::paths::{Named, named};
use super::house::tree::{SourceFile, source_files};

/// A module may use modules of lower rows only.
const ROWS: [&[&str]; 10] = [
    &[
        "backoff",
        "files",
        "heartbeat",
        "leb128",
        "log",
        "metrics",
        "tasks",
        "time",
        "units",
    ],
    &["reading", "net", "mqtt"],
    &["payload"],
    &["message", "store"],
    &["field", "outbox"],
    &["route"],
    &["report", "broker", "uplink"],
    &["config", "status"],
    &["gateway"],
    &["cli"],
];

/// What a file of logic does not name: waiting, clocks, files, sockets, processes, threads, lots.
const IO: [&str; 19] = [
    "fastrand",
    "getrandom",
    "nix",
    "rand",
    "rustix",
    "serial2",
    "sled",
    "socket2",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
    "tokio_serial",
    "tokio_rustls",
    "tokio_tungstenite",
];
/// Plain values of these libraries.
const VALUES: [&str; 8] = [
    "std::io::Error",
    "std::io::ErrorKind",
    "std::io::Result",
    "std::net::AddrParseError",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
];
/// The clocks of this crate.
const CLOCKS: [&str; 2] = ["time::now", "time::known_unix_ms"];

/// Where I/O is: whole modules at the edge, and single files. Everything else computes, and is
/// tested without sockets and clocks.
const IO_FILES: [&str; 133] = [
    "backoff.rs",
    "broker/driver.rs",
    "broker/durable.rs",
    "broker/forward_queue.rs",
    "broker/inbox.rs",
    "broker/journal_writer.rs",
    "broker/mod.rs",
    "broker/net/connection.rs",
    "broker/net/linger.rs",
    "broker/net/listener.rs",
    "broker/net/origin.rs",
    "broker/net/pace.rs",
    "broker/net/refusal.rs",
    "broker/net/tls.rs",
    "broker/net/websocket.rs",
    "cli",
    "config/include.rs",
    "config/profiles.rs",
    "config/references.rs",
    "config/resolve.rs",
    "config/resolve/credentials.rs",
    "config/resolve/file_access.rs",
    "field/diagnostic.rs",
    "field/faulty_wire.rs",
    "field/mbus/bus.rs",
    "field/mbus/driver.rs",
    "field/mbus/readout.rs",
    "field/mbus/search.rs",
    "field/mbus/simulator.rs",
    "field/mod.rs",
    "field/modbus/device_cache.rs",
    "field/modbus/diagnostic.rs",
    "field/modbus/exchange.rs",
    "field/modbus/identify.rs",
    "field/modbus/link.rs",
    "field/modbus/mbap_adapter.rs",
    "field/modbus/mod.rs",
    "field/modbus/rtu_adapter.rs",
    "field/modbus/slave/image.rs",
    "field/modbus/slave/serve.rs",
    "field/modbus/slave/serve_tcp.rs",
    "field/modbus/slave/spoil.rs",
    "field/modbus/write.rs",
    "field/protocol.rs",
    "field/serial.rs",
    "field/simulated.rs",
    "field/sml/driver.rs",
    "field/sml/simulator.rs",
    "field/stream.rs",
    "field/supervisor.rs",
    "field/supervisor/orders.rs",
    "field/supervisor/report.rs",
    "field/text/converse.rs",
    "field/text/mod.rs",
    "field/text/simulator.rs",
    "field/text/write.rs",
    "field/timer.rs",
    "field/trace.rs",
    "field/traced_stream.rs",
    "field/write.rs",
    "files.rs",
    "gateway",
    "gateway.rs",
    "heartbeat.rs",
    "main.rs",
    "metrics.rs",
    "net/proxy.rs",
    "net/tls.rs",
    "net/websocket.rs",
    "outbox/columns.rs",
    "outbox/mod.rs",
    "outbox/schemas.rs",
    "report/mod.rs",
    "report/set/log.rs",
    "report/set/mod.rs",
    "report/set/order.rs",
    "route/local_view.rs",
    "route/mod.rs",
    "route/outlet.rs",
    "route/states.rs",
    "status/control.rs",
    "status/restarts.rs",
    "store/emergency_reserve.rs",
    "store/engine.rs",
    "store/folder.rs",
    "store/handle.rs",
    "store/identity.rs",
    "store/inspect.rs",
    "store/journal.rs",
    "store/machine.rs",
    "store/pending.rs",
    "store/preallocation.rs",
    "store/progress.rs",
    "store/receipt.rs",
    "store/recover.rs",
    "store/shared.rs",
    "store/thread.rs",
    "store/thread/commit.rs",
    "tasks.rs",
    "time.rs",
    "time/clock.rs",
    "uplink/burials.rs",
    "uplink/channels.rs",
    "uplink/client.rs",
    "uplink/connection.rs",
    "uplink/connection/batching.rs",
    "uplink/connection/blame.rs",
    "uplink/connection/ending.rs",
    "uplink/connection/excess.rs",
    "uplink/connection/liveness.rs",
    "uplink/connection/question.rs",
    "uplink/connection/receive.rs",
    "uplink/connection/schemas.rs",
    "uplink/connection/sending.rs",
    "uplink/connection/state.rs",
    "uplink/credentials.rs",
    "uplink/dial.rs",
    "uplink/failure.rs",
    "uplink/headers.rs",
    "uplink/inbound.rs",
    "uplink/link.rs",
    "uplink/own.rs",
    "uplink/purge.rs",
    "uplink/route.rs",
    "uplink/status.rs",
    "uplink/task.rs",
    "uplink/task/opening.rs",
    "uplink/task/purging.rs",
    "uplink/task/rivals.rs",
    "uplink/task/standby.rs",
    "uplink/task/will.rs",
    "uplink/tls.rs",
    "uplink/transport.rs",
];

/// Who alone may name a package.
const OWNERS: [(&str, &str); 4] = [
    ("sled", "store/engine.rs"),
    ("rumqttc", "uplink/link"),
    ("tokio_modbus", "field/modbus/"),
    ("serde_yaml", "config/document"),
];

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn module_of(file: &SourceFile) -> &str {
    file.name.split(['/', '.']).next().unwrap()
}

/// True for the path and for what is in it.
fn leads_into(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn does_io(found: &Named) -> bool {
    let names_io = found.outside.iter().any(|path| {
        let path = path.join("::");
        IO.iter().any(|io| leads_into(&path, io))
            && !VALUES.iter().any(|value| leads_into(&path, value))
    });
    let reads_clock = found
        .inside
        .iter()
        .any(|path| CLOCKS.contains(&path.join("::").as_str()));
    names_io || reads_clock || found.awaits
}

#[test]
fn modules_use_lower_rows_only() {
    let mut wrong = BTreeSet::new();
    for file in source_files() {
        let module = module_of(&file);
        let Some(row) = row_of(module) else {
            assert!(
                ["lib", "main"].contains(&module),
                "src/{} has no row in the map",
                file.name
            );
            continue;
        };
        for path in named(&file).inside {
            let Some(other) = path.first().filter(|other| *other != module) else {
                continue;
            };
            if row_of(other).is_some_and(|below| below >= row) {
                wrong.insert(format!("src/{} (row {row}) uses {other}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_of_the_map_exists() {
    let files = source_files();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(root.join("lib.rs")).unwrap();
    for module in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(
            files.iter().any(|file| module_of(file) == *module),
            "{module} is in the map and not in the tree"
        );
        assert!(
            map.contains(&format!("[`{module}`]")),
            "{module} is missing in the map of lib.rs"
        );
    }
}

#[test]
fn packages_are_named_by_their_owner_alone() {
    let mut wrong = BTreeSet::new();
    for file in source_files() {
        for path in named(&file).outside {
            let owner = OWNERS.iter().find(|(package, _)| path[0] == *package);
            if let Some((package, owner)) = owner.filter(|(_, owner)| !file.name.starts_with(owner))
            {
                wrong.insert(format!(
                    "src/{} names {package}, which belongs to {owner}",
                    file.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_compute_unless_they_are_listed_for_io() {
    let listed = |name: &str| {
        IO_FILES
            .iter()
            .find(|listed| name == **listed || name.starts_with(&format!("{listed}/")))
    };
    let (mut unlisted, mut needed) = (Vec::new(), BTreeSet::new());
    for file in source_files() {
        if does_io(&named(&file)) {
            match listed(&file.name) {
                Some(entry) => {
                    needed.insert(*entry);
                }
                None => unlisted.push(file.name),
            }
        }
    }
    assert!(
        unlisted.is_empty(),
        "these wait, read a clock, or touch files, sockets or chance: {unlisted:#?}"
    );
    let idle: Vec<&&str> = IO_FILES
        .iter()
        .filter(|entry| !needed.contains(**entry))
        .collect();
    assert!(idle.is_empty(), "listed, and without I/O: {idle:#?}");
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let silent: Vec<String> = source_files()
        .into_iter()
        .map(|file| file.name)
        .filter(|name| {
            !fs::read_to_string(root.join(name))
                .unwrap()
                .starts_with("//!")
        })
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}
