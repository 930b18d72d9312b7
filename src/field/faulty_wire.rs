//! What simulated devices without registers send, with the faults that strike it.

use std::io;
use std::sync::PoisonError;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::modbus::slave::{FaultKind, SharedFaults};

/// Sends a message of a device, unless a fault says otherwise. `unit`: the number by which faults
/// name the device, 0 where it has none.
pub(super) async fn send<S: AsyncWrite + Unpin>(
    wire: &mut S,
    mut message: Vec<u8>,
    faults: &SharedFaults,
    unit: u8,
) -> io::Result<()> {
    let kinds = faults
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .inject(unit, None);
    for kind in kinds {
        let middle = message.len() / 2;
        match kind {
            FaultKind::Silence => return Ok(()),
            FaultKind::Unplug => return Err(io::ErrorKind::BrokenPipe.into()),
            FaultKind::Delay(time) => sleep(time).await,
            FaultKind::Noise(count) | FaultKind::NoiseBefore(count) => {
                let noise: Vec<u8> = (0..count).map(|_| fastrand::u8(..)).collect();
                wire.write_all(&noise).await?;
            }
            FaultKind::Crc | FaultKind::BitFlip => {
                if let Some(byte) = message.get_mut(middle) {
                    *byte ^= 1;
                }
            }
            FaultKind::Truncate(count) => message.truncate(count),
            FaultKind::Twice => message = [message.clone(), message].concat(),
            // The others are faults of Modbus frames.
            _ => {}
        }
    }
    wire.write_all(&message).await
}
