//! What a remote learns of whether a gateway lives: its will, and what it says when it comes and
//! goes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::remote::{Packet, Publish, Remote, Wire};
use super::support::{Gateway, Mosquitto, Process, mosquitto_sub, run, wait_for};

const CONNACK: [u8; 5] = [0x20, 3, 1, 0, 0];
const QUICK: &str = "retry: { first: 50ms, longest: 200ms }";

fn yaml(remote: u16, extra: &str) -> String {
    format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    {QUICK}
    {extra}
    send: [ {{ filter: '#', prefix: far/ }} ]
"
    )
}

struct Site {
    gateway: Gateway,
    local: u16,
    folder: tempfile::TempDir,
}

fn site(remote: u16, extra: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), &yaml(remote, extra));
    let local = gateway.port();
    Site {
        gateway,
        local,
        folder,
    }
}

impl Site {
    fn publish(&self, payload: &str) {
        let port = self.local.to_string();
        let (code, _, error) =
            run(Command::new("mosquitto_pub")
                .args(["-p", &port, "-q", "1", "-t", "a", "-m", payload]));
        assert_eq!(code, Some(0), "{error}");
    }

    fn status(&self) -> String {
        let port = self.local.to_string();
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port,
            "-t",
            "$SYS/wellhead/uplink/cloud",
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    }
}

/// The will of a CONNECT: its flags, topic and payload, and in MQTT 5 its delay.
fn will(connect: &Packet) -> Option<(u8, String, String, Option<u32>)> {
    let body = &connect.body;
    let (version, flags) = (body[6], body[7] & 0x3C);
    if flags & 4 == 0 {
        return None;
    }
    let mut rest = &body[10..];
    let mut take = |count: usize| {
        let (taken, behind) = rest.split_at(count);
        rest = behind;
        taken.to_vec()
    };
    if version == 5 {
        let properties = usize::from(take(1)[0]);
        take(properties);
    }
    let text = |take: &mut dyn FnMut(usize) -> Vec<u8>| {
        let length = take(2);
        String::from_utf8(take(usize::from(u16::from_be_bytes([
            length[0], length[1],
        ]))))
        .unwrap()
    };
    text(&mut take);
    let mut delay = None;
    if version == 5 {
        let length = usize::from(take(1)[0]);
        let properties = take(length);
        delay = (properties.first() == Some(&0x18))
            .then(|| u32::from_be_bytes(properties[1..5].try_into().unwrap()));
    }
    Some((flags, text(&mut take), text(&mut take), delay))
}

/// The next connection that wants a session, not answered yet.
fn next_connect(remote: &Remote) -> (Wire, Packet) {
    loop {
        let (mut wire, connect) = remote.connect();
        if connect.body[7] & 2 == 0 {
            return (wire, connect);
        }
        assert_eq!(
            will(&connect),
            None,
            "a connection that only cleans leaves no will"
        );
        let is_v5 = connect.body[6] == 5;
        wire.write(if is_v5 {
            &[0x20, 3, 0, 0, 0]
        } else {
            &[0x20, 2, 0, 0]
        });
        wire.read();
    }
}

fn acknowledge(wire: &mut Wire, publish: &Publish) {
    let [high, low] = publish.id.to_be_bytes();
    wire.write(&[0x40, 2, high, low]);
}

