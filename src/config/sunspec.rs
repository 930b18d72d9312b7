//! The SunSpec models that the ready-made profiles describe, and where they begin; a simulator
//! shows them as a device does.
//!
//! Sources: sunspec/models (lengths); the profiles name those of the addresses.

use crate::field::modbus::slave::Model;

/// Models and their lengths, without ID and length themselves.
const LENGTHS: [(u16, u16); 19] = [
    (1, 66),
    (101, 50),
    (102, 50),
    (103, 50),
    (111, 60),
    (112, 60),
    (113, 60),
    (120, 26),
    (121, 30),
    (122, 44),
    (123, 24),
    (124, 24),
    (160, 88),
    (201, 105),
    (202, 105),
    (203, 105),
    (204, 105),
    (213, 124),
    (802, 62),
];

/// Profiles of whole devices: model and first register. Their common blocks are without the pad, so
/// that the next model is 67 behind.
const DEVICES: [(&str, &[(u16, u16)]); 6] = [
    (
        "fronius-sunspec-int",
        &[
            (1, 40_002),
            (103, 40_069),
            (120, 40_121),
            (121, 40_149),
            (122, 40_181),
            (123, 40_227),
            (160, 40_253),
            (124, 40_343),
        ],
    ),
    (
        "fronius-sunspec-float",
        &[
            (1, 40_002),
            (113, 40_069),
            (120, 40_131),
            (121, 40_159),
            (122, 40_191),
            (123, 40_237),
            (160, 40_263),
            (124, 40_353),
        ],
    ),
    ("fronius-smart-meter-int", &[(1, 40_002), (203, 40_069)]),
    ("fronius-smart-meter-float", &[(1, 40_002), (213, 40_069)]),
    ("solaredge-inverter", &[(1, 40_002), (103, 40_069)]),
    ("solaredge-meter", &[(1, 40_121), (203, 40_188)]),
];

fn length(id: u16) -> Option<u16> {
    LENGTHS
        .iter()
        .find(|(known, _)| *known == id)
        .map(|(_, length)| *length)
}

/// The models of a device of a profile whose registers begin at `base`; none if it is no SunSpec
/// device.
pub(super) fn models(profile: &str, base: u16) -> Vec<Model> {
    let model = |id: u16, start: u16, length: u16| {
        Some(Model {
            start: start.checked_add(base)?,
            id,
            length,
        })
    };
    if let Some(id) = profile
        .strip_prefix("sunspec-")
        .and_then(|id| id.parse().ok())
    {
        return length(id)
            .and_then(|length| model(id, 0, length))
            .into_iter()
            .collect();
    }
    let device = DEVICES
        .iter()
        .find(|(name, _)| *name == profile)
        .map(|(_, models)| *models);
    let of = |(id, start): &(u16, u16)| {
        model(
            *id,
            *start,
            length(*id)?.min(if *id == 1 { 65 } else { u16::MAX }),
        )
    };
    device.into_iter().flatten().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::presets;

    #[test]
    fn every_sunspec_profile_has_the_length_that_it_says() {
        let mut count = 0;
        for (name, id) in
            presets::names().filter_map(|name| Some((name, name.strip_prefix("sunspec-")?)))
        {
            let said = format!(
                "Header ID={id}, L={} ",
                length(id.parse().unwrap()).unwrap_or_else(|| panic!("{name} has no length"))
            );
            assert!(
                presets::text(name).unwrap().contains(&said),
                "{name}: {said}"
            );
            count += 1;
        }
        assert!(count >= 10, "{count} profiles");
    }

    #[test]
    fn the_models_of_a_device_are_one_behind_the_other() {
        for (name, _) in DEVICES {
            assert!(presets::text(name).is_some(), "{name} is no profile");
            let models = models(name, 0);
            for pair in models.windows(2) {
                assert_eq!(
                    pair[0].start + 2 + pair[0].length,
                    pair[1].start,
                    "{name}: {pair:?}"
                );
            }
        }
        assert_eq!(
            models("sunspec-103", 40_069),
            [Model {
                start: 40_069,
                id: 103,
                length: 50
            }]
        );
        assert_eq!(models("eastron-sdm120", 0), []);
    }
}
