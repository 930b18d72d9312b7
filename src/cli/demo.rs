//! `wellhead demo`: the whole data path on one machine, with an outage and a kill -9 in the middle.
//!
//! Instruments (Modbus TCP and RTU on a pseudo-terminal), this program as the gateway in a process
//! of its own, a second broker as the remote, and between the two a link that can be cut. A ledger
//! compares acknowledged messages with those that arrive at the remote.

mod client;
mod ledger;
mod link;
mod remote;

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::time::{sleep, sleep_until, timeout};

use super::simulate::{PseudoTerminal, Served, TcpServer, Travels};
use super::{Failure, StopSignal, runtime, say};
use crate::config;
use crate::field::modbus::slave::Image;
use crate::tasks::{StopSwitch, Tasks, stop_token};
use crate::time::now;
use client::LocalClient;
use ledger::{Ledger, Sums};
use link::CuttableLink;

/// The first line.
const OPENING: &str = "Modbus TCP and RTU instruments -> gateway -> link -> remote broker; ledger of what was promised against what arrived\n";

/// How long a scene may take; a machine under emulation needs half of it to start the gateway.
const SCENE_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn demo() -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("wellhead-demo-{}", std::process::id()));
    // In a shared folder, with a name that can be guessed: it must be new, and for this user alone.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|error| {
            Failure::runtime(format!(
                "{}: {error}; set TMPDIR to a folder you may write",
                folder.display()
            ))
        })?;
    let outcome = runtime()?.block_on(async {
        let mut signal = StopSignal::catch()?;
        tokio::select! {
            outcome = play(&folder) => outcome,
            () = signal.wait() => Err(Failure::runtime("interrupted")),
        }
    });
    match &outcome {
        // Only a leftover in the temporary folder.
        Ok(()) => drop(std::fs::remove_dir_all(&folder)),
        Err(_) => say(&format!(
            "the files of this demo are in {}",
            folder.display()
        )),
    }
    outcome
}

/// The YAML of the gateway. The instruments' addresses are filled in.
fn yaml(plant: &str, bus: &Path, local_port: u16, uplink: &str) -> String {
    format!(
        "site: demo
lines:
  - {{ name: plant, modbus_tcp: '{plant}', answer_within: 500ms }}
  - {{ name: bus, serial: '{}', speed: 19200 8E1, answer_within: 500ms }}
profiles:
  pump:
    byte_order: CDAB
    points:
      flow:  {{ at: 40001, type: f32, unit: m3/h, every: 100ms, simulate: {{ from: 10, to: 14, period: 20s }} }}
      total: {{ holding: 2, type: u32, scale: 0.1, unit: m3, every: 200ms, simulate: {{ shape: counter, period: 1s }} }}
      mode:  {{ holding: 4, words: {{ 0: stop, 1: auto }}, every: 500ms, deadband: 0, simulate: {{ shape: square, to: 1, period: 6s }} }}
  tank:
    points:
      level: {{ input: 0, type: u16, scale: 0.01, unit: m, every: 250ms, simulate: {{ from: 1, to: 4, period: 30s }} }}
      high:  {{ discrete: 0, every: 500ms, simulate: {{ shape: square, to: 1, period: 8s }} }}
devices:
  - {{ name: inlet, line: plant, unit: 1, profile: pump }}
  - {{ name: outlet, line: plant, unit: 2, profile: pump }}
  - {{ name: tank, line: bus, unit: 7, profile: tank }}
broker: {{ listen: [ 'mqtt://127.0.0.1:{local_port}' ], sys_every: 1s }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: {uplink}
    retry: {{ first: 200ms, longest: 1s }}
    send: [ {{ filter: '#', prefix: remote/ }} ]
",
        bus.display()
    )
}

/// The scenes, in this order. A scene ends when it has lasted its time and has shown its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// The gateway starts and connects.
    Start,
    /// Readings are delivered.
    Deliver,
    /// The link is cut; the gateway still accepts messages.
    Outage,
    /// The gateway was killed, and starts with the link still cut.
    Restart,
    /// The link is back; new messages still come.
    CatchUp,
    /// The local client publishes no more; what was promised is delivered.
    Settle,
    Over,
}

