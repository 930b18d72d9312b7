//! One readout of a meter: all its telegrams, from the first to the last.
//!
//! Invariants:
//! * A meter that is silent costs two time-outs.
//! * A telegram that names another meter than the one that was selected is refused.

use tokio::io::{AsyncRead, AsyncWrite};

use super::bus::{Bus, FrameCount, MeterReply};
use super::frame::application_reset;
use super::record::MeterRecord;
use super::spec::{MeterAddress, MeterSpec, SecondaryAddress};
use super::telegram::{Identity, Status, Telegram, TelegramError, telegram};
use crate::field::PollError;

/// Telegrams of one readout; a meter that has more would never end.
const MOST_TELEGRAMS: usize = 32;

/// What a meter says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Readout {
    /// Who it is; `None`: it does not say.
    pub(super) identity: Option<Identity>,
    /// Its state.
    pub(super) status: Status,
    /// All its records.
    pub(super) records: Vec<MeterRecord>,
    /// Why a part of a telegram could not be read.
    pub(super) broken: Option<&'static str>,
}

/// Whether a meter has shown that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MeterPresence {
    Acknowledged,
    Unknown,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bus<S> {
    /// Reads a meter.
    pub(super) async fn readout(&mut self, meter: MeterSpec) -> Result<Readout, PollError> {
        let mut presence = self.opened(meter.address).await?;
        let address = meter.address.of_requests();
        if meter.reset {
            self.ask(&application_reset(address), address).await?;
        }
        let mut readout = Readout::default();
        let mut frame_count = FrameCount::Set;
        for number in 0..MOST_TELEGRAMS {
            let data = self.data(address, frame_count, presence).await?;
            presence = MeterPresence::Acknowledged;
            let telegram = telegram(&data).map_err(poll_error)?;
            check_identity(meter.address, &telegram)?;
            let more_follow = telegram.records.more_follow;
            if telegram.status.is_busy() && !telegram.has_values() {
                return Err(PollError::Busy("the meter is busy".to_owned()));
            }
            if number == 0 {
                readout.identity = telegram.identity;
                readout.status = telegram.status;
            }
            readout.broken = readout.broken.or(telegram.records.broken);
            readout.records.extend(telegram.records.list);
            if !more_follow {
                return Ok(readout);
            }
            frame_count = frame_count.next();
        }
        readout.broken = Some("the meter has more telegrams than are read");
        Ok(readout)
    }

    /// Makes the meter start anew, or selects it.
    async fn opened(&mut self, address: MeterAddress) -> Result<MeterPresence, PollError> {
        let reply = self.open(address).await?;
        match (address, reply) {
            (_, MeterReply::Acknowledged) => Ok(MeterPresence::Acknowledged),
            // Some meters do not acknowledge that they start anew.
            (MeterAddress::Primary(_), _) | (_, MeterReply::Data(_)) => Ok(MeterPresence::Unknown),
            (MeterAddress::Secondary(_), MeterReply::Silence) => Err(PollError::NoAnswer),
            (MeterAddress::Secondary(address), MeterReply::Garbage) => {
                Err(PollError::Garbled(format!(
                    "several meters answer to {address}; write more of its digits, manufacturer, version or medium"
                )))
            }
        }
    }

    /// One telegram; asked for once more if it was garbled, or the meter is known to be there.
    async fn data(
        &mut self,
        address: u8,
        frame_count: FrameCount,
        presence: MeterPresence,
    ) -> Result<Vec<u8>, PollError> {
        let first = self.request(address, frame_count).await?;
        let reply = match first {
            MeterReply::Data(data) => return Ok(data),
            MeterReply::Silence if presence == MeterPresence::Unknown => {
                return Err(PollError::NoAnswer);
            }
            _ => self.request(address, frame_count).await?,
        };
        match reply {
            MeterReply::Data(data) => Ok(data),
            MeterReply::Silence => Err(PollError::NoAnswer),
            MeterReply::Acknowledged => Err(PollError::Refused("the meter has no data".to_owned())),
            MeterReply::Garbage => Err(PollError::Garbled(
                "received no right telegram: two meters with one address, a wrong speed, or a disturbed wire".to_owned(),
            )),
        }
    }
}

fn poll_error(error: TelegramError) -> PollError {
    let why = error.to_string();
    match error {
        TelegramError::Reported("it is busy") => PollError::Busy(why),
        TelegramError::Reported(_) | TelegramError::Encrypted => PollError::Refused(why),
        TelegramError::Malformed(_) => PollError::Garbled(why),
    }
}

/// A meter that was selected before may still answer to 253.
fn check_identity(address: MeterAddress, telegram: &Telegram) -> Result<(), PollError> {
    let (MeterAddress::Secondary(wanted), Some(identity)) = (address, telegram.identity) else {
        return Ok(());
    };
    if wanted.fits(SecondaryAddress::of(identity)) {
        Ok(())
    } else {
        Err(PollError::Garbled(format!(
            "another meter answered: {identity}"
        )))
    }
}
