//! Deletes what is too old, and stops writes before the disk is full.
//!
//! - Owns: nothing but a schedule.
//! - Takes: [`RetentionDue`], [`SettingsChanged`].
//! - Sends: [`DeleteSegmentsBefore`] and [`RefuseWrites`] to the writer; [`LogTrimmed`] to started queues,
//!   [`TrimKeyIndex`].
//! - Fails: a disk that cannot be asked is logged; nothing is deleted and nothing refused for it.
//! - Invariants: the log is trimmed before what was derived from it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::{Local, TimeZone, Timelike};
use tracing::{info, warn};

use super::broker_settings::SettingsChanged;
use super::commit_log_writer::{DeleteSegmentsBefore, RefuseWrites};
use super::key_index::TrimKeyIndex;
use super::topic_queue::LogTrimmed;
use super::topic_table::TopicTable;
use crate::clock::SharedClock;
use crate::store::commit_log::CommitLogReader;
use crate::store::file::StoreFiles;
use crate::store::retention::{RetentionFacts, RetentionRules, decide};

/// Looks at ages and room now. Losing it delays deletion until the next one.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct RetentionDue;

/// What retention is made of.
pub struct RetentionParts {
    pub files: Arc<dyn StoreFiles>,
    pub root: PathBuf,
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub deletes: Recipient<DeleteSegmentsBefore>,
    pub refusals: Recipient<RefuseWrites>,
    pub key_index: Option<Recipient<TrimKeyIndex>>,
    pub rules: RetentionRules,
    pub clock: SharedClock,
    pub interval: Duration,
    pub mailbox_capacity: usize,
}

pub struct Retention {
    parts: RetentionParts,
    refusing: bool,
}

impl Retention {
    pub fn new(parts: RetentionParts) -> Self {
        Self { parts, refusing: false }
    }

    fn round(&mut self, ctx: &mut Context<Self>) {
        let parts = &self.parts;
        let (space, segments) = match (parts.files.space(&parts.root), parts.log.segments()) {
            (Ok(space), Ok(segments)) => (space, segments),
            (Err(error), _) => return warn!(%error, "disk cannot be asked for its room"),
            (_, Err(error)) => return warn!(%error, "segments cannot be asked for their age"),
        };
        let now = parts.clock.now();
        let hour = Local.timestamp_millis_opt(now.0).single().map_or(0, |local| local.hour());
        let facts = RetentionFacts { now, hour, used_ratio: space.used_ratio() };
        let decision = decide(&parts.rules, facts, &segments);

        if decision.refuse_writes.is_some() != self.refusing {
            self.refusing = decision.refuse_writes.is_some();
            match &decision.refuse_writes {
                Some(cause) => warn!(cause, "writes are refused from now on"),
                None => info!("writes are taken again"),
            }
            // The writer must hear it even when it is busy.
            parts.refusals.do_send(RefuseWrites(decision.refuse_writes));
        }
        if let Some(offset) = decision.delete_before {
            if decision.forced {
                warn!(before = offset.0, "messages are deleted before their time: the disk is nearly full");
            }
            let delete = DeleteSegmentsBefore { offset, max_segments: parts.rules.max_segments };
            let deleted = parts.deletes.send(delete).into_actor(self);
            ctx.spawn(deleted.map(|deleted, retention, _| match deleted {
                Ok(Ok(deleted)) if deleted.count > 0 => retention.trim_derived(deleted.count),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => warn!(error, "expired segments cannot be deleted"),
            }));
        }
    }

    fn trim_derived(&self, count: usize) {
        let log_min = self.parts.log.min_offset();
        info!(count, log_min = log_min.0, "expired segments deleted");
        for entry in self.parts.topics.load().topics.values() {
            for (_, queue) in entry.started_queues() {
                // A queue that is not told corrects itself when it is opened next.
                let _ = queue.try_send(LogTrimmed { log_min });
            }
        }
        if let Some(index) = &self.parts.key_index {
            let _ = index.try_send(TrimKeyIndex { log_min });
        }
    }
}

