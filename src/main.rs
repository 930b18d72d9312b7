//! The `wellhead` program: everything is in the library, here is only its exit code.

fn main() -> std::process::ExitCode {
    wellhead::cli::main()
}
