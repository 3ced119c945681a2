//! Deletes what is too old, and stops writes before the disk is full.
//!
//! - Owns: a schedule, and whether writes are refused.
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
