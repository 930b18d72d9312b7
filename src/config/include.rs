//! `include:`: a file in parts. Lists of the parts are put together in their order, profiles and
//! classes by name; everything else is in one part only.

use std::fs;
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostics, SourceLocation};
use super::document::{Document, PathStep};
use super::migrate::migrate;
use super::ours;
use crate::files;

const KEY: &str = "include";
/// Files of one gateway.
const MOST: usize = 500;
/// Bytes of all files together.
const LARGEST: usize = 32 << 20;

/// Reads the files that a document includes, and puts their content into it. Relative paths in them
/// are meant from `folder` too; `own` is the name of the first file, which is never a part of
/// itself.
pub(super) fn include(document: &mut Document, own: &str, folder: &Path, faults: &mut Diagnostics) {
    read_parts(document, own, folder, faults);
    document.settle();
}

fn read_parts(document: &mut Document, own: &str, folder: &Path, faults: &mut Diagnostics) {
    let (mut read, mut bytes) = (0, 0);
    for (index, typed) in document.texts_at(KEY).into_iter().enumerate() {
        let place = document.place(&[PathStep::from(KEY), PathStep::from(index)]);
        let files = match files(&folder.join(&typed), own) {
            Ok(files) if !files.is_empty() => files,
            Ok(_) => {
                faults.at(
                    place,
                    format!("no file matches {typed}; write a path from the folder of this file, with at most one `*`, in its last part"),
                );
                continue;
            }
            Err(error) => {
                faults.at(
                    place,
                    format!(
                        "{typed}: {error}; name a file that the user who runs wellhead can read"
                    ),
                );
                continue;
            }
        };
        for file in files {
            read += 1;
            if read > MOST {
                faults.at(
                    place,
                    format!("more than {MOST} files; put some of them together"),
                );
                return;
            }
            let name = file
                .strip_prefix(folder)
                .unwrap_or(&file)
                .display()
                .to_string();
            match files::text(&file) {
                Ok(text) => {
                    bytes += text.len();
                    if bytes > LARGEST {
                        faults.at(
                            place,
                            format!("the parts of this file are larger than {} MiB together; no gateway is that large", LARGEST >> 20),
                        );
                        return;
                    }
                    part(document, &name, &text, faults);
                }
                Err(error) => faults.at(
                    place,
                    format!(
                        "{name}: {error}; name a file that the user who runs wellhead can read"
                    ),
                ),
            }
        }
    }
}

fn part(document: &mut Document, name: &str, text: &str, faults: &mut Diagnostics) {
    let text = text.trim_start_matches('\u{feff}');
    let is_ours = ours::is_of_a_gateway(text);
    let number = faults.add_file(name, text, is_ours);
    if !is_ours && !ours::is_empty(text) {
        faults.at(
            SourceLocation::start_of(number),
            "this file is no part of a gateway's: it has none of their keys; a part begins with a key such as `devices:`".to_owned(),
        );
        return;
    }
    let Some(mut other) = Document::parse_file(number, text, faults) else {
        return;
    };
    if other.has(KEY) {
        faults.at(
            other.key_place(&[PathStep::from(KEY)]),
            "a file that is included includes no others; name them all in the first file"
                .to_owned(),
        );
        return;
    }
    if migrate(&mut other, faults) {
        document.absorb(other, faults);
    }
}

/// The file of a path, or those that `*` in its last part matches.
fn files(path: &Path, own: &str) -> std::io::Result<Vec<PathBuf>> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else {
        return fs::metadata(path).map(|found| {
            if found.is_file() {
                vec![path.to_path_buf()]
            } else {
                Vec::new()
            }
        });
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name_is = entry.file_name().to_string_lossy().into_owned();
        if name_is.len() >= start.len() + end.len()
            && name_is.starts_with(start)
            && name_is.ends_with(end)
            && !name_is.starts_with('.')
            && name_is != own
            && entry.path().is_file()
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
