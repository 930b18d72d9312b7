//! Named tasks: which run, which ended, and why.
//!
//! A task that ends without being asked to is a bug; the gateway shuts down gracefully then. Panics
//! inside a task are reported as its end, never lost.

use std::future::Future;

use thread_priority::{
    RealtimeThreadSchedulePolicy, ScheduleParams, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// How a task ended.
#[derive(Debug)]
pub struct Ended<N = String> {
    /// The name it was started under.
    pub name: N,
    /// `Err` with the message of an error or of a panic.
    pub result: Result<(), String>,
}

/// The tasks that run, each under a name: text, or a type that says more than text does.
#[derive(Debug)]
pub struct Tasks<N = String> {
    set: JoinSet<Ended<N>>,
    names: Vec<N>,
}

impl<N: 'static> Default for Tasks<N> {
    fn default() -> Self {
        Self {
            set: JoinSet::new(),
            names: Vec::new(),
        }
    }
}

impl<N: Clone + PartialEq + Send + 'static> Tasks<N> {
    /// Starts a task. `future` returns `Err` with a reason when it had to give up.
    #[allow(clippy::disallowed_methods)]
    pub fn start<F>(&mut self, name: impl Into<N>, future: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.watch(name.into(), tokio::spawn(future));
    }

    /// Starts a task that is dropped where it waits when the order to stop is given; it ends
    /// without an error then.
    pub fn start_until<F>(&mut self, mut stop: Stop, name: impl Into<N>, future: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.start(name, async move {
            tokio::select! {
                done = future => done,
                () = stop.wait() => Ok(()),
            }
        });
    }

    /// Starts a task in another scheduler.
    pub fn start_on<F>(&mut self, handle: &Handle, name: impl Into<N>, future: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.watch(name.into(), handle.spawn(future));
    }

    fn watch(&mut self, name: N, task: JoinHandle<Result<(), String>>) {
        self.names.push(name.clone());
        self.set.spawn(async move {
            let result = match task.await {
                Ok(result) => result,
                Err(join) => Err(format!("panicked: {join}")),
            };
            Ended { name, result }
        });
    }

    /// Waits for the next task to end; `None` when no task is left.
    pub async fn next_ended(&mut self) -> Option<Ended<N>> {
        loop {
            match self.set.join_next().await? {
                Ok(ended) => {
                    self.names.retain(|name| *name != ended.name);
                    return Some(ended);
                }
                Err(join) => {
                    tracing::error!(event = "task.wrapper_failed", %join, "task wrapper failed; the end of its task goes unnoticed");
                }
            }
        }
    }

    /// The names of those that run.
    pub fn names(&self) -> &[N] {
        &self.names
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

/// A thread with a scheduler of its own: tasks that wake each other all the time cost least beside
/// each other.
#[derive(Debug)]
pub struct OwnThread {
    handle: Handle,
    /// The thread ends when this is dropped, and with it the tasks that are left.
    _alive: oneshot::Sender<()>,
}

impl OwnThread {
    /// Starts it.
    pub fn start(name: &str) -> std::io::Result<Self> {
        Self::start_with(name, None)
    }

    /// Starts it with a real-time priority (SCHED_FIFO, 1 to 99), if the system allows one; else it
    /// logs that and runs without.
    pub fn start_with(name: &str, priority: Option<u8>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (alive, gone) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if let Some(priority) = priority {
                    prefer(priority);
                }
                // An error is the sign that the other end was dropped.
                let _ = runtime.block_on(gone);
            })?;
        Ok(Self {
            handle,
            _alive: alive,
        })
    }

    /// For [`Tasks::start_on`].
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Gives this thread a real-time priority.
fn prefer(priority: u8) {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let wanted = ThreadPriority::from_posix(ScheduleParams {
        sched_priority: priority.into(),
    });
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), wanted, policy) {
        let thread = std::thread::current();
        tracing::warn!(
            event = "task.no_realtime_priority",
            thread = thread.name(),
            priority,
            ?error,
            "no real-time priority, the line runs with normal priority; allow it with LimitRTPRIO= and RestrictRealtime=no"
        );
    }
}

/// Runs `future` in the background, for short-lived tasks (connections) whose end needs no
/// attention.
#[allow(clippy::disallowed_methods)]
pub fn detach<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(future);
}

/// The stop token, given to sources only; everything else ends because its input ended.
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
    /// Stops all holders of the token. Calling it again changes nothing.
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
        let mut tasks: Tasks = Tasks::default();
        tasks.start("careless", async { panic!("on purpose") });
        let ended = tasks.next_ended().await.unwrap();
        assert_eq!(ended.name, "careless");
        assert!(ended.result.unwrap_err().contains("panicked"));
        assert!(tasks.next_ended().await.is_none());
    }

    #[tokio::test]
    async fn a_task_that_waits_is_dropped_at_the_order_to_stop() {
        let (switch, stop) = stop_token();
        let mut tasks: Tasks = Tasks::default();
        tasks.start_until(stop.clone(), "patient", std::future::pending());
        tasks.start_until(stop, "failed", async { Err("on purpose".to_owned()) });
        let failed = tasks.next_ended().await.unwrap();
        assert_eq!(
            (failed.name.as_str(), failed.result),
            ("failed", Err("on purpose".to_owned()))
        );
        assert_eq!(tasks.names(), ["patient"]);
        switch.stop();
        let dropped = tasks.next_ended().await.unwrap();
        assert_eq!((dropped.name.as_str(), dropped.result), ("patient", Ok(())));
        assert!(tasks.is_empty() && tasks.names().is_empty());
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
