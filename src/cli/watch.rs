//! `wellhead watch`: a live table of values in a terminal; a line for each value in a pipe, and in
//! a terminal that cannot move its cursor (`TERM=dumb`).
//!
//! One thread reads from the broker, another waits for signals; the main thread draws and reads the
//! keyboard. The queue between them is bounded: a blocked terminal makes the broker wait.
//!
//! Invariants: the terminal is as it was before, however this ends, except by SIGKILL; nothing that
//! a peer has sent moves its cursor.

mod screen;
mod table;

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{BrokerAccess, Client};
use super::{Failure, StopSignal, filter, or_all, put};
use crate::config;
use crate::log::Printable;
use crate::mqtt::{Publish, TopicFilter};
use crate::time::now;
use table::{Turn, ValueRow, ValueTable};

/// How long a value may wait to be seen.
const REDRAW_EVERY: Duration = Duration::from_millis(200);
/// How long a signal waits for the table to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Messages between the connection and the screen.
const QUEUE: usize = 1024;

/// The units of points, by topic.
type PointUnits = HashMap<String, String>;

/// What the other threads send.
enum WatchInput {
    Message(Box<Publish>),
    /// The connection is over.
    Ended(Failure),
    /// A signal has come.
    Stop,
}

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct WatchArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// Print lines instead of a table, and exit after this many
    #[arg(long, short = 'n', value_name = "COUNT")]
    lines: Option<u64>,
    /// Topics, with + and # [default: #]
    #[arg(value_parser = filter)]
    filters: Vec<TopicFilter>,
}

/// Shows values until it is interrupted, the reader closes the pipe, or the lines that were asked
/// for are written.
pub(super) fn watch(arguments: WatchArguments) -> Result<(), Failure> {
    let WatchArguments {
        access,
        lines,
        filters,
    } = arguments;
    let units = units(&access)?;
    let mut client = access.connect()?;
    client.subscribe(&or_all(filters))?;
    if lines.is_none() && io::stdout().is_terminal() && !is_dumb() {
        in_terminal(client, &units)
    } else {
        in_lines(client, &units, lines)
    }
}

/// True for a terminal that only prints.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// A line for each value.
fn in_lines(mut client: Client, units: &PointUnits, mut left: Option<u64>) -> Result<(), Failure> {
    while left != Some(0) {
        let Some(message) = client.message(None)? else {
            continue;
        };
        let Some((topic, row)) = ValueRow::of(&message, units) else {
            continue;
        };
        if !put(format!("{topic} {} {} {}\n", row.value, row.unit, row.quality).as_bytes())? {
            return Ok(());
        }
        left = left.map(|left| left.saturating_sub(1));
    }
    Ok(())
}

/// A table, until a key or a signal ends it.
fn in_terminal(client: Client, units: &PointUnits) -> Result<(), Failure> {
    let (inputs, inbox) = sync_channel(QUEUE);
    listen(client, inputs.clone())?;
    stop_on_signals(inputs)?;
    // It also restores the terminal before a panic is printed.
    let mut terminal = ratatui::try_init().map_err(|error| {
        Failure::runtime(format!("the terminal cannot be used for a table: {error}; `wellhead watch | cat` prints a line for each value"))
    })?;
    let shown = show(&mut terminal, &inbox, units);
    // A terminal that is gone need not be restored.
    let _ = ratatui::try_restore();
    shown
}

/// Passes on what the broker sends.
fn listen(mut client: Client, inputs: SyncSender<WatchInput>) -> Result<(), Failure> {
    let listen = move || {
        loop {
            let next = match client.message(None) {
                Ok(Some(message)) => WatchInput::Message(Box::new(message)),
                Ok(None) => continue,
                Err(failure) => WatchInput::Ended(failure),
            };
            let is_over = matches!(next, WatchInput::Ended(_));
            // The table is closed.
            if inputs.send(next).is_err() || is_over {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("broker".to_owned())
        .spawn(listen)
        .map(drop)
        .map_err(Failure::runtime)
}

/// Catches signals that would end this process without restoring the terminal.
fn stop_on_signals(inputs: SyncSender<WatchInput>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let (mut stop, mut hang_up) = runtime.block_on(async {
        let hang_up = signal(SignalKind::hangup())
            .map_err(|error| Failure::runtime(format!("signals cannot be received: {error}")))?;
        Ok::<_, Failure>((StopSignal::catch()?, hang_up))
    })?;
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                () = stop.wait() => {}
                _ = hang_up.recv() => {}
            }
        });
        // The table may be closed already, or the queue be full.
        let _ = inputs.try_send(WatchInput::Stop);
        // Still here: crossterm never returns from reading a terminal that has just gone.
        thread::sleep(CLOSE_WITHIN);
        let _ = ratatui::try_restore();
        std::process::exit(0);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(Failure::runtime)
}

fn show(
    terminal: &mut DefaultTerminal,
    inbox: &Receiver<WatchInput>,
    units: &PointUnits,
) -> Result<(), Failure> {
    let failed = |error| Failure::runtime(format!("the terminal cannot be written to: {error}"));
    let mut table = ValueTable::default();
    loop {
        // Bounded: a broker that sends without a pause must not keep the screen from being drawn.
        for input in inbox.try_iter().take(QUEUE) {
            match input {
                WatchInput::Message(message) => table.take(ValueRow::of(&message, units)),
                WatchInput::Ended(failure) => return Err(failure),
                WatchInput::Stop => return Ok(()),
            }
        }
        terminal
            .draw(|frame| screen::draw(&mut table, now(), frame.area(), frame.buffer_mut()))
            .map_err(failed)?;
        if !is_there(REDRAW_EVERY)? {
            return Ok(());
        }
        while event::poll(Duration::ZERO).map_err(failed)? {
            if let Event::Key(key) = event::read().map_err(failed)?
                && table.key(key) == Turn::Quit
            {
                return Ok(());
            }
        }
    }
}

/// Waits for a key; false if the terminal is gone. crossterm would read such a terminal for ever.
fn is_there(timeout: Duration) -> Result<bool, Failure> {
    let terminal = io::stdin();
    if !terminal.is_terminal() {
        // crossterm reads the keys from /dev/tty.
        thread::sleep(timeout);
        return Ok(io::stdout().is_terminal());
    }
    let mut keyboard = [PollFd::new(&terminal, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).map_err(Failure::runtime)?;
    match poll(&mut keyboard, Some(&timeout)) {
        Ok(_) => Ok(keyboard.iter().all(|key| {
            !key.revents()
                .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
        })),
        // The size of the terminal has changed.
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(Failure::runtime(format!(
            "the terminal cannot be read: {error}"
        ))),
    }
}

/// The units of the file, by topic.
fn units(access: &BrokerAccess) -> Result<PointUnits, Failure> {
    let Some(file) = access.file() else {
        return Ok(HashMap::new());
    };
    let points = config::load(&file)?.points;
    let unit = |point: &crate::report::PointReport| {
        let unit = point
            .unit
            .as_ref()
            .map_or_else(String::new, |unit| Printable(unit).to_string());
        point
            .topics()
            .map(|topic| (topic.to_string(), unit.clone()))
            .collect::<Vec<_>>()
    };
    Ok(points.iter().flat_map(unit).collect())
}
