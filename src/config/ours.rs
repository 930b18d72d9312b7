//! Recognizes our own files: of any other file, such as one of passwords that was included by
//! mistake or on purpose, messages say nothing of what is in it. Pure.

use super::suggestion::is_slip_of_one;

/// The keys at the top of a file of a gateway; those that are at the top of many other files, too,
/// are left out.
const OF_PARTS: [&str; 13] = [
    "include",
    "site",
    "lines",
    "profiles",
    "defaults",
    "devices",
    "topics",
    "availability",
    "broker",
    "outbox",
    "classes",
    "uplinks",
    "shutdown_grace",
];
/// The keys at the top of a file of a profile.
const OF_PROFILES: [&str; 17] = [
    "factory",
    "text",
    "byte_order",
    "identify",
    "max_registers",
    "max_bits",
    "max_hold",
    "holes",
    "pause",
    "first_answer_within",
    "points",
    "every",
    "deadband",
    "at_least_every",
    "stale_after",
    "class",
    "decimals",
];
/// Shorter keys are near to too many words.
const SHORTEST_SLIP: usize = 5;

/// True for a file of a gateway, or a part of one; it may be full of faults.
pub(super) fn is_of_a_gateway(text: &str) -> bool {
    has_one_of(text, &OF_PARTS)
}

/// True for a file of a profile.
pub(super) fn is_profile(text: &str) -> bool {
    has_one_of(text, &OF_PROFILES)
}

/// True for a file with nothing in it but comments.
pub(super) fn is_empty(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#'))
}

/// True if a key at the top is one of these, or a slip of the pen away from one.
fn has_one_of(text: &str, keys: &[&str]) -> bool {
    let is_known = |key: &&str| {
        keys.contains(key) || (key.len() >= SHORTEST_SLIP && is_slip_of_one(key, keys))
    };
    let top = if text.trim_start().starts_with('{') {
        keys_in_braces(text)
    } else {
        keys_of_lines(text)
    };
    // Many files have such a key.
    let (known, others): (Vec<&str>, Vec<&str>) = top
        .into_iter()
        .filter(|key| *key != "version")
        .partition(is_known);
    !known.is_empty() && known.len() >= others.len()
}

/// Words from the first column up to a colon; a blank, or nothing, follows the colon of a key.
/// Other lines count as unknown keys.
fn keys_of_lines(text: &str) -> Vec<&str> {
    let is_of_structure = |line: &&str| {
        line.trim().is_empty()
            || line.starts_with([' ', '\t', '#', '-', '.', '[', ']', '{', '}', '%'])
    };
    let is_end = |behind: &str| behind.trim_end().is_empty() || behind.starts_with([' ', '\t']);
    let lines = text
        .trim_start_matches('\u{feff}')
        .lines()
        .filter(|line| !is_of_structure(line));
    let key = |line| match str::split_once(line, ':') {
        Some((key, behind)) if is_end(behind) => key.trim_end().trim_matches(['"', '\'']),
        _ => "",
    };
    lines.map(key).collect()
}

/// The keys of the outermost braces.
fn keys_in_braces(text: &str) -> Vec<&str> {
    let (mut keys, mut depth, mut quote, mut start) = (Vec::new(), 0_usize, None, None);
    for (place, character) in text.char_indices() {
        match character {
            '"' | '\'' if quote.is_none() => quote = Some(character),
            _ if quote == Some(character) => quote = None,
            _ if quote.is_some() => {}
            '{' | '[' => depth = depth.saturating_add(1),
            '}' | ']' => depth = depth.saturating_sub(1),
            ':' if depth == 1 => keys.extend(start.take().and_then(|start| text.get(start..place))),
            _ => {}
        }
        if quote.is_none() && ['{', ',', '\n'].contains(&character) {
            start = Some(place + 1);
        }
    }
    keys.into_iter()
        .map(|key| key.trim().trim_matches(['"', '\'']))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::schema;

    #[test]
    fn files_of_ours_are_known_by_a_key_at_their_top() {
        for ours in [
            "devices: []\n",
            "# x\nsite: x\nlinse:\n",
            "{ \"devices\": [] }",
            "{\n  'lines': []\n}\n",
            "devces : [\n",
            "broker: {\n",
        ] {
            assert!(is_of_a_gateway(ours), "{ours}");
        }
        let shadow = "root:$y$j9T$abc:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        for other in [
            shadow,
            "",
            "AccessKey: x\n",
            "-----BEGIN PRIVATE KEY-----\n",
            "  devices: []\n",
            "version: '3'\n",
            "{ \"auths\": {} }",
        ] {
            assert!(!is_of_a_gateway(other) && !is_profile(other), "{other}");
        }
        let users = "root:x:0:0::/root:/bin/sh\nbroker:x:100:100::/:/bin/false\noutbox:*:19000::::::\nlines::1:\n";
        let mostly_others = "a: 1\nb: 2\nsite: x\n";
        for other in [
            users,
            "broker:x:1:\n",
            "uplink:*:19000:\n",
            mostly_others,
            "{ \"a\": { \"site\": 1 } }",
            "{ \"a\": 1, \"b\": 2, \"site\": 3 }",
        ] {
            assert!(!is_of_a_gateway(other), "{other}");
        }
        for ours in [
            "version: 1\nsite: x\n",
            "{\"site\":\"x\",\"lines\":[{\"a\":1,\"b\":2}]}",
            "devices:\n- name: x\n- name: y\n  points:\n",
        ] {
            assert!(is_of_a_gateway(ours), "{ours}");
        }
        assert!(is_profile("points: {}\n") && !is_of_a_gateway("points: {}\n"));
        assert!(is_empty("\n# nothing\n  \n") && !is_empty("x"));
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let check = |schema: serde_json::Value, keys: &[&str], left_out: &[&str]| {
            let all: BTreeSet<String> = schema["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            let known = keys
                .iter()
                .chain(left_out)
                .map(|key| (*key).to_owned())
                .collect();
            assert_eq!(all, known);
        };
        check(schema::of_file(), &OF_PARTS, &["version", "log", "health"]);
        check(schema::of_profile(), &OF_PROFILES, &[]);
    }
}
