//! The words of other tools (Telegraf, Neuron, wb-mqtt-serial, modbus4mqtt, ESPHome, Home
//! Assistant, mosquitto, HiveMQ Edge, Node-RED): a file that uses one learns ours.

use std::sync::LazyLock;

use super::file::POINT_DEFAULTS;
use super::suggestion::is_slip_of_one;

/// A mapping of the file, known by a key that only this one has.
struct Owner {
    name: &'static str,
    mark: &'static str,
    /// Its name in messages.
    shown: &'static str,
}

static OWNERS: [Owner; 11] = [
    Owner {
        name: "file",
        mark: "shutdown_grace",
        shown: "at the top of the file",
    },
    Owner {
        name: "line",
        mark: "modbus_tcp",
        shown: "a key of a line",
    },
    Owner {
        name: "device",
        mark: "except",
        shown: "a key of a device",
    },
    Owner {
        name: "profile",
        mark: "factory",
        shown: "a key of a profile",
    },
    Owner {
        name: "point",
        mark: "swinging_door",
        shown: "a key of a point",
    },
    Owner {
        name: "write",
        mark: "at_most_every",
        shown: "a key of `write`",
    },
    Owner {
        name: "uplink",
        mark: "use_when",
        shown: "a key of an uplink",
    },
    Owner {
        name: "send",
        mark: "prefix",
        shown: "a key of a rule in `send`",
    },
    Owner {
        name: "broker",
        mark: "max_sessions",
        shown: "a key of the broker",
    },
    Owner {
        name: "tls",
        mark: "client_certificates",
        shown: "a key of the broker's `tls`",
    },
    Owner {
        name: "user",
        mark: "scram",
        shown: "a key of a user",
    },
];

/// Words of other tools with one meaning in one mapping.
struct Translation {
    owner: &'static Owner,
    words: Vec<&'static str>,
    /// The advice; it begins with the key in backticks where there is one.
    ours: &'static str,
}

const TABLE: &str = include_str!("other_tools.txt");

static TRANSLATIONS: LazyLock<Vec<Translation>> = LazyLock::new(|| {
    let translation = |line: &'static str| {
        let (name, rest) = line.split_once(": ")?;
        let (words, ours) = rest.split_once(" -> ")?;
        Some(Translation {
            owner: OWNERS.iter().find(|owner| owner.name == name)?,
            words: words.split(' ').collect(),
            ours,
        })
    };
    TABLE.lines().filter_map(translation).collect()
});

/// Words that mean something else in each mapping: translated only where they belong.
const GENERIC: [&str; 12] = [
    "gateway", "hostname", "id", "location", "mode", "model", "name", "remote", "server", "size",
    "title", "type",
];

/// The name of a key of another tool in wellhead: the advice for the mapping whose keys are
/// `known`, or for the one that has such a key.
pub(super) fn meant(typed: &str, known: &[&str]) -> Option<String> {
    let word = plain(typed);
    let rows = || {
        TRANSLATIONS
            .iter()
            .filter(|row| row.words.contains(&word.as_str()))
    };
    let is_here = |row: &&Translation| known.contains(&row.owner.mark);
    // Devices, profiles and lines have some keys of points for all their points.
    let is_known = |row: &&Translation| {
        row.ours
            .split('`')
            .nth(1)
            .is_some_and(|key| POINT_DEFAULTS.contains(&key) && known.contains(&key))
    };
    let shared = || rows().find(is_known).filter(|_| rows().count() == 1);
    match rows().find(is_here).or_else(shared) {
        Some(row) => Some(format!("in wellhead this is {}", row.ours)),
        // `device` at the top is nearer to `devices` than to what others call a serial port.
        None if is_slip_of_one(typed, known) => None,
        None if GENERIC.contains(&word.as_str()) => None,
        None => rows()
            .next()
            .map(|row| format!("in wellhead this is {}, {}", row.ours, row.owner.shown)),
    }
}

/// `pollInterval`, `poll-interval` and `Poll_Interval` are one word.
fn plain(typed: &str) -> String {
    let mut word = String::with_capacity(typed.len() + 4);
    let mut was_small = false;
    for character in typed.chars() {
        if character.is_uppercase() && was_small {
            word.push('_');
        }
        was_small = character.is_lowercase();
        match character {
            '-' | ' ' | '.' => word.push('_'),
            other => word.extend(other.to_lowercase()),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_POINTS: [&str; 4] = ["at", "every", "swinging_door", "unit"];
    const OF_LINES: [&str; 3] = ["name", "modbus_tcp", "serial"];

    fn check(typed: &str, known: &[&str], expected: &str) {
        assert_eq!(meant(typed, known).unwrap_or_default(), expected, "{typed}");
    }

    #[test]
    fn words_of_other_tools_are_translated_where_they_stand() {
        check("interval", &OF_POINTS, "in wellhead this is `every`");
        check("pollingInterval", &OF_POINTS, "in wellhead this is `every`");
        check("Scan-Interval", &OF_POINTS, "in wellhead this is `every`");
        check(
            "scan_interval",
            &OF_LINES,
            "in wellhead this is `every`, a key of a point",
        );
        check(
            "slave",
            &OF_POINTS,
            "in wellhead this is `unit`, a key of a device",
        );
        check(
            "interval",
            &["every", "class"],
            "in wellhead this is `every`",
        );
        check(
            "timeout",
            &["every", "stale_after"],
            "in wellhead this is `answer_within`, a key of a line",
        );
        check("timeout", &OF_LINES, "in wellhead this is `answer_within`");
        check("timeout", &OF_POINTS, "in wellhead this is `stale_after`");
        check("flavour", &OF_POINTS, "");
        check("name", &OF_POINTS, "");
        check("id", &["except"], "in wellhead this is `unit`");
        check("registers", &["factory"], "in wellhead this is `points`");
        check("device", &["devices", "shutdown_grace"], "");
    }

    #[test]
    fn every_word_is_found_and_belongs_once_to_its_owner() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(TRANSLATIONS.len(), lines);
        let words: usize = TRANSLATIONS.iter().map(|row| row.words.len()).sum();
        assert!(words >= 60, "{words}");
        for row in TRANSLATIONS.iter() {
            assert!(row.words.is_sorted(), "{:?}", row.words);
            for word in &row.words {
                assert_eq!(*word, plain(word), "no other spelling is ever looked for");
                let is_same = |other: &&Translation| {
                    other.owner.mark == row.owner.mark && other.words.contains(word)
                };
                let same = TRANSLATIONS.iter().filter(is_same).count();
                assert_eq!(same, 1, "{word} {}", row.owner.shown);
                let expected = format!("in wellhead this is {}", row.ours);
                check(word, &[row.owner.mark], &expected);
            }
        }
    }
}
