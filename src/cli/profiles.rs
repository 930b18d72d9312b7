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
        let described = presets::names().filter_map(|name| Some((name, title(presets::text(name)?))));
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

/// A line that is as long as this goes on in the next one.
const WRAPPED: usize = 100;

/// What a profile says it is for: the first line of its comment, or the whole first sentence of one that is wrapped.
fn title(text: &str) -> String {
    let mut lines = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let mut title = lines.next().unwrap_or_default().to_owned();
    let mut last = title.len();
    while last >= WRAPPED && !title.contains(". ") {
        let Some(line) = lines.next() else { break };
        title = format!("{title} {line}");
        last = line.len();
    }
    title.split_once(". ").map_or(title.clone(), |(sentence, _)| sentence.to_owned())
}
