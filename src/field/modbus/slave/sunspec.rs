//! The map of a SunSpec device around the models that a file describes: the mark, the common block,
//! the chain of models and its end. Pure.
//!
//! Models of a vendor (64001) bridge the gaps in the file, so that a walk along the chain from the
//! mark reaches every model, as in a real device.
//!
//! Source: SunSpec Device Information Model Specification 1.1, 4.1 (the mark at 40000, 50000 or 0;
//! ID and length before each model; the end).

use std::collections::BTreeMap;
use std::ops::Range;

/// The addresses of the mark, the usual one first.
const PLACES: [u16; 3] = [40_000, 50_000, 0];
/// `SunS`
const MARK: [u16; 2] = [0x5375, 0x6E53];
const COMMON: u16 = 1;
/// The common block without and with its pad register.
const COMMON_LENGTHS: [u16; 2] = [65, 66];
const VENDOR: u16 = 64_001;
const END: u16 = 0xFFFF;
/// The two registers before each model, and the mark.
const HEADER: u32 = 2;

/// A model of a device, as its file describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// The address of its ID, from zero.
    pub start: u16,
    /// Its number.
    pub id: u16,
    /// Registers behind ID and length.
    pub length: u16,
}

/// The registers of a SunSpec map beside the points of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    /// Registers that are always the same: the mark, the heads of the models, the texts of the
    /// common block, the end.
    pub(super) fixed: BTreeMap<u16, u16>,
    /// Registers that exist, whether or not a point describes them.
    pub(super) blocks: Vec<Range<u32>>,
    /// The distance at which the models are shown once more, because there is no room for a mark
    /// before them.
    pub(super) copied: Option<u16>,
}

impl Model {
    fn end(&self) -> u32 {
        u32::from(self.start) + HEADER + u32::from(self.length)
    }

    /// True if the mark, and the common block where this is another model, fit between `place` and
    /// this model.
    fn has_room_behind(&self, place: u16) -> bool {
        let behind = u32::from(place) + HEADER;
        u32::from(self.start) == behind && self.id == COMMON
            || u32::from(self.start) >= behind + HEADER + u32::from(COMMON_LENGTHS[0])
    }

    /// The shift of a first model whose file gives only relative addresses: to the usual place in
    /// such devices.
    fn shift_behind_mark(&self) -> u32 {
        let behind = if self.id == COMMON {
            HEADER
        } else {
            2 * HEADER + u32::from(COMMON_LENGTHS[1])
        };
        (u32::from(PLACES[0]) + behind).saturating_sub(u32::from(self.start))
    }
}

/// The map around some models of one device, which is called `name`.
pub(super) fn map(models: &[Model], name: &str) -> Map {
    let models = without_pad(models);
    let Some(first) = models.first() else {
        return Map::default();
    };
    let mut map = Map::default();
    let places = PLACES.iter().filter(|place| first.has_room_behind(**place));
    let place = places.max().copied().unwrap_or_else(|| {
        map.copied = u16::try_from(first.shift_behind_mark()).ok();
        PLACES[0]
    });
    map.heads(&models);
    let shift = map.copied.unwrap_or(0);
    let moved: Vec<Model> = models
        .iter()
        .map(|model| Model {
            start: model.start.saturating_add(shift),
            ..*model
        })
        .collect();
    map.chain(place, &moved, name);
    map
}

/// The models in the order of their places; a common block is without its pad where the next model
/// begins there.
fn without_pad(models: &[Model]) -> Vec<Model> {
    let mut models = models.to_vec();
    models.sort_unstable();
    models.dedup();
    let starts: Vec<u32> = models
        .iter()
        .skip(1)
        .map(|model| model.start.into())
        .collect();
    for (model, next) in models
        .iter_mut()
        .zip(starts)
        .filter(|(model, next)| model.id == COMMON && next + 1 == model.end())
    {
        debug_assert!(next > model.start.into());
        model.length -= 1;
    }
    models
}

/// The common block at `at`, behind the mark and before the first model of the file.
fn common_before(first: Model, at: u32) -> Model {
    let gap = u32::from(first.start).saturating_sub(at);
    // One register cannot be bridged: the pad takes it.
    let short = u32::from(COMMON_LENGTHS[0]) + HEADER;
    let length = if gap == short || gap == short + HEADER {
        COMMON_LENGTHS[0]
    } else {
        COMMON_LENGTHS[1]
    };
    Model {
        start: u16::try_from(at).unwrap_or(u16::MAX),
        id: COMMON,
        length,
    }
}

impl Map {
    fn set(&mut self, start: u32, words: &[u16]) {
        let places = (start..).filter_map(|at| u16::try_from(at).ok());
        self.fixed.extend(places.zip(words.iter().copied()));
    }

    fn block(&mut self, model: Model) {
        self.set(model.start.into(), &[model.id, model.length]);
        self.blocks.push(model.start.into()..model.end());
    }

    fn heads(&mut self, models: &[Model]) {
        models.iter().for_each(|model| self.block(*model));
    }

    /// From the mark to the end, with a model of a vendor wherever the file describes none.
    fn chain(&mut self, place: u16, models: &[Model], name: &str) {
        self.set(place.into(), &MARK);
        self.blocks.push(place.into()..u32::from(place) + HEADER);
        let mut at = u32::from(place) + HEADER;
        if let Some(first) = models
            .first()
            .filter(|first| first.id != COMMON || u32::from(first.start) != at)
        {
            let common = common_before(*first, at);
            self.block(common);
            at = common.end();
        }
        for model in models {
            let Some(gap) = u32::from(model.start).checked_sub(at) else {
                continue;
            };
            self.bridge(at, gap);
            self.block(*model);
            at = model.end();
        }
        self.set(at, &[END, 0]);
        self.blocks.push(at..at + HEADER);
        for model in models.iter().filter(|model| model.id == COMMON) {
            self.texts(model.start, name);
        }
        self.texts(place.saturating_add(2), name);
    }

