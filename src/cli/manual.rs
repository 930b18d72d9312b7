//! `wellhead completions` and `wellhead man`: made out of the command line's own description.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, Failure};

fn written(done: io::Result<()>) -> Result<(), Failure> {
    match done {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(Failure::runtime),
    }
}

/// Writes the completions of a shell to stdout.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wellhead", &mut script);
    written(io::Write::write_all(&mut io::stdout(), &script))
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
    written(clap_mangen::Man::new(page).render(&mut text))?;
    written(io::Write::write_all(&mut io::stdout(), &text))
}