impl Scene {
    fn shortest(self) -> Duration {
        Duration::from_secs(match self {
            Self::Start | Self::Settle | Self::Over => 0,
            Self::Deliver => 3,
            Self::Outage | Self::Restart | Self::CatchUp => 4,
        })
    }

    /// The error if this scene does not end.
    fn complaint(self) -> &'static str {
        match self {
            Self::Start | Self::Deliver => "the gateway delivered nothing in time; see gateway.log",
            Self::Outage => {
                "the gateway acknowledged nothing while the link was cut; see gateway.log"
            }
            Self::Restart => "the gateway did not come back after kill -9 in time; see gateway.log",
            Self::CatchUp => "nothing was delivered after the link was restored; see gateway.log",
            Self::Settle | Self::Over => "some acknowledged messages were not delivered in time",
        }
    }
}

/// The scene that is being played.
struct Story {
    scene: Scene,
    since: Instant,
    /// The sums when the scene began.
    before: Sums,
}

impl Story {
    fn begin(ledger: &Ledger) -> Self {
        Self {
            scene: Scene::Start,
            since: now(),
            before: ledger.sums(),
        }
    }

    /// The scene that begins now.
    fn advance(&mut self, ledger: &Ledger) -> Option<Scene> {
        if elapsed(self.since) < self.scene.shortest() {
            return None;
        }
        let (sums, before) = (ledger.sums(), self.before);
        let delivers = sums.delivered > before.delivered;
        // One acknowledgement can be left over from the scene before.
        let promises = sums.promised > before.promised + 1;
        let (shown, next) = match self.scene {
            Scene::Start => (delivers && promises, Scene::Deliver),
            Scene::Deliver => (delivers, Scene::Outage),
            Scene::Outage => (promises, Scene::Restart),
            Scene::Restart => (promises, Scene::CatchUp),
            Scene::CatchUp => (delivers, Scene::Settle),
            Scene::Settle | Scene::Over => (ledger.is_settled(), Scene::Over),
        };
        shown.then(|| {
            *self = Self {
                scene: next,
                since: now(),
                before: sums,
            };
            next
        })
    }

    /// An error if the scene does not end, or the gateway has ended.
    fn check(&self, gateway: &mut Child) -> Result<(), Failure> {
        if elapsed(self.since) > SCENE_LIMIT {
            return Err(Failure::runtime(self.scene.complaint()));
        }
        match gateway.try_wait() {
            Ok(Some(status)) => Err(Failure::runtime(format!(
                "the gateway ended by itself ({status}); see gateway.log"
            ))),
            _ => Ok(()),
        }
    }
}

/// All participants but the gateway.
struct DemoSetup {
    file: PathBuf,
    link: CuttableLink,
    ledger: Arc<Ledger>,
    local_port: u16,
    tasks: Tasks,
    _switch: StopSwitch,
}

async fn set_up(folder: &Path) -> Result<DemoSetup, String> {
    let (switch, stop) = stop_token();
    let mut tasks = Tasks::default();
    let ledger = Arc::new(Ledger::default());
    let remote = remote::start(ledger.clone(), &stop, &mut tasks).await?;
    let link = CuttableLink::start(remote, &stop, &mut tasks).await?;
    let local_port = free_port()?;
    let bus = folder.join("bus");
    let file = folder.join("gateway.yaml");
    let uplink = format!("mqtt://{}", link.address);
    // The registers to serve are read from the file itself; the port of the instruments is known
    // after that.
    let yaml = |plant: &str| yaml(plant, &bus, local_port, &uplink);
    let config = config::parse("gateway.yaml", &yaml("127.0.0.1:502"), folder)
        .map_err(|faults| format!("{faults:?}"))?;
    let [plant, tank] = config.lines.as_slice() else {
        return Err("the demo has two lines".to_owned());
    };
    let server = TcpServer::bind("127.0.0.1:0", Image::new(&plant.devices), Travels::Tcp).await?;
    write(&file, &yaml(&server.address.to_string()))?;
    tasks.start("instruments: plant", server.run(stop.clone()));
    let terminal = PseudoTerminal::linked(&bus)?;
    let tank = Served::plain(Image::new(&tank.devices));
    tasks.start("instruments: bus", terminal.run(tank, stop));
    Ok(DemoSetup {
        file,
        link,
        ledger,
        local_port,
        tasks,
        _switch: switch,
    })
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn elapsed(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// A port that is free at the moment.
fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener
        .local_addr()
        .map(|address| address.port())
        .map_err(|error| error.to_string())
}

fn start_gateway(file: &Path) -> Result<Child, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let log = file.with_file_name("gateway.log");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| format!("{}: {error}", log.display()))?;
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .kill_on_drop(true);
    command
        .spawn()
        .map_err(|error| format!("cannot start the gateway: {error}"))
}

