//! The search for meters whose address is not known: one address after the other, or by their
//! identification, digit by digit where several answer at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::bus::{Bus, FrameCount, MeterReply};
use super::frame::SELECTED;
use super::spec::{LARGEST_ADDRESS, MeterAddress, SecondaryAddress};
use super::telegram::{Identity, telegram};
use crate::field::counts::LineCounts;
use crate::field::stream::Stream;
use crate::field::{PollError, Wire};

/// What answered to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A meter; `None`: it does not say which.
    Meter(MeterAddress, Option<Identity>),
    /// Several meters at once.
    Collision(MeterAddress),
}

/// Wildcard addresses that still have to be tried.
struct MeterSearch {
    /// The number of digits that are fixed, and they.
    open: Vec<(usize, SecondaryAddress)>,
}

const DIGITS: usize = 8;

impl Default for MeterSearch {
    fn default() -> Self {
        Self {
            open: vec![(0, SecondaryAddress([0xFF; 8]))],
        }
    }
}

impl MeterSearch {
    /// The next address to try.
    fn next_address(&mut self) -> Option<(usize, SecondaryAddress)> {
        self.open.pop()
    }

    /// Several meters fit an address: its next digit is tried from 0 to 9. `false`: it has no
    /// further digit.
    fn narrow(&mut self, fixed: usize, address: SecondaryAddress) -> bool {
        if fixed >= DIGITS {
            return false;
        }
        // From 9, so that the stack gives 0 first.
        for digit in (0..=9).rev() {
            let mut bytes = address.0;
            // The first digit is the high half of the fourth byte.
            let place = 3_usize.saturating_sub(fixed / 2);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = if fixed.is_multiple_of(2) {
                    (digit << 4) | (*byte & 0x0F)
                } else {
                    (*byte & 0xF0) | digit
                };
            }
            self.open.push((fixed + 1, SecondaryAddress(bytes)));
        }
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bus<S> {
    /// Asks one primary address; `None`: nobody answers.
    async fn look_at(&mut self, address: u8) -> Result<Option<Found>, PollError> {
        debug_assert!(address <= LARGEST_ADDRESS);
        let first = self.initialize(address).await?;
        if first == MeterReply::Silence {
            return Ok(None);
        }
        let reply = self.request(address, FrameCount::Set).await?;
        let address = MeterAddress::Primary(address);
        Ok(Some(match reply {
            MeterReply::Data(data) => Found::Meter(address, identity_in(&data)),
            MeterReply::Garbage => Found::Collision(address),
            MeterReply::Silence | MeterReply::Acknowledged if first == MeterReply::Garbage => {
                Found::Collision(address)
            }
            MeterReply::Silence | MeterReply::Acknowledged => Found::Meter(address, None),
        }))
    }

    /// Tries one address of a search; `None`: nobody answers.
    async fn try_next(
        &mut self,
        search: &mut MeterSearch,
        fixed: usize,
        address: SecondaryAddress,
    ) -> Result<Option<Found>, PollError> {
        let selected = self.select(address).await?;
        let reply = match selected {
            MeterReply::Silence => return Ok(None),
            MeterReply::Garbage => MeterReply::Garbage,
            // Several that acknowledge at the same moment look like one.
            MeterReply::Acknowledged | MeterReply::Data(_) => {
                self.request(SELECTED, FrameCount::Set).await?
            }
        };
        if let MeterReply::Data(data) = reply {
            let identity = identity_in(&data);
            let whole = identity.map_or(address, SecondaryAddress::of);
            return Ok(Some(Found::Meter(MeterAddress::Secondary(whole), identity)));
        }
        if search.narrow(fixed, address) {
            Ok(None)
        } else {
            Ok(Some(Found::Collision(MeterAddress::Secondary(address))))
        }
    }
}

/// Looks for the meters of a wire: at each of the primary addresses, then by their identification.
/// A meter that was found by its primary address is not found again. `tell` hears each address
/// before it is tried. The error says why the wire cannot be used.
pub async fn find_meters(
    wire: &Wire,
    within: Duration,
    primary: &[u8],
    mut tell: impl FnMut(MeterAddress),
) -> Result<Vec<Found>, String> {
    let stream = Stream::open(wire, within).await?;
    let counts = Arc::new(LineCounts::new("scan", std::iter::empty()));
    let mut bus = Bus::new(stream, within, counts, None);
    let mut found = Vec::new();
    for address in primary {
        tell(MeterAddress::Primary(*address));
        let answered = bus.look_at(*address).await;
        found.extend(answered.map_err(|error| error.to_string())?);
    }
    let mut search = MeterSearch::default();
    while let Some((fixed, address)) = search.next_address() {
        tell(MeterAddress::Secondary(address));
        let answered = bus.try_next(&mut search, fixed, address).await;
        let answered = answered.map_err(|error| error.to_string())?;
        let is_known = |meter: &Found| match (meter, &answered) {
            (Found::Meter(_, Some(known)), Some(Found::Meter(_, Some(other)))) => known == other,
            _ => false,
        };
        if !found.iter().any(is_known) {
            found.extend(answered);
        }
    }
    Ok(found)
}

fn identity_in(data: &[u8]) -> Option<Identity> {
    telegram(data).ok()?.identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_tries_each_digit_of_what_several_answer_to() {
        let mut search = MeterSearch::default();
        let (fixed, all) = search.next_address().unwrap();
        assert_eq!((fixed, all), (0, SecondaryAddress([0xFF; 8])));
        assert!(search.narrow(fixed, all));
        let (fixed, first) = search.next_address().unwrap();
        assert_eq!((fixed, first.to_string().as_str()), (1, "0FFFFFFF"));
        assert!(search.narrow(fixed, first));
        assert_eq!(search.next_address().unwrap().1.to_string(), "00FFFFFF");
        // Nine more of the second digit, then nine of the first.
        let rest: Vec<String> = std::iter::from_fn(|| search.next_address())
            .map(|(_, address)| address.to_string())
            .collect();
        assert_eq!(rest.len(), 18);
        assert_eq!(rest[9], "1FFFFFFF");
        let whole = SecondaryAddress::of_digits("12345678").unwrap();
        assert!(!search.narrow(8, whole));
    }
}
