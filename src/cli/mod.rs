//! The command line: one file or folder per command. Errors become one line on stderr and an exit
//! code.

mod check;
mod client;
mod client_commands;
mod columns;
mod demo;
mod direct;
mod expand;
mod init;
mod line_access;
mod log;
mod manual;
mod outbox;
mod passwd;
mod peek;
mod points_csv;
mod profiles;
mod reload;
mod run;
mod scan;
mod sessions;
mod simulate;
mod status;
mod trace;
mod watch;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, LoadError};
use crate::log::{Format, Printable};
use crate::mqtt::TopicFilter;

/// The configuration is wrong (`EX_CONFIG` of sysexits.h); systemd does not restart the service
/// then.
const CONFIG: u8 = 78;
const RUNTIME: u8 = 1;
const USAGE: u8 = 2;

/// Edge gateway: serial and Modbus instruments, a local MQTT broker, and an uplink that loses
/// nothing
#[derive(Debug, Parser)]
#[command(
    name = "wellhead",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    #[command(
        after_help = "Examples:\n  wellhead run                                   ./gateway.yaml, else /etc/wellhead/gateway.yaml\n  wellhead run site.yaml\n  WELLHEAD_LOG=debug wellhead run                more log lines"
    )]
    Run {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
        /// Real-time priority of the threads of serial lines (SCHED_FIFO); the system must allow it
        #[arg(long, value_name = "1-99", env = "WELLHEAD_LINE_PRIORITY", value_parser = clap::value_parser!(u8).range(1..=99))]
        line_priority: Option<u8>,
        /// How the log is written: text, or json (an object a line) [default: log.format of the
        /// YAML file, else text]
        #[arg(long, value_name = "FORMAT", env = "WELLHEAD_LOG_FORMAT")]
        log_format: Option<Format>,
    },
    /// Reload the configuration of the running gateway (a file with mistakes changes nothing; only
    /// changed parts restart)
    #[command(
        after_help = "Examples:\n  wellhead reload                                prints what changed\n  systemctl reload wellhead                      the same; the report is in the journal"
    )]
    Reload {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
    },
    /// Check a YAML file: list every mistake with its position, or show the polling plan and the
    /// cost of each uplink
    #[command(
        after_help = "Examples:\n  wellhead check gateway.yaml\n  wellhead check --points\n  wellhead check --json | jq '.plan.uplinks[].bytes_per_month'\n  wellhead check --json | jq -r '.faults[].message'"
    )]
    Check(check::CheckArguments),
    /// Simulate the devices in a YAML file: TCP lines on their address, serial lines on a
    /// pseudo-terminal
    #[command(
        after_help = "Examples:\n  wellhead simulate gateway.yaml\n  wellhead simulate gateway.yaml --line bus --fault 'crc every 10'\n  wellhead simulate gateway.yaml --baud-true --turnaround 20ms"
    )]
    Simulate(simulate::SimulateArguments),
    /// Show, export or delete queued messages
    #[command(subcommand)]
    Outbox(outbox::OutboxCommand),
    /// Manage sessions of the local broker
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Hash a password for `broker.users` (from a prompt or a pipe)
    #[command(
        after_help = "Examples:\n  wellhead passwd hmi                            asks for the password\n  echo secret | wellhead passwd hmi --scram"
    )]
    Passwd {
        /// The user's name
        name: Option<String>,
        /// Add a secret for enhanced authentication (SCRAM-SHA-256)
        #[arg(long)]
        scram: bool,
    },
    /// List the profiles that come with the program, search them, or print one
    #[command(
        after_help = "Examples:\n  wellhead profiles                              all\n  wellhead profiles 'three phase'\n  wellhead profiles eastron-sdm630 > profiles/my-meter.yaml"
    )]
    Profiles {
        /// A name, or part of a name or description, such as sdm630 or `three phase`
        word: Option<String>,
        /// Print all as a table in Markdown
        #[arg(long, conflicts_with = "word")]
        markdown: bool,
    },
    /// Convert points between YAML and CSV for spreadsheets
    #[command(subcommand)]
    Points(points_csv::PointsCommand),
    /// Watch it work for half a minute: simulated instruments, a gateway, a remote broker, an
    /// outage and a kill -9
    #[command(
        after_help = "Examples:\n  wellhead demo                                  half a minute; ends with the ledger"
    )]
    Demo,
    /// Subscribe to the gateway's broker and print messages
    ///
    /// Topics are printed without control characters. So are payloads on a terminal; a pipe or a
    /// file gets the bytes of payloads unchanged.
    #[command(
        after_help = "Examples:\n  wellhead sub                                   everything\n  wellhead sub 'plant/+/flow' -n 10\n  wellhead sub --to mqtt://10.0.0.7:1883 --user hmi --password-file pw"
    )]
    Sub(client_commands::SubArguments),
    /// Publish a message to the gateway's broker
    #[command(
        after_help = "Examples:\n  wellhead pub plant/note hello --retain\n  date | wellhead pub plant/time"
    )]
    Pub(client_commands::PubArguments),
    /// Show current values in a live table; in a pipe, print a line for each value
    #[command(
        after_help = "Examples:\n  wellhead watch                                 everything\n  wellhead watch 'pump-station-7/+/flow'         some topics\n  wellhead watch | grep bad                      a line for each value"
    )]
    Watch(watch::WatchArguments),
    /// Expand packed frames from a broker into readings: lines, or messages on plain topics
    #[command(
        after_help = "Examples:\n  wellhead expand 'oilco/+/frames' --to mqtt://broker.example.net    a line of JSON for each reading\n  wellhead expand 'oilco/+/frames' --publish plain/ --session expander --state /var/lib/expander\n  wellhead expand 'oilco/+/frames' --as csv > readings.csv"
    )]
    Expand(expand::ExpandArguments),
    /// Show the state of the running gateway: lines, uplinks, queued messages
    Status(status::StatusArguments),
    /// Show requests and answers on a line of the running gateway, decoded
    Trace(trace::Trace),
    /// Print the value of a point, from the running gateway or read directly
    #[command(
        after_help = "Examples:\n  wellhead read inlet flow\n  wellhead read inlet flow --file /etc/wellhead/gateway.yaml"
    )]
    Read(client_commands::ReadArguments),
    /// Write a point, through the running gateway or directly, and wait for the result
    #[command(
        after_help = "Examples:\n  wellhead write boiler setpoint 21.5\n  wellhead write pump run true\n  wellhead write valve position -- -10"
    )]
    Write(client_commands::WriteArguments),
    /// Write a first gateway.yaml from flags or a few questions
    Init(init::Init),
    /// Find the devices on a line: addresses, identification, SunSpec, matching profiles
    Scan(scan::Scan),
    /// Show registers in every type and byte order, or find the ones that hold a value (--expect)
    Peek(peek::Peek),
    /// Print the JSON Schema of the YAML file, for editors
    #[command(
        after_help = "Examples:\n  wellhead schema > gateway.schema.json\n  wellhead schema --profile"
    )]
    Schema {
        /// Print the schema of files in profiles/
        #[arg(long)]
        profile: bool,
    },
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  wellhead completions bash > /etc/bash_completion.d/wellhead\n  source <(wellhead completions zsh)"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page: of the program, a command or gateway.yaml
    #[command(
        after_help = "Examples:\n  wellhead man | man -l -\n  wellhead man outbox show | man -l -\n  wellhead man gateway.yaml | man -l -\n  wellhead man gateway.yaml --markdown"
    )]
    Man {
        /// The command, or gateway.yaml
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
        /// List the names of all pages, each with its command
        #[arg(long, conflicts_with = "words")]
        list: bool,
        /// Print the page of gateway.yaml as Markdown
        #[arg(long, conflicts_with = "list")]
        markdown: bool,
    },
}

