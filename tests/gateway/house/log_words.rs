//! What tests look for in the log of a gateway: events, whose names are part of what wellhead
//! promises, and never the words of a sentence, which may become better ones.
//!
//! Read as tokens, because much of it stands in the arguments of macros. A text is of the log if it
//! comes from `output()` of something named `gateway`, from something named `log`, or from a
//! variable that got its value from such a text.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use proc_macro2::{Group, Literal, TokenStream, TokenTree};
use quote::ToTokens;

use super::tree::{SourceFile, collect};

/// A text that a test looks for.
pub struct Asked {
    file: String,
    line: usize,
    pub text: String,
}

impl Asked {
    pub fn as_pair(&self) -> (&str, &str) {
        (&self.file, &self.text)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tests/gateway/{}:{} {:?}",
            self.file, self.line, self.text
        )
    }
}

/// What all integration tests look for.
#[derive(Default)]
pub struct LogWords {
    /// Texts in a log that name no event.
    pub texts: Vec<Asked>,
    /// Names of events.
    pub events: Vec<Asked>,
    file: String,
    /// Variables with a text of the log.
    logs: BTreeSet<String>,
}

impl LogWords {
    pub fn of_the_tests() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway");
        let mut paths = Vec::new();
        collect(&root, &mut paths);
        paths.sort();
        let mut found = Self::default();
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            found.file = path.strip_prefix(&root).unwrap().display().to_string();
            for item in syn::parse_file(&text).unwrap().items {
                found.logs.clear();
                found.read(item.into_token_stream());
            }
        }
        found
    }

    fn read(&mut self, stream: TokenStream) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            match tree {
                TokenTree::Ident(_) => {
                    let calls = Calls::from(&trees[at..]);
                    let is_log = self.look_at(&calls);
                    if let (true, Some(name)) = (is_log, assigned(&trees[..at])) {
                        self.logs.insert(name);
                    }
                    at += calls.length;
                }
                TokenTree::Group(group) => {
                    self.read(group.stream());
                    at += 1;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// True if these calls begin with a text of the log.
    fn look_at(&mut self, calls: &Calls) -> bool {
        let is_gateway = calls
            .names
            .iter()
            .any(|(name, _)| name.ends_with("gateway"));
        let mut is_log = false;
        for (place, (name, arguments)) in calls.names.iter().enumerate() {
            let Some(arguments) = arguments else {
                is_log |= name == "log" || (place == 0 && self.logs.contains(name));
                continue;
            };
            match name.as_str() {
                "events" | "wait_for_event" | "wait_for_object" => self.event(arguments),
                "wait_for_output" if is_gateway => self.text(arguments),
                "output" => is_log |= is_gateway,
                "log" => is_log = true,
                _ if is_log => self.text(arguments),
                _ => {}
            }
            self.read(arguments.stream());
        }
        is_log
    }

    /// The name of an event, which comes first.
    fn event(&mut self, arguments: &Group) {
        let event = texts(arguments.stream()).into_iter().next();
        let event = event.filter(|(_, text)| !text.contains('='));
        self.events
            .extend(event.map(|literal| asked(&self.file, literal)));
    }

    fn text(&mut self, arguments: &Group) {
        let mut found = texts(arguments.stream());
        // What a variable holds cannot be seen; a constant should name events.
        if found.is_empty() && is_variable(arguments) {
            let line = arguments.span_open().start().line;
            found.push((line, arguments.stream().to_string()));
        }
        let found = found.into_iter();
        let texts = found.filter(|(_, text)| !text.contains("event="));
        self.texts
            .extend(texts.map(|literal| asked(&self.file, literal)));
    }
}

/// A name, or what is behind one: `&name`.
fn is_variable(arguments: &Group) -> bool {
    let trees: Vec<TokenTree> = arguments.stream().into_iter().collect();
    match trees.as_slice() {
        [TokenTree::Ident(name)] | [TokenTree::Punct(_), TokenTree::Ident(name)] => !name
            .to_string()
            .chars()
            .all(|c| c.is_uppercase() || c == '_'),
        _ => false,
    }
}

fn asked(file: &str, (line, text): (usize, String)) -> Asked {
    Asked {
        file: file.to_owned(),
        line,
        text,
    }
}

/// `name.call(arguments).call(arguments)`: names, each with its arguments if it is a call.
struct Calls {
    names: Vec<(String, Option<Group>)>,
    /// How many tokens it takes.
    length: usize,
}

impl Calls {
    fn from(trees: &[TokenTree]) -> Self {
        let mut names: Vec<(String, Option<Group>)> = Vec::new();
        let mut length = 0;
        let mut is_continued = true;
        for tree in trees {
            match tree {
                TokenTree::Ident(name) if is_continued => {
                    names.push((name.to_string(), None));
                    is_continued = false;
                }
                TokenTree::Punct(sign) if sign.as_char() == '.' => is_continued = true,
                TokenTree::Group(group)
                    if group.delimiter() == proc_macro2::Delimiter::Parenthesis =>
                {
                    match names.last_mut() {
                        Some((_, arguments @ None)) if !is_continued => {
                            *arguments = Some(group.clone());
                        }
                        _ => break,
                    }
                }
                _ => break,
            }
            length += 1;
        }
        Self { names, length }
    }
}

/// The variable of `let name = ` at the end.
fn assigned(before: &[TokenTree]) -> Option<String> {
    let mut words = before.iter().rev();
    let is_sign = |tree: Option<&TokenTree>, wanted: char| matches!(tree, Some(TokenTree::Punct(sign)) if sign.as_char() == wanted);
    if !is_sign(words.next(), '=') {
        return None;
    }
    match words.next() {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

/// The string literals of a stream, with their lines.
fn texts(stream: TokenStream) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for tree in stream {
        match tree {
            TokenTree::Group(group) => found.extend(texts(group.stream())),
            TokenTree::Literal(literal) => found.extend(text_of(&literal)),
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
    found
}

fn text_of(literal: &Literal) -> Option<(usize, String)> {
    let text: syn::LitStr = syn::parse2(TokenTree::from(literal.clone()).into()).ok()?;
    Some((literal.span().start().line, text.value()))
}

/// All texts in production code: what a test names as an event is one of them.
pub fn texts_of(files: &[SourceFile]) -> BTreeSet<String> {
    files
        .iter()
        .flat_map(|file| &file.items)
        .flat_map(|item| texts(item.to_token_stream()))
        .map(|(_, text)| text)
        .collect()
}
