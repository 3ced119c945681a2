//! A whole broker inside another program: a test, an example, an application that wants no second process.
//!
//! It is the broker of `telstar start`, with its actors on threads of its own; it speaks to clients through ports of
//! this machine. Several run side by side in one process and form a cluster.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use actix::prelude::*;
use futures::channel::oneshot;
use tempfile::TempDir;

use crate::actors::extensions::hooks::ExtensionPlan;
use crate::actors::facts::{FactsSource, LogPositions};
use crate::actors::root::{Addresses, Kill, Root, Stop};
use crate::clock::SystemClock;
use crate::config::{Config, ConfigError, Role, Sources};
use crate::extension::{Extension, Extensions};
use crate::fatal::Fatal;
use crate::plan::node_plan;
use crate::store::file::DiskFiles;

/// What differs from the defaults of `telstar start`, so that many brokers live in one process. All can be set otherwise.
const EMBEDDED: [(&str, &str); 5] = [
    ("broker.listen", "127.0.0.1:0"),
    ("broker.fast_listen", "off"),
    ("broker.advertise_ip", "127.0.0.1"),
    ("broker.name", "broker"),
    ("name_server.listen", "127.0.0.1:0"),
];
/// Segments of the log where the directory goes with the broker, bytes.
const TEMPORARY_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// What a broker is to be; see [`Broker::builder`].
///
/// ```
/// # fn main() -> Result<(), telstar::fatal::Fatal> {
/// use telstar::{Broker, BrokerBuilder};
///
/// let dir = tempfile::tempdir().expect("a directory");
/// let builder: BrokerBuilder = Broker::builder().name("shop").data_dir(dir.path()).set("retention.hours", 1);
/// let broker = builder.start()?;
/// assert_eq!(broker.data_dir(), dir.path());
/// # broker.stop()
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it is started by `start`"]
pub struct BrokerBuilder {
    config: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    /// `section.key=value`; later ones win.
    settings: Vec<String>,
    extensions: Extensions,
    /// Names of the extensions above: all of them run.
    started: Vec<&'static str>,
}

