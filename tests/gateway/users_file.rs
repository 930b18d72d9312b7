//! Users in a file of their own, hashes that mosquitto made, users that are like others.

use std::fs;
use std::path::Path;
use std::process::Command;

use wellhead::config;
use wellhead::mqtt::{ReasonCode, TopicName};

use super::logins::{connect, log_in};
use super::support::{Gateway, run, wellhead};

const ACCEPTED: Option<ReasonCode> = Some(ReasonCode::SUCCESS);
const WRONG: Option<ReasonCode> = Some(ReasonCode::BAD_USER_NAME_OR_PASSWORD);

#[test]
fn users_of_mosquitto_log_in_and_their_file_is_read_again_at_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.passwd");
    let file_name = file.to_str().unwrap();
    let change = |arguments: &[&str]| {
        let (code, out, error) = run(Command::new("mosquitto_passwd").args(arguments));
        assert_eq!(code, Some(0), "{out}{error}");
    };
    change(&["-c", "-b", file_name, "anna", "secret"]);
    change(&["-H", "sha512", "-b", file_name, "bert", "secret"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("anna:$7$") && text.contains("bert:$6$"),
        "{text}"
    );
    let gateway = Gateway::start(
        folder.path(),
        "broker: { listen: mqtt://127.0.0.1:0, users_file: users.passwd }\n",
    );
    let port = gateway.port();
    let answer = |user: &str, password: &str| log_in(port, &connect("c", user, password));
    for user in ["anna", "bert"] {
        assert_eq!(
            (answer(user, "secret"), answer(user, "Secret")),
            (ACCEPTED, WRONG),
            "{user}"
        );
    }
    assert_eq!(answer("carl", "secret"), WRONG);
    change(&["-D", file_name, "anna"]);
    change(&["-b", file_name, "carl", "secret"]);
    let reload = || {
        run(wellhead()
            .arg("reload")
            .arg(folder.path().join("gateway.yaml")))
    };
    let (code, out, error) = reload();
    assert_eq!(code, Some(0), "{out}{error}");
    assert_eq!(
        (
            answer("anna", "secret"),
            answer("bert", "secret"),
            answer("carl", "secret")
        ),
        (WRONG, ACCEPTED, ACCEPTED)
    );
    // A file with faults changes nothing.
    fs::write(&file, "carl: no hash\n").unwrap();
    let (code, out, error) = reload();
    assert!(
        code != Some(0) && error.contains("users.passwd:1:1 "),
        "{out}{error}"
    );
    assert_eq!(answer("carl", "secret"), ACCEPTED);
}

#[test]
fn a_user_has_what_the_user_it_is_like_has_and_its_own_lists_instead() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config/good/users-in-a-file-and-like-others.yaml");
    let gateway = config::load(&case).unwrap_or_else(|error| panic!("{error}"));
    let access = gateway.broker.unwrap().access;
    let topic = |text: &str| TopicName::new(text).unwrap();
    for name in ["operator", "chief"] {
        let rights = access.rights(Some(&name.into()), "panel").unwrap();
        assert!(
            rights.may_read(&topic("plant/a")) && !rights.may_read(&topic("plant/secret/a")),
            "{name}"
        );
        assert!(
            rights.may_write(&topic("plant/boiler/setpoint/set"), true)
                && !rights.may_write(&topic("plant/fixed"), false),
            "{name}"
        );
    }
    assert!(
        access.rights(Some(&"viewer".into()), "panel").is_none(),
        "a model without a password cannot log in"
    );
}

#[test]
fn a_serial_device_needs_no_folder_and_a_path_begins_at_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x\nlines: [ { name: a, serial: ttyUSB0 }, { name: b, serial: ./port }, { name: c, serial: serial/by-id/x }, { name: d, serial: /dev/x } ]\n";
    let gateway = config::parse("gateway.yaml", yaml, folder.path())
        .unwrap_or_else(|faults| panic!("{faults:?}"));
    let paths: Vec<String> = gateway
        .lines
        .iter()
        .map(|line| {
            if let wellhead::field::Wire::Serial(port) = &line.wire {
                port.path.clone()
            } else {
                String::new()
            }
        })
        .collect();
    let own = folder.path().join("./port").display().to_string();
    assert_eq!(
        paths,
        ["/dev/ttyUSB0", &own, "/dev/serial/by-id/x", "/dev/x"]
    );
    // Two names of one device are one device.
    let twice = "site: x\nlines: [ { name: a, serial: null }, { name: b, serial: /dev/null } ]\n"
        .replace("serial: null", "serial: zero")
        .replace("/dev/null", "/dev/zero");
    let faults = config::parse("gateway.yaml", &twice, folder.path()).unwrap_err();
    assert!(
        faults[0].message.contains("line a has this device already"),
        "{faults:?}"
    );
}
