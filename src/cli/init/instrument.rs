//! The first instrument: its profile, and its keys in the file.

use std::path::Path;

use super::super::Failure;
use super::Init;
use super::answers::Answers;
use super::search::SearchResult;
use super::yaml::{checked, quoted};
use crate::config::{self, Factory};

/// The instrument as far as it is known.
pub(super) struct Instrument {
    /// Empty for registers that are mapped by hand.
    pub(super) profile: String,
    /// The text of the profile; empty if there is none of that name.
    text: String,
    /// It speaks in lines or frames of its own, not Modbus.
    pub(super) is_plain: bool,
    pub(super) factory: Factory,
    pub(super) found: SearchResult,
}

/// The name of a profile; empty for registers that are mapped by hand. `found` is the one that a
/// search has found.
pub(super) fn profile(
    init: &Init,
    answers: Answers,
    found: Option<&str>,
    folder: &Path,
) -> Result<String, Failure> {
    if let Some(given) = &init.profile {
        // An unknown name is a fault of the whole file, which is checked later.
        return Ok(given.clone());
    }
    let known = |typed: &str| {
        let names = config::profile_names(folder);
        if typed.is_empty() || names.iter().any(|name| name == typed) {
            return Ok(typed.to_owned());
        }
        let wanted = typed.to_lowercase();
        let found: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| name.contains(&wanted))
            .collect();
        Err(if found.is_empty() {
            format!("no profile has \"{typed}\" in its name; `wellhead profiles` shows them")
        } else {
            format!("there is {}", found.join(", "))
        })
    };
    let question =
        "What is on it? A profile, or a word to look for (nothing to map registers by hand)";
    answers.get(None, question, found.unwrap_or_default(), known)
}

/// A device name that topics may contain.
fn name(typed: &str) -> Result<String, String> {
    let device = format!(
        "{{ name: {}, line: l, unit: 1, points: {{ p: {{ holding: 0, type: u16 }} }} }}",
        quoted(typed)
    );
    checked(&format!(
        "site: x\nlines: [ {{ name: l, modbus_tcp: 127.0.0.1 }} ]\ndevices: [ {device} ]\n"
    ))
    .map(|()| typed.to_owned())
}

impl Instrument {
    pub(super) fn of(profile: String, folder: &Path, found: SearchResult) -> Self {
        let text = config::profile_text(folder, &profile).unwrap_or_default();
        Self {
            is_plain: text.lines().any(|line| line.starts_with("text:")),
            // Faults of a profile of the user's own are found when the whole file is checked.
            factory: config::factory(folder, &profile).unwrap_or_default(),
            profile,
            text,
            found,
        }
    }

    /// The keys of the device.
    pub(super) fn keys(&self, init: &Init, answers: Answers) -> Result<String, Failure> {
        if self.is_plain {
            return self.plain_keys(init, answers);
        }
        let profile = &self.profile;
        let delivered = self.factory.units.first().copied();
        let usual = self.found.unit.or(delivered).unwrap_or(1).to_string();
        let given = init.unit.map(|unit| unit.to_string());
        let address = |typed: &str| match typed.parse::<u8>() {
            Ok(unit @ 1..=247) => Ok(unit),
            _ => Err(format!(
                "`{typed}` is no Modbus address: a Modbus unit is a number from 1 to 247"
            )),
        };
        let unit = answers.get(given.as_deref(), "Its Modbus address", &usual, address)?;
        let name = quoted(&answers.get(init.name.as_deref(), "Its name", "meter", name)?);
        Ok(if profile.is_empty() {
            format!(
                "  - name: {name}\n    line: bus\n    unit: {unit}                         # `wellhead peek meter --expect 229.4` finds the register of a value\n    points:\n      first: {{ holding: 0, type: u16, every: 10s }}\n"
            )
        } else {
            format!(
                "  - {{ name: {name}, line: bus, unit: {unit}, profile: {profile} }}   # `wellhead profiles {profile}` shows its points\n"
            )
        })
    }

    /// The keys of a plain instrument, which has no Modbus address.
    fn plain_keys(&self, init: &Init, answers: Answers) -> Result<String, Failure> {
        let profile = &self.profile;
        let address = if self.text.contains("{address}") {
            let usual = self.factory.addresses.first();
            let some = |typed: &str| match typed {
                "" => Err(format!("{profile} is asked by its address; add --address")),
                typed => Ok(typed.to_owned()),
            };
            let address = answers.get(
                init.address.as_deref(),
                "Its address",
                usual.map(String::as_str).unwrap_or_default(),
                some,
            )?;
            format!(", address: '{}'", address.replace('\'', "''"))
        } else {
            String::new()
        };
        let name = quoted(&answers.get(init.name.as_deref(), "Its name", "instrument", name)?);
        Ok(format!(
            "  - {{ name: {name}, line: bus, profile: {profile}{address} }}   # `wellhead profiles {profile}` shows its points\n"
        ))
    }
}
