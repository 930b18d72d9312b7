//! `${env:NAME}` and `${credential:NAME}` in texts of the file: what must not stand in it, or differs from machine to machine.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::document::Document;
use super::fault::{Faults, suggestion};
use super::resolve::{are_credentials_closed, file_named};
use crate::files;

/// What can be referred to.
const KINDS: [&str; 2] = ["env", "credential"];

/// Fills references in; those to nothing are faults.
pub(super) fn fill(document: &mut Document, folder: &Path, faults: &mut Faults) {
    static REFERENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\$\{([A-Za-z_]+):([^}]*)\}").ok());
    let Some(reference) = REFERENCE.as_ref() else {
        return;
    };
    let mut missing: Vec<(super::fault::Place, String)> = Vec::new();
    let mut filled_in: Vec<(String, String)> = Vec::new();
    let mut remarks: Vec<(super::fault::Place, String)> = Vec::new();
    document.change_texts(|text, place| {
        if !text.contains("${") {
            return None;
        }
        let filled = reference.replace_all(text, |found: &regex::Captures<'_>| {
            let (kind, name) = (
                found.get(1).map_or("", |kind| kind.as_str()),
                found.get(2).map_or("", |name| name.as_str()),
            );
            match value(kind, name, folder) {
                Ok(value) => {
                    filled_in.push((
                        value.text.clone(),
                        found
                            .get(0)
                            .map_or_else(String::new, |all| all.as_str().to_owned()),
                    ));
                    remarks.extend(value.remarks.into_iter().map(|remark| (place, remark)));
                    value.text
                }
                Err(why) => {
                    missing.push((place, why));
                    String::new()
                }
            }
        });
        (filled != text).then(|| filled.into_owned())
    });
    for (value, reference) in filled_in {
        faults.hide(&value, &reference);
    }
    for (place, why) in missing {
        faults.at(place, why);
    }
    for (place, remark) in remarks {
        faults.warn(place, remark);
    }
}

/// What a reference stands for, and what is odd about it.
struct Value {
    text: String,
    remarks: Vec<String>,
}

fn value(kind: &str, name: &str, folder: &Path) -> Result<Value, String> {
    if !KINDS.contains(&kind) {
        return Err(format!(
            "`${{{kind}:{name}}}` refers to nothing; {}",
            suggestion(kind, KINDS)
        ));
    }
    if kind == "env" {
        return std::env::var(name).map(|text| Value { text, remarks: Vec::new() }).map_err(|_| {
            format!("the environment has no {name}; set it (Environment={name}=... in a drop-in of the service), or write the value here")
        });
    }
    let path = file_named(Path::new(name), folder);
    let told = |what: String| format!("{}: {what}", path.display());
    match files::whole(&path) {
        Ok(secret) => Ok(Value {
            remarks: secret
                .remarks
                .into_iter()
                .map(|remark| told(remark.to_owned()))
                .collect(),
            text: secret.text,
        }),
        Err(error) => Err(told(format!("{error}; {}", remedy(name, folder)))),
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