async fn play(folder: &Path) -> Result<(), Failure> {
    let mut stage = set_up(folder).await.map_err(Failure::runtime)?;
    let mut gateway = start_gateway(&stage.file).map_err(Failure::runtime)?;
    let (client_switch, client_stop) = stop_token();
    let client = LocalClient::new(stage.local_port, stage.ledger.clone());
    stage.tasks.start("local client", client.run(client_stop));
    print(OPENING);
    print(ledger::HEADING);
    let start = now();
    let mut story = Story::begin(&stage.ledger);
    let mut second = 0;
    while story.scene != Scene::Over {
        second += 1;
        sleep_until((start + Duration::from_secs(second)).into()).await;
        match story.advance(&stage.ledger) {
            Some(Scene::Outage) => {
                stage.link.cut();
                print("  -- the link is cut\n");
            }
            Some(Scene::Restart) => gateway = stage.kill(gateway).await?,
            Some(Scene::CatchUp) => {
                stage.link.restore();
                print("  -- the link is restored\n");
            }
            Some(Scene::Settle) => client_switch.stop(),
            Some(Scene::Start | Scene::Deliver | Scene::Over) | None => {}
        }
        print(&stage.row(start));
        story.check(&mut gateway)?;
    }
    stop_gateway(gateway).await.map_err(Failure::runtime)?;
    // The last messages of the gateway are still on the link.
    sleep(Duration::from_millis(300)).await;
    verdict(&stage)
}

impl DemoSetup {
    /// A line of the live table.
    fn row(&self, start: Instant) -> String {
        let (is_up, bytes) = (self.link.is_up(), self.link.bytes());
        self.ledger.row(elapsed(start), is_up, bytes)
    }

    /// Kills the gateway with SIGKILL, so that it cannot tidy up, and starts it again.
    async fn kill(&self, mut gateway: Child) -> Result<Child, Failure> {
        gateway.kill().await.map_err(Failure::runtime)?;
        self.ledger.killed();
        let gateway = start_gateway(&self.file).map_err(Failure::runtime)?;
        print("  -- the gateway is killed with kill -9 and started again\n");
        Ok(gateway)
    }
}

/// SIGTERM, as systemd does it.
async fn stop_gateway(mut gateway: Child) -> Result<(), String> {
    let id = gateway
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?))
        .ok_or("the gateway is gone")?;
    rustix::process::kill_process(id, rustix::process::Signal::TERM)
        .map_err(|error| error.to_string())?;
    match timeout(Duration::from_secs(20), gateway.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("the gateway did not stop cleanly: {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the gateway did not stop within 20 s".to_owned()),
    }
}

fn verdict(stage: &DemoSetup) -> Result<(), Failure> {
    let sums = stage.ledger.sums();
    print(&format!(
        "\nreadings at the remote {}   acknowledged to the local client {}   lost {}   doubled {}   bytes on the wire {}\n",
        sums.delivered,
        sums.promised,
        sums.lost,
        sums.doubled,
        stage.link.bytes()
    ));
    if sums.doubled > 0 {
        print(
            "doubled messages are QoS 1 repetitions after the cut or the kill; each carries its number (`seq`), so that a receiver can tell\n",
        );
    }
    if sums.lost > 0 || sums.promised == 0 || sums.delivered == 0 {
        return Err(Failure::runtime("something was lost, or nothing was moved"));
    }
    Ok(())
}

fn print(text: &str) {
    // A closed pipe is the reader's choice; the outcome is the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}