#[test]
fn mosquitto_shows_online_then_offline_after_a_kill_and_after_an_orderly_stop() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    for protocol in ["5", "3.1.1"] {
        let place = folder.path().join(protocol);
        fs::create_dir(&place).unwrap();
        let mut command = mosquitto_sub();
        command.args([
            "-d",
            "-p",
            &remote.port.to_string(),
            "-t",
            &format!("far/{protocol}/gateway/state"),
            "-F",
            "got %r %p",
        ]);
        let reader = Process::start(&mut command, &place.join("reader"));
        reader.wait_for_output("Subscribed");
        let got = |count: usize| {
            wait_for(&format!("{count} states in {}", reader.output()), || {
                let text = reader.output();
                let lines: Vec<String> = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("got "))
                    .map(str::to_owned)
                    .collect();
                (lines.len() >= count).then_some(lines)
            })
        };
        let extra = format!("protocol: {protocol}\n    presence: {{ offline_after: 0s }}");
        let yaml = yaml(remote.port, &extra).replace("site: x", &format!("site: '{protocol}'"));
        let mut gateway = Gateway::start(&place, &yaml);
        let online = got(1)[0].clone();
        assert!(
            online.contains("\"state\":\"online\"")
                && online.contains("\"version\":\"")
                && online.contains("\"boot\":\""),
            "{online}"
        );
        assert!(online.contains("\"since\":\"2"), "{online}");
        gateway.process.kill_9();
        assert_eq!(
            got(2)[1],
            "0 {\"state\":\"offline\",\"reason\":\"connection lost\"}"
        );
        let mut gateway = Gateway::restart(&place);
        assert!(got(3)[2].contains("online"));
        assert!(gateway.process.terminate().success());
        assert!(
            got(4)[3].starts_with("0 {\"state\":\"offline\",\"reason\":\"stopped\""),
            "{:?}",
            got(4)
        );
        // It is what later subscribers see, and no will has overwritten it.
        let topic = format!("far/{protocol}/gateway/state");
        let (_, kept, _) = run(Command::new("mosquitto_sub").args([
            "-p",
            &remote.port.to_string(),
            "-t",
            &topic,
            "-C",
            "1",
            "-W",
            "10",
        ]));
        assert!(kept.contains("stopped"), "{kept}");
    }
}

#[test]
fn the_state_goes_before_the_backlog_on_every_connection_and_last_of_all() {
    let remote = Remote::listen();
    let mut site = site(remote.port, "");
    let (mut wire, connect) = next_connect(&remote);
    let topic = "far/x/gateway/state".to_owned();
    let lost = "{\"state\":\"offline\",\"reason\":\"connection lost\"}".to_owned();
    assert_eq!(
        will(&connect),
        Some((0x2C, topic.clone(), lost, Some(60))),
        "QoS 1, retained"
    );
    site.publish("one");
    wire.write(&CONNACK);
    let state = wire.read_any().publish();
    assert_eq!(
        (state.topic.as_str(), state.qos, state.retain, state.dup),
        (topic.as_str(), 1, true, false)
    );
    assert!(
        state.payload.starts_with("{\"state\":\"online\""),
        "{state:?}"
    );
    let message = wire.read_any().publish();
    assert_eq!(
        (message.topic.as_str(), message.payload.as_str()),
        ("far/a", "one")
    );
    acknowledge(&mut wire, &state);
    wire.close();
    // On a session that is kept the state is said again, and the message that was not acknowledged
    // comes after it.
    let (mut wire, _) = next_connect(&remote);
    wire.write(&CONNACK);
    let state = wire.read_any().publish();
    assert!(state.payload.contains("online") && !state.dup, "{state:?}");
    acknowledge(&mut wire, &state);
    let message = wire.publish();
    assert!(
        message.dup && message.payload == "one" && message.id != state.id,
        "{message:?}"
    );
    acknowledge(&mut wire, &message);
    site.gateway.process.signal(rustix::process::Signal::TERM);
    let last = wire.read_any().publish();
    assert!(
        last.retain
            && last
                .payload
                .starts_with("{\"state\":\"offline\",\"reason\":\"stopped\""),
        "{last:?}"
    );
    acknowledge(&mut wire, &last);
    assert_eq!(
        wire.read_any(),
        Packet {
            first: 0xE0,
            body: Vec::new()
        },
        "the will is not wanted"
    );
    assert!(site.gateway.process.wait().success());
}

