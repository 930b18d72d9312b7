//! Two network namespaces, one with the gateway and one with the remote broker, and the emulated
//! link between them in a third. Nothing outside of them is changed; they are gone when the bench
//! is.

use std::fs;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::profile::LinkProfile;
use super::relay::{LinkMeter, Side, start};

/// The remote broker on the link: TLS, and the address in its certificate.
pub(crate) const REMOTE: &str = "10.99.0.2";
pub(crate) const TLS_PORT: u16 = 8883;
/// And for who watches it from its own side of the link.
pub(crate) const NEAR_PORT: u16 = 1883;
const VXLAN: u16 = 4789;

/// The namespaces.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    gateway: String,
    remote: String,
    link: String,
}

/// Removes them.
pub(crate) struct Cleaner(Lab);

impl Drop for Cleaner {
    fn drop(&mut self) {
        for name in self.0.names() {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Why the bench cannot run here.
pub(crate) fn what_is_missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some(
            "network namespaces need root: run it with sudo, or in a container with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        );
    }
    let starts = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        let command = command.arg(argument).stdout(Stdio::null());
        command.stderr(Stdio::null()).status().is_ok()
    };
    if !starts("ip", "-V") {
        return Some("it needs `ip` (package iproute2)");
    }
    if !starts(&mosquitto_program(), "-h") {
        return Some("it needs mosquitto (package mosquitto)");
    }
    None
}

fn mosquitto_program() -> String {
    let usual = "/usr/sbin/mosquitto";
    let program = if Path::new(usual).exists() {
        usual
    } else {
        "mosquitto"
    };
    program.to_owned()
}

/// Runs a command line of `ip`.
fn ip(line: &str) {
    let done = Command::new("ip").args(line.split_whitespace()).status();
    assert!(done.unwrap().success(), "ip {line}");
}

/// Puts this thread, and the sockets that it opens, into a namespace.
fn enter(name: &str) {
    let file = fs::File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn set(name: &str, key: &str, value: u8) {
    let line = format!("echo {value} > /proc/sys/net/{key}");
    let done = Command::new("ip")
        .args(["netns", "exec", name, "sh", "-c", &line])
        .status();
    assert!(done.unwrap().success(), "{line}");
}

impl Lab {
    /// With a link between them.
    pub(crate) fn new(profile: LinkProfile) -> (Self, LinkMeter, Cleaner) {
        let own = |what: &str| format!("wellhead-{what}-{}", std::process::id());
        let lab = Self {
            gateway: own("gateway"),
            remote: own("remote"),
            link: own("link"),
        };
        for name in lab.names() {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        let cleaner = Cleaner(lab.clone());
        for (number, name) in [(0, &lab.gateway), (1, &lab.remote)] {
            lab.connect(number, name, profile.mtu);
        }
        set(&lab.gateway, "ipv4/tcp_timestamps", 0);
        let side = |number: u8| Side {
            own: ([169, 254, number, 1], VXLAN).into(),
            peer: ([169, 254, number, 2], VXLAN).into(),
        };
        let link = lab.link.clone();
        let relay = std::thread::spawn(move || {
            enter(&link);
            start(profile, side(0), side(1))
        });
        (lab, relay.join().unwrap(), cleaner)
    }

    fn names(&self) -> [&str; 3] {
        [&self.gateway, &self.remote, &self.link]
    }

    /// A side of the link: its packets go to the relay in VXLAN datagrams.
    fn connect(&self, number: u8, name: &str, mtu: u32) {
        let link = &self.link;
        let other = 1 - number;
        let (own, peer) = (number + 1, other + 1);
        set(name, "ipv6/conf/all/disable_ipv6", 1);
        ip(&format!(
            "link add wire{number} netns {link} mtu 1700 type veth peer name wire netns {name} mtu 1700"
        ));
        ip(&format!(
            "-n {link} addr add 169.254.{number}.1/24 dev wire{number}"
        ));
        ip(&format!("-n {link} link set wire{number} up"));
        ip(&format!(
            "-n {name} addr add 169.254.{number}.2/24 dev wire"
        ));
        ip(&format!("-n {name} link set wire up"));
        ip(&format!(
            "-n {name} link add sat0 type vxlan id 7 local 169.254.{number}.2 remote 169.254.{number}.1 dstport {VXLAN} dev wire nolearning"
        ));
        ip(&format!(
            "-n {name} link set sat0 address 02:00:00:00:00:0{own} mtu {mtu} gso_max_segs 1"
        ));
        ip(&format!("-n {name} addr add 10.99.0.{own}/24 dev sat0"));
        ip(&format!("-n {name} link set sat0 up"));
        ip(&format!(
            "-n {name} neigh add 10.99.0.{peer} lladdr 02:00:00:00:00:0{peer} dev sat0 nud permanent"
        ));
    }

    /// Runs something in a thread whose sockets are on the gateway's side.
    pub(crate) fn enter_gateway(&self) {
        enter(&self.gateway);
    }

    /// The same on the remote's side.
    pub(crate) fn enter_remote(&self) {
        enter(&self.remote);
    }

    /// Starts mosquitto as the remote, with more lines of its file.
    pub(crate) fn mosquitto(&self, folder: &Path, more: &str) -> Mosquitto {
        certify(folder);
        let file = folder.join("mosquitto.conf");
        let [certificate, key] = ["server.pem", "server.key"].map(|name| folder.join(name));
        let lines = format!(
            "user root\nlistener {NEAR_PORT} 127.0.0.1\nallow_anonymous true\nlistener {TLS_PORT} {REMOTE}\ncertfile {}\nkeyfile {}\nmax_queued_messages 0\nlog_dest none\n{more}",
            certificate.display(),
            key.display(),
        );
        fs::write(&file, lines).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.remote, &mosquitto_program(), "-c"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Mosquitto(child);
        self.wait_for_mosquitto();
        broker
    }
}

impl Lab {
    fn wait_for_mosquitto(&self) {
        let listens = || {
            self.enter_remote();
            let connect = || TcpStream::connect(("127.0.0.1", NEAR_PORT)).is_ok();
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                connect()
            })
        };
        let listens = std::thread::scope(|scope| scope.spawn(listens).join().unwrap());
        assert!(listens, "mosquitto does not listen");
    }
}

/// The remote broker.
pub(crate) struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A certificate of the remote (P-256) and the authority behind it.
fn certify(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "authority of the bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![REMOTE.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}
