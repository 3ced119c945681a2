//! Asks every broker of a topic how far its queues reach: one request that no method of the client stands for.
//!
//! With a server running (`telstar start`; elsewhere than on this machine: set `NAMESRV_ADDR`) and something in the
//! topic (`cargo run --example send`):
//!
//! ```text
//! cargo run --example topic_stats
//! cargo run --example topic_stats -- payments
//! ```

use std::time::{Duration, SystemTime};

use telstar::client::{Call, ConnectOptions, Servers};
use telstar::protocol::{RequestCode, TopicHeader, TopicStatsTable};
use telstar::types::TopicName;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name_servers = std::env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let topic: TopicName = std::env::args().nth(1).unwrap_or_else(|| "orders".into()).into();

    let mut servers = Servers::new(&name_servers, ConnectOptions::default(), Duration::from_secs(5));
    let masters = servers.masters_of(&topic).await?;
    let header = TopicHeader { topic };
    for broker in masters {
        let call = Call::new(RequestCode::GET_TOPIC_STATS_INFO).header(&header);
        let stats: TopicStatsTable = servers.call(&broker.addr, call).await?.json()?;
        println!("{} at {}", broker.broker_name, broker.addr);
        for (queue, offsets) in stats.offset_table.iter() {
            let last = match offsets.last_update_timestamp {
                0 => "never".to_owned(),
                at_ms => format!("{} s ago", age(at_ms).as_secs()),
            };
            println!(
                "  queue {}: [{}, {}), last message {last}",
                queue.queue_id, offsets.min_offset, offsets.max_offset
            );
        }
    }
    Ok(())
}

/// How long ago that was, by the clock of this machine.
fn age(at_ms: i64) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms.max(0) as u64);
    at.elapsed().unwrap_or_default()
}
