//! Requests about dead letters: START_REPLAY (29201), LIST_REPLAYS (29202), STOP_REPLAY (29203).

use actix::Addr;

use crate::actors::broker_settings::SettingsTable;
use crate::actors::dead_letter_replay::{DeadLetterReplay, ListReplays, RATE_MAX, StartReplay, StopReplay};
use crate::actors::group_table::GroupTable;
use crate::actors::request::{Answer, Answered, Request};
use crate::error::Refusal;
use crate::protocol::body::dead_letters::{ReplayList, ReplayOrder};
use crate::protocol::header::{GroupHeader, OptionalGroupHeader};

/// START_REPLAY (29201): what is in the dead letter queue of a group is to be consumed again.
pub async fn start_replay(
    request: &Request,
    groups: &GroupTable,
    settings: &SettingsTable,
    replays: &Addr<DeadLetterReplay>,
) -> Answered {
    let order: ReplayOrder = request.json_body("START_REPLAY", "what to replay, and how fast")?;
    if !(1..=RATE_MAX).contains(&order.rate) {
        return Err(Refusal::OutOfRange {
            what: "the rate of a replay, messages a second,",
            value: i64::from(order.rate),
            allowed: format!("1 to {RATE_MAX}"),
        });
    }
    if order.condition.is_some() && !settings.load().sql_filter {
        return Err(Refusal::FilterOff);
    }
    let Some(config) = groups.get(&order.group) else {
        return Err(Refusal::GroupNeverSeen { group: order.group });
    };
    let retry_queue_nums = u32::try_from(config.retry_queue_nums).unwrap_or(1);
    Ok(Some(Answer::json(&replays.send(StartReplay { order, retry_queue_nums }).await??)))
}

/// LIST_REPLAYS (29202): the last replay of each group, or of one.
pub async fn list_replays(request: &Request, replays: &Addr<DeadLetterReplay>) -> Answered {
    let OptionalGroupHeader { group } = request.header("LIST_REPLAYS")?;
    Ok(Some(Answer::json(&ReplayList { replays: replays.send(ListReplays { group }).await? })))
}

/// STOP_REPLAY (29203).
pub async fn stop_replay(request: &Request, replays: &Addr<DeadLetterReplay>) -> Answered {
    let GroupHeader { group } = request.header("STOP_REPLAY")?;
    Ok(Some(Answer::json(&replays.send(StopReplay { group }).await??)))
}
