//! Requests about the broker as a whole: its settings, its figures.

use actix::{Addr, MailboxError};

use super::runtime_info::{RuntimeFacts, loss_rows, runtime_table};
use crate::actors::broker_settings::{BrokerSettings, ChangeSettings, ShowSettings};
use crate::actors::broker_stats::{BrokerStats, ObserveStats, ViewStats};
use crate::actors::consumer_offsets::{ConsumerOffsets, QueryLosses};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::retention::{DeleteExpiredNow, QueuesTrimmed, Retention, SegmentsExpired, TrimQueuesNow};
use crate::error::Refusal;
use crate::protocol::body::route::KVTable;
use crate::protocol::fastjson;
use crate::protocol::header::{BrokerConfigResponse, ViewBrokerStats};
use crate::protocol::properties_text;

/// GET_BROKER_CONFIG (26): properties text under Java's names.
pub async fn broker_config(_: &Request, settings: &Addr<BrokerSettings>) -> Answered {
    let shown = settings.send(ShowSettings).await.map_err(gone)?;
    let version = fastjson::to_vec(&shown.data_version).unwrap_or_default();
    let header = BrokerConfigResponse { version: String::from_utf8_lossy(&version).into_owned() };
    let text = properties_text::write(&shown.properties);
    Ok(Some(Answer::header(&header).with_body(text.into())))
}

/// UPDATE_BROKER_CONFIG (25). Unlike Java, what cannot be set is refused by name, and nothing is set then.
pub async fn update_broker_config(request: &Request, settings: &Addr<BrokerSettings>) -> Answered {
    let malformed = |error: String| Refusal::Body {
        request: "UPDATE_BROKER_CONFIG",
        expected: "lines of key=value",
        error,
    };
    let text = std::str::from_utf8(&request.command.body).map_err(|error| malformed(error.to_string()))?;
    let changes = properties_text::parse(text).map_err(|error| malformed(error.to_string()))?;
    settings.send(ChangeSettings { changes }).await.map_err(gone)??;
    Ok(Some(Answer::success()))
}

/// GET_BROKER_RUNTIME_INFO (28). The facts are read by the caller, from whoever owns them.
pub async fn runtime_info(
    _: &Request,
    stats: &Addr<BrokerStats>,
    offsets: &Addr<ConsumerOffsets>,
    facts: &RuntimeFacts,
) -> Answered {
    let figures = stats.send(ObserveStats).await.map_err(gone)?;
    let losses = offsets.send(QueryLosses).await.map_err(gone)?;
    let mut table = runtime_table(&figures, facts);
    table.extend(loss_rows(&losses));
    Ok(Some(Answer::json(&KVTable { table })))
}

/// VIEW_BROKER_STATS_DATA (315).
pub async fn view_stats(request: &Request, stats: &Addr<BrokerStats>) -> Answered {
    let ViewBrokerStats { stats_name, stats_key } = request.header("VIEW_BROKER_STATS_DATA")?;
    let data = stats.send(ViewStats { name: stats_name, key: stats_key }).await.map_err(gone)??;
    Ok(Some(Answer::json(&data)))
}

/// DELETE_EXPIRED_COMMITLOG (329): what is expired goes now, whatever the hour.
pub async fn delete_expired(_: &Request, retention: &Addr<Retention>) -> Answered {
    let SegmentsExpired { count } = retention.send(DeleteExpiredNow).await.map_err(gone)??;
    Ok(Some(Answer::success().with_remark(format!("{count} files of the commit log are deleted"))))
}

/// CLEAN_EXPIRED_CONSUMEQUEUE (306): files of queues whose messages are gone. Unlike Java, a queue keeps its last
/// file, and with it its numbering: groups would find their offsets beyond its end otherwise.
pub async fn clean_queues(_: &Request, retention: &Addr<Retention>) -> Answered {
    let QueuesTrimmed { told } = retention.send(TrimQueuesNow).await.map_err(gone)??;
    Ok(Some(Answer::success().with_remark(format!("{told} queues were looked through"))))
}

/// Owners live as long as the broker does.
fn gone(_: MailboxError) -> Refusal {
    Refusal::ShuttingDown
}
