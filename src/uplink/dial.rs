//! TCP to remotes with several addresses: raced as RFC 8305 says, so that a network without working
//! IPv6, or a dead address, costs a moment only.
//!
//! Invariants:
//! * The remote and the address that worked last are tried first; then remotes in the order of the
//!   file, the families of their addresses in turn, a step (a name to look up, an address to
//!   connect to) every `apart`, and at once when one has failed.
//! * At most `most` addresses are left without an answer in one try, so that silence stays cheap
//!   however many there are.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::time::sleep;

use super::failure::LinkError;
use crate::time::now;

/// The pause between two steps: at least this (RFC 8305, section 8),
const SHORTEST_APART: Duration = Duration::from_millis(250);
/// twice the usual round trip, so that a slow link is not charged for addresses that it does not
/// need,
const ROUND_TRIPS_APART: u32 = 2;
/// and at most this.
const LONGEST_APART: Duration = Duration::from_secs(2);
/// While nothing answers, one try in this number goes to another address than the one that worked.
const OTHERS_EVERY: u32 = 3;

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// All of them.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Resolve {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// How long after a step the next one begins; `usual` is the round trip of the link as far as it is
/// known.
pub(super) fn apart(usual: Option<Duration>) -> Duration {
    usual.map_or(SHORTEST_APART, |usual| {
        (usual * ROUND_TRIPS_APART).clamp(SHORTEST_APART, LONGEST_APART)
    })
}

/// Results of earlier tries, by address of the remotes.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Of each remote, the one that worked last.
    worked: HashMap<u32, IpAddr>,
    /// The remote that worked last.
    latest: Option<u32>,
    /// They take a connection and do not speak MQTT: tried after the others.
    unfit: Vec<SocketAddr>,
    /// They gave no answer while others did, and are left out until then.
    muted: Vec<SocketAddr>,
    muted_until: Option<Instant>,
}

impl Addresses {
    /// The remote accepted a connection at this address.
    pub(super) fn worked(&mut self, remote: u32, address: SocketAddr) {
        self.worked.insert(remote, address.ip());
        self.latest = Some(remote);
        self.unfit.clear();
        self.muted.clear();
    }

    /// The server at this address took the connection and is no broker.
    pub(super) fn unfit(&mut self, address: SocketAddr) {
        if !self.unfit.contains(&address) {
            self.unfit.push(address);
        }
    }

    /// These did not answer, but others did: they are left out until `until`.
    pub(super) fn mute(&mut self, silent: Vec<SocketAddr>, until: Instant) {
        self.muted = silent;
        self.muted_until = Some(until);
    }

    /// Where remotes are in the order in which they are tried.
    pub(super) fn order_remotes(&self, names: &[u32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|index| names.get(*index).copied() != self.latest);
        order
    }

    /// How many steps a try skips after `turn` tries without an answer.
    pub(super) fn skip(&self, turn: u32) -> usize {
        let turns = match (self.latest, turn % OTHERS_EVERY) {
            _ if !self.muted.is_empty() => 0,
            (None, _) => turn,
            (Some(_), rest) if rest + 1 == OTHERS_EVERY => 1 + turn / OTHERS_EVERY,
            (Some(_), _) => 0,
        };
        usize::try_from(turns).unwrap_or(0)
    }

    /// The addresses of a remote in the order in which they are tried, without the first `skip`
    /// ones, which come last.
    fn order(
        &self,
        remote: u32,
        addresses: Vec<SocketAddr>,
        resolve: Resolve,
        skip: usize,
    ) -> Vec<SocketAddr> {
        let is_muted = self.muted_until.is_some_and(|until| now() < until);
        let is_usable = |address: &SocketAddr| {
            resolve.allows(address.ip()) && !(is_muted && self.muted.contains(address))
        };
        let mut order = families_in_turn(addresses.into_iter().filter(is_usable));
        let worked = self.worked.get(&remote);
        // Stable: what is the same in this keeps its order.
        order.sort_by_key(|address| {
            (
                self.unfit.contains(address),
                self.muted.contains(address),
                Some(&address.ip()) != worked,
            )
        });
        let skip = skip.checked_rem(order.len()).unwrap_or(0);
        order.rotate_left(skip);
        order
    }
}

/// Begins with the family of the first address.
fn families_in_turn(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.peekable();
    let Some(is_first) = addresses.peek().map(SocketAddr::is_ipv4) else {
        return Vec::new();
    };
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.partition(|address| address.is_ipv4() == is_first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        let next = [one.next(), other.next()];
        if next == [None, None] {
            return order;
        }
        order.extend(next.into_iter().flatten());
    }
}

