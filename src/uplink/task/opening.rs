//! The way to a connection that the remote has accepted: which remote and which address, and the
//! end of a session that is not this one.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout_at};

use super::{Uplink, name_of};
use crate::tasks::Stop;
use crate::time::{now, unix_ms};
use crate::uplink::client::Cleaned;
use crate::uplink::cloud::Cloud;
use crate::uplink::connection::Done;
use crate::uplink::dial::{Leg, Plan, Winner, apart};
use crate::uplink::failure::LinkError;
use crate::uplink::link::{Accepted, Hello, Link, Start};
use crate::uplink::presence::PresenceWill;
use crate::uplink::{Remote, UplinkSettings, leads_back, transport};

/// First and longest pause between two CONNECT packets when the first one only ended an old
/// session: AWS IoT Core allows one a second and client identifier, and closes for more.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Remotes that did not accept.
struct Failed {
    error: LinkError,
    /// Their places in the file.
    remotes: Vec<usize>,
}

impl Uplink {
    /// The first of the remotes that accepts; `None` if the stop order came.
    // One loop over the remotes, with everything that an attempt may end in.
    pub(super) async fn open(
        &mut self,
        mut stop: Stop,
    ) -> Option<Result<(Link, Accepted, Remote), LinkError>> {
        let read = tokio::select! {
            read = self.credentials.read(&self.settings) => read,
            () = stop.wait() => return None,
        };
        if let Err(why) = read {
            return Some(Err(LinkError::Unreachable(why)));
        }
        let names: Vec<u32> = self.settings.remotes.iter().map(name_of).collect();
        let mut left = self.addresses.order_remotes(&names);
        let mut last = None;
        self.unheard.clear();
        while !left.is_empty() {
            self.heartbeat.beat(now());
            let opened = tokio::select! {
                opened = self.try_remotes(&left) => opened,
                () = stop.wait() => return None,
            };
            let Failed { error, remotes } = match opened {
                Ok(opened) => return Some(Ok(opened)),
                Err(failed) => failed,
            };
            if !matches!(error, LinkError::Silent(_) | LinkError::Unreachable(_)) {
                self.doubt_subscriptions().await;
            }
            // An answer says more than silence.
            if last.is_none() || !matches!(error, LinkError::Silent(_)) {
                last = Some(error);
            }
            left.retain(|index| !remotes.contains(index));
        }
        let error = last.unwrap_or_else(|| LinkError::Unreachable("no address".to_owned()));
        self.mute_unheard(&error);
        Some(Err(error))
    }

    /// Leaves out the addresses that did not answer for a while, if a remote answered: the pauses
    /// are short then.
    fn mute_unheard(&mut self, error: &LinkError) {
        let is_silence = matches!(error, LinkError::Silent(_) | LinkError::Unanswered(_));
        if !self.unheard.is_empty() && !is_silence {
            let pause = self.rest_of_silence();
            self.addresses
                .mute(std::mem::take(&mut self.unheard), now() + pause);
        }
    }

    /// How long what did not answer is left alone; by chance a little longer, so that gateways
    /// whose links break together do not return together.
    pub(super) fn rest_of_silence(&mut self) -> Duration {
        let pause = self.silence.pause(
            now(),
            self.unheard.len(),
            self.pace.usual(),
            self.settings.longest_silence,
        );
        pause.mul_f64(1.0 + fastrand::f64() / 8.0)
    }

    /// The remote may have accepted unheard, with a new session that has no subscription. That is
    /// noted at once: a gateway that is started again asks for them, too.
    async fn doubt_subscriptions(&mut self) {
        self.subscriptions.forget();
        if !self.session.doubt_subscriptions() {
            return;
        }
        if let Some(saving) = self.saving.take()
            && self.heartbeat.through(saving).await.is_ok()
        {
            self.session.saved();
        }
        self.begin_save();
    }

