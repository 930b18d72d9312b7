//! Logins by password: what a storm of them may cost, and who suffers from it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hostile::resident;
use super::support::client::{Client, hello};
use super::support::{Gateway, wellhead};
use wellhead::mqtt::{Connect, ReasonCode, Version};

/// Clients that log in at a time.
const AT_A_TIME: usize = 100;
/// KiB that logins may add to a gateway that is idle.
const MOST_KIB: u64 = 35_000;

/// What `wellhead passwd` prints for the password `secret`, indented for `users:`.
pub fn user(name: &str) -> String {
    let mut child = wellhead()
        .args(["passwd", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    printed
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// A CONNECT of MQTT 3.1.1.
pub fn connect(client_id: &str, user: &str, password: &str) -> Connect {
    Connect {
        username: Some(user.into()),
        password: Some(password.to_owned().into()),
        ..hello(Version::V311, client_id)
    }
}

/// The reason in the CONNACK that a CONNECT gets; `None` if the connection ends without one.
pub fn log_in(port: u16, connect: &Connect) -> Option<ReasonCode> {
    let (_, answer) = Client::connect(port, connect.clone()).ok()?;
    Some(answer.reason)
}

const ACCEPTED: ReasonCode = ReasonCode::SUCCESS;
const BUSY: ReasonCode = ReasonCode::SERVER_UNAVAILABLE;
const WRONG: ReasonCode = ReasonCode::BAD_USER_NAME_OR_PASSWORD;

#[test]
fn a_thousand_logins_take_the_memory_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "broker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  failed_logins: 100000\n  connection_rate: 100000\n  users:\n{}",
        user("anna")
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let pid = gateway.process.id();
    let before = resident(pid);
    let logins = 1000;
    let (next, most) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicU64::new(before)),
    );
    let answers = Arc::new(Mutex::new(BTreeMap::<u8, usize>::new()));
    let client = || {
        let (next, most, answers) = (next.clone(), most.clone(), answers.clone());
        std::thread::spawn(move || {
            loop {
                let number = next.fetch_add(1, SeqCst);
                if number >= logins {
                    return;
                }
                let password = if number % 2 == 0 { "secret" } else { "wrong" };
                let connect = connect(&format!("client-{number}"), "anna", password);
                // Who is told that the broker is busy comes again, later each time: every password
                // is compared in the end.
                let mut pause = Duration::from_millis(100);
                let answer = loop {
                    let answer = log_in(port, &connect).expect("every CONNECT is answered");
                    *answers.lock().unwrap().entry(answer.0).or_default() += 1;
                    if answer != BUSY {
                        break answer;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(2));
                };
                assert_eq!(answer, if number % 2 == 0 { ACCEPTED } else { WRONG });
                most.fetch_max(resident(pid), SeqCst);
            }
        })
    };
    let clients: Vec<_> = (0..AT_A_TIME).map(|_| client()).collect();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    let (during, after) = (most.load(SeqCst), resident(pid));
    eprintln!(
        "RSS in KiB over {logins} logins, {AT_A_TIME} at a time: before {before}, during {during}, after {after}; answers {answers:?}"
    );
    assert!(
        after <= before + MOST_KIB && during <= before + MOST_KIB + 10_000,
        "before {before}, during {during}, after {after} KiB"
    );
}

#[test]
fn a_program_that_guesses_on_this_machine_does_not_keep_the_others_out() {
    let folder = tempfile::tempdir().unwrap();
    // A low rate, so that one busy loop goes beyond it.
    let yaml = format!(
        "broker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  failed_logins: 3\n  connection_rate: 5\n  users:\n{}{}",
        user("hmi"),
        user("historian")
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let (is_over, guesses) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let guessers: Vec<_> = (0..8)
        .map(|number| {
            let (is_over, guesses) = (is_over.clone(), guesses.clone());
            std::thread::spawn(move || {
                while !is_over.load(SeqCst) {
                    let name = if number % 2 == 0 { "hmi" } else { "nobody" };
                    log_in(port, &connect(&format!("guesser-{number}"), name, "wrong"));
                    guesses.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    super::support::wait_for("the guessers are beyond every limit", || {
        (guesses.load(SeqCst) > 30).then_some(())
    });
    for _ in 0..3 {
        for name in ["historian", "hmi"] {
            assert_eq!(
                log_in(port, &connect(name, name, "secret")),
                Some(ACCEPTED),
                "{name}"
            );
        }
    }
    is_over.store(true, SeqCst);
    guessers
        .into_iter()
        .for_each(|guesser| guesser.join().unwrap());
}

#[test]
fn check_says_how_much_memory_logins_take() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let hash =
        |kib: u32| format!("$argon2id$v=19$m={kib},t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow");
    // Who does not exist is compared with a hash of 19 MiB, however little those of the users need.
    for (kib, mib) in [(65_536, 64), (19_456, 19), (8, 19)] {
        let yaml = format!(
            "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ], users: [ {{ name: a, password: '{}' }} ] }}\n",
            hash(kib)
        );
        std::fs::write(&file, yaml).unwrap();
        let (code, out, error) = super::support::run(wellhead().arg("check").arg(&file));
        assert!(
            code == Some(0) && out.contains(&format!("checking passwords takes {mib} MiB")),
            "{kib}: {code:?} {out}{error}"
        );
    }
    std::fs::write(
        &file,
        "site: x\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n",
    )
    .unwrap();
    assert!(
        !super::support::run(wellhead().arg("check").arg(&file))
            .1
            .contains("logins"),
        "nobody has a password"
    );
}

#[test]
fn a_hash_that_costs_too_much_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let hash = "$argon2id$v=19$m=1048576,t=1,p=4$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";
    let yaml = format!(
        "broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], users: [ {{ name: anna, password: '{hash}' }} ] }}\n"
    );
    std::fs::write(&file, yaml).unwrap();
    let (code, _, errors) = super::support::run(
        Command::new(env!("CARGO_BIN_EXE_wellhead"))
            .arg("check")
            .arg(&file),
    );
    assert!(
        code == Some(78) && errors.contains("wellhead passwd"),
        "{code:?} {errors}"
    );
}
