//! Texts that fit into the columns of a terminal. Widths are those of cells: a wide character takes
//! two.

use std::io;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns if the terminal does not say, such as in a pipe.
const USUAL: usize = 80;
/// The narrowest that lines are broken for.
const LEAST: usize = 20;

/// The columns of standard output.
pub(super) fn width() -> usize {
    let size =
        rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { USUAL } else { size.max(LEAST) }
}

/// The beginning of a text that fits into `width` cells, with an ellipsis for the rest.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let begun: String = text
        .chars()
        .take_while(|character| take(*character, &mut left))
        .collect();
    if width == 0 { begun } else { begun + "…" }
}

/// The end of a text that fits.
pub(super) fn ending(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let end: Vec<char> = text
        .chars()
        .rev()
        .take_while(|character| take(*character, &mut left))
        .collect();
    let start = if width == 0 { "" } else { "…" };
    start.chars().chain(end.into_iter().rev()).collect()
}

/// A text of exactly `width` cells: cut, or padded with blanks.
pub(super) fn padded(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let blanks = width.saturating_sub(text.width());
    text + &" ".repeat(blanks)
}

/// True if a character fits into the cells that are left, which it takes.
fn take(character: char, left: &mut usize) -> bool {
    match left.checked_sub(character.width().unwrap_or(0)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

/// `head` and `text` in lines of at most `width` cells, with line ends; lines after the first begin
/// below the text.
pub(super) fn wrapped(head: &str, text: &str, width: usize) -> String {
    let indent = head.width();
    let room = width.saturating_sub(indent).max(1);
    let (mut out, mut line) = (head.to_owned(), String::new());
    let mut end = |line: &mut String| {
        if !line.is_empty() {
            out.push_str(line.trim_end());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            line.clear();
        }
    };
    for word in text.split_inclusive(' ') {
        if line.width() + word.trim_end().width() > room {
            end(&mut line);
        }
        for character in word.chars() {
            if character != ' ' && line.width() + character.width().unwrap_or(0) > room {
                end(&mut line);
            }
            line.push(character);
        }
    }
    out.push_str(line.trim_end());
    let out = out.trim_end_matches(' ').trim_end_matches('\n');
    format!("{out}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_inside_those_that_do_not_fit() {
        assert_eq!(
            wrapped("12:00 > ", "read holding 10-11: voltage", 28),
            "12:00 > read holding 10-11:\n        voltage\n"
        );
        assert_eq!(wrapped("> ", "0123456789", 7), "> 01234\n  56789\n");
        assert_eq!(wrapped("> ", "圧力計", 6), "> 圧力\n  計\n");
        assert_eq!(
            (wrapped("", "a b", 80), wrapped("x ", "", 80)),
            ("a b\n".to_owned(), "x\n".to_owned())
        );
        for width in 0..40 {
            let text = wrapped(
                "> ",
                "read holding 10-11: 電圧 voltage and-a-word-without-an-end-that-goes-on",
                width,
            );
            assert!(
                text.lines().all(|line| line.width() <= width.max(4)),
                "{width}: {text}"
            );
        }
    }

    #[test]
    fn texts_are_cut_by_the_cells_that_they_take() {
        assert_eq!(
            (cut("圧力計", 5), ending("圧力計", 5), padded("圧力", 6)),
            ("圧力…".into(), "…力計".into(), "圧力  ".into())
        );
        assert_eq!(
            (
                cut("abc", 3),
                cut("abc", 2),
                cut("abc", 0),
                ending("abc", 0)
            ),
            ("abc".into(), "a…".into(), String::new(), String::new())
        );
    }
}
