//! The identity of a store: with a sequence number it names an entry for ever.

use std::fs;
use std::path::Path;

use super::StoreError;
use super::engine::{io_error, sync_dir, write_private};
use super::machine::Machine;

const IDENTITY: &str = "identity";
const MACHINE: &str = "machine";

/// Eight hexadecimal digits, drawn when the folder is made, and again when it is found on another
/// machine than before: two machines must not give the same name to different entries.
pub(super) fn identity(folder: &Path, here: Machine) -> Result<String, StoreError> {
    let known = known_identity(folder);
    let before = fs::read_to_string(folder.join(MACHINE))
        .ok()
        .and_then(|text| Machine::parse(text.trim()));
    let is_moved = before
        .as_ref()
        .is_some_and(|before| here.is_another_than(before));
    if known.is_some() && is_moved {
        tracing::warn!(event = "outbox.other_machine", path = %folder.display(), "this folder comes from another machine: messages get numbers of a new series (`seq`); if the other machine still runs, give each gateway its own `client_id` (by default it is the site)");
    } else if known.is_none() && folder.join(IDENTITY).exists() {
        tracing::warn!(event = "outbox.identity_damaged", path = %folder.join(IDENTITY).display(), "outbox identity file corrupt, new one generated; receivers cannot recognise copies of earlier messages; check the disk");
    }
    let identity = match known.filter(|_| !is_moved) {
        Some(known) => known,
        None => {
            let drawn = format!("{:08x}", fastrand::u32(..));
            write_small(folder, IDENTITY, &drawn)?;
            drawn
        }
    };
    let machine = match &before {
        Some(before) if !is_moved => here.or(before),
        _ => here,
    };
    if before.as_ref() != Some(&machine) {
        write_small(folder, MACHINE, &machine.text())?;
    }
    Ok(identity)
}

fn known_identity(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join(IDENTITY)).ok()?;
    let text = text.trim();
    let is_whole = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| text.to_owned())
}

/// Writes a small file of a folder as a whole or not at all. On a full disk it is left to the next
/// start: until then the numbers of this run have a series of their own.
fn write_small(folder: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let written =
        write_private(&new, format!("{text}\n").as_bytes()).and_then(|()| fs::rename(&new, &path));
    match written
        .map_err(|e| io_error(&path, e))
        .and_then(|()| sync_dir(folder))
    {
        Ok(()) | Err(StoreError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_another_machine_draws_a_series_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let machine = |text: &str| Machine::parse(text).unwrap();
        let first = identity(folder.path(), machine("board1/card1/id")).unwrap();
        let check = |text: &str, is_same: bool| {
            let drawn = identity(folder.path(), machine(text)).unwrap();
            assert_eq!(drawn == first, is_same, "{text}");
        };
        check("board1/card1/id", true);
        check("board1/card9/id9", true);
        // What cannot be read decides nothing, and is not forgotten.
        check("-/card9/id9", true);
        check("-/-/-", true);
        check("board2/card9/id9", false);
        let second = identity(folder.path(), machine("board2/card9/id9")).unwrap();
        assert_eq!(
            identity(folder.path(), machine("board2/card9/id9")).unwrap(),
            second,
            "drawn once"
        );
        // A folder from before machines were noted keeps its series.
        fs::remove_file(folder.path().join(MACHINE)).unwrap();
        assert_eq!(
            identity(folder.path(), machine("board3/-/-")).unwrap(),
            second
        );
    }
}
