//! Serial ports: how they are written (`9600 8N1`) and how they are opened.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serial2::SerialPort as Transceiver;
use serial2::rs4xx::{Rs485Config, TransceiverMode};
use tokio::net::TcpStream;
use tokio_serial::{
    DataBits, ErrorKind, Parity, SerialPort, SerialPortBuilderExt, SerialStream, StopBits,
};

use crate::units::Span;

/// A serial device with its speed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The device; a path under `/dev/serial/by-id` survives replugging.
    pub path: String,
    /// Baud rate and frame.
    pub speed: Speed,
    /// Modbus frames are text (Modbus ASCII).
    pub ascii: bool,
    /// The settings of the transceiver for the kernel.
    pub rs485: Option<Rs485>,
}

/// How the kernel switches an RS-485 transceiver, where its driver can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rs485 {
    /// RTS is high while sending (default), or low.
    pub rts_while_sending: RtsLevel,
    /// Between switching to sending and the first bit.
    pub delay_before: Option<Span>,
    /// Between the last bit and switching back.
    pub delay_after: Option<Span>,
    /// The transceiver receives what it sends.
    pub receive_while_sending: bool,
}

impl Rs485 {
    /// Configures the driver of a port, and holds it open so that the setting stays; `None` if the
    /// port cannot be opened.
    fn apply(self, path: &str) -> std::io::Result<Option<Transceiver>> {
        let how = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The caller that opens it for use reports why it cannot be opened.
        let Ok(file) = rustix::fs::open(path, how, Mode::empty()) else {
            return Ok(None);
        };
        let port = Transceiver::from(file);
        let mut config = Rs485Config::new();
        config.set_invert_rts(self.rts_while_sending == RtsLevel::Low);
        config.set_full_duplex(self.receive_while_sending);
        config.set_delay_before_send(self.delay_before.map_or(Duration::ZERO, |span| span.0));
        config.set_delay_after_send(self.delay_after.map_or(Duration::ZERO, |span| span.0));
        port.set_rs4xx_mode(TransceiverMode::Rs485(config))?;
        Ok(Some(port))
    }
}

/// A level of a control line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Level")]
pub enum RtsLevel {
    /// On.
    #[default]
    High,
    /// Off.
    Low,
}

/// Connects to `host:port`. The error names the fault and the remedy.
pub async fn dial(address: &str, patience: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Requests are small and alone; if the option cannot be set they are merely slower.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(format!(
            "{address} cannot be reached: {error}; check address, port and cable"
        )),
        Err(_) => Err(format!(
            "{address} does not answer; check address, port and cable"
        )),
    }
}

/// Baud rate and character format, written `9600 8N1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Bits per second.
    pub baud: u32,
    data_bits: DataBits,
    parity: Parity,
    stop_bits: StopBits,
}

impl Speed {
    /// The time of one character, with start, parity and stop bits.
    pub fn character(&self) -> Duration {
        let data = match self.data_bits {
            DataBits::Five => 5,
            DataBits::Six => 6,
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        };
        let parity = u32::from(self.parity != Parity::None);
        let stop = if self.stop_bits == StopBits::One {
            1
        } else {
            2
        };
        Duration::from_secs(1) * (1 + data + parity + stop) / self.baud.max(1)
    }

    /// The silence that separates two RTU frames: 3.5 characters, at least 1.75 ms [Modbus over
    /// serial line 1.02, 2.5.1.1].
    pub fn frame_gap(&self) -> Duration {
        if self.baud > 19_200 {
            Duration::from_micros(1750)
        } else {
            self.character() * 7 / 2
        }
    }

