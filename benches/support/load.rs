//! The core that a load runs on, and what it is asked to measure: what the broker's benches share.

/// Keeps this thread, and all that it starts, on the first core: the broker has the second one.
pub(crate) fn stay_on_the_first_core() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
}

/// What the command line says besides options.
pub(crate) fn words() -> Vec<String> {
    std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect()
}
