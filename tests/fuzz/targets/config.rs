//! Any text as a configuration: no panic, and either a gateway or at least one fault inside the
//! text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = wellhead::config::parse("gateway.yaml", text, Path::new("/nonexistent")) {
        assert!(!faults.is_empty());
        // YAML takes a lone carriage return for the end of a line too.
        let lines = text.split(['\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']).count();
        for fault in faults {
            assert!(fault.line >= 1 && fault.line <= lines + 1 && fault.column >= 1, "{fault}");
        }
    }
});
