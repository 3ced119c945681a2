//! The broker's state as tools of the Java broker read it: texts by name.
//!
//! RocketMQ: `AdminBrokerProcessor.prepareRuntimeInfo`, `StoreStatsService.getRuntimeInfo`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::actors::broker_stats::{BrokerFigures, Rates};
use crate::actors::consumer_offsets::Losses;
use crate::clock::WallMs;
use crate::protocol::body::stats::LOSS_PREFIX;
use crate::protocol::command::OWN_VERSION;
use crate::types::PhysicalOffset;

/// Delay levels there are, from 1. RocketMQ: `messageDelayLevel`.
const DELAY_LEVELS: u32 = 18;

/// What the owners of log, disk and timers know at one moment; gathered by the root.
#[derive(Clone, Debug, Default)]
pub struct RuntimeFacts {
    pub now: WallMs,
    pub started_at: WallMs,
    /// Whether the broker takes requests of clients.
    pub active: bool,
    /// The log holds `[min, max)`.
    pub commit_log_min: PhysicalOffset,
    pub commit_log_max: PhysicalOffset,
    /// Below this everything is on disk.
    pub flushed: PhysicalOffset,
    pub dispatched: PhysicalOffset,
    /// Damaged parts of the log that were passed over since the start.
    pub damaged: u64,
    /// Store time of the oldest message, ms.
    pub earliest_stored_at_ms: Option<i64>,
    /// For how long the append under way has been waiting for memory or disk.
    pub append_stalled: Duration,
    /// Folder of the commit log, and how full its disk is.
    pub commit_log_dir: String,
    pub commit_log_disk: DiskUse,
    pub consume_queue_disk: DiskUse,
    /// What waits in the mailbox of the log's writer.
    pub appends_waiting: usize,
    pub appends_waiting_max: usize,
    pub delay_levels: Vec<DelayLevelProgress>,
    pub timer: TimerFacts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUse {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl DiskUse {
    /// From 0 to 1.
    pub fn used_ratio(self) -> f64 {
        match self.total_bytes {
            0 => 0.0,
            total => total.saturating_sub(self.free_bytes) as f64 / total as f64,
        }
    }
}

/// How far the messages of a delay level are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayLevelProgress {
    /// From 1.
    pub level: u32,
    pub delivered_offset: u64,
    pub max_offset: u64,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TimerFacts {
    /// Messages stored and not yet put into their bucket.
    pub offset_behind: u64,
    /// The same in time.
    pub read_behind: Duration,
    /// Messages waiting for their time.
    pub waiting: u64,
    pub enqueue_per_second: f64,
    pub dequeue_per_second: f64,
}

/// Queues in front of Java's thread pools. Here a request goes straight to the mailbox of its owner, and how
/// full that is shows in the refusal when it is full; so nothing ever waits in these.
const POOL_KEYS: [&str; 17] = [
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "ackThreadPoolQueueCapacity",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueSize",
    "litePullThreadPoolQueueCapacity",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueSize",
    "pullThreadPoolQueueCapacity",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueSize",
    "queryThreadPoolQueueCapacity",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    // There is no pool of buffers beside the map either, and a start is never put off.
    "remainTransientStoreBufferNumbs",
    "startAcceptSendRequestTimeStamp",
];

/// Names of the put times that [`BrokerFigures`] tells apart.
const PUT_TIME_NAMES: [&str; 13] = [
    "<=0ms",
    "0~10ms",
    "10~50ms",
    "50~100ms",
    "100~200ms",
    "200~500ms",
    "500ms~1s",
    "1~2s",
    "2~3s",
    "3~4s",
    "4~5s",
    "5~10s",
    "10s~",
];

/// Damaged parts of the log that were passed over since the start; there only when there are any. Ours.
const DAMAGED_KEY: &str = "damagedLogParts";

/// All keys of 28.
pub fn runtime_table(figures: &BrokerFigures, facts: &RuntimeFacts) -> BTreeMap<String, String> {
    let mut table: BTreeMap<String, String> =
        POOL_KEYS.iter().map(|key| ((*key).to_owned(), "0".to_owned())).collect();
    table.extend(figure_rows(figures).map(|(key, value)| (key.to_owned(), value)));
    table.extend(fact_rows(facts).map(|(key, value)| (key.to_owned(), value)));
    let ratio = facts.commit_log_disk.used_ratio();
    table.insert(format!("commitLogDiskRatio_{}", facts.commit_log_dir), ratio.to_string());
    if facts.damaged > 0 {
        table.insert(DAMAGED_KEY.to_owned(), facts.damaged.to_string());
    }
    for level in 1..=DELAY_LEVELS {
        let progress = facts.delay_levels.iter().find(|progress| progress.level == level);
        let (delivered, max) = progress.map_or((0, 0), |level| (level.delivered_offset, level.max_offset));
        table.insert(format!("scheduleMessageOffset_{level}"), format!("{delivered},{max}"));
    }
    table
}

/// Messages that retention deleted before a group had consumed them, since the start of the broker: a row for each
/// group and topic. Ours; the key ends in `GROUP@TOPIC`.
pub fn loss_rows(losses: &Losses) -> impl Iterator<Item = (String, String)> {
    losses
        .iter()
        .map(|((group, topic), messages)| (format!("{LOSS_PREFIX}{group}@{topic}"), messages.to_string()))
}

fn figure_rows(figures: &BrokerFigures) -> impl Iterator<Item = (&'static str, String)> {
    let (totals, times) = (&figures.totals, &figures.put_times);
    let (puts, gets) = (&figures.puts_by_day, &figures.gets_by_day);
    let average_bytes = totals.puts.bytes as f64 / totals.puts.messages.max(1) as f64;
    let distribution = PUT_TIME_NAMES.iter().zip(times.distribution);
    let distribution: Vec<String> = distribution.map(|(name, count)| format!("[{name}]:{count}")).collect();
    let get_total = std::array::from_fn(|window| figures.get_found[window] + figures.get_missed[window]);
    [
        ("msgPutTotalYesterdayMorning", puts.yesterday_morning.to_string()),
        ("msgPutTotalTodayMorning", puts.today_morning.to_string()),
        ("msgPutTotalTodayNow", puts.now.to_string()),
        ("msgGetTotalYesterdayMorning", gets.yesterday_morning.to_string()),
        ("msgGetTotalTodayMorning", gets.today_morning.to_string()),
        ("msgGetTotalTodayNow", gets.now.to_string()),
        ("putMessageTimesTotal", totals.puts.messages.to_string()),
        ("putMessageSizeTotal", totals.puts.bytes.to_string()),
        ("putMessageAverageSize", average_bytes.to_string()),
        ("putMessageFailedTimes", times.failed.to_string()),
        ("putMessageEntireTimeMax", times.took_max.as_millis().to_string()),
        ("putMessageDistributeTime", distribution.join(" ")),
        ("putLatency99", millis(times.p99)),
        ("putLatency999", millis(times.p999)),
        ("getMessageEntireTimeMax", times.get_took_max.as_millis().to_string()),
        ("putTps", rates(figures.put)),
        ("getFoundTps", rates(figures.get_found)),
        ("getMissTps", rates(figures.get_missed)),
        ("getTotalTps", rates(get_total)),
        ("getTransferredTps", rates(figures.get_messages)),
        // Tools of 4.x spell it so.
        ("getTransferedTps", rates(figures.get_messages)),
    ]
    .into_iter()
}

fn fact_rows(facts: &RuntimeFacts) -> impl Iterator<Item = (&'static str, String)> {
    let disk = facts.commit_log_disk;
    let capacity =
        format!("Total : {}, Free : {}.", byte_count(disk.total_bytes), byte_count(disk.free_bytes));
    let (max, timer) = (facts.commit_log_max.0, &facts.timer);
    [
        ("brokerActive", facts.active.to_string()),
        ("brokerVersion", OWN_VERSION.to_string()),
        ("brokerVersionDesc", "V5_3_3".to_owned()),
        ("bootTimestamp", facts.started_at.0.to_string()),
        ("runtime", uptime(facts.now.since_ms(facts.started_at))),
        ("commitLogMinOffset", facts.commit_log_min.to_string()),
        ("commitLogMaxOffset", facts.commit_log_max.to_string()),
        ("commitLogDirCapacity", capacity),
        ("commitLogDiskRatio", disk.used_ratio().to_string()),
        ("consumeQueueDiskRatio", facts.consume_queue_disk.used_ratio().to_string()),
        ("dispatchBehindBytes", max.saturating_sub(facts.dispatched.0).to_string()),
        // Dispatch reads from the log, so it has no buffer of its own.
        ("dispatchMaxBuffer", "0".to_owned()),
        ("remainHowManyDataToFlush", byte_count(max.saturating_sub(facts.flushed.0))),
        // Messages are written into the map at once; there is no second step to commit.
        ("remainHowManyDataToCommit", byte_count(0)),
        ("earliestMessageTimeStamp", facts.earliest_stored_at_ms.unwrap_or(-1).to_string()),
        ("pageCacheLockTimeMills", facts.append_stalled.as_millis().to_string()),
        ("sendThreadPoolQueueSize", facts.appends_waiting.to_string()),
        ("sendThreadPoolQueueCapacity", facts.appends_waiting_max.to_string()),
        ("timerOffsetBehind", timer.offset_behind.to_string()),
        ("timerReadBehind", timer.read_behind.as_secs().to_string()),
        ("timerCongestNum", timer.waiting.to_string()),
        ("timerEnqueueTps", timer.enqueue_per_second.to_string()),
        ("timerDequeueTps", timer.dequeue_per_second.to_string()),
    ]
    .into_iter()
}

fn rates(rates: Rates) -> String {
    rates.map(|rate| format!("{rate:?}")).join(" ")
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1_000.0)
}

/// RocketMQ: `MixAll.humanReadableByteCount`.
fn byte_count(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog2() / 10;
    let unit = ["K", "M", "G", "T", "P", "E"][power as usize - 1];
    format!("{:.1} {unit}iB", bytes as f64 / (1u64 << (10 * power)) as f64)
}

fn uptime(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    let (minutes, hours) = (seconds / 60 % 60, seconds / 3_600 % 24);
    format!("[ {} days, {hours} hours, {minutes} minutes, {} seconds ]", seconds / 86_400, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of the Java broker 5.5.0 that tools show, but for the ratio of each folder.
    const JAVA_KEYS: &str = include_str!("runtime_keys.txt");

    fn facts() -> RuntimeFacts {
        RuntimeFacts {
            now: WallMs(93_784_000),
            active: true,
            commit_log_max: PhysicalOffset(5_000),
            flushed: PhysicalOffset(3_000),
            dispatched: PhysicalOffset(4_000),
            commit_log_dir: "/store/commitlog".into(),
            commit_log_disk: DiskUse { total_bytes: 4 << 30, free_bytes: 1 << 30 },
            delay_levels: vec![DelayLevelProgress { level: 3, delivered_offset: 4, max_offset: 9 }],
            ..RuntimeFacts::default()
        }
    }

    #[test]
    fn every_key_of_java_is_there() {
        let table = runtime_table(&BrokerFigures::default(), &facts());
        for key in JAVA_KEYS.lines() {
            assert!(table.contains_key(key), "{key}");
        }
        assert_eq!(table["commitLogDiskRatio_/store/commitlog"], "0.75");
    }

    #[test]
    fn damage_shows_once_there_is_some() {
        let table = |facts: &RuntimeFacts| runtime_table(&BrokerFigures::default(), facts);
        assert!(!table(&facts()).contains_key(DAMAGED_KEY));
        assert_eq!(table(&RuntimeFacts { damaged: 2, ..facts() })[DAMAGED_KEY], "2");
    }

    #[test]
    fn losses_are_named_by_group_and_topic() {
        let losses = Losses::from([(("g".into(), "T".into()), 7)]);
        let rows: Vec<_> = loss_rows(&losses).collect();
        assert_eq!(rows, [("unconsumedDeleted_g@T".to_owned(), "7".to_owned())]);
    }

    #[test]
    fn values_have_the_forms_that_tools_parse() {
        let figures = BrokerFigures { put: [2.5, 1.0, 0.25], ..BrokerFigures::default() };
        let table = runtime_table(&figures, &facts());
        let expected = [
            ("putTps", "2.5 1.0 0.25"),
            ("getTransferedTps", "0.0 0.0 0.0"),
            ("earliestMessageTimeStamp", "-1"),
            ("runtime", "[ 1 days, 2 hours, 3 minutes, 4 seconds ]"),
            ("commitLogDirCapacity", "Total : 4.0 GiB, Free : 1.0 GiB."),
            ("remainHowManyDataToFlush", "2.0 KiB"),
            ("remainHowManyDataToCommit", "0 B"),
            ("dispatchBehindBytes", "1000"),
            ("scheduleMessageOffset_3", "4,9"),
            ("scheduleMessageOffset_18", "0,0"),
            ("putLatency99", "0.00"),
        ];
        for (key, value) in expected {
            assert_eq!(table[key], value, "{key}");
        }
        assert!(table["putMessageDistributeTime"].starts_with("[<=0ms]:0 [0~10ms]:0 "));
    }
}
