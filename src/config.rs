//! The settings: typed sections, small structs for one consumer each, handed over at construction.
//!
//! `config/telstar.toml` documents every key and is the default itself. Sources are layered over it in the order
//! of [`Sources`], each checked against one table of rules before it counts; then settings left empty take
//! their value from the [`Machine`], and what contradicts itself is refused.

mod error;
mod extensions;
mod java_config;
mod layer;
mod machine;
mod rules;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::error::{ConfigError, Origin};
pub use self::extensions::{ExtensionsSection, is_extension_name};
pub use self::java_config::JavaLeftovers;
pub use self::layer::{FlagGiven, Sources};
pub use self::machine::{Machine, raise_open_file_limit};
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::topic_config::Permission;
use crate::types::{BrokerName, FlushMode, TopicName};

/// `config/telstar.toml`.
const DEFAULTS: &str = include_str!("../config/telstar.toml");

/// Room that a frame or a record must have beside the body: properties (32 KiB at most), topic, header.
const BESIDE_BODY_BYTES: u64 = 64 * 1024 - 1024;

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    #[serde(rename = "namesrv")]
    NameServer,
    #[serde(rename = "broker")]
    Broker,
}

/// All settings, complete: what was left empty is filled in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub roles: Vec<Role>,
    pub broker: BrokerSection,
    pub name_server: NameServerSection,
    pub store: StoreSection,
    pub retention: RetentionSection,
    pub compaction: CompactionSection,
    pub message: MessageSection,
    pub transaction: TransactionSection,
    pub send: SendSection,
    pub pull: PullSection,
    pub filter: FilterSection,
    pub network: NetworkSection,
    pub tls: TlsSection,
    pub threads: ThreadsSection,
    pub mailbox: MailboxSection,
    pub actors: ActorsSection,
    pub log: LogSection,
    pub http: HttpSection,
    pub extensions: ExtensionsSection,
    /// What a Java broker's properties say that is not followed; logged once, when there is a log.
    #[serde(skip)]
    pub java_leftovers: JavaLeftovers,
}

/// Who the broker is and what it lets clients do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSection {
    pub name: BrokerName,
    pub cluster: String,
    /// 0, the master.
    pub id: i64,
    pub listen: SocketAddr,
    /// The VIP channel of Java clients.
    #[serde(with = "text::or_off")]
    pub fast_listen: Option<SocketAddr>,
    pub advertise_ip: IpAddr,
    /// 0: the port listened on. See [`BrokerSection::advertised`].
    pub advertise_port: u16,
    /// `host:port` each. None: the broker registers nowhere but with a name server of its own process.
    pub name_servers: Vec<String>,
    pub permission: Permission,
    #[serde(rename = "register_interval_ms", with = "text::millis")]
    pub register_interval: Duration,
    #[serde(rename = "register_timeout_ms", with = "text::millis")]
    pub register_timeout: Duration,
    #[serde(rename = "expiry_ms", with = "text::millis")]
    pub expiry: Duration,
    pub auto_create_topics: bool,
    pub auto_create_groups: bool,
    pub default_queue_nums: u32,
    pub mixed_message_types: bool,
    pub notify_members: bool,
    pub server_side_reset: bool,
    #[serde(with = "text::or_off")]
    pub trace_topic: Option<TopicName>,
}

/// Where the name server listens and how it looks after brokers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameServerSection {
    pub listen: SocketAddr,
    #[serde(rename = "scan_interval_ms", with = "text::millis")]
    pub scan_interval: Duration,
}