    /// Connects to the first of these remotes that takes a connection, and begins MQTT with it.
    async fn try_remotes(&mut self, remotes: &[usize]) -> Result<(Link, Accepted, Remote), Failed> {
        // A proxy answers for all remotes: they are tried one after another.
        let most = if self.settings.proxy.is_some() {
            1
        } else {
            remotes.len()
        };
        let tried: Vec<usize> = remotes.iter().take(most).copied().collect();
        if let Some(cleaned) = self.cleaned {
            self.heartbeat
                .through(sleep_until(cleaned.not_before.into()))
                .await;
        }
        let until = now() + self.settings.connect_within;
        let reached = self.reach(&tried, until).await.map_err(|error| Failed {
            error,
            remotes: tried,
        })?;
        let index = reached.leg.remote;
        let fail = |error| Failed {
            error,
            remotes: vec![index],
        };
        let remote = self
            .settings
            .remotes
            .get(index)
            .cloned()
            .ok_or_else(|| fail(LinkError::Silent("the addresses have changed".to_owned())))?;
        let (link, accepted) = self.begin(&remote, reached, until).await.map_err(fail)?;
        Ok((link, accepted, remote))
    }

    /// TCP to the first of these remotes that takes a connection.
    async fn reach(
        &mut self,
        remotes: &[usize],
        until: Instant,
    ) -> Result<Winner<TcpStream>, LinkError> {
        let dial_within = self
            .silence
            .dial_within(self.settings.dial_within, self.pace.usual());
        let settings = UplinkSettings {
            dial_within,
            ..self.settings.clone()
        };
        let plan = Plan {
            legs: remotes
                .iter()
                .filter_map(|index| leg(&settings, *index))
                .collect(),
            addresses: &self.addresses,
            resolve: settings.resolve,
            apart: apart(self.pace.usual()),
            most: self.silence.most(),
            skip: self.addresses.skip(self.silence.turn()),
        };
        let raced = timeout_at(until.into(), transport::reach(&settings, plan)).await;
        match raced {
            Ok(Ok(winner)) => {
                self.unheard.extend(winner.unheard.iter().copied());
                Ok(winner)
            }
            Ok(Err(lost)) => {
                self.unheard.extend(lost.unheard);
                Err(lost.error)
            }
            Err(_) => Err(LinkError::Silent(format!(
                "no address answered within {} s",
                settings.connect_within.as_secs()
            ))),
        }
    }

    /// Begins MQTT with a remote that has taken a connection. If the session that it may have is
    /// not this one, that is ended first, on a connection of its own.
    async fn begin(
        &mut self,
        remote: &Remote,
        reached: Winner<TcpStream>,
        until: Instant,
    ) -> Result<(Link, Accepted), LinkError> {
        let name = name_of(remote);
        let (reached, until) = if self.session.is_strange_to(name) {
            self.begin_session(remote, reached, until).await?
        } else {
            (reached, until)
        };
        let address = reached.address;
        let will = self.next_will(name);
        let has_will = will.is_some();
        let hello = self.hello(Start::Resume, will);
        let mut opened = self.shake_hands(remote, reached, hello, until).await;
        if let Ok((link, accepted)) = &mut opened
            && self.settings.cloud == Some(Cloud::AwsIot)
            && self.presence.doubts_retained(name, now())
        {
            // One permission is for all retained messages, and AWS IoT Core ends the connection at
            // each that it does not allow.
            link.retain_nothing();
            accepted.retain_available = false;
        }
        self.judge_will(name, has_will, opened.as_ref().err());
        if opened.is_ok() {
            self.cleaned = None;
            self.addresses.worked(name, address);
        } else if let Some(cleaned) = &mut self.cleaned {
            cleaned.pause = (cleaned.pause * 2).min(BETWEEN.1);
            cleaned.not_before = now() + cleaned.pause;
        }
        opened
    }

    /// Ends the session that the remote has under this name, and connects again. Returns the
    /// connection and the time for it.
    async fn begin_session(
        &mut self,
        remote: &Remote,
        reached: Winner<TcpStream>,
        until: Instant,
    ) -> Result<(Winner<TcpStream>, Instant), LinkError> {
        let index = reached.leg.remote;
        self.end_session(remote, reached, until).await?;
        self.heartbeat
            .through(sleep_until((now() + BETWEEN.0).into()))
            .await;
        // A token may be good for one connection only.
        self.credentials
            .read(&self.settings)
            .await
            .map_err(LinkError::Unreachable)?;
        let until = now() + self.settings.connect_within;
        Ok((self.reach(&[index], until).await?, until))
    }

