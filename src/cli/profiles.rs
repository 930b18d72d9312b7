//! `wellhead profiles`: the instruments that the program knows by name.

use super::{Failure, put};
use crate::config::presets;

/// Lists the profiles whose name or description holds `word`; prints the text of the one whose name it is.
pub(super) fn profiles(word: &str) -> Result<(), Failure> {
    let mut out = String::new();
    if let Some(text) = presets::text(word) {
        out.push_str(text);
    } else {
        let wanted = word.to_lowercase();
        let described = presets::names().filter_map(|name| Some((name, presets::text(name)?.lines().next()?.trim_start_matches("# "))));
        for (name, description) in described.filter(|(name, text)| name.contains(&wanted) || text.to_lowercase().contains(&wanted)) {
            out.push_str(&format!("{name:<36} {description}\n"));
        }
    }
    if out.is_empty() {
        return Err(Failure::runtime(format!(
            "no profile has \"{word}\" in its name or description; write one of your own below `profiles:`, or into profiles/<name>.yaml"
        )));
    }
    put(out.as_bytes()).map(drop)
}