    /// Sets an open port to this speed.
    pub(super) fn apply(&self, port: &mut dyn SerialPort) -> Result<(), String> {
        let set = port
            .set_baud_rate(self.baud)
            .and_then(|()| port.set_data_bits(self.data_bits))
            .and_then(|()| port.set_parity(self.parity))
            .and_then(|()| port.set_stop_bits(self.stop_bits));
        set.map_err(|error| format!("the speed cannot be changed: {error}"))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = match self.data_bits {
            DataBits::Five => 5,
            DataBits::Six => 6,
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        };
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        let stop = if self.stop_bits == StopBits::One {
            1
        } else {
            2
        };
        write!(f, "{} {data}{parity}{stop}", self.baud)
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || match with_other_signs(text) {
            Some(speed) => format!("`{text}` is not a serial speed; write {speed}"),
            None => {
                format!(
                    "`{text}` is not a serial speed; write baud rate, data bits, parity and stop bits, such as 9600 8N1 or 19200 8E1"
                )
            }
        };
        let mut words = text.split_whitespace();
        let baud = words
            .next()
            .and_then(|word| word.parse().ok())
            .filter(|baud| *baud > 0)
            .ok_or_else(wrong)?;
        let frame = words.next().unwrap_or("8N1").as_bytes();
        let [data, parity, stop] = frame else {
            return Err(wrong());
        };
        if words.next().is_some() {
            return Err(wrong());
        }
        let data_bits = match data {
            b'7' => DataBits::Seven,
            b'8' => DataBits::Eight,
            _ => return Err(wrong()),
        };
        let parity = match parity.to_ascii_uppercase() {
            b'N' => Parity::None,
            b'E' => Parity::Even,
            b'O' => Parity::Odd,
            _ => return Err(wrong()),
        };
        let stop_bits = match stop {
            b'1' => StopBits::One,
            b'2' => StopBits::Two,
            _ => return Err(wrong()),
        };
        Ok(Self {
            baud,
            data_bits,
            parity,
            stop_bits,
        })
    }
}

