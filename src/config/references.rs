//! `${env:NAME}` and `${credential:NAME}` in texts of the file: secrets that must not be in it, and
//! values that differ per machine.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::diagnostics::{Diagnostics, SourceLocation};
use super::document::Document;
use super::resolve::{are_credentials_closed, file_named};
use super::suggestion::suggestion;
use crate::files;

/// Kinds of references.
const KINDS: [&str; 2] = ["env", "credential"];

/// Fills references in; those to nothing are faults.
pub(super) fn fill(document: &mut Document, folder: &Path, faults: &mut Diagnostics) {
    static REFERENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\$\{([A-Za-z_]+):([^}]*)\}").ok());
    let Some(reference) = REFERENCE.as_ref() else {
        return;
    };
    let mut found = References::default();
    document.change_texts(|text, place| {
        if !text.contains("${") {
            return None;
        }
        let filled = reference.replace_all(text, |captures: &regex::Captures<'_>| {
            let part = |number: usize| captures.get(number).map_or("", |part| part.as_str());
            match resolve(part(1), part(2), folder) {
                Ok(resolved) => {
                    found
                        .secrets
                        .push((resolved.text.clone(), part(0).to_owned()));
                    let remarks = resolved.remarks.into_iter();
                    found.remarks.extend(remarks.map(|remark| (place, remark)));
                    resolved.text
                }
                Err(why) => {
                    found.missing.push((place, why));
                    String::new()
                }
            }
        });
        (filled != text).then(|| filled.into_owned())
    });
    found.note(faults);
}

/// Results of all references of a file. They are noted at the end, when all values are hidden.
#[derive(Default)]
struct References {
    /// Values, each with its reference.
    secrets: Vec<(String, String)>,
    missing: Vec<(SourceLocation, String)>,
    remarks: Vec<(SourceLocation, String)>,
}

impl References {
    fn note(self, faults: &mut Diagnostics) {
        for (value, reference) in self.secrets {
            faults.hide(&value, &reference);
        }
        for (place, why) in self.missing {
            faults.at(place, why);
        }
        for (place, remark) in self.remarks {
            faults.warn(place, remark);
        }
    }
}

/// The value of a reference, with remarks about its file.
struct Resolved {
    text: String,
    remarks: Vec<String>,
}

fn resolve(kind: &str, name: &str, folder: &Path) -> Result<Resolved, String> {
    if !KINDS.contains(&kind) {
        return Err(format!(
            "`${{{kind}:{name}}}` refers to nothing; {}",
            suggestion(kind, KINDS)
        ));
    }
    if kind == "env" {
        return std::env::var(name).map(|text| Resolved { text, remarks: Vec::new() }).map_err(|_| {
            format!("the environment has no {name}; set it (Environment={name}=... in a drop-in of the service), or write the value here")
        });
    }
    let path = file_named(Path::new(name), folder);
    let of_file = |what: String| format!("{}: {what}", path.display());
    match files::whole(&path) {
        Ok(secret) => Ok(Resolved {
            remarks: secret
                .remarks
                .into_iter()
                .map(|remark| of_file(remark.to_owned()))
                .collect(),
            text: secret.text,
        }),
        Err(error) => Err(of_file(format!("{error}; {}", remedy(name, folder)))),
    }
}

fn remedy(name: &str, folder: &Path) -> String {
    if are_credentials_closed(folder) {
        return format!(
            "only root can read credentials/ beside this file, where {name} may be: check the file as root (sudo wellhead check)"
        );
    }
    format!(
        "put the credential into credentials/{name} beside this file, where the service manager reads it"
    )
}
