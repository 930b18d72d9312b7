//! The remote broker of the demo: this program's own broker, whose messages go into the ledger.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::ledger::Ledger;
use crate::broker::access::Access;
use crate::broker::admission::{Admission, AdmissionLimits};
use crate::broker::engine::{BrokerLimits, Engine, Setup};
use crate::broker::net::{BoundListener, Listen};
use crate::broker::{
    self, Broker, EngineSource, Forward, ForwardAnswer, ForwardSender, ForwardSenders,
};
use crate::message::Message;
use crate::mqtt::TopicFilter;
use crate::route::{Points, RouteTable, Routes, Rule};
use crate::tasks::{Stop, Tasks};
use crate::time::{known_unix_ms, now};

/// Starts it; returns its address.
pub(super) async fn start(
    ledger: Arc<Ledger>,
    stop: &Stop,
    tasks: &mut Tasks,
) -> Result<SocketAddr, String> {
    let limits = BrokerLimits::default();
    let (parts, arrivals) = broker(&limits)?;
    let listener = BoundListener::bind(&Listen::any_local())
        .await
        .map_err(|error| error.to_string())?;
    let address = listener.address().ok_or("no address")?;
    tasks.start(
        "remote: arrivals",
        write_down(arrivals, parts.broker.clone(), ledger),
    );
    let (broker, driver) = (parts.broker, parts.driver);
    let (listener_stop, driver_stop) = (stop.clone(), stop.clone());
    tasks.start("remote: listener", async move {
        listener
            .run(broker, None, &limits, listener_stop)
            .await
            .map_err(|error| error.to_string())
    });
    tasks.start("remote: broker", async move {
        driver.run(driver_stop).await;
        Ok(())
    });
    Ok(address)
}

/// A broker in memory, open to all, and the way of everything that arrives.
fn broker(limits: &BrokerLimits) -> Result<(broker::Parts, mpsc::Receiver<Forward>), String> {
    let everything = TopicFilter::new("#").map_err(|error| error.to_string())?;
    let (send, points) = (vec![Rule::keep(everything)], Arc::<Points>::default());
    let routes = Routes::new(send, Vec::new(), false, points);
    let setup = Setup {
        limits: limits.clone(),
        routes: Arc::new(RouteTable::new(vec![Arc::new(routes)], HashSet::new())),
        access: Arc::new(Access::open()),
        ..Setup::default()
    };
    let (sender, arrivals) = mpsc::channel(4096);
    let to = |sender| ForwardSender {
        sender,
        dropped: Arc::default(),
        handovers: None,
    };
    let forwards = ForwardSenders {
        uplinks: vec![to(sender)],
        // Nothing is written here.
        writes: to(mpsc::channel(1).0),
    };
    let engine = EngineSource::Memory(Box::new(Engine::new(setup, now(), known_unix_ms())));
    let admission = Admission::new(AdmissionLimits::default());
    let parts = broker::broker(engine, admission, forwards).map_err(|error| error.to_string())?;
    Ok((parts, arrivals))
}

async fn write_down(
    mut arrivals: mpsc::Receiver<Forward>,
    broker: Broker,
    ledger: Arc<Ledger>,
) -> Result<(), String> {
    while let Some(Forward {
        message, ticket, ..
    }) = arrivals.recv().await
    {
        if let Some((series, sequence)) = sequence(&message) {
            let is_local = message.topic.as_str() == "remote/local/number";
            let number = std::str::from_utf8(&message.payload)
                .ok()
                .and_then(|text| text.parse().ok());
            ledger.arrived(series, sequence, number.filter(|_| is_local));
        }
        if let Some(ticket) = ticket {
            broker.stored(ticket, ForwardAnswer::Stored);
        }
    }
    Ok(())
}

/// The series and the number that the gateway's outbox gave the message.
fn sequence(message: &Message) -> Option<(&str, u64)> {
    let mut properties = message.properties.user.iter();
    let (_, value) = properties.find(|(name, _)| name == "seq")?;
    let (series, number) = value.rsplit_once(':')?;
    Some((series, number.parse().ok()?))
}