/// Where a connection to a remote is to go: to its host, or to the proxy before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leg {
    /// The place of the remote in the file.
    pub(super) remote: usize,
    /// The remote in few bytes.
    pub(super) name: u32,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Leg {
    /// One of its addresses, for people.
    pub(super) fn at(&self, address: SocketAddr) -> String {
        if self.host.parse::<IpAddr>().is_ok() {
            address.to_string()
        } else {
            format!("{} ({address})", self.host)
        }
    }
}

/// How a race is run.
pub(super) struct Plan<'a> {
    pub(super) legs: Vec<Leg>,
    pub(super) addresses: &'a Addresses,
    pub(super) resolve: Resolve,
    pub(super) apart: Duration,
    /// Addresses that may be left without an answer.
    pub(super) most: usize,
    /// Steps that are skipped.
    pub(super) skip: usize,
}

impl<'a> Plan<'a> {
    /// Nothing is begun; what is skipped comes last.
    fn course(mut self) -> Course<'a> {
        let first = self.skip.checked_rem(self.legs.len()).unwrap_or(0);
        let skip = self.skip.checked_div(self.legs.len()).unwrap_or(0);
        self.legs.rotate_left(first);
        Course {
            addresses: self.addresses,
            resolve: self.resolve,
            skip,
            waiting: self.legs.into_iter().map(DialStep::LookUp).collect(),
            started: Vec::new(),
            failures: Failures::default(),
        }
    }
}

/// Why a step has failed.
#[derive(Debug)]
pub(super) enum Missed {
    /// Nothing was sent to the remote.
    Unsent(LinkError),
    /// Nothing answered.
    Unheard(LinkError),
    /// Something answered, and it was no.
    Answered(LinkError),
}

/// The connection that was made first.
#[derive(Debug)]
pub(super) struct Winner<T> {
    pub(super) leg: Leg,
    pub(super) address: SocketAddr,
    pub(super) stream: T,
    /// Tried before it, without an answer.
    pub(super) unheard: Vec<SocketAddr>,
}

/// No connection.
#[derive(Debug)]
pub(super) struct Lost {
    /// Why: an answer says more than silence, and silence more than what was not sent.
    pub(super) error: LinkError,
    pub(super) unheard: Vec<SocketAddr>,
}

/// The next thing to do for a remote.
enum DialStep {
    LookUp(Leg),
    Connect(Leg, SocketAddr),
}

/// The failures of a race.
#[derive(Default)]
struct Failures {
    unsent: Option<LinkError>,
    silent: Option<LinkError>,
    answered: Option<LinkError>,
    unheard: Vec<SocketAddr>,
    /// All of them.
    failed: Vec<SocketAddr>,
}

impl Failures {
    fn add(&mut self, address: SocketAddr, missed: Missed) {
        self.failed.push(address);
        match missed {
            Missed::Unsent(error) => self.unsent = Some(error),
            Missed::Answered(error) => self.answered = Some(error),
            Missed::Unheard(error) => {
                self.silent = Some(error);
                self.unheard.push(address);
            }
        }
    }

    fn into_lost(self) -> Lost {
        let error = self.answered.or(self.silent).or(self.unsent);
        Lost {
            error: error
                .unwrap_or_else(|| LinkError::Silent("no address answered lately".to_owned())),
            unheard: self.unheard,
        }
    }
}

/// The steps of a race that were not begun, and what the others have shown.
struct Course<'a> {
    addresses: &'a Addresses,
    resolve: Resolve,
    /// Addresses that the lists of each remote begin with and that come last.
    skip: usize,
    waiting: VecDeque<DialStep>,
    started: Vec<SocketAddr>,
    failures: Failures,
}

impl Course<'_> {
    /// The addresses of a remote are known, or not.
    fn looked_up(&mut self, leg: &Leg, found: Result<Vec<SocketAddr>, LinkError>) {
        match found {
            Ok(found)
                if !found
                    .iter()
                    .any(|address| self.resolve.allows(address.ip())) =>
            {
                self.failures.unsent = Some(LinkError::Unreachable(format!(
                    "{} has no address that `resolve` allows; change `resolve` or `to`",
                    leg.host
                )));
            }
            Ok(found) => {
                let order = self
                    .addresses
                    .order(leg.name, found, self.resolve, self.skip);
                for address in order.into_iter().rev() {
                    self.waiting
                        .push_front(DialStep::Connect(leg.clone(), address));
                }
            }
            Err(error) => self.failures.unsent = Some(error),
        }
    }

    /// A connection is made: those that were tried before it gave no answer.
    fn won<T>(mut self, leg: Leg, address: SocketAddr, stream: T) -> Winner<T> {
        let before = self.started.iter().take_while(|other| **other != address);
        let silent = before.filter(|other| !self.failures.failed.contains(other));
        self.failures.unheard.extend(silent);
        Winner {
            leg,
            address,
            stream,
            unheard: self.failures.unheard,
        }
    }
}

