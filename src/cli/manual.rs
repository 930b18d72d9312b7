//! `wellhead completions` and `wellhead man`: generated from the command line's own description,
//! and the page of the YAML file from its schema.

mod markdown;
mod roff;
mod settings;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, Failure, put};

/// The name of the page of the YAML file.
const FILE: &str = "gateway.yaml";

/// Writes the completions of a shell to stdout.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wellhead", &mut script);
    put(&script).map(drop)
}

/// Writes the page of the YAML file to stdout as a chapter in Markdown; no other page has that
/// form.
pub(super) fn chapter(words: &[String]) -> Result<(), Failure> {
    if words != [FILE] {
        let message = format!(
            "only the page of {FILE} can be written as Markdown: wellhead man {FILE} --markdown"
        );
        return Err(Failure {
            code: super::USAGE,
            message,
        });
    }
    put(markdown::chapter().as_bytes()).map(drop)
}

/// Writes a manual page to stdout: of the program, of one command by its words, or of the YAML
/// file.
pub(super) fn man(words: &[String]) -> Result<(), Failure> {
    if words == [FILE] {
        return put(roff::page(env!("CARGO_PKG_VERSION")).as_bytes()).map(drop);
    }
    let mut page = program();
    let mut above = "gateway.yaml(5)".to_owned();
    for word in words {
        let found = page.find_subcommand(word).cloned().ok_or_else(|| Failure {
            code: super::USAGE,
            message: format!(
                "there is no command `{}`; `wellhead man --list` shows all pages",
                words.join(" ")
            ),
        })?;
        above = format!("{}(1), gateway.yaml(5)", name(&page));
        page = found;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(Failure::runtime)?;
    text.extend_from_slice(format!(".SH \"SEE ALSO\"\n{}\n", above.replace('-', "\\-")).as_bytes());
    put(&text).map(drop)
}

/// Writes the names of all pages to stdout, each with the words by which `wellhead man` writes it.
pub(super) fn list() -> Result<(), Failure> {
    let mut pages = Vec::new();
    collect(&program(), &mut Vec::new(), &mut pages);
    pages.push(format!("{FILE}.5 {FILE}\n"));
    put(pages.concat().as_bytes()).map(drop)
}

fn collect<'a>(command: &'a clap::Command, words: &mut Vec<&'a str>, pages: &mut Vec<String>) {
    pages.push(format!(
        "{}\n",
        format!("{}.1 {}", name(command), words.join(" ")).trim_end()
    ));
    for sub in command.get_subcommands() {
        words.push(sub.get_name());
        collect(sub, words, pages);
        words.pop();
    }
}

fn name(command: &clap::Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// The program without `help`, which has no pages.
fn program() -> clap::Command {
    fn without_help(command: clap::Command) -> clap::Command {
        let names: Vec<String> = command
            .get_subcommands()
            .map(|sub| sub.get_name().to_owned())
            .collect();
        let command = if names.is_empty() {
            command
        } else {
            command.disable_help_subcommand(true)
        };
        names.into_iter().fold(command, |command, name| {
            command.mut_subcommand(name, without_help)
        })
    }
    let mut program = without_help(Arguments::command());
    program.build();
    program
}
