//! Bytes of packed frames, models and schemas: no panic; what is taken comes back the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wellhead::payload::FrameSchema;
use wellhead::payload::pack::{AdaptiveModel, ColumnKind, PackMessage, PackSchema};

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
        let bytes = [&[1, 0, 0, 0, 0][..], data].concat();
        if let Ok(message) = PackMessage::decode(&bytes, schema) {
            let again = message.encode(schema).expect("what was decoded can be encoded");
            assert_eq!(PackMessage::decode(&again, schema), Ok(message));
        }
    }
    if let Ok(schema) = FrameSchema::from_json(data) {
        assert_eq!(FrameSchema::from_json(schema.to_json().as_bytes()), Ok(schema));
    }
    if let Ok(model) = AdaptiveModel::from_bytes(data, KINDS.len()) {
        assert_eq!(AdaptiveModel::from_bytes(&model.to_bytes(), KINDS.len()), Ok(model));
    }
});
