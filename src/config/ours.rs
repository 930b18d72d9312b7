//! Whether a text is a file of ours: of any other file, such as one of passwords that was included by mistake or on purpose, messages say
//! nothing of what is in it. Pure.

use super::fault::is_slip_of_one;

/// The keys at the top of a file of a gateway; those that are at the top of many other files, too, are left out.
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
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

/// True if a key at the top is one of these, or a slip of the pen away from one.
fn has_one_of(text: &str, keys: &[&str]) -> bool {
    let is_in_braces = text.trim_start().starts_with('{');
    let keys_of_lines = text.lines().filter_map(|line| {
        let line = if is_in_braces { line.trim_start_matches([' ', '\t', '{', ',']) } else { line };
        let (key, _) = line.split_once(':')?;
        Some(key.trim_end().trim_matches(['"', '\'']))
    });
    keys_of_lines.into_iter().any(|key| keys.contains(&key) || (key.len() >= SHORTEST_SLIP && is_slip_of_one(key, keys)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::schema;

    #[test]
    fn files_of_ours_are_known_by_a_key_at_their_top() {
        for ours in
            ["devices: []\n", "# x\nsite: x\nlinse:\n", "{ \"devices\": [] }", "{\n  'lines': []\n}\n", "devces : [\n", "broker: {\n"]
        {
            assert!(is_of_a_gateway(ours), "{ours}");
        }
        let shadow = "root:$y$j9T$abc:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        for other in
            [shadow, "", "AccessKey: x\n", "-----BEGIN PRIVATE KEY-----\n", "  devices: []\n", "version: '3'\n", "{ \"auths\": {} }"]
        {
            assert!(!is_of_a_gateway(other) && !is_profile(other), "{other}");
        }
        assert!(is_profile("points: {}\n") && !is_of_a_gateway("points: {}\n"));
        assert!(is_empty("\n# nothing\n  \n") && !is_empty("x"));
    }

    #[test]
    fn the_keys_are_those_of_the_schema() {
        let check = |schema: serde_json::Value, keys: &[&str], left_out: &[&str]| {
            let all: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
            let known = keys.iter().chain(left_out).map(|key| (*key).to_owned()).collect();
            assert_eq!(all, known);
        };
        check(schema::of_file(), &OF_PARTS, &["version", "log"]);
        check(schema::of_profile(), &OF_PROFILES, &[]);
    }
}
