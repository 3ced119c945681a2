//! Timer messages: taking one back, looking at them.

use actix::Addr;
use bytes::BufMut;
use tracing::info;

use crate::actors::dispatcher::{DispatchTo, Dispatcher};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::requests::send::TimerRules;
use crate::actors::send_gate::SendGate;
use crate::actors::timer_scheduler::{CountTimers, ListTimers, RecallTimer, TimerFilter, TimerScheduler};
use crate::actors::topic_queue::QueryExtent;
use crate::actors::topic_table::TopicTable;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::body::timers::{ListedTimer, TimerList, TimerMetric, TimerMetrics};
use crate::protocol::data_version::DataVersion;
use crate::protocol::header::{CancelTimer, ListTimersHeader, RecallMessage, RecallMessageResponse};
use crate::protocol::names::TIMER_TOPIC;
use crate::protocol::timer::{RecallHandle, decode_handle};
use crate::store::commit_log::CommitLogReader;
use crate::store::timers::{TimerKey, TimerName};
use crate::types::{QueueId, QueueOffset};

/// Messages of one answer, at most.
const LIST_MAX: i32 = 1024;

/// Whom timers concern. Cheap to clone.
#[derive(Clone)]
pub struct TimerOwners {
    pub scheduler: Addr<TimerScheduler>,
    pub dispatcher: Addr<Dispatcher>,
    pub log: CommitLogReader,
    pub rules: TimerRules,
}

impl TimerOwners {
    /// Has everything dispatched that is stored: what was sent a moment ago is found.
    async fn catch_up(&self) -> Result<(), Refusal> {
        Ok(self.dispatcher.send(DispatchTo(self.log.published())).await?)
    }
}

/// RECALL_MESSAGE (370). The checks and their order are RocketMQ's (`RecallMessageProcessor`); unlike there, success
/// means that the message will not be delivered.
pub async fn recall(
    request: &Request,
    owners: &TimerOwners,
    topics: &TopicTable,
    gate: &SendGate,
    clock: &SharedClock,
) -> Answered {
    if !owners.rules.recall_enabled {
        return Err(Refusal::NoPermission {
            what: "recalling messages".into(),
            remedy: "set message.recall_enabled (recallMessageEnable)",
        });
    }
    let asked: RecallMessage = request.header("RECALL_MESSAGE")?;
    if let Some(refusal) = gate.refusal(false) {
        return Err(refusal);
    }
    if topics.get(&asked.topic).is_none() {
        let hint = "nothing of it can be recalled".to_owned();
        return Err(Refusal::TopicUnknown { topic: asked.topic, hint });
    }
    let illegal = |what: String| Refusal::RecallHandleIllegal { what };
    let text = decode_handle(&asked.recall_handle).unwrap_or_default();
    let handle = RecallHandle::read(&text)
        .ok_or_else(|| illegal(format!("\"{}\" cannot be read", asked.recall_handle)))?;
    if handle.topic != asked.topic.as_str() {
        return Err(illegal(format!("it is of topic {}, not {}", handle.topic, asked.topic)));
    }
    if *handle.broker_name != *owners.rules.broker_name {
        return Err(illegal(format!("it is of broker {}", handle.broker_name)));
    }
    let now_ms = clock.now().0;
    if handle.due_ms <= now_ms || handle.due_ms > now_ms.saturating_add(owners.rules.max_delay_ms()) {
        return Err(illegal(format!("its time, {}, is past or beyond the longest delay", handle.due_ms)));
    }
    let name = TimerName { topic: asked.topic, unique_key: handle.unique_key.to_owned() };
    take_back(request, owners, name, handle.due_ms).await
}

/// CANCEL_TIMER (29011): the same for administrators, who need no handle.
pub async fn cancel(request: &Request, owners: &TimerOwners) -> Answered {
    let CancelTimer { topic, unique_key, due_ms } = request.header("CANCEL_TIMER")?;
    take_back(request, owners, TimerName { topic, unique_key }, due_ms).await
}

async fn take_back(request: &Request, owners: &TimerOwners, name: TimerName, due_ms: i64) -> Answered {
    owners.catch_up().await?;
    let msg_id = name.unique_key.clone();
    let topic = name.topic.clone();
    owners.scheduler.send(RecallTimer { name, due_ms }).await??;
    info!(%topic, unique_key = msg_id, due_ms, peer = %request.from.peer, "message recalled");
    Ok(Some(Answer::header(&RecallMessageResponse { msg_id })))
}

/// LIST_TIMERS (29010).
pub async fn list(request: &Request, owners: &TimerOwners) -> Answered {
    let asked: ListTimersHeader = request.header("LIST_TIMERS")?;
    owners.catch_up().await?;
    let from_offset = QueueOffset(u64::try_from(asked.from_offset).unwrap_or(0));
    let page = owners.scheduler.send(ListTimers {
        from: TimerKey { due_ms: asked.from_ms, queue_offset: from_offset },
        filter: TimerFilter { to_ms: asked.to_ms, topic: asked.topic, key: asked.key },
        max: asked.max.clamp(1, LIST_MAX) as usize,
    });
    let page = page.await??;
    let listed = page.found.into_iter().map(|found| ListedTimer {
        topic: found.topic,
        unique_key: found.unique_key,
        keys: found.keys,
        due_ms: found.entry.key.due_ms,
        stored_at_ms: found.stored_at_ms,
        body_bytes: found.body_bytes,
        queue_offset: found.entry.key.queue_offset.0,
        physical_offset: found.entry.physical_offset.0,
    });
    Ok(Some(Answer::json(&TimerList {
        timers: listed.collect(),
        pending: owners.scheduler.send(CountTimers).await?.total,
        next_ms: page.next.map(|key| key.due_ms),
        next_offset: page.next.map(|key| key.queue_offset.0 as i64),
    })))
}

/// GET_TIMER_METRICS (61).
pub async fn metrics(owners: &TimerOwners, clock: &SharedClock) -> Answered {
    let counts = owners.scheduler.send(CountTimers).await?;
    let time_stamp = clock.now().0;
    let of_topic = |(topic, count)| (topic, TimerMetric { count, time_stamp });
    Ok(Some(Answer::json(&TimerMetrics {
        data_version: DataVersion { timestamp: time_stamp, ..DataVersion::default() },
        timing_count: counts.by_topic.into_iter().map(of_topic).collect(),
    })))
}

/// GET_TIMER_CHECK_POINT (60): read time 8 │ timer log position 8 │ queue offset 8 │ the master's 8 │ version 24. There
/// is no timer log of Java's here, and what the queue holds is known to the scheduler as soon as it is dispatched.
pub async fn check_point(owners: &TimerOwners, topics: &TopicTable, clock: &SharedClock) -> Answered {
    owners.catch_up().await?;
    let queue = topics.get(TIMER_TOPIC).and_then(|topic| topic.queue(QueueId(0)).cloned());
    let known = match queue {
        Some(queue) => queue.send(QueryExtent).await?.max.0 as i64,
        None => 0,
    };
    let now_ms = clock.now().0;
    let read_ms = owners.scheduler.send(CountTimers).await?.next_due_ms.unwrap_or(now_ms).min(now_ms);
    let mut body = Vec::with_capacity(56);
    for field in [read_ms, 0, known, known, 0, now_ms, 0] {
        body.put_i64(field);
    }
    Ok(Some(Answer::success().with_body(body.into())))
}