/// The speed that `9600,8,N,1` or `19200-8E1` means: other tools put other signs between its parts.
fn with_other_signs(text: &str) -> Option<Speed> {
    let parts = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty());
    let (baud, frame) = parts.fold((None, String::new()), |(baud, frame), part| match baud {
        None => (Some(part), frame),
        Some(baud) => (Some(baud), frame + part),
    });
    let meant = format!("{} {frame}", baud?);
    // The present value cannot be the one that was meant.
    (meant != text && !frame.is_empty())
        .then(|| meant.parse().ok())
        .flatten()
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// YAML takes a baud rate alone for a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum TypedPort {
            Baud(u32),
            Text(String),
        }
        let text = match TypedPort::deserialize(deserializer) {
            Ok(TypedPort::Baud(baud)) => baud.to_string(),
            Ok(TypedPort::Text(text)) => text,
            Err(_) => String::new(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Port {
    /// Opens the device for this process alone. The message names the device and what to do.
    pub fn open(&self) -> Result<SerialStream, String> {
        // Before the port is taken for this process alone.
        let told = self.rs485.map(|rs485| rs485.apply(&self.path)).transpose().map_err(|error| {
            format!(
                "{}: the driver of this port cannot switch a transceiver ({error}); adapters on USB do it themselves: remove `rs485:`",
                self.path
            )
        })?;
        let opened = tokio_serial::new(&self.path, self.speed.baud)
            .data_bits(self.speed.data_bits)
            .parity(self.speed.parity)
            .stop_bits(self.speed.stop_bits)
            .open_native_async();
        drop(told);
        let stream = opened.map_err(|error| self.explain(&error))?;
        self.look_at_adapter();
        Ok(stream)
    }

    /// True the first time for a port and a topic: each is logged once, however often the port is
    /// opened.
    fn is_news(&self, what: &'static str) -> bool {
        static TOLD: Mutex<BTreeSet<(String, &str)>> = Mutex::new(BTreeSet::new());
        TOLD.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((self.path.clone(), what))
    }

    /// Lowers the latency timer of FTDI adapters, which hold received bytes back for 16 ms by
    /// default; logs if that is not possible.
    fn look_at_adapter(&self) {
        let Ok(device) = std::fs::canonicalize(&self.path) else {
            return;
        };
        let Some(name) = device
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
        else {
            return;
        };
        let latency = format!("/sys/class/tty/{name}/device/latency_timer");
        if let Ok(before) = std::fs::read_to_string(&latency).map(|text| text.trim().to_owned())
            && before != "1"
        {
            match std::fs::write(&latency, "1") {
                Ok(()) => {
                    tracing::info!(
                        event = "serial.latency_lowered", port = %self.path, from_ms = %before,
                        "latency timer of the adapter lowered to 1 ms"
                    );
                }
                Err(error) if self.is_news("latency") => tracing::warn!(
                    event = "serial.latency_high", port = %self.path, ms = %before, %error,
                    "cannot lower the latency timer of the adapter, which delays every answer; set it by a udev rule: ATTR{{latency_timer}}=\"1\""
                ),
                Err(_) => {}
            }
        }
        if let Some(stable) = self.stable_name(&device)
            && self.is_news("name")
        {
            tracing::info!(
                event = "serial.unstable_name", port = %self.path, %stable,
                "the port name may change when adapters are plugged in; use the stable name"
            );
        }
    }

    /// The name of an adapter that is the same in every socket, if this one's may change.
    fn stable_name(&self, device: &std::path::Path) -> Option<String> {
        if !self.path.starts_with("/dev/ttyUSB") && !self.path.starts_with("/dev/ttyACM") {
            return None;
        }
        let links = std::fs::read_dir("/dev/serial/by-id").ok()?;
        let mut paths = links.flatten().map(|link| link.path());
        paths
            .find(|link| std::fs::canonicalize(link).is_ok_and(|target| target == device))
            .map(|link| link.display().to_string())
    }

    fn explain(&self, error: &tokio_serial::Error) -> String {
        let path = &self.path;
        match error.kind() {
            // The exclusive lock fails with this kind too.
            ErrorKind::NoDevice if std::path::Path::new(path).exists() => {
                format!("{path} is in use by another program; stop it (`fuser {path}` names it)")
            }
            ErrorKind::NoDevice | ErrorKind::Io(std::io::ErrorKind::NotFound) => {
                format!("{path} does not exist; check the cable and `ls -l /dev/serial/by-id`")
            }
            ErrorKind::Io(std::io::ErrorKind::PermissionDenied) => {
                format!(
                    "no permission to open {path}; add the user who runs wellhead to the group dialout (`usermod -aG dialout <user>`)"
                )
            }
            _ => format!("{path} cannot be opened: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_give_the_frame_gap() {
        let slow: Speed = "9600 8N1".parse().unwrap();
        assert_eq!(slow.character(), Duration::from_nanos(1_041_666));
        assert_eq!(slow.frame_gap().as_micros(), 3645);
        let even: Speed = "19200 8e1".parse().unwrap();
        assert_eq!(even.character().as_micros(), 572);
        let fast: Speed = "115200".parse().unwrap();
        assert_eq!(fast.frame_gap(), Duration::from_micros(1750));
        for wrong in ["fast", "9600 8X1", "9600 8N1 extra", "0 8N1", "9600 8N"] {
            assert!(
                wrong.parse::<Speed>().unwrap_err().contains("9600 8N1"),
                "{wrong}"
            );
        }
        for (other, ours) in [
            ("9600,8,N,1", "9600 8N1"),
            ("19200-8-E-1", "19200 8E1"),
            ("9600/8n2", "9600 8N2"),
            ("115200 8 N 1", "115200 8N1"),
        ] {
            let expected = format!("`{other}` is not a serial speed; write {ours}");
            assert_eq!(other.parse::<Speed>().unwrap_err(), expected);
        }
    }

    #[tokio::test]
    async fn a_port_whose_driver_switches_no_transceiver_says_so() {
        let (_near, far) = SerialStream::pair().unwrap();
        let path = far.name().unwrap();
        drop(far);
        let port = Port {
            path,
            speed: "9600 8N1".parse().unwrap(),
            ascii: false,
            rs485: Some(Rs485::default()),
        };
        let error = port.open().unwrap_err();
        assert!(error.contains("remove `rs485:`"), "{error}");
    }

    #[test]
    fn a_missing_device_is_named_with_its_remedy() {
        let port = Port {
            path: "/dev/does-not-exist".to_owned(),
            speed: "9600 8N1".parse().unwrap(),
            ascii: false,
            rs485: None,
        };
        let error = port.open().unwrap_err();
        assert!(
            error.contains("/dev/does-not-exist") && error.contains("by-id"),
            "{error}"
        );
    }
}
