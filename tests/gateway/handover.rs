//! Exactly once over every hand-over: local client, outbox, remote; remote, local broker, local
//! client or another remote; will, outbox, remote. The gateway dies at any moment and at every
//! sync, of kill -9 and of power cuts; whoever is beside it keeps its own state, and repeats what
//! the standard asks for.

mod party;
mod site;
mod traffic;

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use wellhead::mqtt::{Connect, Properties, QoS, TopicName, Version, Will};

use party::{Party, PlayedBroker};
use site::{Loss, Moment, STATE, Side, Site, SyncPoint};
use traffic::{Account, Traffic};

use super::returning_client::ReturningClient;
use super::support::client::{Client, hello};
use super::support::{Link, Mosquitto, wait_for};

/// Deaths under load: a handful, or with `WELLHEAD_LONG` at full scale.
fn deaths() -> u32 {
    if is_long() { 300 } else { 12 }
}

fn is_long() -> bool {
    std::env::var_os("WELLHEAD_LONG").is_some()
}

/// A gateway whose sessions are kept, with these uplinks, each with the name of its prefix.
fn configure(site: &Site, uplinks: &[String]) {
    site.configure(&format!(
        "site: hand-over
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], max_queued: 1000000, max_queued_size: 100MB, max_queued_total: 200MB }}
outbox: {{ folder: {STATE} }}
uplinks: [ {} ]
",
        uplinks.join(", ")
    ));
}

/// An uplink that sends what is below `up/`, with its name before it.
fn sending(name: &str, port: u16) -> String {
    uplink(
        name,
        port,
        &format!("send: [ {{ filter: 'up/#', prefix: {name}/ }} ]"),
    )
}

/// An uplink that receives what is below `down/`.
fn receiving(name: &str, port: u16) -> String {
    uplink(
        name,
        port,
        "send: [], receive: [ { filter: 'down/#', qos: 2 } ]",
    )
}

fn uplink(name: &str, port: u16, routes: &str) -> String {
    format!(
        "{{ name: {name}, to: 'mqtt://127.0.0.1:{port}', client_id: {name}, presence: false, retry: {{ first: 20ms, longest: 100ms }}, {routes} }}"
    )
}

/// A mosquitto, and the link to it.
struct Remote {
    broker: Mosquitto,
    link: Link,
}

impl Remote {
    fn start(site: &Site) -> Self {
        let limits = "max_inflight_messages 1000\nmax_queued_messages 0\n";
        let broker = Mosquitto::start(site.folder(), limits);
        let link = Link::to(broker.port);
        Self { broker, link }
    }

    /// Waits until the gateway has subscribed.
    fn wait_for_subscription(&self) {
        let is_granted = || self.broker.output().contains("Sending SUBACK to cloud");
        wait_for("the gateway subscribes", || is_granted().then_some(()));
    }

    /// A client there that subscribes to everything below a topic.
    fn subscriber(&self, filter: &str) -> Party {
        let mut client = ReturningClient::new("far", self.broker.port);
        client.subscribe(filter);
        Party::Remote(client)
    }
}

/// A gateway, and the traffic through it.
struct Row {
    name: &'static str,
    traffic: Traffic,
    random: Rng,
    /// `None` if the traffic plays it.
    remote: Option<Remote>,
    site: Site,
}

impl Row {
    fn new(name: &'static str, site: Site, traffic: Traffic, remote: Option<Remote>) -> Self {
        Self {
            name,
            traffic,
            random: Rng::with_seed(9),
            remote,
            site,
        }
    }

    /// In some rounds there is no link.
    fn draw_link(&mut self) {
        match &self.remote {
            Some(remote) if self.random.u8(..4) == 0 => remote.link.cut(),
            Some(remote) => remote.link.restore(),
            None => {}
        }
    }

    /// Waits until everything has arrived; false if it never does.
    fn settle(&mut self) -> bool {
        let Self { site, traffic, .. } = self;
        site.calm(|port| {
            traffic.turn(Some(port));
            traffic.is_settled()
        })
    }

