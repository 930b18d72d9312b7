//! Profiles that come with the program: instruments that everybody has.

use std::sync::LazyLock;

use indexmap::IndexMap;

use crate::config::document::embedded;
use crate::config::file::Profile;

const TEXTS: [(&str, &str); 8] = [
    ("nmea-0183", include_str!("../presets/nmea-0183.yaml")),
    ("toledo", include_str!("../presets/toledo.yaml")),
    ("vaisala", include_str!("../presets/vaisala.yaml")),
    ("plantower", include_str!("../presets/plantower.yaml")),
    ("dlt645-2007", include_str!("../presets/dlt645-2007.yaml")),
    ("dsmr", include_str!("../presets/dsmr.yaml")),
    ("iec62056-21", include_str!("../presets/iec62056-21.yaml")),
    ("sdi-12", include_str!("../presets/sdi-12.yaml")),
];

static PRESETS: LazyLock<IndexMap<&str, Profile>> = LazyLock::new(|| {
    // A test reads every one of them.
    let read = |(name, text): &(&'static str, &str)| Some((*name, embedded(text).ok()?));
    TEXTS.iter().filter_map(read).collect()
});

/// The profile of a name.
pub(super) fn profile(name: &str) -> Option<&'static Profile> {
    PRESETS.get(name)
}

/// Their names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_read() {
        for (name, text) in TEXTS {
            let profile: Result<Profile, String> = embedded(text);
            assert!(profile.as_ref().is_ok_and(|profile| profile.text.is_some() && !profile.points.is_empty()), "{name}: {profile:?}");
        }
        assert!(profile("dsmr").is_some() && names().count() == TEXTS.len());
    }
}