impl BrokerBuilder {
    /// Reads settings from a file such as `config/telstar.toml`. What is set here wins over what it says.
    ///
    /// ```
    /// let dir = tempfile::tempdir()?;
    /// let file = dir.path().join("telstar.toml");
    /// std::fs::write(&file, "[retention]\nhours = 0\n")?;
    /// let why = telstar::Broker::builder().config(&file).start().unwrap_err().to_string();
    /// assert!(why.starts_with("retention.hours cannot be 0") && why.contains("telstar.toml line 2"), "{why}");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn config(mut self, file: impl Into<PathBuf>) -> Self {
        self.config = Some(file.into());
        self
    }

    /// Keeps everything in this directory, which is made if need be and stays. Default: a temporary one, which is
    /// removed when the broker ends.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Gives a setting a value, as `--set KEY=VALUE` does; `config/telstar.toml` documents them all. What is wrong with
    /// it is told by [`start`](Self::start).
    ///
    /// ```
    /// # fn main() -> Result<(), telstar::fatal::Fatal> {
    /// let broker = telstar::Broker::builder().set("store.flush_mode", "sync").set("retention.hours", 1).start()?;
    /// # broker.stop()
    /// # }
    /// ```
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// Name of the broker, unique in its cluster. Default: `broker`.
    pub fn name(self, name: &str) -> Self {
        self.set("broker.name", name)
    }

    /// Starts a name server alone.
    ///
    /// ```
    /// # fn main() -> Result<(), telstar::fatal::Fatal> {
    /// let server = telstar::Broker::builder().name_server_only().start()?;
    /// assert!(server.name_server().is_some() && server.broker().is_none());
    /// # server.stop()
    /// # }
    /// ```
    pub fn name_server_only(self) -> Self {
        self.set("roles", "namesrv")
    }

    /// Starts a broker alone, which registers with these name servers, `host:port;host:port`.
    ///
    /// ```
    /// # fn main() -> Result<(), telstar::fatal::Fatal> {
    /// use telstar::Broker;
    ///
    /// let first = Broker::builder().name("a").start()?;
    /// let name_server = first.name_server().expect("it is one, too");
    /// let second = Broker::builder().name("b").broker_only(name_server).start()?;
    /// assert!(second.name_server().is_none());
    /// # second.stop()?;
    /// # first.stop()
    /// # }
    /// ```
    pub fn broker_only(self, name_servers: impl std::fmt::Display) -> Self {
        self.set("roles", "broker").set("broker.name_servers", name_servers)
    }

    /// Adds an extension, which runs from the start. Its settings are those of the section `[extensions.NAME]`, key by key
    /// by [`set`](Self::set). See [`crate::extension`].
    pub fn extension<E: Extension>(mut self) -> Self {
        self.extensions = self.extensions.with::<E>();
        self.started.push(E::NAME);
        self
    }

    /// Starts it. Returns once clients are served and, if there are name servers, it is registered: blocks for some
    /// tens of milliseconds, longer when much has to be recovered.
    pub fn start(self) -> Result<Broker, Fatal> {
        let temporary = match &self.data_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(cannot_make)?),
        };
        let extensions = self.extensions.clone();
        let config = self.settle(temporary.as_ref().map(TempDir::path))?;
        let extensions = extensions.plans(&config.extensions)?;
        let data_dir = config.store.data_dir.clone();
        let (ready, started) = sync_channel(1);
        let (orders, ordered) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("telstar".into())
            .spawn(move || System::new().block_on(run(config, extensions, &ready, ordered)))
            .map_err(|source| Fatal::System { what: "a thread", source })?;
        let mut broker = Broker {
            addresses: Addresses::default(),
            facts: None,
            data_dir,
            orders: Some(orders),
            thread: Some(thread),
            _temporary: temporary,
        };
        match started.recv() {
            Ok(Started { addresses, facts }) => {
                broker.addresses = addresses;
                broker.facts = facts;
                Ok(broker)
            }
            // It ended before it was ready, and says why.
            Err(_) => Err(broker.join().err().unwrap_or_else(ended)),
        }
    }

    /// The settings it comes to. Variables of the environment are not looked at: they are another program's.
    fn settle(self, temporary: Option<&Path>) -> Result<Config, ConfigError> {
        let mut settings: Vec<String> =
            EMBEDDED.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if temporary.is_some() {
            settings.push(format!("store.commit_log_segment_bytes={TEMPORARY_SEGMENT_BYTES}"));
        }
        settings.extend(self.settings);
        if let Some(dir) = self.data_dir.as_deref().or(temporary) {
            settings.push(format!("store.data_dir={}", dir.display()));
        }
        if !self.started.is_empty() {
            settings.push(format!("extensions.start={}", self.started.join(",")));
        }
        Config::load(&Sources { config: self.config, assignments: settings, ..Sources::default() })
    }
}

fn cannot_make(source: io::Error) -> Fatal {
    Fatal::DataDirUnwritable { dir: std::env::temp_dir(), cause: source.to_string() }
}

fn ended() -> Fatal {
    Fatal::PartEnded { part: "the thread of the broker".into() }
}

/// What the thread of a broker tells when clients are served.
struct Started {
    addresses: Addresses,
    facts: Option<FactsSource>,
}

/// How a broker is to end.
enum Order {
    Stop,
    Kill,
}

/// The life of a broker, on its thread.
async fn run(
    config: Config,
    extensions: Vec<ExtensionPlan>,
    ready: &SyncSender<Started>,
    ordered: oneshot::Receiver<Order>,
) -> Result<(), Fatal> {
    let name_server = config.has_role(Role::NameServer).then_some(config.name_server.listen);
    let mut root =
        Root::start_roles(node_plan(&config, extensions)?, DiskFiles::shared(), SystemClock::shared())
            .await
            .map_err(|error| Fatal::of_start(error, name_server))?;
    let started = Started { addresses: root.addresses.clone(), facts: root.facts.clone() };
    let mut failures = root.failures.take();
    let root = root.run();
    // Nobody waits any more: then nobody gives orders, either.
    let _ = ready.send(started);
    let disk_failed = async {
        match &mut failures {
            Some(failures) => failures.recv().await,
            None => None,
        }
    };
    let ending = tokio::select! {
        order = ordered => match order {
            Ok(Order::Kill) => root.send(Kill).await,
            Ok(Order::Stop) | Err(_) => root.send(Stop).await,
        },
        // Not an orderly stop: that would write down as safe what may not be.
        Some(failed) = disk_failed => {
            // Why it ends is known already.
            let _ = root.send(Kill).await;
            return Err(Fatal::DiskFailed { cause: failed.cause });
        }
    };
    ending.map_err(|_| ended())
}