/// Where messages are kept and when they are safe.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    pub data_dir: PathBuf,
    pub commit_log_segment_bytes: u64,
    pub consume_queue_segment_units: u64,
    pub index_enabled: bool,
    pub index_slots: u32,
    pub index_entries: u32,
    pub flush_mode: FlushMode,
    #[serde(rename = "flush_interval_ms", with = "text::millis")]
    pub flush_interval: Duration,
    #[serde(rename = "sync_flush_timeout_ms", with = "text::millis")]
    pub sync_flush_timeout: Duration,
    #[serde(rename = "check_point_interval_ms", with = "text::millis")]
    pub check_point_interval: Duration,
    #[serde(rename = "offsets_flush_interval_ms", with = "text::millis")]
    pub offsets_flush_interval: Duration,
    pub offsets_flush_mode: FlushMode,
    pub in_memory_percent: u32,
    /// Memory of this machine; see [`StoreSection::in_memory_bytes`].
    #[serde(skip)]
    pub machine_memory_bytes: u64,
    /// 0: see [`StoreSection::open_queue_files`].
    #[serde(rename = "open_queue_files")]
    pub max_open_queue_files: usize,
    /// Files that this process may have open.
    #[serde(skip)]
    pub process_open_files: usize,
}

/// When files are deleted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionSection {
    #[serde(rename = "hours", with = "text::hours")]
    pub max_age: Duration,
    /// 0: any length.
    pub max_log_bytes: u64,
    /// Of the day, local time.
    pub delete_hours: Vec<u32>,
    pub warn_ratio: f64,
    pub force_ratio: f64,
    pub refuse_ratio: f64,
    #[serde(rename = "check_interval_ms", with = "text::millis")]
    pub check_interval: Duration,
    pub max_segments: usize,
}

/// How topics are compacted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactionSection {
    #[serde(rename = "interval_ms", with = "text::millis")]
    pub interval: Duration,
    pub segment_bytes: u64,
    pub index_bytes: u64,
    pub key_memory_bytes: usize,
}

/// What is noted of the actors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorsSection {
    /// Messages that each queue keeps of those it handled last; 0: none.
    pub flight_recorder: usize,
}

/// What a message may be.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageSection {
    pub max_body_bytes: usize,
    /// As written; see [`MessageSection::delay_levels`].
    #[serde(rename = "delay_levels")]
    pub delay_levels_text: String,
    pub store_replies: bool,
    pub timers_enabled: bool,
    #[serde(rename = "timer_max_delay_s", with = "text::seconds")]
    pub timer_max_delay: Duration,
    pub recall_enabled: bool,
}

/// When producers are asked how their transactions ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionSection {
    pub enabled: bool,
    #[serde(rename = "first_check_ms", with = "text::millis")]
    pub first_check: Duration,
    #[serde(rename = "check_interval_ms", with = "text::millis")]
    pub check_interval: Duration,
    pub check_max: u32,
}

/// What may wait to be stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendSection {
    pub max_waiting: usize,
    pub max_append_bytes: usize,
}

/// What one pull brings, and what may wait for messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSection {
    pub max_messages: usize,
    pub max_bytes: usize,
    pub max_scanned_units: usize,
    pub max_holds: usize,
    pub backlog_percent: u32,
}

/// What consumers may filter by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSection {
    pub sql: bool,
    pub retries: bool,
    pub max_expression_bytes: usize,
    pub max_body_bytes: usize,
    pub max_body_depth: usize,
    pub max_pull_bytes: usize,
}

/// Limits of a connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    pub max_frame_bytes: usize,
    #[serde(rename = "idle_timeout_s", with = "text::seconds")]
    pub idle_timeout: Duration,
    #[serde(rename = "half_frame_timeout_s", with = "text::seconds")]
    pub half_frame_timeout: Duration,
    pub max_in_work_bytes: usize,
    pub max_unread_bytes: usize,
}

/// Whether connections are encrypted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    pub mode: TlsMode,
    /// Given together with the key, or neither.
    #[serde(with = "text::or_empty")]
    pub certificate: Option<PathBuf>,
    #[serde(with = "text::or_empty")]
    pub key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    Off,
    /// TLS and plain connections on the same port.
    Permissive,
}

/// How many threads there are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadsSection {
    /// 0: one less than cores. See [`ThreadsSection::arbiter_count`].
    pub arbiters: usize,
}

