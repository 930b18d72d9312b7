//! The table of protocols. To add one: a folder below `field/` with its [`Driver`], a variant of
//! [`DeviceProtocol`] with what the YAML says about a device, and a row in [`run`] and in
//! [`PlayedDevices::play`].

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::mbus::spec::MeterSpec;
use super::modbus::slave::SharedFaults;
use super::sml::spec::SmlSpec;
use super::text::TextProtocol;
use super::text::held::SharedHeld;
use super::trace::Framing;
use super::{Device, Job, Line, LineTask, Wire, mbus, modbus, simulated, sml, text};

/// What a device speaks, with what its protocol needs to know of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum DeviceProtocol {
    /// Modbus.
    #[default]
    Modbus,
    /// A plain instrument.
    Text(Arc<TextProtocol>),
    /// A meter on an M-Bus.
    Mbus(MeterSpec),
    /// A meter that sends SML.
    Sml(SmlSpec),
}

impl DeviceProtocol {
    /// True for Modbus.
    pub fn is_modbus(&self) -> bool {
        matches!(self, Self::Modbus)
    }

    /// That of a plain instrument.
    pub fn text(&self) -> Option<&Arc<TextProtocol>> {
        match self {
            Self::Text(protocol) => Some(protocol),
            _ => None,
        }
    }

    /// A meter on an M-Bus.
    pub fn meter(&self) -> Option<&MeterSpec> {
        match self {
            Self::Mbus(meter) => Some(meter),
            _ => None,
        }
    }

    /// A meter that sends SML.
    pub fn sml(&self) -> Option<&SmlSpec> {
        match self {
            Self::Sml(meter) => Some(meter),
            _ => None,
        }
    }

    /// Bytes on the wire in words, frame by frame; `None` where devices have no telegrams.
    pub fn in_words(&self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Mbus(_) => Some(mbus::in_words(bytes)),
            Self::Sml(_) => Some(sml::in_words(bytes)),
            Self::Modbus | Self::Text(_) => None,
        }
    }

    /// In words, as messages name the devices of a line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Modbus => "Modbus devices",
            Self::Text(_) => "plain instruments",
            Self::Mbus(_) => "meters on an M-Bus",
            Self::Sml(_) => "meters that send SML",
        }
    }
}

impl Line {
    /// The protocol of its devices, of which all have the same.
    pub fn protocol(&self) -> DeviceProtocol {
        let mut devices = self.devices.iter();
        devices
            .next()
            .map(|device| device.protocol.clone())
            .unwrap_or_default()
    }
}

impl Line {
    /// How its bytes are cut into frames, for watchers; `None` if nothing travels on it.
    pub fn framing(&self) -> Option<Framing> {
        match (self.protocol(), &self.wire) {
            (_, Wire::Simulated) => None,
            (DeviceProtocol::Text(_), _) => Some(Framing::Plain),
            (DeviceProtocol::Mbus(_) | DeviceProtocol::Sml(_), _) => Some(Framing::Meter),
            (DeviceProtocol::Modbus, Wire::ModbusTcp(_)) => Some(Framing::Tcp),
            (DeviceProtocol::Modbus, Wire::RtuOverTcp(_)) => Some(Framing::Rtu),
            (DeviceProtocol::Modbus, Wire::AsciiOverTcp(_)) => Some(Framing::Ascii),
            (DeviceProtocol::Modbus, Wire::Serial(port)) if port.ascii => Some(Framing::Ascii),
            (DeviceProtocol::Modbus, Wire::Serial(_)) => Some(Framing::Rtu),
            (DeviceProtocol::Modbus, Wire::Tcp(_)) => Some(Framing::Plain),
        }
    }

    /// What devices without registers are asked for again and again, as their driver plans it; of
    /// those that send by themselves nothing.
    pub fn readouts(&self) -> Vec<Job> {
        match (&self.wire, self.protocol()) {
            (Wire::Simulated, _) | (_, DeviceProtocol::Modbus | DeviceProtocol::Sml(_)) => {
                Vec::new()
            }
            (_, DeviceProtocol::Text(_)) => text::polls(&self.devices),
            (_, DeviceProtocol::Mbus(_)) => mbus::readouts(self),
        }
    }
}

/// Polls a line with the driver of its protocol until it is stopped.
pub(super) async fn run(task: LineTask) {
    let (line, counts) = (&task.line, Arc::clone(&task.counts));
    let beats = task.heartbeat.clone();
    match (&line.wire, line.protocol()) {
        (Wire::Simulated, _) => {
            let driver = simulated::Simulated::new(&line.devices);
            task.run_with(driver).await;
        }
        (_, DeviceProtocol::Text(_)) => {
            let driver = text::Text::new(line, counts, beats);
            task.run_with(driver).await;
        }
        (_, DeviceProtocol::Mbus(_)) => {
            let driver = mbus::Mbus::new(line, counts, beats);
            task.run_with(driver).await;
        }
        (_, DeviceProtocol::Sml(_)) => {
            let driver = sml::Sml::new(line, counts, beats);
            task.run_with(driver).await;
        }
        (_, DeviceProtocol::Modbus) => {
            let folder = task.folder.clone();
            let driver = modbus::Modbus::new(line, counts, folder).watched_by(beats);
            task.run_with(driver).await;
        }
    }
}

/// Devices without registers that are played, with what was written to them.
#[derive(Debug, Clone, Default)]
pub struct PlayedDevices {
    devices: Vec<Arc<Device>>,
    held: SharedHeld,
}

impl PlayedDevices {
    /// Those of a line, untouched.
    pub fn new(devices: Vec<Arc<Device>>) -> Self {
        Self {
            devices,
            held: SharedHeld::default(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Plays them on a wire until it ends, with the waves of their points.
    pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        faults: &SharedFaults,
        wire: S,
    ) -> io::Result<()> {
        let Self { devices, held } = self;
        match devices.first().map(|device| &device.protocol) {
            Some(DeviceProtocol::Text(_)) => {
                text::simulator::play(devices, faults, held, wire).await
            }
            Some(DeviceProtocol::Mbus(_)) => mbus::simulator::play(devices, faults, wire).await,
            Some(DeviceProtocol::Sml(_)) => sml::simulator::play(devices, faults, wire).await,
            Some(DeviceProtocol::Modbus) | None => Ok(()),
        }
    }
}
