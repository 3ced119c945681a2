//! The program `telstar`.

use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use telstar::actors::broker_settings::SettingValues;
use telstar::actors::broker_tree::BrokerPlan;
use telstar::actors::connection::ConnectionLimits;
use telstar::actors::flusher::FlusherConfig;
use telstar::actors::root::*;
use telstar::actors::topic_queue::TopicQueueConfig;
use telstar::clock::SystemClock;
use telstar::protocol::delay_level::DelayLevels;
use telstar::store::file::DiskFiles;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() != Some("raw") {
        return telstar::cli::run();
    }
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("TELSTAR_LOG").unwrap_or("info".into()))
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().collect();
    let dir: std::path::PathBuf = args[2].clone().into();
    let ns: SocketAddr = args[3].parse().unwrap();
    let br: SocketAddr = args[4].parse().unwrap();
    let data_dir = dir.clone();
    System::new().block_on(async move {
        let plan = NodePlan {
            data_dir: dir.clone(),
            name_server: Some(NameServerPlan { listen: ns, mailbox_capacity: 1024 }),
            broker: Some(BrokerPorts {
                listen: br,
                fast_listen: None,
                plan: Box::new(move |addr, ns| BrokerPlan {
                    cluster: "DefaultCluster".into(),
                    broker_name: "broker-a".into(),
                    advertised: addr,
                    name_servers: vec![ns.unwrap().to_string()],
                    root: data_dir,
                    settings: SettingValues::default(),
                    trace_topic: Some("RMQ_SYS_TRACE_TOPIC".into()),
                    commit_log_segment_bytes: 1 << 30,
                    queue: TopicQueueConfig::default(),
                    key_index: Some(Default::default()),
                    flusher: FlusherConfig::default(),
                    retention: Default::default(),
                    retention_interval: Duration::from_secs(10),
                    max_body_bytes: 4 << 20,
                    delay_levels: DelayLevels::default(),
                    mailbox_capacity: 4096,
                    writer_mailbox_capacity: 65536,
                }),
            }),
            limits: ConnectionLimits::default(),
            tls: None,
            workers: 2,
        };
        let root =
            Root::start_roles(plan, DiskFiles::shared(), SystemClock::shared()).await.unwrap_or_else(|e| {
                eprintln!("{e}");
                std::process::exit(1)
            });
        let root = root.start();
        tokio::signal::ctrl_c().await.unwrap();
        let _ = root.send(Stop).await;
    });
    std::process::ExitCode::SUCCESS
}