/// How many messages may wait at an actor of each kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailboxSection {
    pub connection: usize,
    pub topic_queue: usize,
    pub store: usize,
    pub tables: usize,
    pub name_server: usize,
}

/// What is logged and how it is written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    pub level: String,
    pub format: LogFormat,
}

/// Where the pages of extensions are served.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    #[serde(with = "text::or_off")]
    pub listen: Option<SocketAddr>,
    pub max_body_bytes: usize,
    #[serde(rename = "request_timeout_ms", with = "text::millis")]
    pub request_timeout: Duration,
    pub max_connections: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The settings from all sources, on this machine.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::load_on(sources, &Machine::read())
    }

    /// The settings from all sources; what they leave empty is taken from `machine`.
    pub fn load_on(sources: &Sources, machine: &Machine) -> Result<Self, ConfigError> {
        let (layers, java_leftovers) = layer::read_all(sources, machine)?;
        let sections = layer::extension_sections(&layers);
        let mut builder = config::Config::builder();
        for layer in layers {
            builder = builder.add_source(layer);
        }
        for (key, value) in automatic(&builder.build_cloned()?, machine)? {
            builder = builder.set_override(key, value)?;
        }
        let mut config: Self = builder.build()?.try_deserialize()?;
        config.java_leftovers = java_leftovers;
        config.extensions.sections = sections;
        config.store.machine_memory_bytes = machine.memory_bytes;
        config.store.process_open_files = machine.open_files;
        config.check()?;
        Ok(config)
    }

    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// All settings as a file that gives the same settings when it is loaded.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are tables of numbers, texts and lists")
    }

    /// Refuses what is allowed one by one but not together.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse =
            |problem: String, mend: &str| Err(ConfigError::Contradiction { problem, mend: mend.to_owned() });
        let body_bytes = self.message.max_body_bytes as u64;
        for (what, limit) in [
            ("network.max_frame_bytes", self.network.max_frame_bytes as u64),
            ("store.commit_log_segment_bytes", self.store.commit_log_segment_bytes),
        ] {
            if body_bytes + BESIDE_BODY_BYTES > limit {
                let room = BESIDE_BODY_BYTES;
                return refuse(
                    format!(
                        "a message of message.max_body_bytes, {body_bytes}, and {room} bytes beside it do not fit into {what}, {limit}"
                    ),
                    "lower the first or raise the second",
                );
            }
        }
        let RetentionSection { warn_ratio, force_ratio, refuse_ratio, .. } = self.retention;
        if !(warn_ratio <= force_ratio && force_ratio <= refuse_ratio) {
            return refuse(
                format!(
                    "retention has warn_ratio {warn_ratio}, force_ratio {force_ratio}, refuse_ratio {refuse_ratio}"
                ),
                "put them in rising order",
            );
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return refuse(
                "of tls.certificate and tls.key only one is set".to_owned(),
                "set both, or neither",
            );
        }
        if self.broker.expiry <= self.broker.register_interval {
            return refuse(
                "broker.expiry_ms is not above broker.register_interval_ms, so name servers would drop this broker".to_owned(),
                "raise the first or lower the second",
            );
        }
        if let Some((one, other)) = self.same_port() {
            return refuse(format!("{one} and {other} are the same port"), "choose another for one of them");
        }
        Ok(())
    }

    /// Two listeners of this process that would be in each other's way.
    fn same_port(&self) -> Option<(&'static str, &'static str)> {
        let mut listeners = Vec::new();
        if self.has_role(Role::NameServer) {
            listeners.push(("name_server.listen", self.name_server.listen));
        }
        if self.has_role(Role::Broker) {
            listeners.push(("broker.listen", self.broker.listen));
            listeners.extend(self.broker.fast_listen.map(|fast| ("broker.fast_listen", fast)));
            listeners.extend(self.http.listen.map(|listen| ("http.listen", listen)));
        }
        let clash = |a: &SocketAddr, b: &SocketAddr| {
            let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0 && a.port() == b.port() && same_ip
        };
        listeners.iter().enumerate().find_map(|(index, (one, a))| {
            let other = listeners[index + 1..].iter().find(|(_, b)| clash(a, b));
            other.map(|(other, _)| (*one, *other))
        })
    }
}

