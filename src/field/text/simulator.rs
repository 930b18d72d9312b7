//! Plain instruments for simulators: they answer what they are asked, or talk by themselves, with the waves of their points.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, sleep_until};

use super::Talk;
use super::bytes::Template;
use super::script::Step;
use super::telegram::Placeholder;
use crate::field::Device;
use crate::field::modbus::slave::{FaultKind, Faults};
use crate::time::now;

/// How often an instrument talks by itself.
const TALKS_EVERY: Duration = Duration::from_secs(1);
const LONGEST_REQUEST: usize = 1024;

struct Player<'a> {
    device: &'a Device,
    talk: &'a Talk,
    /// What it is asked, as it comes, and what it answers: an index of its messages.
    asked: Vec<(Vec<u8>, usize)>,
}

/// Plays the instruments of a line until the wire ends. Those without `simulate` say nothing.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    devices: &[Arc<Device>],
    faults: &Arc<Mutex<Faults>>,
    mut wire: S,
) -> io::Result<()> {
    let began = now();
    let players: Vec<Player<'_>> = devices
        .iter()
        .filter_map(|device| Player::of(device))
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
                    let meant = players.iter().find_map(|player| Some((player, player.answer_to(&heard)?)));
                    if let Some((player, answer)) = meant {
                        heard.clear();
                        player.say(&mut wire, faults, (answer, began)).await?;
                    }
                }
                if heard.len() > LONGEST_REQUEST {
                    heard.clear();
                }
            }
            () = sleep_until(talks_at.into()) => {
                talks_at += TALKS_EVERY;
                for player in players.iter().filter(|player| !player.talk.is_polled()) {
                    for index in 0..player.talk.simulate.len() {
                        player.say(&mut wire, faults, (index, began)).await?;
                    }
                }
            }
        }
    }
}

impl<'a> Player<'a> {
    fn of(device: &'a Device) -> Option<Self> {
        let talk = device
            .talk
            .as_deref()
            .filter(|talk| !talk.simulate.is_empty())?;
        let mut player = Self {
            device,
            talk,
            asked: Vec::new(),
        };
        let mut groups = HashMap::from([("address".to_owned(), talk.address.clone().into_bytes())]);
        let of_requests = talk.sent().count() - talk.requests.len();
        let mut sent = 0;
        for step in &talk.script {
            match step.always() {
                Step::Send(template) => {
                    let answer = if talk.simulate.len() == 1 {
                        (talk.requests.is_empty() && sent + 1 == of_requests).then_some(0)
                    } else {
                        Some(sent)
                    };
                    player
                        .asked
                        .extend(answer.map(|answer| (player.filled(template, &groups), answer)));
                    sent += 1;
                }
                // What its last answer says is filled into what it is sent next.
                Step::Expect(pattern) => {
                    let said = player.message(sent.saturating_sub(1), Duration::ZERO);
                    let captures = pattern.captures(&said);
                    for name in pattern.capture_names().flatten() {
                        let found = captures.as_ref().and_then(|captures| captures.name(name));
                        groups.extend(
                            found.map(|found| (name.to_owned(), found.as_bytes().to_vec())),
                        );
                    }
                }
                Step::Wait(_) | Step::Speed(_) | Step::If(..) => {}
            }
        }
        for (index, template) in talk.requests.iter().enumerate() {
            let answer = if talk.simulate.len() == 1 {
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

    fn filled(&self, template: &Template, groups: &HashMap<String, Vec<u8>>) -> Vec<u8> {
        template.fill(groups, |before| {
            self.talk
                .checksum
                .as_ref()
                .map(|checksum| checksum.of_request(before))
                .unwrap_or_default()
        })
    }

    /// The message that answers what was heard.
    fn answer_to(&self, heard: &[u8]) -> Option<usize> {
        self.asked
            .iter()
            .find(|(request, _)| heard.ends_with(request))
            .map(|(_, answer)| *answer)
    }

    /// One message, with the faults that strike it.
    async fn say<S: AsyncWrite + Unpin>(
        &self,
        wire: &mut S,
        faults: &Arc<Mutex<Faults>>,
        (index, began): (usize, Instant),
    ) -> io::Result<()> {
        let struck = faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .strike(self.device.unit, None);
        let mut message = self.message(index, now().saturating_duration_since(began));
        for fault in &struck {
            let middle = message.len() / 2;
            match fault {
                FaultKind::Silence => return Ok(()),
                FaultKind::Unplug => return Err(io::ErrorKind::BrokenPipe.into()),
                FaultKind::Delay(time) => sleep(*time).await,
                FaultKind::Noise(count) | FaultKind::NoiseBefore(count) => {
                    wire.write_all(&(0..*count).map(|_| fastrand::u8(..)).collect::<Vec<u8>>())
                        .await?;
                }
                FaultKind::Crc | FaultKind::BitFlip => message
                    .iter_mut()
                    .skip(middle)
                    .take(1)
                    .for_each(|byte| *byte ^= 1),
                FaultKind::Truncate(count) => message.truncate(*count),
                FaultKind::Twice => message = [message.clone(), message].concat(),
                _ => {}
            }
        }
        wire.write_all(&message).await
    }

    /// A message as it travels; nothing if there is none.
    fn message(&self, index: usize, elapsed: Duration) -> Vec<u8> {
        let Some(template) = self.talk.simulate.get(index) else {
            return Vec::new();
        };
        let mut values =
            HashMap::from([("address".to_owned(), self.talk.address.clone().into_bytes())]);
        for typed in template.names() {
            let placeholder = Placeholder::parse(typed).ok();
            let bytes = placeholder
                .and_then(|placeholder| placeholder.bytes(self.device, elapsed, template.is_hex()));
            values.extend(bytes.map(|bytes| (typed.to_owned(), bytes)));
        }
        let travels = |bytes: &[u8], behind: usize| {
            let mut bytes = bytes.to_vec();
            self.talk
                .subtract
                .into_iter()
                .for_each(|subtract| subtract.undo(&mut bytes, behind));
            bytes
        };
        let checksum = |before: &[u8]| {
            self.talk
                .checksum
                .as_ref()
                .map(|checksum| checksum.of_message(&travels(before, 0)))
                .unwrap_or_default()
        };
        let message = template.fill(&values, checksum);
        travels(
            &message,
            self.talk
                .subtract
                .map_or(0, |subtract| subtract.to.unsigned_abs()),
        )
    }
}
