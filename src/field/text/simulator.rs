//! Simulated plain instruments: they answer requests and commands, or send by themselves, with the
//! waves of their points, or what was written to them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::sleep_until;

use super::TextProtocol;
use super::bytes::Template;
use super::command::{self, SimulatedReply, TextCommand};
use super::held::{SharedHeld, Shown};
use super::script::ScriptStep;
use super::telegram::Placeholder;
use crate::field::modbus::slave::SharedFaults;
use crate::field::{Device, Point, faulty_wire};
use crate::time::now;

/// The interval of an instrument that sends by itself.
const TALKS_EVERY: Duration = Duration::from_secs(1);
const LONGEST_REQUEST: usize = 1024;

/// One instrument of the line.
struct Player<'a> {
    device: &'a Device,
    protocol: &'a TextProtocol,
    faults: &'a SharedFaults,
    held: &'a SharedHeld,
    began: Instant,
    /// The requests as they come, and the answer to each: an index of its messages.
    asked: Vec<(Vec<u8>, usize)>,
    commands: Vec<PlayedCommand<'a>>,
}

/// A command that it takes.
struct PlayedCommand<'a> {
    point: &'a Point,
    command: &'a TextCommand,
    /// What comes; the group `value` is what shall be written.
    pattern: Regex,
    /// The address, and what the script finds.
    groups: HashMap<String, Vec<u8>>,
}

/// What an instrument says to what was heard.
enum SimulatedAnswer<'p, 'a> {
    /// One of its messages.
    Message(usize),
    /// The answer to a command with a value.
    Command(&'p PlayedCommand<'a>, Vec<u8>),
}

/// Plays the instruments of a line until the wire ends. Those without `simulate` say nothing.
/// `held`: what was written to them.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    devices: &[Arc<Device>],
    faults: &SharedFaults,
    held: &SharedHeld,
    mut wire: S,
) -> io::Result<()> {
    let began = now();
    let players: Vec<Player<'_>> = devices
        .iter()
        .filter_map(|device| Player::new(device, faults, held, began))
        .collect();
    let mut heard: Vec<u8> = Vec::new();
    let mut space = [0; 256];
    let mut talks_at = now() + TALKS_EVERY;
    loop {
        tokio::select! {
            count = wire.read(&mut space) => {
                let count = count?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                for byte in space.get(..count).unwrap_or_default() {
                    heard.push(*byte);
                    answer(&players, &mut heard, &mut wire).await?;
                }
                if heard.len() > LONGEST_REQUEST {
                    heard.clear();
                }
            }
            () = sleep_until(talks_at.into()) => {
                talks_at += TALKS_EVERY;
                for player in players.iter().filter(|player| !player.protocol.is_polled()) {
                    for index in 0..player.protocol.simulate.len() {
                        player.say(&mut wire, index).await?;
                    }
                }
            }
        }
    }
}