/// Why a command failed, and its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn runtime(message: impl ToString) -> Self {
        Self {
            code: RUNTIME,
            message: message.to_string(),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self {
            code: CONFIG,
            message: error.to_string(),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let prefix = log::prefix();
            for line in failure.message.lines() {
                say(&format!("{prefix}{line}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

// Over the limit of tokens: a table of commands, whose lines are independent of each other.
fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run {
            file,
            line_priority,
            log_format,
        } => run::run(&chosen(file)?, line_priority, log_format),
        Command::Reload { file } => reload::reload(&chosen(file)?),
        Command::Check(arguments) => check::check(arguments),
        Command::Simulate(arguments) => simulate::simulate(arguments),
        Command::Outbox(command) => outbox::outbox(command),
        Command::Sessions(command) => sessions::sessions(command),
        Command::Passwd { name, scram } => passwd::passwd(name.as_deref(), scram),
        Command::Profiles { markdown: true, .. } => profiles::chapter(),
        Command::Profiles { word, .. } => profiles::profiles(word.as_deref().unwrap_or_default()),
        Command::Points(command) => points_csv::points(command),
        Command::Demo => demo::demo(),
        Command::Sub(arguments) => client_commands::sub(arguments),
        Command::Pub(arguments) => client_commands::publish(arguments),
        Command::Watch(arguments) => watch::watch(arguments),
        Command::Expand(arguments) => expand::expand(arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Trace(arguments) => trace::trace(&arguments),
        Command::Read(arguments) => client_commands::read(&arguments),
        Command::Write(arguments) => client_commands::write(&arguments),
        Command::Init(arguments) => init::init(&arguments),
        Command::Scan(arguments) => scan::scan(&arguments),
        Command::Peek(arguments) => peek::peek(&arguments),
        Command::Schema { profile } => schema(profile),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { list: true, .. } => manual::list(),
        Command::Man {
            words,
            markdown: true,
            ..
        } => manual::chapter(&words),
        Command::Man { words, .. } => manual::man(&words),
    }
}

/// The error of a command line, `words` without the name of the program; `None` if the program
/// accepts it.
pub fn misunderstood(words: &[&str]) -> Option<clap::Error> {
    Arguments::try_parse_from(["wellhead"].iter().chain(words)).err()
}

/// Prints a line to stderr. Control characters, which peers and files could put into it, are
/// escaped.
#[allow(clippy::print_stderr)]
fn say(line: &str) {
    eprintln!("{}", Printable::lines(line));
}

/// Writes to stdout; false if the reader has closed the pipe.
fn put(text: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).map_err(Failure::runtime),
    }
}

/// Writes the schema of the file, or of a profile, to stdout.
fn schema(of_profile: bool) -> Result<(), Failure> {
    let schema = if of_profile {
        config::schema::of_profile()
    } else {
        config::schema::of_file()
    };
    let text = serde_json::to_string_pretty(&schema).map_err(Failure::runtime)?;
    put(format!("{text}\n").as_bytes()).map(drop)
}

/// All topics, if none is named.
fn or_all(mut filters: Vec<TopicFilter>) -> Vec<TopicFilter> {
    if filters.is_empty() {
        filters.extend(TopicFilter::new("#"));
    }
    filters
}

fn filter(text: &str) -> Result<TopicFilter, String> {
    TopicFilter::new(text.to_owned())
        .map_err(|error| format!("{error}; write one such as plant/+/flow or plant/#"))
}

/// The file that is used if none is named.
fn usual_file() -> Option<PathBuf> {
    // A file whose folder is closed counts as there: reading it says which right is missing.
    let is_there = |path: &&Path| path.try_exists().unwrap_or(true);
    ["gateway.yaml", "/etc/wellhead/gateway.yaml"]
        .iter()
        .map(Path::new)
        .find(is_there)
        .map(Path::to_path_buf)
}

/// The file that is named, else the usual one.
fn chosen(file: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(file) = file {
        return Ok(file);
    }
    usual_file().ok_or_else(|| Failure {
        code: CONFIG,
        message: "neither ./gateway.yaml nor /etc/wellhead/gateway.yaml exists; name a file: wellhead run FILE".to_owned(),
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wellhead")
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format!("the runtime cannot start: {error}")))
}

/// SIGTERM and Ctrl-C, caught from the moment this is made.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    /// Call it inside the runtime, before starting anything that needs an orderly stop.
    fn catch() -> Result<Self, Failure> {
        let failed = |error| Failure::runtime(format!("signals cannot be received: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
