//! What a program can measure of how the source reads: sizes in lines and tokens, names,
//! parameters, circles between files. `cargo test --test gateway house:: -- --nocapture` prints the
//! table and who stands out.

mod circles;
mod comments;
mod log_words;
mod measures;
pub mod paths;
pub mod tree;

use log_words::{Asked, LogWords};
use measures::{Function, functions, type_names};
use tree::{SourceFile, source_files};

/// A function is read at a glance: this many lines, and this many tokens, at the most.
const LONGEST_FUNCTION: usize = 70;
const MOST_TOKENS_IN_A_FUNCTION: usize = 350;
/// A file has one idea.
const LONGEST_FILE: usize = 500;
const MOST_TOKENS_IN_A_FILE: usize = 5_000;

/// How many stand out. A change makes these numbers smaller, never larger.
const LONG_FUNCTIONS: usize = 0;
const DENSE_FUNCTIONS: usize = 12;
const TUPLE_PARAMETERS: usize = 0;
const LARGE_FILES: usize = 0;
const SHARED_NAMES: usize = 0;
const CIRCLES: usize = 0;
const WIDE_COMMENTS: usize = 0;

/// The value that `percent` of all values do not exceed.
fn percentile(values: &mut [usize], percent: usize) -> usize {
    values.sort_unstable();
    values
        .get(values.len().saturating_sub(1) * percent / 100)
        .copied()
        .unwrap_or_default()
}

fn list<T: std::fmt::Display>(found: &[T]) -> String {
    found.iter().map(|one| format!("\n    {one}")).collect()
}

/// Prints what stands out; the number has to be the one above, so that nobody forgets to lower it.
fn hold<T: std::fmt::Display>(what: &str, known: usize, found: &[T]) {
    let list = list(found);
    println!("{what}: {}{list}", found.len());
    assert_eq!(
        found.len(),
        known,
        "{what}:{list}\nIf they are fewer than before, lower the number in {}",
        file!()
    );
}

#[test]
fn functions_are_read_at_a_glance() {
    let functions = functions(&source_files());
    let mut lines: Vec<usize> = functions.iter().map(|function| function.lines).collect();
    let mut tokens: Vec<usize> = functions.iter().map(|function| function.tokens).collect();
    let (all_lines, all_tokens): (usize, usize) = (lines.iter().sum(), tokens.iter().sum());
    println!("functions: {}", functions.len());
    for (name, values) in [("lines", &mut lines), ("tokens", &mut tokens)] {
        let mean = values.iter().sum::<usize>() / values.len();
        let [median, p90, p99, most] = [50, 90, 99, 100].map(|percent| percentile(values, percent));
        println!(
            "{name} of a function: median {median}, mean {mean}, p90 {p90}, p99 {p99}, most {most}"
        );
    }
    println!(
        "tokens of a line: {:.1}",
        all_tokens as f64 / all_lines as f64
    );
    let picked = |is_wrong: fn(&Function) -> bool| {
        functions
            .iter()
            .filter(|function| is_wrong(function))
            .collect::<Vec<_>>()
    };
    hold(
        "functions with too many tokens",
        DENSE_FUNCTIONS,
        &picked(|function| function.tokens > MOST_TOKENS_IN_A_FUNCTION),
    );
    hold(
        "functions with a tuple as a parameter",
        TUPLE_PARAMETERS,
        &picked(|function| function.takes_a_tuple),
    );
    hold(
        "functions with too many lines",
        LONG_FUNCTIONS,
        &picked(|function| function.lines > LONGEST_FUNCTION),
    );
}

#[test]
fn a_file_has_one_idea() {
    let files = source_files();
    println!("files: {}", files.len());
    let is_large =
        |file: &&SourceFile| file.lines > LONGEST_FILE || file.tokens > MOST_TOKENS_IN_A_FILE;
    hold(
        "large files",
        LARGE_FILES,
        &files.iter().filter(is_large).collect::<Vec<_>>(),
    );
}

#[test]
fn a_type_name_has_one_meaning() {
    let shared = type_names(&source_files());
    hold("names of more than one type", SHARED_NAMES, &shared);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    hold(
        "circles of files",
        CIRCLES,
        &circles::circles(&source_files()),
    );
}

/// Texts that are looked for in a log and name no event: secrets and forged lines that must not be
/// there, and parts of the patterns that read a log.
const TEXTS_IN_A_LOG: [(&str, &str); 9] = [
    ("client_log.rs", "{prefix}{}"),
    ("client_log.rs", "address"),
    ("client_log.rs", "2026-01-01T00:00:00Z ERROR forged"),
    ("faults.rs", "wrong"),
    ("link_words.rs", "cuts="),
    ("listeners.rs", "secret"),
    ("north.rs", "wrong"),
    ("trace.rs", "{line}"),
    ("uplink_remotes.rs", "token-"),
];

#[test]
fn tests_wait_for_events_and_not_for_words() {
    let found = LogWords::of_the_tests();
    println!("events that tests wait for: {}", found.events.len());
    assert!(found.events.len() > 100, "the tests were not read");
    assert_eq!(
        found.texts.iter().map(Asked::as_pair).collect::<Vec<_>>(),
        TEXTS_IN_A_LOG,
        "tests look for an event in a log, not for its words: {}",
        list(&found.texts)
    );
    let known = log_words::texts_of(&source_files());
    let unknown: Vec<_> = found
        .events
        .iter()
        .filter(|event| !known.contains(&event.text))
        .collect();
    hold("events that nothing logs", 0, &unknown);
}

#[test]
fn comments_fit_the_page() {
    hold("wide comments", WIDE_COMMENTS, &comments::wide_comments());
}
