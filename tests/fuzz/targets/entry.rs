//! Bytes of an outbox entry: no panic; what is taken comes back the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wellhead::outbox::{ColumnTable, Content};

fuzz_target!(|data: &[u8]| match Content::decode(Bytes::copy_from_slice(data), &ColumnTable::default()) {
    Ok(Content::Message(message)) => assert_eq!(Content::decode(message.encode(), &ColumnTable::default()), Ok(Content::Message(message))),
    Ok(Content::Dead(dead)) => assert_eq!(Content::decode(dead.encode(), &ColumnTable::default()), Ok(Content::Dead(dead))),
    Err(_) => {}
});
