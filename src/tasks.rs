//! Named tasks: who runs, who ended, and why.
//!
//! A task that ends although nobody asked it to is a fault of the program; `gateway.rs` stops everything in order then.
//! Panics inside a task are reported as its end, never lost.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a task ended.
#[derive(Debug)]
pub struct Ended {
    /// The name it was started under, such as `bus:plant`.
    pub name: String,
    /// `Err` with the message of an error or of a panic.
    pub result: Result<(), String>,
}

/// The tasks of one gateway.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Ended>,
    names: Vec<String>,
}

impl Tasks {
    /// Starts a task. `future` returns `Err` with a reason when it had to give up.
    #[allow(clippy::disallowed_methods)]
    pub fn start<F>(&mut self, name: impl Into<String>, future: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let name = name.into();
        self.names.push(name.clone());
        self.set.spawn(async move {
            let result = match tokio::spawn(future).await {
                Ok(result) => result,
                Err(join) => Err(format!("panicked: {join}")),
            };
            Ended { name, result }
        });
    }

    /// Waits for the next task to end; `None` when no task is left.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        loop {
            match self.set.join_next().await? {
                Ok(ended) => {
                    self.names.retain(|name| *name != ended.name);
                    return Some(ended);
                }
                Err(join) => tracing::error!(%join, "a task wrapper failed"),
            }
        }
    }

    /// The names of those that run.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// True if no task runs.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

/// Runs `future` in the background; for the many short-lived tasks (connections) whose end concerns nobody.
#[allow(clippy::disallowed_methods)]
pub fn detach<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(future);
}

/// The order to stop, given to sources only; everything else ends because its input ended.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// The other end of [`Stop`].
#[derive(Debug)]
pub struct StopSwitch(watch::Sender<bool>);

/// A switch and the token it flips.
pub fn stop_token() -> (StopSwitch, Stop) {
    let (sender, receiver) = watch::channel(false);
    (StopSwitch(sender), Stop(receiver))
}

impl StopSwitch {
    /// Orders everybody who holds the token to stop. Calling it again changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits until the order is given (or the switch is gone).
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// True once the order is given.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_as_the_end_of_its_task() {
        let mut tasks = Tasks::default();
        tasks.start("careless", async { panic!("on purpose") });
        let ended = tasks.next_ended().await.unwrap();
        assert_eq!(ended.name, "careless");
        assert!(ended.result.unwrap_err().contains("panicked"));
        assert!(tasks.next_ended().await.is_none());
    }

    #[tokio::test]
    async fn the_stop_order_reaches_every_holder_of_the_token() {
        let (switch, mut stop) = stop_token();
        let mut copy = stop.clone();
        assert!(!copy.is_stopped());
        switch.stop();
        stop.wait().await;
        copy.wait().await;
        assert!(copy.is_stopped());
    }
}
