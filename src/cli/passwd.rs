//! `wellhead passwd`: a password becomes what stands in the YAML file.

use std::io::{BufRead, IsTerminal};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{Failure, put, say};
use crate::broker::access::Hash;
use crate::broker::scram::{ITERATIONS, ScramSecret};

const SALT: usize = 16;

/// Asks twice at a terminal, reads one line from a pipe; prints lines for `broker.users`.
pub(super) fn passwd(name: Option<&str>, scram: bool) -> Result<(), Failure> {
    let password = if std::io::stdin().is_terminal() {
        ask()?
    } else {
        line()?
    };
    if password.is_empty() {
        return Err(Failure::runtime(
            "an empty password is none; type one, or write it into the pipe: echo secret | wellhead passwd",
        ));
    }
    let hash = Hash::of_password(password.as_bytes(), &salt()?).map_err(Failure::runtime)?;
    let mut text = format!("- name: {}\n  password: '{hash}'\n", name.unwrap_or("NAME"));
    if scram {
        let iterations = ITERATIONS.try_into().map_err(Failure::runtime)?;
        text.push_str(&format!(
            "  scram: '{}'\n",
            ScramSecret::of_password(password.as_bytes(), &salt()?, iterations)
        ));
    }
    put(text.as_bytes()).map(drop)
}

fn salt() -> Result<[u8; SALT], Failure> {
    let mut salt = [0; SALT];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| Failure::runtime("the system has no random numbers"))?;
    Ok(salt)
}

fn line() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut text)
        .map_err(Failure::runtime)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn ask() -> Result<String, Failure> {
    say("password:");
    let first = hidden_line()?;
    say("the same again:");
    if hidden_line()? != first {
        return Err(Failure::runtime(
            "the two are not the same; nothing was made",
        ));
    }
    Ok(first)
}

/// A line that the terminal does not show.
fn hidden_line() -> Result<String, Failure> {
    let terminal = std::io::stdin();
    let before = tcgetattr(&terminal).map_err(Failure::runtime)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Now, &quiet).map_err(Failure::runtime)?;
    let typed = line();
    tcsetattr(&terminal, OptionalActions::Now, &before).map_err(Failure::runtime)?;
    typed
}
