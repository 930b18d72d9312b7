//! Settings that the property tests of all modules share.

use proptest::test_runner::{Config, FileFailurePersistence};

/// Runs so many cases. What has failed once is kept in `tests/proptest-regressions`, in a file
/// named after the module (`module_path!()`), and is tried first from then on.
pub(crate) fn cases(cases: u32, module: &str) -> Config {
    let name = module
        .trim_start_matches("wellhead::")
        .trim_end_matches("::tests")
        .replace("::", "-");
    let file = format!("tests/proptest-regressions/{name}.txt");
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(Box::leak(
            file.into_boxed_str(),
        )))),
        ..Config::default()
    }
}
