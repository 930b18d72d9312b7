//! What one more uplink costs: a thread, and no database that is written to from end to end.

use std::fs;

use super::support::{Gateway, wait_for};

/// The names of the threads that write to disk.
fn threads_of_stores(process: &str) -> Vec<String> {
    fs::read_dir(format!("{process}/task"))
        .unwrap()
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("store:"))
        .collect()
}

/// The memory of a gateway with so many uplinks, apart from files, in KiB. Each has one thread.
fn memory_with(uplinks: usize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    // Nothing listens there: an uplink costs the same whether it is up or not.
    let list: String = (0..uplinks)
        .map(|number| {
            format!(
                "  - {{ name: far{number}, to: 'mqtt://127.0.0.1:9', client_id: far{number}, send: [ {{ filter: '#' }} ] }}\n"
            )
        })
        .collect();
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n{list}"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let process = format!("/proc/{}", gateway.process.id());
    // The broker has one, too.
    wait_for("one thread for each store", || {
        (threads_of_stores(&process).len() == uplinks + 1).then_some(())
    });
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    own.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn one_more_uplink_costs_a_thread_and_few_pages() {
    let (few, many) = (memory_with(1), memory_with(5));
    // A database has 8 MiB, of which it needs some pages.
    assert!(many < few + 4 * 4096, "{few} KiB, {many} KiB");
}
