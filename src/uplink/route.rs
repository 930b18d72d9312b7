//! Whether the way out of this machine is another one than before: a network that came, a cable that was plugged in, another route.
//! Reading it costs nothing on the link.

use std::fs;

/// The columns of `/proc/net/ipv6_route` that count uses, not routes.
const COUNTERS: [usize; 2] = [6, 7];

/// A value that changes with the routes and the carriers of this machine.
pub(super) fn fingerprint() -> u32 {
    // What cannot be read does not change.
    let mut text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    for line in fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default().lines() {
        let columns = line.split_whitespace().enumerate().filter(|(index, _)| !COUNTERS.contains(index));
        columns.for_each(|(_, column)| text.push_str(column));
    }
    let mut carriers: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let carrier = fs::read_to_string(entry.path().join("carrier")).unwrap_or_default();
            format!("{} {}", entry.file_name().to_string_lossy(), carrier.trim())
        })
        .collect();
    carriers.sort();
    crc32c::crc32c((text + &carriers.join(",")).as_bytes())
}
