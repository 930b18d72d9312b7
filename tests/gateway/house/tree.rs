//! The source as a parser reads it, without its tests.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

/// A production file.
pub struct SourceFile {
    /// From `src/`, with slashes.
    pub name: String,
    /// The path of its module: `["uplink", "session"]`.
    pub module: Vec<String>,
    /// What is in it, without tests.
    pub items: Vec<syn::Item>,
    /// Lines that are no comments and belong to no test.
    pub lines: usize,
    /// Tokens, not counting those of attributes and documentation.
    pub tokens: usize,
}

impl fmt::Display for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "src/{}: {} lines, {} tokens",
            self.name, self.lines, self.tokens
        )
    }
}

/// All of `src`, in the order of their names.
pub fn source_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let files: Vec<SourceFile> = paths.iter().filter_map(|path| read(path, &root)).collect();
    assert!(files.len() > 100, "the tree was not found");
    files
}

/// The Rust files of a folder and its folders.
pub fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `None` for a file of tests.
fn read(path: &Path, root: &Path) -> Option<SourceFile> {
    let name = path
        .strip_prefix(root)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let is_test = name == "testing.rs" || name.ends_with("/tests.rs") || name.contains("/tests/");
    if is_test {
        return None;
    }
    let text = fs::read_to_string(path).unwrap();
    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("src/{name}: {error}"));
    let (tests, items): (Vec<_>, Vec<_>) = file
        .items
        .into_iter()
        .partition(|item| is_for_tests(attributes(item)));
    let of_tests: usize = tests.iter().map(|item| lines_of(item.span())).sum();
    let comments = text
        .lines()
        .filter(|line| line.trim_start().starts_with("//"))
        .count();
    let comments_of_tests: usize = tests
        .iter()
        .map(|item| comments_within(&text, item.span()))
        .sum();
    let lines = text.lines().count() - of_tests - (comments - comments_of_tests);
    let tokens = items
        .iter()
        .map(|item| tokens(without_attributes(item.to_token_stream())))
        .sum();
    Some(SourceFile {
        module: module_of(&name),
        name,
        items,
        lines,
        tokens,
    })
}

fn module_of(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".rs").unwrap();
    let mut levels: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if levels
        .last()
        .is_some_and(|last| last == "mod" || last == "lib" || last == "main")
    {
        levels.pop();
    }
    levels
}

fn comments_within(text: &str, span: proc_macro2::Span) -> usize {
    let (first, last) = (span.start().line, span.end().line);
    text.lines()
        .skip(first - 1)
        .take(last + 1 - first)
        .filter(|line| line.trim_start().starts_with("//"))
        .count()
}

/// How many lines something takes.
pub fn lines_of(span: proc_macro2::Span) -> usize {
    span.end().line + 1 - span.start().line
}

/// Words, literals, brackets and signs; a sign of several characters is one.
pub fn tokens(stream: TokenStream) -> usize {
    let mut count = 0;
    let mut is_joint = false;
    for tree in stream {
        let was_joint = std::mem::take(&mut is_joint);
        match tree {
            TokenTree::Group(group) => count += 2 + tokens(group.stream()),
            TokenTree::Punct(sign) => {
                count += usize::from(!was_joint);
                is_joint = sign.spacing() == Spacing::Joint && sign.as_char() != '\'';
            }
            TokenTree::Ident(_) | TokenTree::Literal(_) => count += 1,
        }
    }
    count
}

/// Tokens that do something: documentation is an attribute, too.
pub fn without_attributes(stream: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Punct(sign) if sign.as_char() == '#' => {
                trees.next_if(
                    |next| matches!(next, TokenTree::Punct(sign) if sign.as_char() == '!'),
                );
                trees.next_if(|next| matches!(next, TokenTree::Group(_)));
            }
            TokenTree::Group(group) => {
                let inside = without_attributes(group.stream());
                kept.push(TokenTree::Group(proc_macro2::Group::new(
                    group.delimiter(),
                    inside,
                )));
            }
            other => kept.push(other),
        }
    }
    kept.into_iter().collect()
}

/// True for what is only there for tests.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("test")
    })
}

/// The attributes of an item.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}