#[test]
fn a_remote_that_takes_one_message_at_a_time_gets_the_state_alone() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    let (mut wire, _) = next_connect(&remote);
    site.publish("one");
    // Receive Maximum 1.
    wire.write(&[0x20, 6, 1, 0, 3, 0x21, 0, 1]);
    let state = wire.read_any().publish();
    assert!(state.payload.contains("online"));
    assert!(
        wire.read_any_within(Duration::from_millis(300)).is_none(),
        "the remote allows one"
    );
    acknowledge(&mut wire, &state);
    assert_eq!(wire.read_any().publish().payload, "one");
}

#[test]
fn a_remote_without_retained_messages_or_qos_1_gets_a_smaller_will() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    let flags = |code: u8| {
        let (mut wire, connect) = next_connect(&remote);
        wire.write(&[0x20, 3, 0, code, 0]);
        if code != 0 {
            wire.close();
        }
        will(&connect).map(|will| will.0)
    };
    assert_eq!(flags(0x9A), Some(0x2C));
    assert_eq!(flags(0x9B), Some(0x0C), "no retain");
    assert_eq!(flags(0), Some(0x04), "QoS 0");
    site.gateway.process.wait_for_event("uplink.up", &[]);
    assert_eq!(
        site.gateway
            .process
            .events("uplink.presence_limited", &[])
            .len(),
        2,
        "{}",
        site.gateway.process.output()
    );
}

#[test]
fn a_remote_that_refuses_the_will_by_closing_gets_none_and_the_messages_all_the_same() {
    let remote = Remote::listen();
    let site = site(remote.port, "protocol: 3.1.1");
    site.publish("one");
    let refuse = |is_retained: bool| {
        let (wire, connect) = next_connect(&remote);
        assert_eq!(
            will(&connect).map(|(flags, ..)| flags & 0x20 != 0),
            Some(is_retained)
        );
        wire.close();
    };
    let accept = || {
        let (mut wire, connect) = next_connect(&remote);
        assert_eq!(will(&connect), None);
        wire.write(&[0x20, 2, 1, 0]);
        let state = wire.read_any().publish_v4();
        assert!(
            state.payload.starts_with("{\"state\":\"unsupervised\""),
            "nobody would say `offline`: {state:?}"
        );
        acknowledge(&mut wire, &state);
        wire
    };
    // Three with a will that is retained, one with a will that is not.
    [true, true, true, false].into_iter().for_each(refuse);
    let mut wire = accept();
    let message = wire.read_any().publish_v4();
    assert_eq!(message.payload, "one");
    acknowledge(&mut wire, &message);
    assert_eq!(
        wire.read().kind(),
        14,
        "it may have been an outage: the will is tried once more"
    );
    assert!(
        wire.states
            .iter()
            .all(|state| state.payload.contains("reconnecting")),
        "{:?}",
        wire.states
    );
    assert_eq!(
        site.gateway
            .process
            .events("uplink.presence_limited", &[])
            .len(),
        0
    );
    refuse(false);
    for payload in ["two", "three"] {
        let mut wire = accept();
        site.publish(payload);
        let message = wire.read_any().publish_v4();
        assert_eq!(message.payload, payload);
        acknowledge(&mut wire, &message);
        wire.close();
    }
    assert_eq!(
        site.gateway
            .process
            .events("uplink.presence_limited", &[])
            .len(),
        1,
        "{}",
        site.gateway.process.output()
    );
}

#[test]
fn an_outage_of_the_remotes_authorization_does_not_cost_the_will() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    let (mut wire, connect) = next_connect(&remote);
    assert!(will(&connect).is_some());
    // Not authorized.
    wire.write(&[0x20, 3, 0, 0x87, 0]);
    wire.close();
    let (mut wire, connect) = next_connect(&remote);
    assert_eq!(
        will(&connect).map(|(flags, ..)| flags & 0x20),
        Some(0),
        "it may be the retain flag"
    );
    wire.write(&CONNACK);
    assert_eq!(wire.read().kind(), 14, "or it was an outage");
    assert!(
        wire.states.len() == 2 && wire.states.iter().all(|state| !state.retain),
        "{:?}",
        wire.states
    );
    let (mut wire, connect) = next_connect(&remote);
    assert_eq!(
        will(&connect).map(|(flags, ..)| flags & 0x20),
        Some(0x20),
        "it was not the will"
    );
    wire.write(&CONNACK);
    let state = wire.read_any().publish();
    assert!(
        state.retain && state.payload.contains("online"),
        "{state:?}"
    );
    assert_eq!(
        site.gateway.process.events("uplink.presence_limited", &[]),
        Vec::<String>::new()
    );
}

