//! House rules that a program can check: rows of dependency, who may name which package, what pure files may not do.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module may use modules of lower rows only.
const ROWS: [&[&str]; 8] = [
    &[
        "backoff",
        "files",
        "log",
        "metrics",
        "heartbeat",
        "tasks",
        "time",
        "units",
        "websocket",
    ],
    &["reading", "mqtt"],
    &["message", "payload", "store"],
    &["field", "outbox"],
    &["report", "broker", "uplink"],
    &["config", "status"],
    &["gateway"],
    &["cli"],
];

/// Files that neither wait, nor look at clocks, nor touch files or sockets, nor draw lots.
const PURE: [&str; 72] = [
    "mqtt",
    "reading.rs",
    "message.rs",
    "payload",
    "broker/engine",
    "broker/access.rs",
    "broker/hash.rs",
    "broker/lockout.rs",
    "broker/login_queue.rs",
    "broker/scram.rs",
    "store/chunk.rs",
    "store/ack_cursor.rs",
    "store/gap.rs",
    "store/commit_record.rs",
    "outbox/bucket.rs",
    "outbox/entry.rs",
    "outbox/routes.rs",
    "outbox/selection.rs",
    "report/deadband.rs",
    "report/template.rs",
    "uplink/session.rs",
    "uplink/session",
    "uplink/memory.rs",
    "uplink/copies.rs",
    "uplink/lanes.rs",
    "uplink/rates.rs",
    "uplink/pace.rs",
    "uplink/silence.rs",
    "uplink/subscriptions.rs",
    "uplink/suspicion.rs",
    "uplink/throttle.rs",
    "uplink/remote.rs",
    "uplink/rivals.rs",
    "field/schedule.rs",
    "field/signal.rs",
    "field/typical.rs",
    "field/typical",
    "field/modbus/block.rs",
    "field/modbus/owed.rs",
    "field/modbus/slave/unit.rs",
    "field/modbus/slave/sunspec.rs",
    "field/point_cache.rs",
    "field/trouble.rs",
    "field/modbus/frames.rs",
    "field/modbus/ascii.rs",
    "field/modbus/dissect.rs",
    "field/modbus/unreadable.rs",
    "field/modbus/timeout_estimator.rs",
    "field/modbus/slave/fault.rs",
    "field/text/bytes.rs",
    "field/text/frame.rs",
    "field/text/checksum.rs",
    "field/text/script.rs",
    "field/text/parse.rs",
    "report/set/command.rs",
    "field/modbus/plan.rs",
    "field/decode",
    "field/formula.rs",
    "report/aggregate.rs",
    "report/swinging_door.rs",
    "report/median.rs",
    "report/point.rs",
    "config/document.rs",
    "config/document/change.rs",
    "config/migrate.rs",
    "config/traffic.rs",
    "config/diagnostics.rs",
    "config/file.rs",
    "config/resolve/field.rs",
    "config/resolve.rs",
    "units.rs",
    "log",
];

/// Who alone may name a package.
const OWNERS: [(&str, &str); 4] = [
    ("sled", "store/engine.rs"),
    ("rumqttc", "uplink/link"),
    ("tokio_modbus", "field/modbus/"),
    ("serde_yaml", "config/document"),
];

struct Source {
    /// From `src/`, with slashes.
    name: String,
    /// Without tests, comments and doc comments.
    code: String,
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(paths.len() > 40, "the tree was not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = production
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        Source {
            name: path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            code,
        }
    };
    paths.into_iter().map(read).collect()
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn module_of(name: &str) -> &str {
    name.split(['/', '.']).next().unwrap()
}

fn is_pure(name: &str) -> bool {
    PURE.iter()
        .any(|pure| name == *pure || name.starts_with(&format!("{pure}/")))
        && !name.ends_with("tests.rs")
}

#[test]
fn modules_use_lower_rows_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = module_of(&source.name);
        let Some(row) = row_of(module) else {
            assert!(
                ["lib", "main"].contains(&module),
                "src/{} has no row in the map",
                source.name
            );
            continue;
        };
        let used = source.code.split("crate::").skip(1).flat_map(|rest| {
            let first = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            // `use crate::{a, b::c}`
            let group = rest
                .strip_prefix('{')
                .and_then(|group| group.split_once("};"))
                .map(|(group, _)| group);
            let grouped = group
                .into_iter()
                .flat_map(|group| group.split(','))
                .map(|item| item.trim().split("::").next().unwrap());
            grouped
                .chain([first].into_iter().filter(|first| !first.is_empty()))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        for other in used.filter(|other| other != module) {
            match row_of(&other) {
                Some(below) if below < row => {}
                Some(_) => wrong.push(format!("src/{} (row {row}) uses {other}", source.name)),
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_of_the_map_exists() {
    let modules: Vec<String> = sources()
        .iter()
        .map(|source| module_of(&source.name).to_owned())
        .collect();
    for module in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(
            modules.iter().any(|found| found == module),
            "{module} is in the map and not in the tree"
        );
    }
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(
            text.contains(&format!("[`{module}`]")),
            "{module} is missing in the map of lib.rs"
        );
    }
}

#[test]
fn packages_are_named_by_their_owner_alone() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (package, owner) in OWNERS {
            if source.code.contains(&format!("{package}::")) && !source.name.starts_with(owner) {
                wrong.push(format!(
                    "src/{} names {package}, which belongs to {owner}",
                    source.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_files_do_nothing_but_compute() {
    let forbidden = [
        "tokio::",
        "std::net",
        "std::fs",
        "std::io::",
        "Instant::now",
        "SystemTime",
        "fastrand",
        "crate::time::now",
        "std::thread",
        ".await",
    ];
    let mut wrong = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let sources = sources();
    for source in sources.iter().filter(|source| is_pure(&source.name)) {
        let pure = PURE
            .iter()
            .find(|pure| source.name.starts_with(*pure))
            .unwrap();
        *seen.entry(pure).or_default() += 1;
        for word in forbidden {
            if source.code.contains(word) {
                wrong.push(format!("src/{} is pure but says {word}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let missing: Vec<&&str> = PURE
        .iter()
        .filter(|pure| !seen.contains_key(**pure))
        .collect();
    assert!(
        missing.is_empty(),
        "pure files that do not exist: {missing:?}"
    );
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let silent: Vec<_> = paths
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}