/// The first connection that is made; `look_up` and `connect` bound their own time. The others are
/// given up.
// What is under way has types without names, so it stays in one function.
pub(super) async fn race<T, L, C>(
    plan: Plan<'_>,
    look_up: impl Fn(Leg) -> L,
    connect: impl Fn(Leg, SocketAddr) -> C,
) -> Result<Winner<T>, Lost>
where
    L: Future<Output = Result<Vec<SocketAddr>, LinkError>>,
    C: Future<Output = Result<T, Missed>>,
{
    let (most, apart) = (plan.most, plan.apart);
    let mut course = plan.course();
    let mut looking = FuturesUnordered::new();
    let mut dialling = FuturesUnordered::new();
    let mut next = pin!(sleep(Duration::ZERO));
    loop {
        let open = course.failures.unheard.len() + dialling.len();
        let may_start = !course.waiting.is_empty() && open < most;
        if looking.is_empty() && dialling.is_empty() && !may_start {
            return Err(course.failures.into_lost());
        }
        tokio::select! {
            Some((leg, found)) = looking.next() => {
                next.set(sleep(Duration::ZERO));
                course.looked_up(&leg, found);
            }
            Some((leg, address, outcome)) = dialling.next() => match outcome {
                Ok(stream) => return Ok(course.won(leg, address, stream)),
                Err(missed) => {
                    next.set(sleep(Duration::ZERO));
                    course.failures.add(address, missed);
                }
            },
            () = next.as_mut(), if may_start => {
                next.set(sleep(apart));
                match course.waiting.pop_front() {
                    Some(DialStep::LookUp(leg)) => {
                        let looking_up = look_up(leg.clone());
                        looking.push(async move { (leg, looking_up.await) });
                    }
                    Some(DialStep::Connect(leg, address)) => {
                        course.started.push(address);
                        let connecting = connect(leg.clone(), address);
                        dialling.push(async move { (leg, address, connecting.await) });
                    }
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SILENT: Duration = Duration::from_secs(8);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The behaviour of an address: it answers after so long, refuses at once, or is silent.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(u64),
        Refuse,
        Nothing,
    }

    /// Remotes with their addresses and what these do; a race is run with `addresses` and
    /// `resolve`.
    struct Net {
        remotes: Vec<Vec<(&'static str, Does)>>,
        tried: Mutex<Vec<SocketAddr>>,
    }

    impl Net {
        fn new(remotes: &[&[(&'static str, Does)]]) -> Self {
            Self {
                remotes: remotes.iter().map(|addresses| addresses.to_vec()).collect(),
                tried: Mutex::default(),
            }
        }

        async fn race(
            &self,
            addresses: &Addresses,
            most: usize,
            skip: usize,
        ) -> (Result<Winner<()>, Lost>, Vec<SocketAddr>) {
            let leg = |remote: usize| Leg {
                remote,
                name: u32::try_from(remote).unwrap(),
                host: remote.to_string(),
                port: 1,
            };
            let names: Vec<u32> = (0..self.remotes.len())
                .map(|remote| u32::try_from(remote).unwrap())
                .collect();
            let legs = addresses
                .order_remotes(&names)
                .into_iter()
                .map(leg)
                .collect();
            let plan = Plan {
                legs,
                addresses,
                resolve: Resolve::Any,
                apart: SHORTEST_APART,
                most,
                skip,
            };
            let look_up = |leg: Leg| async move {
                Ok(self.remotes[leg.remote]
                    .iter()
                    .map(|(text, _)| address(text))
                    .collect())
            };
            let connect = |_, to: SocketAddr| {
                self.tried.lock().unwrap().push(to);
                let does = self
                    .remotes
                    .iter()
                    .flatten()
                    .find(|(text, _)| address(text) == to)
                    .unwrap()
                    .1;
                async move {
                    match does {
                        Does::Answer(millis) => sleep(Duration::from_millis(millis)).await,
                        Does::Refuse => {
                            return Err(Missed::Answered(LinkError::Unreachable(to.to_string())));
                        }
                        Does::Nothing => {
                            sleep(SILENT).await;
                            return Err(Missed::Unheard(LinkError::Silent(to.to_string())));
                        }
                    }
                    Ok(())
                }
            };
            let outcome = race(plan, look_up, connect).await;
            (outcome, std::mem::take(&mut self.tried.lock().unwrap()))
        }
    }

    #[test]
    fn families_take_turns_and_what_worked_goes_first() {
        let all: Vec<SocketAddr> = [
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "192.0.2.1:1",
            "192.0.2.2:1",
        ]
        .map(address)
        .to_vec();
        let check = |resolve, addresses: &Addresses, skip, expected: &[usize]| {
            let order = addresses.order(7, all.clone(), resolve, skip);
            assert_eq!(
                order,
                expected.iter().map(|index| all[*index]).collect::<Vec<_>>()
            );
        };
        let mut addresses = Addresses::default();
        check(Resolve::Any, &addresses, 0, &[0, 2, 1, 3]);
        check(Resolve::Any, &addresses, 5, &[2, 1, 3, 0]);
        check(Resolve::Ipv4, &addresses, 0, &[2, 3]);
        addresses.worked(7, all[3]);
        check(Resolve::Any, &addresses, 0, &[3, 0, 2, 1]);
        check(Resolve::Ipv6, &addresses, 0, &[0, 1]);
        addresses.unfit(all[0]);
        check(Resolve::Any, &addresses, 0, &[3, 2, 1, 0]);
        addresses.mute(vec![all[2]], now() + SILENT);
        check(Resolve::Any, &addresses, 0, &[3, 1, 0]);
        addresses.worked(7, all[0]);
        check(Resolve::Any, &addresses, 0, &[0, 2, 1, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_addresses_of_a_name_and_dead_remotes_cost_a_moment_each() {
        let net = Net::new(&[
            &[
                ("[2001:db8::1]:1", Does::Nothing),
                ("[2001:db8::2]:1", Does::Nothing),
            ],
            &[("192.0.2.1:1", Does::Nothing)],
            &[("192.0.2.2:1", Does::Answer(20))],
        ]);
        let began = tokio::time::Instant::now();
        let (outcome, tried) = net.race(&Addresses::default(), 4, 0).await;
        let winner = outcome.unwrap();
        assert_eq!(
            (winner.leg.remote, winner.address, tried.len()),
            (2, address("192.0.2.2:1"), 4)
        );
        assert_eq!(winner.unheard.len(), 3);
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_in_time_is_tried_alone() {
        let net = Net::new(&[&[
            ("192.0.2.1:1", Does::Answer(200)),
            ("192.0.2.2:1", Does::Answer(1)),
        ]]);
        let (outcome, tried) = net.race(&Addresses::default(), 4, 0).await;
        assert_eq!(
            (outcome.unwrap().address, tried.len()),
            (address("192.0.2.1:1"), 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_followed_at_once_and_says_more_than_silence() {
        let net = Net::new(&[
            &[
                ("192.0.2.1:1", Does::Refuse),
                ("192.0.2.2:1", Does::Nothing),
                ("192.0.2.3:1", Does::Refuse),
            ],
            &[("192.0.2.4:1", Does::Refuse)],
        ]);
        let (outcome, tried) = net.race(&Addresses::default(), 2, 0).await;
        let lost = outcome.unwrap_err();
        assert_eq!(tried.len(), 4);
        assert_eq!(
            (lost.error, lost.unheard),
            (
                LinkError::Unreachable("192.0.2.4:1".to_owned()),
                vec![address("192.0.2.2:1")]
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_answers_a_try_costs_one_address_and_each_has_its_turn() {
        let silent: Vec<(&str, Does)> = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]
            .map(|text| (text, Does::Nothing))
            .to_vec();
        let net = Net::new(&[&silent, &[("192.0.2.4:1", Does::Nothing)]]);
        let mut addresses = Addresses::default();
        let mut seen = std::collections::HashSet::new();
        for turn in 0..6 {
            let (_, tried) = net.race(&addresses, 1, addresses.skip(turn)).await;
            assert_eq!(tried.len(), 1);
            seen.extend(tried);
        }
        assert_eq!(seen.len(), 4);
        addresses.worked(0, address("192.0.2.2:1"));
        let mut tries = Vec::new();
        for turn in 0..30 {
            tries.extend(net.race(&addresses, 1, addresses.skip(turn)).await.1);
        }
        let known = tries
            .iter()
            .filter(|tried| **tried == address("192.0.2.2:1"))
            .count();
        assert!(
            known >= 20 && tries.iter().collect::<std::collections::HashSet<_>>().len() == 4,
            "{tries:?}"
        );
    }
}
