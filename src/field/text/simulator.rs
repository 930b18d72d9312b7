//! Plain instruments for simulators: they answer what they are asked, or talk by themselves, with the waves of their points.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, sleep_until};

use super::Talk;
use super::bytes::Template;
use crate::field::Device;
use crate::field::modbus::slave::{FaultKind, Faults};
use crate::time::now;

/// How often an instrument talks by itself.
const TALKS_EVERY: Duration = Duration::from_secs(1);
const LONGEST_REQUEST: usize = 1024;

struct Player<'a> {
    device: &'a Device,
    talk: &'a Talk,
    message: &'a Template,
    /// What it is asked, as it comes.
    requests: Vec<Vec<u8>>,
}

/// Plays the instruments of a line until the wire ends. Those without `simulate` say nothing.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(devices: &[Arc<Device>], faults: &Arc<Mutex<Faults>>, mut wire: S) -> io::Result<()> {
    let began = now();
    let players: Vec<Player<'_>> = devices.iter().filter_map(|device| Player::of(device)).collect();
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
                    if let Some(player) = players.iter().find(|player| player.requests.iter().any(|request| heard.ends_with(request))) {
                        heard.clear();
                        player.say(&mut wire, faults, began).await?;
                    }
                }
                if heard.len() > LONGEST_REQUEST {
                    heard.clear();
                }
            }
            () = sleep_until(talks_at.into()) => {
                talks_at += TALKS_EVERY;
                for player in players.iter().filter(|player| !player.talk.is_polled()) {
                    player.say(&mut wire, faults, began).await?;
                }
            }
        }
    }
}

impl<'a> Player<'a> {
    fn of(device: &'a Device) -> Option<Self> {
        let talk = device.talk.as_ref()?;
        let message = talk.simulate.as_ref()?;
        let groups = HashMap::from([("address".to_owned(), talk.address.clone().into_bytes())]);
        let sum = |before: &[u8]| talk.checksum.as_ref().map(|checksum| checksum.of_request(before)).unwrap_or_default();
        let requests = talk.requests.iter().map(|request| request.fill(&groups, sum)).collect();
        Some(Self { device, talk, message, requests })
    }

    /// One message, with the faults that strike it.
    async fn say<S: AsyncWrite + Unpin>(&self, wire: &mut S, faults: &Arc<Mutex<Faults>>, began: Instant) -> io::Result<()> {
        let struck = faults.lock().unwrap_or_else(PoisonError::into_inner).strike(self.device.unit, None);
        let mut message = self.message(now().saturating_duration_since(began));
        for fault in &struck {
            let middle = message.len() / 2;
            match fault {
                FaultKind::Silence => return Ok(()),
                FaultKind::Unplug => return Err(io::ErrorKind::BrokenPipe.into()),
                FaultKind::Delay(time) => sleep(*time).await,
                FaultKind::Noise(count) | FaultKind::NoiseBefore(count) => {
                    wire.write_all(&(0..*count).map(|_| fastrand::u8(..)).collect::<Vec<u8>>()).await?;
                }
                FaultKind::Crc | FaultKind::BitFlip => message.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1),
                FaultKind::Truncate(count) => message.truncate(*count),
                FaultKind::Twice => message = [message.clone(), message].concat(),
                _ => {}
            }
        }
        wire.write_all(&message).await
    }

    fn message(&self, elapsed: Duration) -> Vec<u8> {
        let mut values = HashMap::from([("address".to_owned(), self.talk.address.clone().into_bytes())]);
        for point in &self.device.points {
            let value = point.wave.value(elapsed);
            let text = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
            values.insert(point.name.to_string(), text.into_bytes());
        }
        self.message.fill(&values, |before| self.talk.checksum.as_ref().map(|checksum| checksum.of_message(before)).unwrap_or_default())
    }
}