    /// Waits until nothing is left to write, so that the next sync is that of a new message.
    fn rest(&mut self) -> bool {
        let Self { site, traffic, .. } = self;
        site.rest(|port| traffic.turn(Some(port)))
    }

    /// Works until the gateway dies at the sync that was ordered, or `limit` is over.
    fn die_within(&mut self, limit: Duration, work: fn(&mut Traffic, Option<u16>)) {
        let Self { site, traffic, .. } = self;
        site.die_within(limit, |site| work(traffic, site.port()));
        traffic.gateway_died(&mut self.random);
    }

    /// Deaths under load, at any moment and at syncs.
    fn storm(mut self) {
        for _ in 0..deaths() {
            self.draw_link();
            let limit = match Moment::draw(&mut self.random) {
                Moment::Any(after) => {
                    self.site.start_for_any_moment();
                    after
                }
                Moment::Sync(point) => {
                    self.site.start_until(point);
                    Duration::from_secs(2)
                }
            };
            self.die_within(limit, Traffic::load);
        }
        self.finish();
    }

    /// One message at a time, and a death at each of the syncs that follow it, on either side.
    fn sweep(mut self) {
        let (times, syncs) = if is_long() { (20, 8) } else { (1, 6) };
        let points = (1..=syncs)
            .flat_map(|number| [Side::Before, Side::After].map(|side| SyncPoint { side, number }));
        for point in std::iter::repeat_n(points, times).flatten() {
            self.site.start();
            if !self.settle() || !self.rest() {
                // It is missing for good: the account tells.
                break;
            }
            self.site.order(point);
            self.traffic.publish_one();
            self.die_within(Duration::from_millis(300), Traffic::turn);
        }
        self.finish();
    }

    /// The rest comes undisturbed, and the account is made.
    fn finish(mut self) {
        if let Some(remote) = &self.remote {
            remote.link.restore();
        }
        self.site.start();
        if self.settle() {
            // Behind everything that may come twice.
            self.traffic.publish_one();
            self.settle();
        }
        let row = format!("{}, {}", self.name, self.site.deaths());
        let account = self.traffic.account();
        // Their logs would be long.
        drop(self);
        account.check(&row);
    }
}

