//! Numbers that go through the gateway, and the account of them: which were lost, which came twice,
//! which came behind a later one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::party::Party;

/// Messages that a sender has in flight at the most.
const WINDOW: usize = 60;
/// Messages of a sender that may be under way: a remote broker would take any number while the
/// gateway is down.
const UNDER_WAY: u64 = 1000;
/// Between two messages of a sender, if its window has a place.
const EVERY: Duration = Duration::from_millis(3);
/// How late a message may be sent to make up for a pause.
const LATE: Duration = Duration::from_millis(30);
/// Between two takeovers of a session.
const TAKEOVER: Duration = Duration::from_millis(70);

struct Sender {
    party: Party,
    topic: &'static str,
    /// The number of the last message.
    last: u64,
    next: Instant,
}

/// One who receives every number of every sender, at their topics behind one of these prefixes
/// each.
struct Receiver {
    party: Party,
    prefixes: &'static [&'static str],
}

/// Senders, receivers, and what goes from the ones to the others.
#[derive(Default)]
pub struct Traffic {
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    takeover: Option<Instant>,
}

/// What came of the numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// A message counts for each place it goes to.
    expected: u64,
    lost: Vec<Arrival>,
    doubled: Vec<Arrival>,
    disordered: Vec<Arrival>,
}

type Arrival = (String, u64);

impl Traffic {
    pub fn sender(&mut self, party: Party, topic: &'static str) {
        self.senders.push(Sender {
            party,
            topic,
            last: 0,
            next: Instant::now(),
        });
    }

    pub fn receiver(&mut self, party: Party, prefixes: &'static [&'static str]) {
        self.receivers.push(Receiver { party, prefixes });
    }

    /// The senders take their sessions over again and again from now on.
    pub fn with_takeovers(&mut self) {
        self.takeover = Some(Instant::now());
    }

    fn parties(&mut self) -> impl Iterator<Item = &mut Party> {
        let senders = self.senders.iter_mut().map(|sender| &mut sender.party);
        senders.chain(self.receivers.iter_mut().map(|one| &mut one.party))
    }

    pub fn gateway_died(&mut self, random: &mut Rng) {
        self.parties().for_each(|party| party.gateway_died(random));
    }

    /// Takes what is there, and answers.
    pub fn turn(&mut self, port: Option<u16>) {
        self.parties().for_each(|party| party.turn(port));
    }

    /// The same, and new messages at their pace.
    pub fn load(&mut self, port: Option<u16>) {
        let now = Instant::now();
        if port.is_some() && self.takeover.is_some_and(|due| due <= now) {
            self.senders
                .iter_mut()
                .for_each(|one| one.party.take_over());
            self.takeover = Some(now + TAKEOVER);
        }
        for sender in &mut self.senders {
            let newest = |one: &Receiver| one.newest(sender.topic);
            let arrived = self.receivers.iter().map(newest).min().unwrap_or(0);
            let most = arrived + UNDER_WAY;
            while sender.next <= now && sender.last < most && sender.publish() {
                sender.next += EVERY;
            }
            // What could not be sent during an outage is not made up for.
            sender.next = sender.next.max(now - LATE);
        }
        self.turn(port);
    }

    /// A new message of each sender.
    pub fn publish_one(&mut self) {
        for sender in &mut self.senders {
            assert!(sender.publish(), "{} cannot send", sender.topic);
        }
    }

    /// Everything was acknowledged, the next can be sent, and the last number has come wherever it
    /// belongs; those before it have come as well, if nothing is out of order.
    pub fn is_settled(&self) -> bool {
        let has_come = |receiver: &Receiver, sender: &Sender| {
            receiver.prefixes.iter().all(|prefix| {
                let topic = format!("{prefix}{}", sender.topic);
                let mut got = receiver.party.far().got[2].iter().rev();
                got.any(|(at, number)| *at == topic && *number == sender.last)
            })
        };
        self.senders.iter().all(|sender| {
            let receivers = &self.receivers;
            sender.party.is_ready()
                && sender.party.far().is_done()
                && (sender.last == 0 || receivers.iter().all(|one| has_come(one, sender)))
        })
    }

    pub fn account(&self) -> Account {
        let mut account = Account::default();
        for sender in &self.senders {
            for receiver in &self.receivers {
                for prefix in receiver.prefixes {
                    let topic = format!("{prefix}{}", sender.topic);
                    let got = receiver.party.far().got[2].iter();
                    let got = got.filter(|(at, _)| *at == topic);
                    let numbers: Vec<u64> = got.map(|(_, number)| *number).collect();
                    account.add(&topic, &numbers, sender.last);
                }
            }
        }
        account
    }
}

impl Receiver {
    /// The number that came last to the one of its topics that is behind the others.
    fn newest(&self, topic: &str) -> u64 {
        let newest = |prefix: &&str| {
            let topic = format!("{prefix}{topic}");
            let mut got = self.party.far().got[2].iter().rev();
            got.find(|(at, _)| *at == topic)
                .map_or(0, |(_, number)| *number)
        };
        self.prefixes.iter().map(newest).min().unwrap_or(0)
    }
}

impl Sender {
    fn publish(&mut self) -> bool {
        let is_sent = self.party.publish(self.topic, self.last + 1, WINDOW);
        self.last += u64::from(is_sent);
        is_sent
    }
}

impl Account {
    /// The numbers from 1 to `last`, as they came to a topic.
    pub fn add(&mut self, topic: &str, numbers: &[u64], last: u64) {
        self.expected += last;
        let (mut seen, mut newest) = (HashSet::new(), 0);
        for &number in numbers {
            if !seen.insert(number) {
                self.doubled.push((topic.to_owned(), number));
            } else if number < newest {
                self.disordered.push((topic.to_owned(), number));
            }
            newest = newest.max(number);
        }
        let lost = (1..=last).filter(|number| !seen.contains(number));
        self.lost
            .extend(lost.map(|number| (topic.to_owned(), number)));
    }

    /// Prints the figures; all but the first must be 0.
    pub fn check(&self, row: &str) {
        let wrong = [&self.lost, &self.doubled, &self.disordered];
        let [lost, doubled, disordered] = wrong.map(Vec::len);
        println!(
            "{row}, {} to arrive: {lost} lost, {doubled} doubled, {disordered} out of order",
            self.expected
        );
        let first = wrong.map(|arrivals| arrivals.iter().take(20).collect::<Vec<_>>());
        assert_eq!(
            [lost, doubled, disordered],
            [0; 3],
            "{row}: lost, doubled, out of order: {first:?}"
        );
    }
}
