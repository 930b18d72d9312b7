//! Profiles outside the YAML: `profiles/<name>.yaml` beside it, or one that comes with the program. Each is what stands below a name of
//! `profiles:`, which goes before both.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use indexmap::IndexMap;

use super::document::Document;
use super::fault::{self, Faults};
use super::file::{File, Profile};
use super::{ours, presets};
use crate::files;

const FOLDER: &str = "profiles";

/// The profiles that devices of a file name and that stand in files of their own; `None` for one with faults.
pub(super) type Profiles = IndexMap<String, Option<Profile>>;

/// The text of a profile in a file of its own, or of one that comes with the program; what cannot be read counts as not there.
pub fn text(folder: &Path, name: &str) -> Option<String> {
    let own = is_simple(name)
        .then(|| files::text(&folder.join(format!("{FOLDER}/{name}.yaml"))).ok())
        .flatten();
    own.or_else(|| presets::text(name).map(str::to_owned))
}

/// Reads the profiles that devices of `file` name; faults of their files are noted.
pub(super) fn load(file: &File, folder: &Path, faults: &mut Faults) -> Profiles {
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
        let text = match files::text(&folder.join(&shown)) {
            Ok(text) => Cow::Owned(text),
            Err(error) if error.kind() == ErrorKind::NotFound => match presets::text(name) {
                Some(text) => Cow::Borrowed(text),
                None => continue,
            },
            Err(error) => {
                faults.at(
                    fault::START,
                    format!("{shown}: {error}; the user who runs wellhead must be able to read it"),
                );
                found.insert(name.clone(), None);
                continue;
            }
        };
        let is_ours = ours::is_profile(&text);
        let mut own = Faults::of_a_stranger(&shown, &text, is_ours);
        if !is_ours && !ours::is_empty(&text) {
            own.at(
                fault::START,
                "this file is no profile: it has none of their keys; begin with `points:`"
                    .to_owned(),
            );
            found.insert(name.clone(), None);
            faults.append(own);
            continue;
        }
        let profile = Document::parse(&text, &mut own)
            .and_then(|mut document| document.typed::<Profile>(&mut own));
        if profile.is_none() && own.is_empty() {
            own.at(
                fault::START,
                "nothing in this file; begin with `points:`".to_owned(),
            );
        }
        found.insert(name.clone(), profile.filter(|_| own.is_empty()));
        faults.append(own);
    }
    found
}

/// True if a name stands for a profile that comes with the program, and not for a file.
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
