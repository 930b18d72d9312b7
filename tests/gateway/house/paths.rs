//! What a file names: paths of `use` trees and of code, and whether it waits for anything.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::tree::{SourceFile, is_for_tests};

/// All that the production code of a file names.
pub struct Named {
    /// Paths from the root of this crate: `["store", "journal", "Journal"]`.
    pub inside: Vec<Vec<String>>,
    /// Paths into other crates, and unqualified names that may be such:
    /// `["tokio", "sync", "mpsc"]`.
    pub outside: BTreeSet<Vec<String>>,
    /// True if there is an `.await`.
    pub awaits: bool,
}

/// Reads them from the syntax tree, so that nested `use` trees, `super::super::` and text in
/// strings are no matter.
pub fn named(file: &SourceFile) -> Named {
    let mut paths = Paths::default();
    file.items.iter().for_each(|item| paths.visit_item(item));
    let (mut inside, mut outside) = (Vec::new(), BTreeSet::new());
    for path in paths.found {
        let first = path.first().map(String::as_str);
        if !matches!(first, Some("crate" | "self" | "super")) {
            outside.insert(path.clone());
        }
        inside.extend(absolute(&path, &file.module));
    }
    Named {
        inside,
        outside,
        awaits: paths.awaits,
    }
}

/// Every path of a `use` tree, with the name it gets here.
pub fn leaves_of(
    tree: &syn::UseTree,
    before: &mut Vec<String>,
    leaves: &mut Vec<(Vec<String>, String)>,
) {
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves_of(&path.tree, before, leaves);
            before.pop();
        }
        syn::UseTree::Name(name) => {
            let mut path = before.clone();
            if name.ident != "self" {
                path.push(name.ident.to_string());
            }
            let last = path.last().cloned().unwrap_or_default();
            leaves.push((path, last));
        }
        syn::UseTree::Rename(renamed) => {
            let mut path = before.clone();
            path.push(renamed.ident.to_string());
            leaves.push((path, renamed.rename.to_string()));
        }
        syn::UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| leaves_of(tree, before, leaves)),
        syn::UseTree::Glob(_) => leaves.push((before.clone(), String::new())),
    }
}

/// A path from the root of the crate.
pub fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut here = module.to_vec();
    let mut rest = path.iter().peekable();
    match rest.peek()?.as_str() {
        "crate" => {
            rest.next();
            here.clear();
        }
        "self" => {
            rest.next();
        }
        "super" => {
            while rest.next_if(|level| *level == "super").is_some() {
                here.pop()?;
            }
        }
        _ => {}
    }
    Some(here.into_iter().chain(rest.cloned()).collect())
}

#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
    awaits: bool,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut leaves = Vec::new();
        leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
        self.found.extend(leaves.into_iter().map(|(path, _)| path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let levels: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if levels.len() > 1 {
            self.found.push(levels);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_await(&mut self, expression: &'ast syn::ExprAwait) {
        self.awaits = true;
        visit::visit_expr_await(self, expression);
    }

    // The arguments of a macro are tokens, not syntax: `select!` and `info!` hold code.
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }
}

impl Paths {
    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut is_continued = false;
        for tree in stream {
            match tree {
                TokenTree::Ident(word) => {
                    self.awaits |= word == "await";
                    if !is_continued {
                        self.end(&mut path);
                    }
                    path.push(word.to_string());
                    is_continued = false;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' => is_continued = true,
                TokenTree::Group(group) => {
                    self.end(&mut path);
                    is_continued = false;
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end(&mut path);
                    is_continued = false;
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.found.push(path);
        }
    }
}
