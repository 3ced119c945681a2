//! What a broker is told before it starts; settings become this.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::broker_settings::SettingValues;
use super::commit_log_writer::BusyRules;
use super::extensions::hooks::ExtensionPlan;
use super::extensions::http_listener::HttpLimits;
use super::flusher::FlusherConfig;
use super::requests::send::TimerRules;
use super::topic_queue::TopicQueueConfig;
use crate::client::remoting::Dial;
use crate::filter::FilterRules;
use crate::protocol::delay_level::DelayLevels;
use crate::store::compacted_log::CompactedSizes;
use crate::store::key_index::IndexFileConfig;
use crate::store::retention::RetentionRules;
use crate::types::{BrokerName, FlushMode, TopicName};

/// How topics are compacted.
#[derive(Clone, Copy, Debug)]
pub struct CompactionPlan {
    pub interval: Duration,
    pub sizes: CompactedSizes,
    /// For the keys of a rewriting.
    pub memory_bytes: usize,
}

/// Where the HTTP paths of extensions are served.
#[derive(Clone, Copy, Debug)]
pub struct HttpPlan {
    pub listen: SocketAddr,
    pub limits: HttpLimits,
}

/// Everything a broker is told before it starts.
#[derive(Clone, Debug)]
pub struct BrokerPlan {
    pub cluster: String,
    pub broker_name: BrokerName,
    /// Address under which clients reach this broker.
    pub advertised: SocketAddr,
    /// Name servers to register with, `host:port`.
    pub name_servers: Vec<String>,
    pub root: PathBuf,
    pub settings: SettingValues,
    pub mixed_message_types: bool,
    /// Between two registrations with the name servers.
    pub register_interval: Duration,
    /// How long a name server may take to answer.
    pub register_timeout: Duration,
    /// Silence after which name servers drop this broker.
    pub expiry: Duration,
    pub trace_topic: Option<TopicName>,
    pub commit_log_segment_bytes: u64,
    pub queue: TopicQueueConfig,
    /// What pulls of backlogs may have of the workers' time while others send.
    pub backlog_percent: u32,
    /// Files of consume queues that are open at once.
    pub open_queue_files: usize,
    /// What conditions of consumers may be.
    pub filter: FilterRules,
    /// `None`: messages are not indexed by key.
    pub key_index: Option<IndexFileConfig>,
    /// When sends are answered, unless their topic is stricter.
    pub flush: FlushMode,
    pub flusher: FlusherConfig,
    /// Between two savings of consumer offsets.
    pub offsets_flush_interval: Duration,
    /// When commits of consumer offsets are answered.
    pub offsets_flush_mode: FlushMode,
    pub retention: RetentionRules,
    pub retention_interval: Duration,
    pub compaction: CompactionPlan,
    pub max_body_bytes: usize,
    pub delay_levels: DelayLevels,
    pub timers: TimerRules,
    /// Messages that the flight recorders of queues keep.
    pub flight_recorder: usize,
    /// In the order in which they are asked.
    pub extensions: Vec<ExtensionPlan>,
    /// `None`: HTTP paths of extensions are served nowhere.
    pub http: Option<HttpPlan>,
    pub mailbox_capacity: usize,
    pub writer_mailbox_capacity: usize,
    pub busy_writer: BusyRules,
    /// How name servers are reached; `None`: by sockets.
    pub dial: Option<Dial>,
}