/// Answers what was heard, once it is a whole request or command.
async fn answer<S: AsyncWrite + Unpin>(
    players: &[Player<'_>],
    heard: &mut Vec<u8>,
    wire: &mut S,
) -> io::Result<()> {
    let meant = players
        .iter()
        .find_map(|player| Some((player, player.reply_to(heard)?)));
    if let Some((player, reply)) = meant {
        heard.clear();
        player.reply(wire, reply).await?;
    }
    Ok(())
}

impl<'a> Player<'a> {
    /// `None` for a device without messages to simulate.
    fn new(
        device: &'a Device,
        faults: &'a SharedFaults,
        held: &'a SharedHeld,
        began: Instant,
    ) -> Option<Self> {
        let protocol = device.protocol.text()?;
        let mut player = Self {
            device,
            protocol,
            faults,
            held,
            began,
            asked: Vec::new(),
            commands: Vec::new(),
        };
        let groups = player.learn_script();
        let of_requests = protocol.sent().count() - protocol.requests.len();
        player.learn_commands(&groups);
        if protocol.simulate.is_empty() {
            return (!player.commands.is_empty()).then_some(player);
        }
        for (index, template) in protocol.requests.iter().enumerate() {
            let answer = if protocol.simulate.len() == 1 {
                0
            } else {
                of_requests + index
            };
            player
                .asked
                .push((player.filled(template, &groups), answer));
        }
        Some(player)
    }

    /// Notes the commands that write its points.
    fn learn_commands(&mut self, groups: &HashMap<String, Vec<u8>>) {
        for point in &self.device.points {
            let rules = point.write.as_ref();
            let Some(command) = rules.and_then(|rules| rules.method.command()) else {
                continue;
            };
            let pattern = command.pattern(groups, self.protocol);
            self.commands.extend(pattern.map(|pattern| PlayedCommand {
                point,
                command,
                pattern,
                groups: groups.clone(),
            }));
        }
    }

    /// Notes the requests of the script; returns the groups that its answers fill.
    fn learn_script(&mut self) -> HashMap<String, Vec<u8>> {
        let protocol = self.protocol;
        let mut groups =
            HashMap::from([("address".to_owned(), protocol.address.clone().into_bytes())]);
        let of_requests = protocol.sent().count() - protocol.requests.len();
        let mut sent = 0;
        for step in &protocol.script {
            match step.always() {
                ScriptStep::Send(template) => {
                    let answer = if protocol.simulate.len() == 1 {
                        (protocol.requests.is_empty() && sent + 1 == of_requests).then_some(0)
                    } else {
                        Some(sent)
                    };
                    if let Some(answer) = answer {
                        let request = self.filled(template, &groups);
                        self.asked.push((request, answer));
                    }
                    sent += 1;
                }
                // Groups of its last answer are filled into the next request.
                ScriptStep::Expect(pattern) => {
                    let said = self.message(sent.saturating_sub(1), Duration::ZERO);
                    let captures = pattern.captures(&said);
                    for name in pattern.capture_names().flatten() {
                        let found = captures.as_ref().and_then(|captures| captures.name(name));
                        groups.extend(
                            found.map(|found| (name.to_owned(), found.as_bytes().to_vec())),
                        );
                    }
                }
                ScriptStep::Wait(_) | ScriptStep::Speed(_) | ScriptStep::If(..) => {}
            }
        }
        groups
    }

    fn filled(&self, template: &Template, groups: &HashMap<String, Vec<u8>>) -> Vec<u8> {
        template.fill(groups, |before| self.protocol.checksum_of_request(before))
    }

    /// What answers what was heard.
    fn reply_to(&self, heard: &[u8]) -> Option<SimulatedAnswer<'_, 'a>> {
        let mut asked = self.asked.iter();
        if let Some((_, answer)) = asked.find(|(request, _)| heard.ends_with(request)) {
            return Some(SimulatedAnswer::Message(*answer));
        }
        self.commands.iter().find_map(|played| {
            let captures = played.pattern.captures(heard)?;
            let value = captures.name(command::VALUE).map(|found| found.as_bytes());
            let value = value.unwrap_or_default();
            // A command with a wrong checksum is none.
            let whole = played.command.filled(self.protocol, value, &played.groups);
            heard
                .ends_with(&whole)
                .then(|| SimulatedAnswer::Command(played, value.to_vec()))
        })
    }

    async fn reply<S: AsyncWrite + Unpin>(
        &self,
        wire: &mut S,
        reply: SimulatedAnswer<'_, 'a>,
    ) -> io::Result<()> {
        let elapsed = now().saturating_duration_since(self.began);
        match reply {
            SimulatedAnswer::Message(index) => self.say(wire, index).await,
            SimulatedAnswer::Command(played, value) => {
                let SimulatedReply { say, zero } = &played.command.simulated;
                {
                    let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(value) = played.command.value.held(&value) {
                        held.write(played.point, value);
                    }
                    let points = self.device.points.iter();
                    for point in
                        points.filter(|point| zero.iter().any(|name| **name == *point.name))
                    {
                        held.zero(point, elapsed);
                    }
                }
                match say {
                    Some(template) => {
                        let message = self.filled_message(template, elapsed);
                        self.send(wire, message).await
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// One of its messages.
    async fn say<S: AsyncWrite + Unpin>(&self, wire: &mut S, index: usize) -> io::Result<()> {
        let elapsed = now().saturating_duration_since(self.began);
        self.send(wire, self.message(index, elapsed)).await
    }

    async fn send<S: AsyncWrite + Unpin>(&self, wire: &mut S, message: Vec<u8>) -> io::Result<()> {
        faulty_wire::send(wire, message, self.faults, self.device.unit).await
    }

    /// A message as it travels; nothing if there is none.
    fn message(&self, index: usize, elapsed: Duration) -> Vec<u8> {
        let template = self.protocol.simulate.get(index);
        template
            .map(|template| self.filled_message(template, elapsed))
            .unwrap_or_default()
    }

    fn filled_message(&self, template: &Template, elapsed: Duration) -> Vec<u8> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = Shown {
            device: self.device,
            held: &held,
            elapsed,
        };
        let mut values = HashMap::from([(
            "address".to_owned(),
            self.protocol.address.clone().into_bytes(),
        )]);
        for typed in template.names() {
            let placeholder = Placeholder::parse(typed).ok();
            let bytes = placeholder.and_then(|placeholder| placeholder.bytes(&shown, template));
            values.extend(bytes.map(|bytes| (typed.to_owned(), bytes)));
        }
        let travels = |bytes: &[u8], behind: usize| {
            let mut bytes = bytes.to_vec();
            self.protocol
                .subtract
                .into_iter()
                .for_each(|subtract| subtract.undo(&mut bytes, behind));
            bytes
        };
        let checksum = |before: &[u8]| {
            self.protocol
                .checksum
                .as_ref()
                .map(|checksum| checksum.of_message(&travels(before, 0)))
                .unwrap_or_default()
        };
        let message = template.fill(&values, checksum);
        travels(
            &message,
            self.protocol
                .subtract
                .map_or(0, |subtract| subtract.to.unsigned_abs()),
        )
    }
}
