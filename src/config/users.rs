//! `broker.users_file`: users in a file of their own, as a YAML list like `users:`, or as
//! `mosquitto_passwd` writes them.

use std::path::Path;

use super::diagnostics::{Diagnostics, SourceLocation};
use super::document::{Document, PathStep};
use super::resolve::{are_credentials_closed, file_named};
use crate::files;

/// Keys by which a list of users is known.
const OF_USERS: [&str; 3] = ["name", "password", "scram"];

/// Reads the file that the broker names, and adds its users to those of the document.
pub(super) fn include(document: &mut Document, folder: &Path, faults: &mut Diagnostics) {
    let path = [PathStep::from("broker"), PathStep::from("users_file")];
    let Some(typed) = document.text_at(&path) else {
        return;
    };
    let place = document.place(&path);
    let file = file_named(Path::new(&typed), folder);
    let name = file
        .strip_prefix(folder)
        .unwrap_or(&file)
        .display()
        .to_string();
    match files::text(&file) {
        Ok(text) if is_list(&text) => of_yaml(document, &name, &text, faults),
        Ok(text) => of_mosquitto(document, &name, &text, place, faults),
        // Told where certificates are, too.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && are_credentials_closed(folder) => {}
        Err(error) => faults.at(
            place,
            format!("{name}: {error}; name a file that the user who runs wellhead can read"),
        ),
    }
}

/// True for a YAML list, with or without `users:` before it.
fn is_list(text: &str) -> bool {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "---");
    lines.next().is_none_or(|first| {
        first.starts_with(['-', '['])
            || first
                .strip_prefix("users:")
                .is_some_and(|rest| !rest.starts_with('$'))
    })
}

fn of_yaml(document: &mut Document, name: &str, text: &str, faults: &mut Diagnostics) {
    // Of a list of anything else, such as keys, nothing is shown.
    let is_ours = OF_USERS.iter().any(|key| text.contains(&format!("{key}:")));
    let number = faults.add_file(name, text, is_ours);
    if !is_ours && !super::ours::is_empty(text) {
        faults.at(
            SourceLocation::start_of(number),
            "this is no list of users; write `- name: ...` and `password: ...` for each".to_owned(),
        );
        return;
    }
    if let Some(mut other) = Document::parse_file(number, text, faults) {
        other.unwrap_key("users");
        document.add_users(other, faults);
    }
}

/// Lines of `name:hash`.
fn of_mosquitto(
    document: &mut Document,
    name: &str,
    text: &str,
    at: SourceLocation,
    faults: &mut Diagnostics,
) {
    let number = faults.add_file(name, text, false);
    let mut users: Vec<(String, String, SourceLocation)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = SourceLocation::new(number, index + 1, 1);
        match line.split_once(':') {
            Some((name, hash)) if !name.is_empty() && hash.starts_with('$') => {
                users.push((name.to_owned(), hash.to_owned(), place));
            }
            _ => {
                let message = "neither `name:hash` as mosquitto_passwd writes it, nor a YAML list of users; plain passwords become hashes by mosquitto_passwd -U, and a list begins with `- name:`";
                faults.at(place, message.to_owned());
                return;
            }
        }
    }
    if users.is_empty() {
        faults.at(
            at,
            format!(
                "{name}: no user is in this file; mosquitto_passwd and `wellhead passwd` make some"
            ),
        );
    }
    document.add_named_users(users);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yaml_list_and_a_password_file_of_mosquitto_are_told_apart() {
        for yaml in [
            "- name: a\n",
            "# x\n\n---\n- { name: a }\n",
            "[ { name: a } ]",
            "users:\n  - name: a\n",
            "",
        ] {
            assert!(is_list(yaml), "{yaml}");
        }
        for of_mosquitto in ["a:$7$101$x$y\n", "users:$6$x$y\n", "# x\na:$6$x$y\n"] {
            assert!(!is_list(of_mosquitto), "{of_mosquitto}");
        }
    }
}
