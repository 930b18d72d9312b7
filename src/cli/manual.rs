//! `wellhead completions` and `wellhead man`: made out of the command line's own description.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, Failure, put};

/// Writes the completions of a shell to stdout.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wellhead", &mut script);
    put(&script).map(drop)
}

/// Writes a manual page to stdout: of the program, or of one command.
pub(super) fn man(command: Option<&str>) -> Result<(), Failure> {
    let mut program = Arguments::command();
    program.build();
    let page = match command {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).cloned();
            found.ok_or_else(|| Failure {
                code: super::USAGE,
                message: format!("there is no command `{name}`; `wellhead help` shows them all"),
            })?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(Failure::runtime)?;
    put(&text).map(drop)
}
