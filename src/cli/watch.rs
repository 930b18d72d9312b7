//! `wellhead watch`: a table of what a gateway shows, kept up to date in a terminal; a line for each value in a pipe, and in a terminal
//! that cannot move its cursor (`TERM=dumb`).
//!
//! A thread reads from the broker, another waits for signals; this one draws and reads the keyboard. The queue between them is bounded:
//! a terminal that takes nothing makes the broker wait.
//!
//! Invariants: the terminal is as it was before, however this ends, except by SIGKILL; nothing that a peer has sent moves its cursor.

mod screen;
mod table;

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Access, Client};
use super::{Failure, StopSignal, put};
use crate::config;
use crate::log::Printable;
use crate::mqtt::{Publish, TopicFilter};
use crate::time::now;
use table::{Row, Table, Turn};

/// How long a value may wait to be seen.
const REDRAW_EVERY: Duration = Duration::from_millis(200);
/// How long a signal waits for the table to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Messages between the connection and the screen.
const QUEUE: usize = 1024;

/// The units of points, by topic.
type Units = HashMap<String, String>;

/// What the other threads have to say.
enum Heard {
    Message(Box<Publish>),
    /// The connection is over.
    Ended(Failure),
    /// A signal wants this to end.
    Stop,
}

/// Shows what comes until it is interrupted, until nobody reads any more, or until so many lines are written.
pub(super) fn watch(
    access: &Access,
    filters: &[TopicFilter],
    lines: Option<u64>,
) -> Result<(), Failure> {
    let units = units(access)?;
    let mut client = access.connect()?;
    client.subscribe(filters)?;
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
fn in_lines(mut client: Client, units: &Units, mut left: Option<u64>) -> Result<(), Failure> {
    while left != Some(0) {
        let Some(message) = client.message(None)? else {
            continue;
        };
        let Some((topic, row)) = Row::of(&message, units) else {
            continue;
        };
        if !put(format!("{topic} {} {} {}\n", row.value, row.unit, row.quality).as_bytes())? {
            return Ok(());
        }
        left = left.map(|left| left.saturating_sub(1));
    }
    Ok(())
}

/// A table, until somebody ends it.
fn in_terminal(client: Client, units: &Units) -> Result<(), Failure> {
    let (heard, inbox) = sync_channel(QUEUE);
    listen(client, heard.clone())?;
    stop_on_signals(heard)?;
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
fn listen(mut client: Client, heard: SyncSender<Heard>) -> Result<(), Failure> {
    let listen = move || {
        loop {
            let next = match client.message(None) {
                Ok(Some(message)) => Heard::Message(Box::new(message)),
                Ok(None) => continue,
                Err(failure) => Heard::Ended(failure),
            };
            let is_over = matches!(next, Heard::Ended(_));
            // Nobody listens any more when the table is closed.
            if heard.send(next).is_err() || is_over {
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

/// Catches what would end this process with the terminal left as the table needs it.
fn stop_on_signals(heard: SyncSender<Heard>) -> Result<(), Failure> {
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
        let _ = heard.try_send(Heard::Stop);
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
    inbox: &Receiver<Heard>,
    units: &Units,
) -> Result<(), Failure> {
    let failed = |error| Failure::runtime(format!("the terminal cannot be written to: {error}"));
    let mut table = Table::default();
    loop {
        // Bounded: a broker that sends without a pause must not keep the screen from being drawn.
        for heard in inbox.try_iter().take(QUEUE) {
            match heard {
                Heard::Message(message) => table.take(Row::of(&message, units)),
                Heard::Ended(failure) => return Err(failure),
                Heard::Stop => return Ok(()),
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
fn is_there(patience: Duration) -> Result<bool, Failure> {
    let terminal = io::stdin();
    if !terminal.is_terminal() {
        // crossterm reads the keys from /dev/tty.
        thread::sleep(patience);
        return Ok(io::stdout().is_terminal());
    }
    let mut keyboard = [PollFd::new(&terminal, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(Failure::runtime)?;
    match poll(&mut keyboard, Some(&patience)) {
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
fn units(access: &Access) -> Result<Units, Failure> {
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
