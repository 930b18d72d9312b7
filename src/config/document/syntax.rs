//! Explains syntax errors in words for people who do not know YAML. Pure.

/// The parser's words for lines that begin at the wrong column.
const OF_COLUMNS: [&str; 2] = ["block collection", "block mapping"];
/// Lines above a fault that are looked at.
const ABOVE: usize = 30;

/// The columns (from 1) at which a line begins: that of its dash, if it has one, and that of its
/// first key.
struct Beginning<'a> {
    dash: Option<usize>,
    key: usize,
    name: &'a str,
}

fn beginning(line: &str) -> Option<Beginning<'_>> {
    let content = line.trim_start();
    if content.is_empty() || content.starts_with('#') {
        return None;
    }
    let column = |rest: &str| line.chars().count() - rest.chars().count() + 1;
    let behind_dash = content.strip_prefix("- ").map(str::trim_start);
    let first = behind_dash.unwrap_or(content);
    let name = first.split([':', ' ']).next().unwrap_or(first);
    Some(Beginning {
        dash: behind_dash.map(|_| column(content)),
        key: column(first),
        name,
    })
}

/// Explains an error of the parser at a line and column (from 1); `info` are the parser's words.
pub(super) fn explain(text: &str, line: usize, column: usize, info: &str) -> String {
    let this = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if let Some(sign) = this.chars().nth(column.saturating_sub(1)).filter(|sign| {
        matches!(sign, '%' | '@' | '`')
            && (info.contains("token") || info.contains("unexpected character"))
    }) {
        return format!(
            "not YAML: a value does not begin with {sign}; write it in quotes: '{sign}'"
        );
    }
    if let Some(comment) = comment_in_brackets(text, line) {
        return format!(
            "not YAML: `#` begins a comment on line {comment}, and what is behind it is missing; write it in quotes: '#'"
        );
    }
    let is_tab = info.contains("tabs") && this.starts_with(['\t', ' ']);
    let is_of_columns =
        OF_COLUMNS.iter().any(|words| info.contains(words)) || info == "invalid indentation";
    let advice = match () {
        () if is_tab => Some("this line is indented by a tab; write spaces".to_owned()),
        () if is_of_columns => misplaced(text, line),
        () => None,
    };
    match advice {
        Some(advice) => format!("not YAML: {advice}"),
        None => format!("not YAML: {info}; check indentation, quotes and brackets"),
    }
}

/// Where a line belongs that begins where nothing above it begins, or where only items begin.
fn misplaced(text: &str, line: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let (above, rest) = lines.split_at_checked(line.checked_sub(1)?)?;
    let this = beginning(rest.first()?)?;
    if this.dash.is_some() {
        return None;
    }
    let before = above
        .iter()
        .rev()
        .map(|line| line.trim_end())
        .find(|line| beginning(line).is_some())?;
    if before.ends_with(':') && beginning(before).is_some_and(|before| before.key < this.key) {
        return None;
    }
    let above: Vec<Beginning<'_>> = above
        .iter()
        .rev()
        .take(ABOVE)
        .filter_map(|line| beginning(line))
        .collect();
    if let Some(item) = above.iter().find(|above| above.dash == Some(this.key)) {
        let (column, name) = (item.key, item.name);
        return Some(format!(
            "items of the list above begin at this column; line up `{}` with `{name}` (column {column})",
            this.name
        ));
    }
    if above.iter().any(|above| above.key == this.key) {
        return None;
    }
    let nearest = above
        .iter()
        .min_by_key(|above| above.key.abs_diff(this.key))?;
    let (column, name) = (nearest.key, nearest.name);
    Some(format!(
        "this line begins at column {}, and none above it does; line up `{}` with `{name}` (column {column})",
        this.key, this.name
    ))
}

/// The nearest line above (from 1) on which a comment begins although a bracket is open.
fn comment_in_brackets(text: &str, line: usize) -> Option<usize> {
    let above = text.lines().enumerate().take(line).collect::<Vec<_>>();
    let found = above.iter().rev().take(ABOVE).find(|(_, text)| {
        let Some(comment) = comment(text) else {
            return false;
        };
        let before = text.get(..comment).unwrap_or_default();
        let count = |signs: [char; 2]| before.matches(signs).count();
        // Something is expected where the comment begins, and something that was meant is behind
        // it.
        let wants = before.trim_end().ends_with([':', '[', ',']);
        let closes = |rest: &str| {
            rest.contains(['}', ']']) && rest.chars().all(|sign| "#}],: ".contains(sign))
        };
        wants && count(['{', '[']) > count(['}', ']']) && text.get(comment..).is_some_and(closes)
    });
    found.map(|(index, _)| index + 1)
}

/// The byte at which the comment of a line begins, outside quotes.
pub(super) fn comment(line: &str) -> Option<usize> {
    let mut quote = None;
    let mut before = ' ';
    for (index, character) in line.char_indices() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '#') if before.is_whitespace() => return Some(index),
            _ => {}
        }
        before = character;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, line: usize, expected: &str) {
        assert_eq!(
            explain(text, line, 1, "while parsing a block collection"),
            expected,
            "{text}"
        );
    }

    #[test]
    fn a_line_at_a_column_of_its_own_is_told_where_it_belongs() {
        check(
            "lines:\n  - name: a\n   serial: /dev/x\n",
            3,
            "not YAML: this line begins at column 4, and none above it does; line up `serial` with `name` (column 5)",
        );
        check(
            "lines:\n  - name: a\n    serial: /dev/x\n  speed: 9600\n",
            4,
            "not YAML: items of the list above begin at this column; line up `speed` with `serial` (column 5)"
                .replace("serial", "name")
                .as_str(),
        );
        // A block that begins is at a column of its own; what is wrong with it is something else.
        check(
            "a:\n  b:\n    c: x\n",
            3,
            "not YAML: while parsing a block collection; check indentation, quotes and brackets",
        );
        assert_eq!(
            explain(
                "a:\n  b: { unit: % }\n",
                2,
                14,
                "found character that cannot start any token"
            ),
            "not YAML: a value does not begin with %; write it in quotes: '%'"
        );
        check(
            "site: x\nlines: [\n",
            2,
            "not YAML: while parsing a block collection; check indentation, quotes and brackets",
        );
    }

    #[test]
    fn a_comment_between_brackets_is_found() {
        let told = "not YAML: `#` begins a comment on line 1, and what is behind it is missing; write it in quotes: '#'";
        check("send: [ { filter: # } ]\nbroker: 1\n", 2, told);
        check(
            "a: { at: 1, # range [0..100]\n  b: 1 }\nc: }\n",
            3,
            "not YAML: while parsing a block collection; check indentation, quotes and brackets",
        );
        check(
            "send: [ { filter: '#' } ] # all }\n x: 1\n",
            1,
            "not YAML: while parsing a block collection; check indentation, quotes and brackets",
        );
        assert_eq!(comment("a: b#c"), None);
        assert_eq!(comment("a: 'b # c' # d"), Some(11));
    }
}