impl Actor for Retention {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        self.round(ctx);
        ctx.run_interval(self.parts.interval, |retention, ctx| retention.round(ctx));
    }
}

impl Handler<RetentionDue> for Retention {
    type Result = ();

    fn handle(&mut self, _: RetentionDue, ctx: &mut Self::Context) {
        self.round(ctx);
    }
}

impl Handler<SettingsChanged> for Retention {
    type Result = ();

    fn handle(&mut self, changed: SettingsChanged, ctx: &mut Self::Context) {
        let settings = &changed.settings;
        let rules = &mut self.parts.rules;
        rules.max_age = settings.file_reserved;
        rules.delete_hours = settings.delete_when.iter().map(|hour| u32::from(*hour)).collect();
        rules.warn_ratio = f64::from(settings.disk_max_used_percent) / 100.0;
        rules.force_ratio = f64::from(settings.disk_clean_forcibly_percent) / 100.0;
        rules.refuse_ratio = f64::from(settings.disk_full_percent) / 100.0;
        self.round(ctx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::actors::broker_settings::SettingValues;
    use crate::actors::commit_log_writer::SegmentsDeleted;
    use crate::actors::testing::log::{SEGMENT_BYTES, TestLog, message, queue_of, settle, topic_table};
    use crate::actors::testing::{fake_mailbox, fake_sink};
    use crate::actors::topic_queue::{Dispatched, QueryExtent};
    use crate::clock::{ManualClock, WallMs};
    use crate::store::memory_files::MemoryFiles;
    use crate::types::{PhysicalOffset, QueueOffset};

    const HOUR_MS: i64 = 3_600_000;

    struct Bench {
        files: MemoryFiles,
        clock: Arc<ManualClock>,
        topics: TopicTable,
        retention: Addr<Retention>,
        log: CommitLogReader,
        /// Why deletion fails, if it does.
        broken: Arc<Mutex<Option<String>>>,
        refusals: UnboundedReceiver<RefuseWrites>,
        trims: UnboundedReceiver<TrimKeyIndex>,
    }

    /// A log of three segments, one message each, written in hours 0, 1 and 2. It is hour 2, and expired
    /// segments go at any hour.
    async fn start() -> Bench {
        let mut log = TestLog::new();
        let topics = topic_table(&[("T", 1), ("idle", 1)], &log.queue_parts());
        let mut units = Vec::new();
        for n in 0..3 {
            log.files.set_now(WallMs(n * HOUR_MS));
            let appended = log.append(message("T", &"x".repeat(10_000)), n as u64);
            units.push(TestLog::unit(&appended, 0));
            log.reader.flush(appended.start, appended.end).unwrap();
        }
        let queue = queue_of(&topics, "T", 0);
        let dispatched = Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 };
        queue.send(dispatched).await.unwrap();
        let TestLog { files, mut appender, reader, .. } = log;
        let clock = ManualClock::at(WallMs(2 * HOUR_MS));
        let broken = Arc::new(Mutex::new(None));
        let failing = broken.clone();
        let (deletes, _) =
            fake_mailbox(move |delete: &DeleteSegmentsBefore| match failing.lock().unwrap().clone() {
                Some(cause) => Err(cause),
                None => Ok(SegmentsDeleted {
                    count: appender.delete_before(delete.offset, delete.max_segments).unwrap(),
                }),
            });
        let (refuse, refusals) = fake_sink::<RefuseWrites>();
        let (trim, trims) = fake_sink::<TrimKeyIndex>();
        let rules = RetentionRules { delete_hours: (0..24).collect(), ..RetentionRules::default() };
        let retention = Retention::new(RetentionParts {
            files: Arc::new(files.clone()),
            root: PathBuf::from("/"),
            log: reader.clone(),
            topics: topics.clone(),
            deletes,
            refusals: refuse,
            key_index: Some(trim),
            rules,
            clock: clock.clone(),
            interval: Duration::from_secs(10),
            mailbox_capacity: 16,
        })
        .start();
        let bench = Bench { files, clock, topics, retention, log: reader, broken, refusals, trims };
        bench.round().await;
        bench
    }

    impl Bench {
        async fn round(&self) {
            self.retention.send(RetentionDue).await.unwrap();
            settle().await;
        }

        /// Makes the disk so full, with what lies on it now.
        fn fill(&self, used_ratio: f64) {
            self.files.set_capacity(None);
            let space = self.files.space(&PathBuf::from("/")).unwrap();
            let used = space.total_bytes - space.available_bytes;
            self.files.set_capacity(Some((used as f64 / used_ratio) as u64));
        }
    }

    #[actix::test]
    async fn expired_segments_go_and_what_was_derived_from_them() {
        let mut bench = start().await;
        assert_eq!(bench.log.min_offset(), PhysicalOffset(0), "nothing is old enough");
        bench.clock.set(WallMs(73 * HOUR_MS));
        bench.round().await;
        let log_min = PhysicalOffset(2 * SEGMENT_BYTES);
        assert_eq!(bench.log.min_offset(), log_min);
        assert_eq!(bench.trims.recv().await.unwrap().log_min, log_min);
        let extent = queue_of(&bench.topics, "T", 0).send(QueryExtent).await.unwrap();
        assert_eq!((extent.min.0, extent.max.0), (2, 3));
        let idle = bench.topics.get("idle").unwrap();
        assert_eq!(idle.started_queues().count(), 0, "no queue is started to be told");
    }

    #[actix::test]
    async fn what_cannot_be_deleted_is_not_trimmed_and_tried_again() {
        let mut bench = start().await;
        *bench.broken.lock().unwrap() = Some("busy".into());
        bench.clock.set(WallMs(72 * HOUR_MS));
        bench.round().await;
        assert!(bench.trims.try_recv().is_err());
        *bench.broken.lock().unwrap() = None;
        bench.round().await;
        assert_eq!(bench.trims.recv().await.unwrap().log_min, PhysicalOffset(SEGMENT_BYTES));
    }

    #[actix::test]
    async fn writes_are_refused_once_the_disk_is_full_and_taken_again() {
        let mut bench = start().await;
        assert!(bench.refusals.try_recv().is_err());
        bench.fill(0.95);
        bench.round().await;
        let RefuseWrites(cause) = bench.refusals.recv().await.unwrap();
        assert!(cause.as_deref().is_some_and(|cause| cause.contains("95.0 %")), "{cause:?}");
        bench.fill(0.95);
        bench.round().await;
        assert!(bench.refusals.try_recv().is_err(), "the writer knows");
        bench.files.set_capacity(None);
        bench.round().await;
        assert_eq!(bench.refusals.recv().await.unwrap().0, None);
    }

    #[actix::test]
    async fn full_disk_costs_the_oldest_segments_whatever_their_age() {
        let bench = start().await;
        bench.fill(0.86);
        bench.round().await;
        assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    }

    #[actix::test]
    async fn altered_settings_count_at_once() {
        let bench = start().await;
        let settings = SettingValues {
            file_reserved: Duration::from_secs(3_600),
            delete_when: (0..24).collect(),
            ..SettingValues::default()
        };
        let settings = Arc::new(settings);
        bench.retention.send(SettingsChanged { settings }).await.unwrap();
        settle().await;
        assert_eq!(bench.log.min_offset(), PhysicalOffset(2 * SEGMENT_BYTES));
    }

    #[actix::test]
    async fn looks_again_in_its_interval() {
        tokio::time::pause();
        let bench = start().await;
        bench.clock.set(WallMs(73 * HOUR_MS));
        tokio::time::advance(Duration::from_secs(11)).await;
        settle().await;
        assert_eq!(bench.log.min_offset(), PhysicalOffset(2 * SEGMENT_BYTES));
    }
}
