//! Versions of the file: old ones stay readable for ever.
//!
//! A version ends when a key gets another name or another place. Then [`VERSION`] grows, the change
//! becomes a [`Migration`], and files as they were stay in `tests/config/old/<version>/`.

use super::diagnostics::Diagnostics;
use super::document::Document;

/// The version that this program writes. A file that names none is of version 1.
pub const VERSION: u32 = 1;

/// A change from one version to the next.
#[derive(Debug)]
struct Migration {
    /// The version since which it is so.
    since: u32,
    /// The keys above it, from the top; `*` matches any key or item.
    below: &'static [&'static str],
    was: &'static str,
    is: &'static str,
}

/// Every change there ever was, the oldest first.
const STEPS: [Migration; 0] = [];

/// Brings a document to the newest version; keys under old names are warnings. False if the file is
/// not for this program.
pub(super) fn migrate(document: &mut Document, faults: &mut Diagnostics) -> bool {
    apply(document, &STEPS, VERSION, faults)
}

fn apply(
    document: &mut Document,
    steps: &[Migration],
    newest: u32,
    faults: &mut Diagnostics,
) -> bool {
    let Some((typed, place)) = document.number_at_top("version") else {
        return from(document, 1, steps, faults);
    };
    match u32::try_from(typed) {
        Ok(version) if (1..=newest).contains(&version) => from(document, version, steps, faults),
        Ok(version) if version > newest => {
            faults.at(
                place,
                format!("this file is of version {version}, and this program knows versions up to {newest}: install a newer wellhead"),
            );
            false
        }
        _ => {
            faults.at(
                place,
                format!("versions begin with 1; write `version: {newest}`"),
            );
            false
        }
    }
}

fn from(
    document: &mut Document,
    version: u32,
    steps: &[Migration],
    faults: &mut Diagnostics,
) -> bool {
    for step in steps.iter().filter(|step| step.since > version) {
        for place in document.rename(step.below, step.was, step.is) {
            let Migration { since, was, is, .. } = step;
            faults.warn(place, format!("`{was}` is called `{is}` since version {since} of this file; it is read as that. Write `{is}`, and `version: {since}` at the top"));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    const LATER: [Migration; 2] = [
        Migration {
            since: 2,
            below: &["devices", "*"],
            was: "address_of_unit",
            is: "unit",
        },
        Migration {
            since: 3,
            below: &["profiles", "*", "points", "*"],
            was: "interval",
            is: "every",
        },
    ];

    fn migrated(text: &str) -> (Option<File>, Vec<String>) {
        let mut faults = Diagnostics::new("old.yaml", text);
        let mut document = Document::parse(text, &mut faults).unwrap();
        let file = if apply(&mut document, &LATER, 3, &mut faults) {
            document.typed(&mut faults)
        } else {
            None
        };
        let mut told: Vec<String> = faults.warnings().iter().map(ToString::to_string).collect();
        told.extend(faults.in_order().iter().map(ToString::to_string));
        (file, told)
    }

    #[test]
    fn keys_of_older_versions_are_read_as_what_they_are_called_now() {
        let old = "site: x\nprofiles:\n  m: { points: { a: { holding: 0, type: u16, interval: 5s } } }\ndevices:\n  - { name: d, line: l, address_of_unit: 7, profile: m }\n";
        let (file, told) = migrated(old);
        let file = file.unwrap();
        assert_eq!(file.devices[0].unit, Some(7));
        assert_eq!(file.profiles["m"].points["a"].every.unwrap().0.as_secs(), 5);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("old.yaml:3:46 `interval` is called `every` since version 3"),
            "{told:?}"
        );
        assert!(
            told[1].starts_with("old.yaml:5:25 `address_of_unit` is called `unit` since version 2"),
            "{told:?}"
        );
        // A name from before the file's own version is a mistake in it.
        let (_, told) = migrated(&format!("version: 2\n{old}"));
        assert!(
            told.iter()
                .any(|told| told.contains("\"address_of_unit\" is not a setting here")),
            "{told:?}"
        );
        // Both names at once: the new one counts, the old one is a mistake.
        let (_, told) =
            migrated("site: x\ndevices: [ { name: d, line: l, unit: 1, address_of_unit: 7 } ]\n");
        assert!(
            told.iter()
                .any(|told| told.contains("\"address_of_unit\" is not a setting here")),
            "{told:?}"
        );
        let (file, told) = migrated("version: 4\nsite: x\n");
        assert!(
            file.is_none()
                && told[0].contains("1:10 this file is of version 4")
                && told[0].contains("newer wellhead"),
            "{told:?}"
        );
        assert!(migrated("version: 0\nsite: x\n").1[0].contains("versions begin with 1"));
    }
}
