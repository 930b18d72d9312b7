//! How wide comments are, in every Rust file of the repository.

use std::fmt;
use std::fs;
use std::path::Path;

use super::tree::collect;

/// Columns of a line.
const WIDTH: usize = 100;

/// A line of a comment that does not fit the page.
pub struct WideComment {
    file: String,
    line: usize,
    width: usize,
}

impl fmt::Display for WideComment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} columns", self.file, self.line, self.width)
    }
}

/// All of them in `src`, `tests` and `benches`. A table, a block in a fence and a line that cannot
/// be broken may be wider.
pub fn wide_comments() -> Vec<WideComment> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 200, "the tree was not found");
    let mut found = Vec::new();
    for path in paths {
        let file = path.strip_prefix(root).unwrap().display().to_string();
        let wide = wide_lines(&fs::read_to_string(&path).unwrap());
        found.extend(wide.into_iter().map(|(line, width)| WideComment {
            file: file.clone(),
            line,
            width,
        }));
    }
    found
}

/// Number and width of each such line.
fn wide_lines(text: &str) -> Vec<(usize, usize)> {
    let (mut found, mut is_fenced) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        let Some(said) = line.trim_start().strip_prefix("//") else {
            is_fenced = false;
            continue;
        };
        let said = said.trim_start_matches(['/', '!']).trim_start();
        if said.starts_with("```") {
            is_fenced = !is_fenced;
        }
        let width = line.chars().count();
        let is_wide = width > WIDTH && !is_fenced && !line.contains('|');
        if is_wide && can_be_broken(said, WIDTH.saturating_sub(width - said.chars().count())) {
            found.push((number, width));
        }
    }
    found
}

/// True if there is a space within `room` characters, or right behind them, that is not part of
/// code, of a link, or of what marks an item of a list.
fn can_be_broken(said: &str, room: usize) -> bool {
    let rest = said.trim_start_matches(['*', '-', '>', ' ']);
    let room = room.saturating_sub(said.chars().count() - rest.chars().count());
    let (mut in_code, mut in_link) = (false, false);
    for character in rest.chars().take(room + 1) {
        match character {
            '`' => in_code = !in_code,
            '[' if !in_code => in_link = true,
            ']' if !in_code => in_link = false,
            ' ' if !in_code && !in_link => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn a_comment_is_wide_if_it_could_be_broken() {
    let words = "word ".repeat(25);
    let long = "x".repeat(120);
    let wide = |lines: &[&str]| -> Vec<usize> {
        let lines = wide_lines(&lines.join("\n"));
        lines.into_iter().map(|(line, _)| line).collect()
    };
    for marker in ["//", "///", "//!", "    // *"] {
        assert_eq!(wide(&["fn f() {}", &format!("{marker} {words}")]), [2]);
        assert_eq!(wide(&[&format!("{marker} {long} {words}")]), [0; 0]);
        assert_eq!(wide(&[&format!("{marker} | {words} |")]), [0; 0]);
        assert_eq!(wide(&[&format!("{marker} `{words}`")]), [0; 0]);
        assert_eq!(wide(&[&format!("{marker} [{words}]")]), [0; 0]);
        assert_eq!(wide(&[&format!("{marker} a `{words}`")]), [1]);
    }
    let fence = [
        "/// ```text",
        &format!("/// {words}"),
        "/// ```",
        &format!("/// {words}"),
    ];
    assert_eq!(wide(&fence), [4]);
    assert_eq!(
        wide(&["/// ```text", "fn f() {}", &format!("// {words}")]),
        [3]
    );
    assert_eq!(wide(&[&format!("let x = \"// {words}\";")]), [0; 0]);
    assert_eq!(wide(&[&format!("// {}", "x".repeat(97))]), [0; 0]);
    assert_eq!(
        wide(&[&format!("// {} {}", "x".repeat(49), "y".repeat(47))]),
        [0; 0]
    );
    assert_eq!(
        wide(&[&format!("// {} {}", "x".repeat(49), "y".repeat(48))]),
        [1]
    );
}