    /// A connection with Clean Start, which is closed at once: the remote forgets the session that
    /// it has under this name.
    async fn end_session(
        &mut self,
        remote: &Remote,
        reached: Winner<TcpStream>,
        until: Instant,
    ) -> Result<(), LinkError> {
        let (name, address) = (name_of(remote), reached.address);
        let hello = self.hello(Start::Clean, None);
        let (link, _) = self.shake_hands(remote, reached, hello, until).await?;
        in_time(remote, &self.settings, until, link.close()).await?;
        self.addresses.worked(name, address);
        // Noted at once: a gateway that is started again does not end it a second time.
        self.session.cleaned(name);
        if self.saving.is_none() {
            self.begin_save();
        }
        self.cleaned = Some(Cleaned {
            pause: BETWEEN.0,
            not_before: now() + BETWEEN.0,
        });
        Ok(())
    }

    /// The content of CONNECT; the token of a cloud is made for each.
    fn hello(&mut self, start: Start, will: Option<PresenceWill>) -> Hello {
        let login = self.credentials.login.clone();
        let Some(cloud) = &self.settings.cloud else {
            return Hello { start, will, login };
        };
        let unix_s = unix_ms() / 1000;
        self.renewal = cloud.renewal(login.as_ref().map(|(_, password)| password), now(), unix_s);
        Hello {
            start,
            will,
            login: cloud.login(login, unix_s),
        }
    }

    /// A connection ended so that another one is made at once.
    pub(super) fn reconnects(&mut self, done: Done) {
        match done {
            Done::Renewed => self.status.token_renewed(),
            Done::TriesWill => self.status.tries_will(),
            Done::Repeats => self.status.repeats(),
            Done::NotNeeded => {
                self.primary_down_since = now();
                self.status.standing_by();
            }
            Done::Changed | Done::Stopped => self
                .status
                .disconnected("its settings are different from here on"),
        }
    }

    /// TLS, WebSocket and MQTT over a TCP connection.
    async fn shake_hands(
        &mut self,
        remote: &Remote,
        reached: Winner<TcpStream>,
        hello: Hello,
        until: Instant,
    ) -> Result<(Link, Accepted), LinkError> {
        let (settings, address) = (&self.settings, reached.address);
        if settings.proxy.is_none()
            && leads_back(
                &address.ip().to_string(),
                address.port(),
                &settings.own_listeners,
            )
        {
            return Err(LinkError::Unreachable(format!(
                "{remote} leads back to this gateway: its own broker listens there, and each message would come back and be sent again; write the address of the remote broker in `to`"
            )));
        }
        let opened = in_time(remote, settings, until, async {
            let stream = transport::open(
                settings,
                remote,
                self.credentials.connector(),
                reached.stream,
            )
            .await?;
            Link::begin(settings, remote, stream, hello).await
        })
        .await;
        if opened.is_err() {
            self.addresses.unfit(address);
        }
        opened
    }
}

/// The way to one of the remotes: to its host, or to the proxy before it.
fn leg(settings: &UplinkSettings, index: usize) -> Option<Leg> {
    let remote = settings.remotes.get(index)?;
    let own = (&remote.host, remote.port);
    let (host, port) = settings
        .proxy
        .as_ref()
        .map_or(own, |proxy| (&proxy.host, proxy.port));
    Some(Leg {
        remote: index,
        name: name_of(remote),
        host: host.clone(),
        port,
    })
}

/// Bounds what a remote that was reached may take to accept.
async fn in_time<T>(
    remote: &Remote,
    settings: &UplinkSettings,
    until: Instant,
    opening: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout_at(until.into(), opening).await.unwrap_or_else(|_| {
        Err(LinkError::Unanswered(format!(
            "{remote} did not answer within {} s",
            settings.connect_within.as_secs()
        )))
    })
}
