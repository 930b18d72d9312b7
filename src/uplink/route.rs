//! Whether the way out of this machine is another one than before: another default route, or
//! another state of the network interface that an uplink must use. Reading it costs nothing on the
//! link.
//!
//! Other interfaces do not count: a container or a telephone that comes and goes is no reason to
//! dial.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The columns of `/proc/net/route` and of `/proc/net/ipv6_route` that count uses, not routes.
const COUNTERS: [usize; 2] = [4, 5];
const COUNTERS_OF_IPV6: [usize; 2] = [6, 7];

/// A route of this machine.
struct Route {
    interface: String,
    is_default: bool,
    /// Its columns, without counters.
    text: String,
}

impl Route {
    /// A line of `/proc/net/route`.
    fn of_ipv4(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split_whitespace().collect();
        Some(Self {
            interface: (*columns.first()?).to_owned(),
            is_default: columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000"),
            text: without(&columns, COUNTERS),
        })
    }

    /// A line of `/proc/net/ipv6_route`.
    fn of_ipv6(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let goes_anywhere = |to: &&str| to.bytes().all(|digit| digit == b'0');
        Some(Self {
            interface: (*columns.last()?).to_owned(),
            is_default: columns.get(1) == Some(&"00") && columns.first().is_some_and(goes_anywhere),
            text: without(&columns, COUNTERS_OF_IPV6),
        })
    }
}

/// A value that changes with the way out of this machine: through `interface` if there is one, else
/// by the default routes.
pub(super) fn fingerprint(interface: Option<&str>) -> u32 {
    crc32c::crc32c(way(Path::new("/"), interface).as_bytes())
}

/// The routes that count, and the carriers of their interfaces. What cannot be read does not
/// change.
fn way(root: &Path, interface: Option<&str>) -> String {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (ipv4, ipv6) = (read("proc/net/route"), read("proc/net/ipv6_route"));
    let counts = |route: &Route| {
        interface.map_or(route.is_default, |interface| interface == route.interface)
    };
    let routes: Vec<Route> = ipv4
        .lines()
        .skip(1)
        .filter_map(Route::of_ipv4)
        .chain(ipv6.lines().filter_map(Route::of_ipv6))
        .filter(counts)
        .collect();
    let of_routes = routes.iter().map(|route| route.interface.as_str());
    let names: BTreeSet<&str> = interface.into_iter().chain(of_routes).collect();
    let carrier = |name: &&str| {
        let carrier = read(&format!("sys/class/net/{name}/carrier"));
        format!("{name} {}", carrier.trim())
    };
    let carriers: Vec<String> = names.iter().map(carrier).collect();
    let routes: Vec<String> = routes.into_iter().map(|route| route.text).collect();
    format!("{}\n{}", routes.join("\n"), carriers.join("\n"))
}

/// The other columns of a line.
fn without(columns: &[&str], counters: [usize; 2]) -> String {
    let others = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| !counters.contains(index));
    others
        .map(|(_, column)| *column)
        .collect::<Vec<&str>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    const DEFAULT: &str = "wwan0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0\n";
    const LOCAL: &str = "eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";

    fn of(files: &[(&str, &str)], interface: Option<&str>) -> String {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        way(root.path(), interface)
    }

    /// Whether a change from the first routes and carrier files to the second ones counts.
    fn check(
        before: (&str, &[(&str, &str)]),
        after: (&str, &[(&str, &str)]),
        interface: Option<&str>,
        expected: bool,
    ) {
        let of = |(routes, carriers): (&str, &[(&str, &str)])| {
            let routes = format!("{HEAD}{routes}");
            of(
                &[&[("proc/net/route", routes.as_str())], carriers].concat(),
                interface,
            )
        };
        assert_eq!(
            of(before) != of(after),
            expected,
            "{before:?} {after:?} {interface:?}"
        );
    }

    #[test]
    fn only_the_default_route_and_its_interface_count() {
        let both = format!("{DEFAULT}{LOCAL}");
        check((DEFAULT, &[]), (&both, &[]), None, false);
        check(
            (DEFAULT, &[]),
            (DEFAULT, &[("sys/class/net/veth7/carrier", "1\n")]),
            None,
            false,
        );
        check(("", &[]), (DEFAULT, &[]), None, true);
        check(
            (DEFAULT, &[]),
            (&DEFAULT.replace("0101A8C0", "0201A8C0"), &[]),
            None,
            true,
        );
        check(
            (DEFAULT, &[("sys/class/net/wwan0/carrier", "0\n")]),
            (DEFAULT, &[("sys/class/net/wwan0/carrier", "1\n")]),
            None,
            true,
        );
        check(
            (DEFAULT, &[]),
            (&DEFAULT.replace("0003 0 0", "0003 5 9"), &[]),
            None,
            false,
        );
    }

    #[test]
    fn the_interface_of_the_uplink_counts_alone() {
        let both = format!("{DEFAULT}{LOCAL}");
        check((DEFAULT, &[]), (&both, &[]), Some("eth0"), true);
        check((&both, &[]), (LOCAL, &[]), Some("eth0"), false);
        check(
            (LOCAL, &[("sys/class/net/eth0/carrier", "0\n")]),
            (LOCAL, &[("sys/class/net/eth0/carrier", "1\n")]),
            Some("eth0"),
            true,
        );
    }

    #[test]
    fn default_routes_of_ipv6_count_without_their_counters() {
        let route = |to: &str, uses: &str| {
            let zero = "0".repeat(32);
            let line = format!(
                "{to} 00 {zero} 00 fe800000000000000000000000000001 00000400 {uses} 00000000 00000003 wwan0\n"
            );
            of(&[("proc/net/ipv6_route", line.as_str())], None)
        };
        assert_eq!(
            route(&"0".repeat(32), "00000001"),
            route(&"0".repeat(32), "00000002")
        );
        assert_ne!(route(&"0".repeat(32), "00000001"), of(&[], None));
    }
}