    /// Fills a gap between two models: with a model of a vendor, or one register with the model
    /// before it.
    fn bridge(&mut self, at: u32, gap: u32) {
        let length = gap
            .checked_sub(HEADER)
            .and_then(|length| u16::try_from(length).ok());
        match (length, u16::try_from(at)) {
            (Some(length), Ok(start)) => self.block(Model {
                start,
                id: VENDOR,
                length,
            }),
            (None, _) if gap == 1 => self.widen(at),
            _ => {}
        }
    }

    /// Adds one register to the model that ends at `end`.
    fn widen(&mut self, end: u32) {
        let Some(block) = self.blocks.iter_mut().rev().find(|block| block.end == end) else {
            return;
        };
        block.end += 1;
        let length = u16::try_from(block.start + 1)
            .ok()
            .and_then(|at| self.fixed.get_mut(&at));
        length.into_iter().for_each(|length| *length += 1);
    }

    /// Manufacturer, model, options, version, serial number and address of a common block.
    fn texts(&mut self, start: u16, name: &str) {
        let texts = [
            (2, 16, "wellhead"),
            (18, 16, name),
            (34, 8, ""),
            (42, 8, env!("CARGO_PKG_VERSION")),
            (50, 16, "SN20261117"),
        ];
        for (offset, length, text) in texts {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(2 * length, 0);
            let words: Vec<u16> = bytes
                .chunks_exact(2)
                .map(|pair| {
                    pair.iter()
                        .fold(0, |word, byte| word << 8 | u16::from(*byte))
                })
                .collect();
            self.set(u32::from(start) + offset, &words);
        }
        self.set(u32::from(start) + 66, &[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: u16, start: u16, length: u16) -> Model {
        Model { start, id, length }
    }

    /// The models in the order of a walk along the chain.
    fn walked(map: &Map, place: u16) -> Vec<Model> {
        let read = |at: u16| {
            *map.fixed
                .get(&at)
                .unwrap_or_else(|| panic!("{at} is missing in {map:?}"))
        };
        assert_eq!([read(place), read(place + 1)], MARK);
        let mut found = Vec::new();
        let mut at = place + 2;
        while read(at) != END {
            let next = model(read(at), at, read(at + 1));
            assert!(
                map.blocks
                    .iter()
                    .any(|block| *block == (u32::from(at)..next.end())),
                "{next:?} in {map:?}"
            );
            found.push(next);
            at = u16::try_from(next.end()).unwrap();
        }
        assert_eq!(read(at + 1), 0, "the length of the end");
        found
    }

    #[test]
    fn the_chain_of_a_whole_device_is_as_the_file_has_it() {
        let models = [
            model(1, 40_002, 65),
            model(103, 40_069, 50),
            model(120, 40_121, 26),
        ];
        let found = walked(&map(&models, "pv"), 40_000);
        assert_eq!(found, models);
        let padded = [model(1, 40_002, 66), model(103, 40_069, 50)];
        assert_eq!(
            walked(&map(&padded, "pv"), 40_000),
            models[..2],
            "the pad is left out where the next model begins"
        );
    }

    #[test]
    fn what_the_file_does_not_describe_is_bridged() {
        // Right behind the mark comes the common block, with or without its pad, then whatever the
        // file leaves out.
        for start in (40_069..40_080).chain([40_121, 40_188, 41_000]) {
            let found = walked(&map(&[model(203, start, 105)], "meter"), 40_000);
            assert_eq!(
                found.first().map(|first| (first.id, first.start)),
                Some((1, 40_002)),
                "{start}"
            );
            assert!(
                COMMON_LENGTHS.contains(&found[0].length),
                "{start}: {found:?}"
            );
            assert_eq!(found.last(), Some(&model(203, start, 105)), "{start}");
        }
        let found = walked(
            &map(
                &[
                    model(1, 40_002, 66),
                    model(103, 40_071, 50),
                    model(123, 40_227, 24),
                ],
                "pv",
            ),
            40_000,
        );
        let ids: Vec<u16> = found.iter().map(|model| model.id).collect();
        assert_eq!(ids, [1, 103, VENDOR, 123], "{found:?}");
        assert_eq!(
            found[0].length, 67,
            "one register belongs to the model before it"
        );
    }

    #[test]
    fn models_elsewhere_have_their_mark_there() {
        assert_eq!(
            walked(&map(&[model(1, 50_002, 66)], "pv"), 50_000),
            [model(1, 50_002, 66)]
        );
        assert_eq!(walked(&map(&[model(1, 2, 66)], "pv"), 0), [model(1, 2, 66)]);
        assert_eq!(
            walked(&map(&[model(103, 70, 50)], "pv"), 0).last(),
            Some(&model(103, 70, 50))
        );
    }

    #[test]
    fn models_without_room_before_them_are_shown_where_devices_have_them() {
        let shown = map(&[model(103, 0, 50)], "pv");
        assert_eq!(
            (shown.fixed.get(&0), shown.fixed.get(&1)),
            (Some(&103), Some(&50))
        );
        assert_eq!(shown.copied, Some(40_070));
        assert_eq!(
            walked(&shown, 40_000),
            [model(1, 40_002, 66), model(103, 40_070, 50)]
        );
        let common = map(&[model(1, 0, 66)], "pv");
        assert_eq!(common.copied, Some(40_002));
        assert_eq!(walked(&common, 40_000), [model(1, 40_002, 66)]);
    }
}