#[test]
fn a_state_at_qos_0_at_which_the_remote_closes_is_left_out() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    // Maximum QoS 0.
    let connack = [0x20, 5, 1, 0, 2, 0x24, 0];
    // Three times retained, then without the flag.
    for is_retained in [true, true, true, false] {
        let (mut wire, _) = next_connect(&remote);
        wire.write(&connack);
        let state = wire.read_any().publish();
        assert!(
            state.qos == 0 && state.retain == is_retained && state.payload.contains("online"),
            "{state:?}"
        );
        wire.close();
    }
    let (mut wire, _) = next_connect(&remote);
    wire.write(&connack);
    site.publish("one");
    assert_eq!(
        (wire.publish().payload.as_str(), wire.states.len()),
        ("one", 0)
    );
}

#[test]
fn a_message_at_which_the_remote_closes_is_not_mistaken_for_a_state_that_is_answered_late() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    site.publish("poison");
    let mut closes = 0;
    loop {
        let (mut wire, _) = next_connect(&remote);
        wire.write(&CONNACK);
        let state = wire.read_any().publish();
        assert!(state.payload.contains("online"), "{state:?}");
        let (mut is_answered, mut is_closed) = (false, false);
        while !is_closed {
            match wire.read_any_within(Duration::from_millis(300)) {
                Some(packet) if packet.kind() == 12 => wire.write(&[0xD0, 0]),
                Some(packet) => {
                    assert_eq!(packet.publish().payload, "poison");
                    is_closed = true;
                }
                None if is_answered => break,
                None => {
                    acknowledge(&mut wire, &state);
                    is_answered = true;
                }
            }
        }
        if !is_closed {
            break;
        }
        closes += 1;
        assert!(closes < 20, "{}", site.gateway.process.output());
        wire.close();
    }
    assert!(site.status().contains("\"dead\":1"), "{}", site.status());
    assert_eq!(
        site.gateway.process.events("uplink.presence_limited", &[]),
        Vec::<String>::new()
    );
}

#[test]
fn the_last_state_does_not_exceed_what_the_remote_takes_at_a_time() {
    let remote = Remote::listen();
    let folder = tempfile::tempdir().unwrap();
    let yaml = yaml(remote.port, "").replace("site: x", "site: x\nshutdown_grace: 1s");
    let gateway = Gateway::start(folder.path(), &yaml);
    let local = gateway.port();
    let site = Site {
        gateway,
        local,
        folder,
    };
    let (mut wire, _) = next_connect(&remote);
    // Receive Maximum 1.
    wire.write(&[0x20, 6, 1, 0, 3, 0x21, 0, 1]);
    let state = wire.read_any().publish();
    acknowledge(&mut wire, &state);
    site.publish("one");
    assert_eq!(wire.read_any().publish().payload, "one");
    site.gateway.process.signal(rustix::process::Signal::TERM);
    let last = wire.read_any().publish();
    assert!(
        last.qos == 0 && last.payload.contains("stopped"),
        "the message has the only place: {last:?}"
    );
    assert_eq!(wire.read_any().kind(), 14);
}