/// Local clients to the remote.
fn outbound(name: &'static str, loss: Loss, prefixes: &'static [&'static str]) -> Row {
    let site = Site::new(loss);
    let remote = Remote::start(&site);
    let uplinks: Vec<String> = prefixes
        .iter()
        .map(|prefix| sending(prefix.trim_end_matches('/'), remote.link.port))
        .collect();
    configure(&site, &uplinks);
    let mut traffic = local_senders();
    traffic.receiver(remote.subscriber("+/up/#"), prefixes);
    Row::new(name, site, traffic, Some(remote))
}

/// Clients of both versions. Both use the same packet identifiers.
fn local_senders() -> Traffic {
    let mut traffic = Traffic::default();
    let one = ReturningClient::new_as("one", Version::V5, 0);
    traffic.sender(Party::Local(one), "up/one");
    let two = ReturningClient::new_as("two", Version::V311, 0);
    traffic.sender(Party::Local(two), "up/two");
    traffic
}

/// From the remote to a local client.
fn inbound(name: &'static str, mut site: Site, senders: Vec<Party>, remote: Option<Remote>) -> Row {
    site.start();
    let mut traffic = Traffic::default();
    for (sender, topic) in senders.into_iter().zip(["down/one", "down/two"]) {
        traffic.sender(sender, topic);
    }
    traffic.receiver(local_subscriber(&mut site, "down/#"), &[""]);
    if let Some(remote) = &remote {
        remote.wait_for_subscription();
    }
    site.die();
    Row::new(name, site, traffic, remote)
}

/// A client at the gateway that subscribes to everything below a topic.
fn local_subscriber(site: &mut Site, filter: &str) -> Party {
    let mut client = ReturningClient::new("near", site.started());
    client.subscribe(filter);
    Party::Local(client)
}

fn inbound_from_mosquitto(name: &'static str, loss: Loss) -> Row {
    let site = Site::new(loss);
    let remote = Remote::start(&site);
    configure(&site, &[receiving("cloud", remote.link.port)]);
    let sender = |name| Party::Remote(ReturningClient::new(name, remote.broker.port));
    let senders = vec![sender("one"), sender("two")];
    inbound(name, site, senders, Some(remote))
}

fn inbound_from_a_played_broker(name: &'static str, loss: Loss) -> Row {
    let site = Site::new(loss);
    let remote = PlayedBroker::listen();
    configure(&site, &[receiving("cloud", remote.port)]);
    inbound(name, site, vec![Party::Broker(remote)], None)
}

/// From one remote to another, and to a local client.
fn between_remotes(loss: Loss) -> Row {
    let mut site = Site::new(loss);
    let from = PlayedBroker::listen();
    let to = Remote::start(&site);
    let send = "send: [ { filter: 'down/#', prefix: a/ } ]";
    let uplinks = [
        receiving("cloud", from.port),
        uplink("a", to.link.port, send),
    ];
    configure(&site, &uplinks);
    site.start();
    let mut traffic = Traffic::default();
    traffic.sender(Party::Broker(from), "down/one");
    traffic.receiver(to.subscriber("a/down/#"), &["a/"]);
    traffic.receiver(local_subscriber(&mut site, "down/#"), &[""]);
    site.die();
    Row::new("remote to remote", site, traffic, Some(to))
}

/// Local clients to a local client, with takeovers: no hand-over.
fn local(loss: Loss) -> Row {
    let mut site = Site::new(loss);
    configure(&site, &[]);
    site.start();
    let mut traffic = local_senders();
    traffic.receiver(local_subscriber(&mut site, "up/#"), &[""]);
    traffic.with_takeovers();
    site.die();
    Row::new("local to local", site, traffic, None)
}

#[test]
fn local_to_local_over_kill_9() {
    local(Loss::Process).storm();
}

#[test]
fn local_to_local_over_power_cuts() {
    local(Loss::Power).storm();
}

#[test]
fn local_to_remote_over_kill_9() {
    outbound("local to remote", Loss::Process, &["a/"]).storm();
}

#[test]
fn local_to_remote_over_power_cuts() {
    outbound("local to remote", Loss::Power, &["a/"]).storm();
}

#[test]
fn local_to_remote_over_a_kill_9_at_each_sync() {
    outbound("local to remote, at syncs", Loss::Process, &["a/"]).sweep();
}

#[test]
fn local_to_remote_over_a_power_cut_at_each_sync() {
    outbound("local to remote, at syncs", Loss::Power, &["a/"]).sweep();
}

/// Three hand-overs of each message: to two remotes and to a local client.
fn to_two_remotes(loss: Loss) -> Row {
    let mut row = outbound("to two remotes and a local client", loss, &["a/", "b/"]);
    row.site.start();
    let near = local_subscriber(&mut row.site, "up/#");
    row.traffic.receiver(near, &[""]);
    row.site.die();
    row
}

#[test]
fn local_to_two_remotes_over_kill_9() {
    to_two_remotes(Loss::Process).storm();
}

#[test]
fn local_to_two_remotes_over_power_cuts() {
    to_two_remotes(Loss::Power).storm();
}

#[test]
fn local_to_two_remotes_over_a_kill_9_at_each_sync() {
    to_two_remotes(Loss::Process).sweep();
}

/// Clients that take their sessions over while their messages are in flight, each time with the
/// other version of MQTT.
fn with_takeovers(loss: Loss) -> Row {
    let mut row = outbound("with takeovers", loss, &["a/"]);
    row.traffic.with_takeovers();
    row
}

#[test]
fn takeovers_over_kill_9() {
    with_takeovers(Loss::Process).storm();
}

#[test]
fn takeovers_over_power_cuts() {
    with_takeovers(Loss::Power).storm();
}

#[test]
fn remote_to_local_over_kill_9() {
    inbound_from_mosquitto("remote to local", Loss::Process).storm();
}

#[test]
fn remote_to_local_over_power_cuts() {
    inbound_from_mosquitto("remote to local", Loss::Power).storm();
}

#[test]
fn played_remote_to_local_over_kill_9() {
    inbound_from_a_played_broker("played remote to local", Loss::Process).storm();
}

#[test]
fn played_remote_to_local_over_power_cuts() {
    inbound_from_a_played_broker("played remote to local", Loss::Power).storm();
}

#[test]
fn remote_to_local_over_a_kill_9_at_each_sync() {
    inbound_from_a_played_broker("remote to local, at syncs", Loss::Process).sweep();
}

#[test]
fn remote_to_local_over_a_power_cut_at_each_sync() {
    inbound_from_a_played_broker("remote to local, at syncs", Loss::Power).sweep();
}

#[test]
fn remote_to_remote_over_kill_9() {
    between_remotes(Loss::Process).storm();
}

#[test]
fn remote_to_remote_over_power_cuts() {
    between_remotes(Loss::Power).storm();
}

#[test]
fn remote_to_remote_over_a_kill_9_at_each_sync() {
    between_remotes(Loss::Process).sweep();
}

/// Wills that clients leave at once.
const WILLS: u64 = 5;

/// A client whose will is a number of its own, and which is let in.
fn mortal(port: u16, number: u64) -> Client {
    let will = Will {
        topic: TopicName::new("up/will").unwrap(),
        payload: number.to_string().into(),
        qos: QoS::ExactlyOnce,
        retain: false,
        properties: Properties::default(),
    };
    let hello = Connect {
        will: Some(will),
        ..hello(Version::V311, &format!("mortal-{number}"))
    };
    Client::accepted(port, hello)
}

/// Clients are lost, and the gateway dies within 100 ms, or at one of the syncs that follow.
fn wills(loss: Loss) {
    let mut site = Site::new(loss);
    let remote = Remote::start(&site);
    configure(&site, &[sending("a", remote.link.port)]);
    let mut far = remote.subscriber("a/up/#");
    let mut random = Rng::with_seed(10);
    let mut last = 0;
    for _ in 0..deaths() {
        site.start();
        let port = site.started();
        let clients = (last + 1..=last + WILLS).map(|number| mortal(port, number));
        let clients: Vec<Client> = clients.collect();
        last += WILLS;
        let limit = Duration::from_micros(random.u64(0..100_000));
        if let Moment::Sync(point) = Moment::draw(&mut random) {
            let number = point.number.min(random.u32(1..=6));
            site.order(SyncPoint { number, ..point });
        }
        drop(clients);
        site.die_within(limit, |_| far.turn(None));
    }
    site.start();
    if all_wills(&mut site, &mut far, last) {
        // Behind everything that may come twice.
        last += 1;
        drop(mortal(site.started(), last));
        all_wills(&mut site, &mut far, last);
    }
    // Wills of different clients have no order.
    let mut numbers = wills_of(&far);
    numbers.sort_unstable();
    let mut account = Account::default();
    account.add("a/up/will", &numbers, last);
    let row = format!("wills, {}", site.deaths());
    // Their logs would be long.
    drop((far, remote, site));
    account.check(&row);
}

/// The numbers of the wills that have come.
fn wills_of(far: &Party) -> Vec<u64> {
    let got = far.far().got[2].iter();
    got.map(|(_, number)| *number).collect()
}

/// Waits until all wills have come; false if they never do.
fn all_wills(site: &mut Site, far: &mut Party, last: u64) -> bool {
    site.calm(|_| {
        far.turn(None);
        let found: BTreeSet<u64> = wills_of(far).into_iter().collect();
        (1..=last).all(|number| found.contains(&number))
    })
}

#[test]
fn wills_over_kill_9() {
    wills(Loss::Process);
}

#[test]
fn wills_over_power_cuts() {
    wills(Loss::Power);
}
