//! The `wellhead` program; all its code is in the library.

fn main() -> std::process::ExitCode {
    wellhead::cli::main()
}
