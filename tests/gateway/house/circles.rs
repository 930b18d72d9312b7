//! Files that use each other. A folder and what is in it belong together; circles are looked for between all others.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::tree::SourceFile;

/// The files of each circle.
pub(super) fn circles(files: &[SourceFile]) -> Vec<String> {
    let graph = Graph::new(files);
    let reaches: Vec<BTreeSet<usize>> = (0..files.len())
        .map(|file| graph.reached_from(file))
        .collect();
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for file in 0..files.len() {
        let circle: BTreeSet<usize> = reaches[file]
            .iter()
            .copied()
            .filter(|other| reaches[*other].contains(&file))
            .collect();
        if circle.len() > 1 && told.insert(circle.clone()) {
            let names: Vec<&str> = circle
                .iter()
                .map(|file| files[*file].name.as_str())
                .collect();
            found.push(names.join(", "));
        }
    }
    found
}

struct Graph {
    uses: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn new(files: &[SourceFile]) -> Self {
        let modules: BTreeMap<&[String], usize> = files
            .iter()
            .enumerate()
            .map(|(index, file)| (file.module.as_slice(), index))
            .collect();
        let reexports: Vec<BTreeMap<String, Vec<String>>> = files.iter().map(reexports).collect();
        let uses = files.iter().enumerate().map(|(index, file)| {
            let paths = paths_in(file);
            let targets = paths
                .iter()
                .filter_map(|path| resolve(path, &modules, &reexports));
            targets
                .filter(|target| {
                    *target != index && !belong_together(&files[index], &files[*target])
                })
                .collect()
        });
        Self {
            uses: uses.collect(),
        }
    }

    fn reached_from(&self, file: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![file];
        while let Some(next) = waiting.pop() {
            waiting.extend(
                self.uses[next]
                    .iter()
                    .filter(|other| reached.insert(**other)),
            );
        }
        reached
    }
}

/// One is the folder of the other.
fn belong_together(one: &SourceFile, other: &SourceFile) -> bool {
    one.module.starts_with(&other.module) || other.module.starts_with(&one.module)
}

/// The file that defines what a path names: re-exports are followed.
fn resolve(
    path: &[String],
    modules: &BTreeMap<&[String], usize>,
    reexports: &[BTreeMap<String, Vec<String>>],
) -> Option<usize> {
    let mut path = path.to_vec();
    for _ in 0..8 {
        let (length, file) = (0..=path.len())
            .rev()
            .find_map(|length| Some((length, *modules.get(&path[..length])?)))?;
        let Some(item) = path.get(length) else {
            return Some(file);
        };
        match reexports[file].get(item) {
            Some(target) => path = target.iter().chain(&path[length + 1..]).cloned().collect(),
            None => return (length > 0).then_some(file),
        }
    }
    None
}

/// Names that a file passes on: `pub use child::Name`.
fn reexports(file: &SourceFile) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for item in &file.items {
        let syn::Item::Use(item) = item else { continue };
        let mut leaves = Vec::new();
        leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            if let Some(path) = absolute(&path, &file.module) {
                found.insert(name, path);
            }
        }
    }
    found
}

/// Every path of a `use` tree, with the name it gets here.
fn leaves_of(
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

/// A path from the root of the crate; `None` for what comes from elsewhere.
fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
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

/// Every path of a file that leads into the crate.
fn paths_in(file: &SourceFile) -> Vec<Vec<String>> {
    let mut paths = Paths::default();
    file.items.iter().for_each(|item| paths.visit_item(item));
    paths
        .found
        .iter()
        .filter_map(|path| absolute(path, &file.module))
        .collect()
}

#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths {
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
}
