//! A protocol that this program does not know, behind the seam: what a new one needs is its driver,
//! and nothing of the line's task, of the reports or of writes knows about it.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wellhead::config;
use wellhead::field::write::{Order, WriteRequest, Written};
use wellhead::field::{Driver, Job, LineTask, PollError, Sample, Values};
use wellhead::reading::{Event, PointId, Quality, Reading, Timestamp, Value};
use wellhead::tasks::{detach, stop_token};
use wellhead::time::now;

use super::house::tree::source_files;

/// Counts how often it is read; what is written is shown from then on.
#[derive(Default)]
struct Dummy {
    reads: u64,
    written: Option<Value>,
    is_heard: bool,
}

const MEASURED_AT: i64 = 1_769_847_330_250;

impl Driver for Dummy {
    fn plan(&self) -> Vec<Job> {
        vec![Job {
            device: 0,
            every: Duration::from_millis(20),
            takes: Duration::ZERO,
            delay: Duration::ZERO,
            points: vec![PointId(0), PointId(1)],
        }]
    }

    async fn connect(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&mut self, _: usize) -> Result<Values, PollError> {
        self.reads += 1;
        let counter = self.written.clone().unwrap_or(Value::UInt(self.reads));
        Ok(vec![
            Sample {
                source_time: Some(Timestamp::at(MEASURED_AT)),
                ..Sample::new(PointId(0), Ok(counter))
            },
            Sample {
                quality: Some(Quality::Stale("it doubts itself".into())),
                ..Sample::new(PointId(1), Ok(Value::F64(1.5)))
            },
        ])
    }

    async fn probe(&mut self, _: usize, _: usize) -> Result<(), PollError> {
        Ok(())
    }

    fn probe_takes(&self, _: usize) -> Duration {
        Duration::ZERO
    }

    async fn listen(&mut self) -> Result<(usize, Values), PollError> {
        if std::mem::replace(&mut self.is_heard, true) {
            std::future::pending::<()>().await;
        }
        let value = Value::Text("by itself".into());
        Ok((0, vec![Sample::new(PointId(2), Ok(value))]))
    }

    async fn write(&mut self, request: &WriteRequest) -> Written {
        match request.values.as_slice() {
            [(PointId(0), Value::Int(0))] => Written::Refused(None, "not zero".to_owned()),
            [(PointId(0), value)] => {
                self.written = Some(value.clone());
                Written::Done(vec![Sample::new(PointId(0), Ok(value.clone()))])
            }
            _ => Written::NotSent("only the counter can be written".to_owned()),
        }
    }

    fn disconnect(&mut self) {}
}

const YAML: &str = "site: x
lines: [ { name: l, simulated: {} } ]
devices: [ { name: d, line: l, points: { counter: {}, doubtful: {}, heard: {} } } ]
";

#[tokio::test]
async fn a_protocol_is_a_driver_and_nothing_else() {
    let mut gateway = config::parse("gateway.yaml", YAML, Path::new("/")).unwrap();
    let line = gateway.lines.pop().unwrap();
    let (events, mut reported) = mpsc::channel(64);
    let (orders, asked) = mpsc::channel(1);
    let (_diagnostics, diagnostics) = mpsc::channel(1);
    let (_switch, stop) = stop_token();
    let counts = wellhead::field::counts::LineCounts::new("l", std::iter::once("d".to_owned()));
    let heartbeat = line.heartbeat(now());
    let task = LineTask {
        line,
        events,
        counts: counts.into(),
        folder: None,
        orders: asked,
        diagnostics,
        heartbeat,
        stop,
    };
    detach(task.run_with(Dummy::default()));
    let mut next = async |point: u32| loop {
        match reported.recv().await.expect("the line is polled") {
            Event::Reading(reading) if reading.point == PointId(point) => return reading,
            _ => {}
        }
    };
    let counter = next(0).await;
    assert_eq!(counter.quality, Quality::Good);
    assert_eq!(counter.time.unix_ms, MEASURED_AT);
    let Reading { value, quality, .. } = next(1).await;
    assert_eq!(value, Some(Value::F64(1.5)));
    assert_eq!(quality.name(), "stale");
    assert_eq!(next(2).await.value, Some(Value::Text("by itself".into())));
    let write = async |value: i64| {
        let (answer, written) = oneshot::channel();
        let request = WriteRequest {
            device: 0,
            values: vec![(PointId(0), Value::Int(value))],
            read_back: None,
            repeat: true,
        };
        let order = Order {
            request,
            deadline: now() + Duration::from_secs(10),
            answer,
        };
        orders.send(order).await.unwrap();
        written.await.unwrap()
    };
    assert_eq!(
        write(0).await,
        Written::Refused(None, "not zero".to_owned())
    );
    assert!(matches!(write(77).await, Written::Done(_)));
    while next(0).await.value != Some(Value::Int(77)) {}
}

/// What all protocols share knows none of them: only their table and what the YAML says about
/// devices name one.
#[test]
fn the_core_of_the_field_names_no_protocol() {
    let core = [
        "field/driver.rs",
        "field/sample.rs",
        "field/schedule.rs",
        "field/stream.rs",
        "field/supervisor.rs",
        "field/supervisor/report.rs",
        "field/formula.rs",
    ];
    let files = source_files();
    for name in core {
        let file = files.iter().find(|file| file.name == name);
        let file = file.unwrap_or_else(|| panic!("{name} is a file"));
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name))
                .unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        for protocol in ["modbus::", "mbus::", "sml::", "text::", "simulated::"] {
            assert!(!production.contains(protocol), "{}: {protocol}", file.name);
        }
    }
}