impl Default for Config {
    /// The defaults on this machine.
    fn default() -> Self {
        Self::load(&Sources::default()).expect("the defaults are valid, tests say so")
    }
}

impl BrokerSection {
    /// Where clients reach the broker, once it listens at `bound`.
    pub fn advertised(&self, bound: SocketAddr) -> SocketAddr {
        let port = if self.advertise_port == 0 { bound.port() } else { self.advertise_port };
        SocketAddr::new(self.advertise_ip, port)
    }
}

impl StoreSection {
    /// How far back from its end the commit log counts as being in memory.
    pub fn in_memory_bytes(&self) -> u64 {
        self.machine_memory_bytes / 100 * u64::from(self.in_memory_percent)
    }

    /// Files of consume queues that are open at once; connections take what else the process may open.
    pub fn open_queue_files(&self) -> usize {
        match self.max_open_queue_files {
            0 => (self.process_open_files / 2).max(1),
            count => count,
        }
    }
}

impl MessageSection {
    pub fn delay_levels(&self) -> DelayLevels {
        // The text was checked when it was loaded.
        DelayLevels::parse(&self.delay_levels_text).unwrap_or_default()
    }
}

impl ThreadsSection {
    pub fn arbiter_count(&self) -> usize {
        match self.arbiters {
            // The writer of the log keeps another core busy.
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1)),
            count => count,
        }
    }
}

/// Values for the settings that were left empty.
fn automatic(
    layered: &config::Config,
    machine: &Machine,
) -> Result<Vec<(&'static str, config::Value)>, ConfigError> {
    let mut found: Vec<(&'static str, config::Value)> = Vec::new();
    let empty = |key: &str| -> Result<bool, ConfigError> { Ok(layered.get_string(key)?.is_empty()) };
    let listen: SocketAddr = layered.get("broker.listen")?;
    if empty("broker.name")? {
        found.push(("broker.name", machine.host_name.clone().into()));
    }
    if empty("broker.fast_listen")? {
        // A port that is chosen at the start, or 1 or 2, has none two below it.
        let fast = match listen.port() {
            0..=2 => "off".to_owned(),
            port => SocketAddr::new(listen.ip(), port - 2).to_string(),
        };
        found.push(("broker.fast_listen", fast.into()));
    }
    if empty("broker.advertise_ip")? {
        let ip = if listen.ip().is_unspecified() { machine.outgoing_ip } else { listen.ip() };
        found.push(("broker.advertise_ip", ip.to_string().into()));
    }
    if layered.get_array("broker.name_servers")?.is_empty() {
        let roles: Vec<Role> = layered.get("roles")?;
        let own: SocketAddr = layered.get("name_server.listen")?;
        let name_servers = match &machine.name_servers {
            // A port that is chosen at the start is known to whoever starts the name server.
            _ if roles.contains(&Role::NameServer) && own.port() == 0 => Vec::new(),
            _ if roles.contains(&Role::NameServer) => vec![reachable_here(own).to_string()],
            Some(given) => {
                given.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
            }
            None => Vec::new(),
        };
        if let Some(wrong) = name_servers.iter().find(|one| !rules::is_host_and_port(one)) {
            return Err(ConfigError::Contradiction {
                problem: format!(
                    "the environment variable NAMESRV_ADDR holds {wrong:?}, which is no address"
                ),
                mend: "write it as host:port, several separated by semicolons".to_owned(),
            });
        }
        found.push(("broker.name_servers", name_servers.into()));
    }
    if empty("store.data_dir")? {
        found.push(("store.data_dir", machine.data_dir().display().to_string().into()));
    }
    Ok(found)
}

/// How a listener of this process is reached from this process.
fn reachable_here(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => ([127, 0, 0, 1], listen.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, listen.port()).into(),
        _ => listen,
    }
}

#[cfg(test)]
mod tests;
