//! Profiles outside the YAML: `profiles/<name>.yaml` beside it, or one that comes with the program.
//! Each is like an entry of `profiles:`, which goes before both.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use indexmap::IndexMap;

use super::diagnostics::{Diagnostics, START};
use super::document::Document;
use super::file::{File, Profile};
use super::{ours, presets};
use crate::files;

const FOLDER: &str = "profiles";

/// Profiles in files of their own that devices name; `None` for one with faults.
pub(super) type Profiles = IndexMap<String, Option<Profile>>;

/// The text of a profile in a file of its own, or of one that comes with the program; what cannot
/// be read counts as not there.
pub fn text(folder: &Path, name: &str) -> Option<String> {
    let own = is_simple(name)
        .then(|| files::text(&folder.join(format!("{FOLDER}/{name}.yaml"))).ok())
        .flatten();
    own.or_else(|| presets::text(name).map(str::to_owned))
}

/// Reads the profiles that devices of `file` name; faults of their files are noted.
pub(super) fn load(file: &File, folder: &Path, faults: &mut Diagnostics) -> Profiles {
    let wanted: BTreeSet<&String> = file
        .devices
        .iter()
        .filter_map(|device| device.profile.as_ref())
        .collect();
    let mut found = Profiles::new();
    for name in wanted
        .into_iter()
        .filter(|name| !file.profiles.contains_key(*name) && is_simple(name))
    {
        let shown = format!("{FOLDER}/{name}.yaml");
        let profile = match files::text(&folder.join(&shown)) {
            Ok(text) => parsed(&shown, &text, faults),
            Err(error) if error.kind() == ErrorKind::NotFound => match presets::text(name) {
                Some(text) => parsed(&shown, text, faults),
                None => continue,
            },
            Err(error) => {
                faults.at(
                    START,
                    format!("{shown}: {error}; the user who runs wellhead must be able to read it"),
                );
                None
            }
        };
        found.insert(name.clone(), profile);
    }
    found
}

/// A profile of this text; `None` if it has faults, which are added to `faults`.
fn parsed(shown: &str, text: &str, faults: &mut Diagnostics) -> Option<Profile> {
    let is_ours = ours::is_profile(text);
    let mut own = Diagnostics::of_foreign_file(shown, text, is_ours);
    let profile = if !is_ours && !ours::is_empty(text) {
        own.at(
            START,
            "this file is no profile: it has none of their keys; begin with `points:`".to_owned(),
        );
        None
    } else {
        let mut document = Document::parse(text, &mut own);
        document
            .as_mut()
            .and_then(|document| document.typed::<Profile>(&mut own))
    };
    if profile.is_none() && own.is_empty() {
        own.at(
            START,
            "nothing in this file; begin with `points:`".to_owned(),
        );
    }
    let profile = profile.filter(|_| own.is_empty());
    faults.append(own);
    profile
}

/// True if a profile comes with the program, and no file overrides it.
pub(super) fn is_of_the_program(folder: &Path, name: &str) -> bool {
    presets::text(name).is_some() && !folder.join(format!("{FOLDER}/{name}.yaml")).exists()
}

/// The names that could be used: of `profiles/` below `folder`, and of what comes with the program.
pub fn names(folder: &Path) -> Vec<String> {
    // Without the folder there are none.
    let entries = fs::read_dir(folder.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".yaml")?
                    .to_owned(),
            )
        })
        .collect();
    names.extend(presets::names().map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

/// Not a way out of the folder.
fn is_simple(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}