/// A broker, a name server, or both, inside this program. Dropped, it stops in good order.
///
/// ```
/// # fn main() -> Result<(), telstar::fatal::Fatal> {
/// let dir = tempfile::tempdir().expect("a directory");
/// let broker = telstar::Broker::builder().data_dir(dir.path()).start()?;
/// assert_eq!(broker.observe().expect("it is a broker").damaged, 0);
/// broker.kill()?; // the next start finds all that was acknowledged
/// telstar::Broker::builder().data_dir(dir.path()).start()?.stop()
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    addresses: Addresses,
    facts: Option<FactsSource>,
    data_dir: PathBuf,
    orders: Option<oneshot::Sender<Order>>,
    thread: Option<JoinHandle<Result<(), Fatal>>>,
    /// Removed when the thread has ended.
    _temporary: Option<TempDir>,
}

impl Broker {
    /// A broker and a name server, on free ports of the loopback, in a temporary directory, unless told otherwise.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where it is reached by clients; `None` when it is a name server alone.
    pub fn broker(&self) -> Option<SocketAddr> {
        self.addresses.broker
    }

    /// Where its own name server is reached; `None` when it has none.
    pub fn name_server(&self) -> Option<SocketAddr> {
        self.addresses.name_server
    }

    /// Where the HTTP paths of its extensions are served; `None` where there are none, or `http.listen` is off.
    pub fn http(&self) -> Option<SocketAddr> {
        self.addresses.http
    }

    /// Where everything is kept.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// How far the log is, and what follows it; `None` when it is a name server alone.
    pub fn observe(&self) -> Option<LogPositions> {
        self.facts.as_ref().map(FactsSource::positions)
    }

    /// Ends it in good order: what was begun is finished, everything is flushed, and the next start has nothing to check.
    /// Blocks until its ports and its directory are free.
    pub fn stop(mut self) -> Result<(), Fatal> {
        self.end(Order::Stop)
    }

    /// Ends it where it stands, as a crash of its process would. What it acknowledged is there at the next start, which
    /// checks the log. Blocks until its ports and its directory are free.
    pub fn kill(mut self) -> Result<(), Fatal> {
        self.end(Order::Kill)
    }

    /// Waits until it ends by itself, which it does only when its disk has failed.
    pub fn wait(mut self) -> Result<(), Fatal> {
        self.join()
    }

    fn end(&mut self, order: Order) -> Result<(), Fatal> {
        if let Some(orders) = self.orders.take() {
            // It may have ended already; why is told below.
            let _ = orders.send(order);
        }
        self.join()
    }

    fn join(&mut self) -> Result<(), Fatal> {
        self.facts = None; // it holds maps of the log
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.end(Order::Stop) {
            tracing::warn!(%error, "a broker that was dropped did not end well");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_broker_frees_its_ports_and_its_directory() {
        let broker = Broker::builder().start().unwrap();
        let (addr, dir) = (broker.broker().unwrap(), broker.data_dir().to_owned());
        assert!(std::net::TcpStream::connect(addr).is_ok());
        broker.stop().unwrap();
        assert!(std::net::TcpStream::connect(addr).is_err());
        assert!(!dir.exists(), "a directory that nobody named goes with its broker");
    }

    #[test]
    fn killed_broker_leaves_the_mark_that_makes_the_next_start_look() {
        let dir = tempfile::tempdir().unwrap();
        let builder = Broker::builder().data_dir(dir.path());
        builder.clone().start().unwrap().kill().unwrap();
        assert!(dir.path().join("abort").exists());
        builder.start().unwrap().stop().unwrap();
        assert!(!dir.path().join("abort").exists());
    }

    #[test]
    fn what_cannot_start_says_why() {
        let broker = Broker::builder().start().unwrap();
        let taken = Broker::builder().set("broker.listen", broker.broker().unwrap()).start().unwrap_err();
        assert!(matches!(taken, Fatal::PortInUse { .. }), "{taken}");
        let unknown = Broker::builder().set("broker.nmae", "x").start().unwrap_err();
        assert!(unknown.to_string().contains("broker.name"), "{unknown}");
        let used = Broker::builder().data_dir(broker.data_dir()).start().unwrap_err();
        assert!(matches!(used, Fatal::DataDirInUse { .. }), "{used}");
    }

    #[test]
    fn name_server_alone_has_no_log() {
        let server = Broker::builder().name_server_only().start().unwrap();
        assert!(server.name_server().is_some());
        assert_eq!((server.broker(), server.observe()), (None, None));
    }
}
