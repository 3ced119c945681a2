//! Settings become a plan of what a process is to be.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tracing::info;

use crate::actors::broker_plan::{BrokerPlan, CompactionPlan, HttpPlan};
use crate::actors::broker_settings::SettingValues;
use crate::actors::commit_log_writer::BusyRules;
use crate::actors::connection::ConnectionLimits;
use crate::actors::extensions::hooks::ExtensionPlan;
use crate::actors::extensions::http_listener::HttpLimits;
use crate::actors::flusher::FlusherConfig;
use crate::actors::requests::send::TimerRules;
use crate::actors::root::{BrokerPorts, NameServerPlan, NodePlan};
use crate::actors::topic_queue::TopicQueueConfig;
use crate::config::{Config, Role, TlsMode};
use crate::fatal::Fatal;
use crate::filter::FilterRules;
use crate::store::compacted_log::CompactedSizes;
use crate::store::consume_queue::ConsumeQueueConfig;
use crate::store::key_index::IndexFileConfig;
use crate::store::pull::PullLimits;
use crate::store::retention::RetentionRules;

/// What a process with these settings and extensions is; reads the files of TLS.
pub fn node_plan(config: &Config, extensions: Vec<ExtensionPlan>) -> Result<NodePlan, Fatal> {
    let network = &config.network;
    Ok(NodePlan {
        data_dir: config.store.data_dir.clone(),
        name_server: config.has_role(Role::NameServer).then_some(NameServerPlan {
            listen: config.name_server.listen,
            mailbox_capacity: config.mailbox.name_server,
        }),
        broker: config.has_role(Role::Broker).then(|| {
            let broker = config.clone();
            BrokerPorts {
                listen: config.broker.listen,
                fast_listen: config.broker.fast_listen,
                plan: Box::new(move |bound, name_server| BrokerPlan {
                    extensions,
                    ..broker_plan(&broker, bound, name_server)
                }),
            }
        }),
        limits: ConnectionLimits {
            max_frame_bytes: network.max_frame_bytes,
            max_in_work_bytes: network.max_in_work_bytes,
            max_unread_bytes: network.max_unread_bytes,
            idle_timeout: network.idle_timeout,
            half_frame_timeout: network.half_frame_timeout,
            mailbox_capacity: config.mailbox.connection,
        },
        tls: tls_acceptor(config)?,
        workers: config.threads.arbiter_count(),
        flush: config.store.flush_mode,
    })
}

