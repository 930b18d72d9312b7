//! Bytes of an outbox entry: no panic; what is taken comes back the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wellhead::outbox::Outgoing;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Outgoing::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(Outgoing::decode(message.encode()), Ok(message));
    }
});
