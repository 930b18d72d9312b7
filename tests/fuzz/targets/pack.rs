//! Bytes of packed frames and models: no panic; what is taken comes back the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wellhead::payload::pack::{AdaptiveModel, ColumnKind, PackFrame, PackSchema};

const KINDS: [ColumnKind; 6] = [
    ColumnKind::Scaled,
    ColumnKind::Counter,
    ColumnKind::Status,
    ColumnKind::F32,
    ColumnKind::F64,
    ColumnKind::Text,
];

static SCHEMAS: LazyLock<[PackSchema; 2]> = LazyLock::new(|| {
    [None, Some(AdaptiveModel::new(KINDS.len()))].map(|model| PackSchema { hash: 0, kinds: KINDS.to_vec(), model })
});

fuzz_target!(|data: &[u8]| {
    for schema in SCHEMAS.iter() {
        // A hash that nobody has to guess.
        let Some((flags, rest)) = data.split_first() else { return };
        let bytes = [&[1, *flags, 0, 0, 0, 0][..], rest].concat();
        if let Ok(frame) = PackFrame::decode(&bytes, schema) {
            let again = frame.encode(schema).expect("what was decoded can be encoded");
            assert_eq!(PackFrame::decode(&again, schema), Ok(frame));
        }
    }
    if let Ok(model) = AdaptiveModel::from_bytes(data, KINDS.len()) {
        assert_eq!(AdaptiveModel::from_bytes(&model.to_bytes(), KINDS.len()), Ok(model));
    }
});
