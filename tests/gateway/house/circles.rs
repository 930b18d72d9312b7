//! Files that use each other. A folder and what is in it belong together; circles are looked for
//! between all others.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{absolute, leaves_of, named};
use super::tree::SourceFile;

/// The files of each circle.
pub fn circles(files: &[SourceFile]) -> Vec<String> {
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
            let paths = named(file).inside;
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
