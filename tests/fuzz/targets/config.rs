//! Any text as a configuration: no panic, and either a gateway or at least one fault inside the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = wellhead::config::parse("gateway.yaml", text, Path::new("/nonexistent")) {
        assert!(!faults.is_empty());
        let lines = text.lines().count().max(1);
        for fault in faults {
            assert!(fault.line >= 1 && fault.line <= lines + 1 && fault.column >= 1, "{fault}");
        }
    }
});