pub fn broker_plan(config: &Config, bound: SocketAddr, name_server: Option<SocketAddr>) -> BrokerPlan {
    let Config { broker, store, retention, filter, .. } = config;
    let mut name_servers = broker.name_servers.clone();
    if name_servers.is_empty() {
        // Our own, at the port it got; a wildcard address is reached through the loopback.
        name_servers.extend(name_server.map(|addr| {
            let ip = if addr.ip().is_unspecified() { [127, 0, 0, 1].into() } else { addr.ip() };
            SocketAddr::new(ip, addr.port()).to_string()
        }));
    }
    let percent = |ratio: f64| (ratio * 100.0).round() as u32;
    BrokerPlan {
        cluster: broker.cluster.clone(),
        broker_name: broker.name.clone(),
        advertised: broker.advertised(bound),
        name_servers,
        root: store.data_dir.clone(),
        settings: SettingValues {
            auto_create_topic: broker.auto_create_topics,
            auto_create_group: broker.auto_create_groups,
            default_topic_queue_nums: broker.default_queue_nums,
            permission: broker.permission,
            file_reserved: retention.max_age,
            delete_when: retention.delete_hours.iter().map(|hour| *hour as u8).collect(),
            disk_max_used_percent: percent(retention.warn_ratio),
            disk_clean_forcibly_percent: percent(retention.force_ratio),
            disk_full_percent: percent(retention.refuse_ratio),
            notify_members: broker.notify_members,
            server_side_reset: broker.server_side_reset,
            store_replies: config.message.store_replies,
            transaction_timeout: config.transaction.first_check,
            transaction_check_interval: config.transaction.check_interval,
            transaction_check_max: config.transaction.check_max,
            reject_transactions: !config.transaction.enabled,
            sql_filter: filter.sql,
            filter_retries: filter.retries,
        },
        mixed_message_types: broker.mixed_message_types,
        register_interval: broker.register_interval,
        register_timeout: broker.register_timeout,
        expiry: broker.expiry,
        trace_topic: broker.trace_topic.clone(),
        commit_log_segment_bytes: store.commit_log_segment_bytes,
        queue: TopicQueueConfig {
            units: ConsumeQueueConfig {
                segment_units: store.consume_queue_segment_units,
                ..ConsumeQueueConfig::default()
            },
            pull: PullLimits {
                max_messages: config.pull.max_messages,
                max_bytes: config.pull.max_bytes,
                max_scanned_units: config.pull.max_scanned_units,
                max_filter_bytes: filter.max_pull_bytes,
            },
            mailbox_capacity: config.mailbox.topic_queue,
            max_waiting_sends: config.send.max_waiting,
            max_append_bytes: config.send.max_append_bytes,
            sync_flush_timeout: store.sync_flush_timeout,
            max_holds: config.pull.max_holds,
            in_memory_bytes: store.in_memory_bytes(),
        },
        backlog_percent: config.pull.backlog_percent,
        open_queue_files: store.open_queue_files(),
        filter: FilterRules {
            max_expression_bytes: filter.max_expression_bytes,
            max_body_depth: filter.max_body_depth,
            max_body_bytes: filter.max_body_bytes,
        },
        key_index: store
            .index_enabled
            .then_some(IndexFileConfig { slots: store.index_slots, entries: store.index_entries }),
        flush: store.flush_mode,
        flusher: FlusherConfig {
            flush_interval: store.flush_interval,
            check_point_interval: store.check_point_interval,
            mailbox_capacity: config.mailbox.tables,
        },
        offsets_flush_interval: store.offsets_flush_interval,
        offsets_flush_mode: store.offsets_flush_mode,
        retention: RetentionRules {
            max_age: retention.max_age,
            max_log_bytes: Some(retention.max_log_bytes).filter(|bytes| *bytes > 0),
            delete_hours: retention.delete_hours.clone(),
            warn_ratio: retention.warn_ratio,
            force_ratio: retention.force_ratio,
            refuse_ratio: retention.refuse_ratio,
            max_segments: retention.max_segments,
        },
        retention_interval: retention.check_interval,
        compaction: CompactionPlan {
            interval: config.compaction.interval,
            sizes: CompactedSizes::of_java(config.compaction.segment_bytes, config.compaction.index_bytes),
            memory_bytes: config.compaction.key_memory_bytes,
        },
        max_body_bytes: config.message.max_body_bytes,
        delay_levels: config.message.delay_levels(),
        timers: TimerRules {
            enabled: config.message.timers_enabled,
            max_delay: config.message.timer_max_delay,
            broker_name: broker.name.clone(),
            recall_enabled: config.message.recall_enabled,
        },
        flight_recorder: config.actors.flight_recorder,
        extensions: Vec::new(),
        http: config.http.listen.map(|listen| HttpPlan {
            listen,
            limits: HttpLimits {
                max_body_bytes: config.http.max_body_bytes,
                request_timeout: config.http.request_timeout,
                max_connections: config.http.max_connections,
            },
        }),
        mailbox_capacity: config.mailbox.tables,
        writer_mailbox_capacity: config.mailbox.store,
        busy_writer: BusyRules::default(),
        dial: None,
    }
}

/// TLS with the certificate of the settings, or one made now that signs itself.
fn tls_acceptor(config: &Config) -> Result<Option<TlsAcceptor>, Fatal> {
    if config.tls.mode == TlsMode::Off {
        return Ok(None);
    }
    let (chain, key) = match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => (read_chain(certificate)?, read_key(key)?),
        _ => self_signed(config)?,
    };
    let tls = |error: rustls::Error| Fatal::Tls { cause: error.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls)?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fatal> {
    let text = fs::read(path).map_err(|error| unreadable("tls.certificate", path, &error))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable("tls.certificate", path, &error))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fatal> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable("tls.key", path, &error))
}

fn unreadable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> Fatal {
    Fatal::Tls { cause: format!("{key} {} cannot be read as PEM: {error}", path.display()) }
}

fn self_signed(config: &Config) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Fatal> {
    let names = vec!["localhost".to_owned(), config.broker.advertise_ip.to_string()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Fatal::Tls { cause: format!("no certificate could be made: {error}") })?;
    info!(
        "TLS clients are shown a certificate made at this start, which signs itself; set tls.certificate for one they can check"
    );
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Ok((vec![made.cert.der().clone()], key))
}