#[test]
fn a_reload_that_ends_the_connection_leaves_no_online_behind() {
    let (old, new) = (Remote::listen(), Remote::listen());
    let site = site(old.port, "");
    let reload = |port: u16, extra: &str| {
        fs::write(site.folder.path().join("gateway.yaml"), yaml(port, extra)).unwrap();
        site.gateway.process.signal(rustix::process::Signal::HUP);
    };
    let online = |remote: &Remote| {
        let (mut wire, _) = next_connect(remote);
        wire.write(&CONNACK);
        let state = wire.read_any().publish();
        assert!(state.payload.contains("online"), "{state:?}");
        acknowledge(&mut wire, &state);
        wire
    };
    let check_last = |wire: &mut Wire, reason: &str| {
        let last = wire.read_any().publish();
        let expected = format!("{{\"state\":\"offline\",\"reason\":\"{reason}\"");
        assert!(
            last.topic == "far/x/gateway/state"
                && last.retain
                && last.payload.starts_with(&expected),
            "{last:?}"
        );
        acknowledge(wire, &last);
        assert_eq!(wire.read_any().kind(), 14);
    };
    let mut wire = online(&old);
    reload(new.port, "");
    check_last(&mut wire, "moved");
    let mut wire = online(&new);
    // The next connection may fail for long, for a wrong password perhaps.
    reload(new.port, "keep_alive: 50s");
    check_last(&mut wire, "reconnecting");
    online(&new);
}

#[test]
fn a_remote_that_closes_at_the_state_gets_the_messages_without_it() {
    let remote = Remote::listen();
    let site = site(remote.port, "");
    site.publish("one");
    // Three times retained, then without the flag.
    for is_retained in [true, true, true, false] {
        let (mut wire, _) = next_connect(&remote);
        wire.write(&CONNACK);
        let state = wire.read_any().publish();
        assert!(
            state.payload.contains("online") && state.retain == is_retained,
            "{state:?}"
        );
        wire.close();
    }
    let (mut wire, _) = next_connect(&remote);
    wire.write(&CONNACK);
    let message = wire.publish();
    assert_eq!((message.payload.as_str(), wire.states.len()), ("one", 0));
    acknowledge(&mut wire, &message);
    wait_for("the message is acknowledged and none is dead", || {
        let status = site.status();
        (status.contains("\"acknowledged\":1") && status.contains("\"dead\":0")).then_some(())
    });
    // It may have been the link: the state is tried once more.
    assert!(wire.read_any().publish().payload.contains("online"));
    wire.close();
    let (mut wire, _) = next_connect(&remote);
    wire.write(&CONNACK);
    site.publish("two");
    let message = wire.publish();
    assert_eq!((message.payload.as_str(), wire.states.len()), ("two", 0));
    acknowledge(&mut wire, &message);
    site.gateway
        .process
        .wait_for_event("uplink.presence_limited", &[]);
    assert_eq!(
        site.gateway
            .process
            .events("uplink.presence_limited", &[])
            .len(),
        1,
        "{}",
        site.gateway.process.output()
    );
}

#[test]
fn presence_that_is_switched_off_or_moved_while_it_runs_leaves_no_wrong_state_behind() {
    let remote = Remote::listen();
    let site = site(remote.port, "presence: { topic: '{site}/here' }");
    let (mut wire, connect) = next_connect(&remote);
    assert_eq!(
        will(&connect).unwrap().1,
        "x/here",
        "a topic of one's own has no prefix"
    );
    wire.write(&CONNACK);
    let state = wire.read_any().publish();
    assert_eq!(state.topic, "x/here");
    acknowledge(&mut wire, &state);
    fs::write(
        site.folder.path().join("gateway.yaml"),
        yaml(remote.port, "presence: false"),
    )
    .unwrap();
    site.gateway.process.signal(rustix::process::Signal::HUP);
    let moved = wire.read_any().publish();
    assert!(
        moved.topic == "x/here"
            && moved
                .payload
                .starts_with("{\"state\":\"offline\",\"reason\":\"moved\""),
        "{moved:?}"
    );
    acknowledge(&mut wire, &moved);
    assert_eq!(wire.read_any().kind(), 14);
    let (mut wire, connect) = next_connect(&remote);
    assert_eq!(will(&connect), None);
    wire.write(&CONNACK);
    site.publish("one");
    assert_eq!(wire.read_any().publish().payload, "one");
}
