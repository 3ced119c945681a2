//! Consumed keys: which unique keys the members of a group say they have processed, for groups that ask for it by
//! `consumed.window.ms`.
//!
//! - Owns: the keys that each group has marked within its window, and the sled tree `consumed_keys`.
//! - Takes: [`MarkConsumed`], [`QueryConsumed`], its timer.
//! - Sends: nothing; every request is answered by its reply.
//! - Fails: what cannot be written is not marked, and says so; what cannot be brought to disk is marked, and says that.
//! - Invariants: a mark is answered when it is on disk, and marks that wait together share a flush; of several who mark a
//!   key at once one is told that it was the first. A group has at most [`KEYS_MAX`] keys, the newest.
//!
//! The flush runs on another thread; writing is memory.

mod window;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::{error, info};
use window::KeyWindow;

use super::context::{Context, observed};
use super::group_table::GroupTable;
use super::shared_flush::SharedFlush;
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::protocol::attributes::CONSUMED_WINDOW_MS;
use crate::store::metadata::{ConsumedKeyTable, Metadata, MetadataError};
use crate::types::GroupName;

/// Keys kept of a group: about 30 MB. Beyond, the oldest are forgotten before their time.
pub const KEYS_MAX: usize = 200_000;
/// Keys forgotten of a group in one turn.
const FORGOTTEN_PER_TURN: usize = 4_096;
/// Between two looks for keys that have left their window.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// A member says that it has processed these. Losing it may have them processed again. Answered with when each was marked
/// before, if it was.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Vec<Option<i64>>, Refusal>")]
pub struct MarkConsumed {
    pub group: GroupName,
    /// Without zero bytes.
    pub keys: Vec<String>,
}

/// When each of these was marked, if it was.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Vec<Option<i64>>, Refusal>")]
pub struct QueryConsumed {
    pub group: GroupName,
    pub keys: Vec<String>,
}

/// Time to forget what has left its window. Without it keys stay longer than they were asked to, and are not told of.
#[derive(Message)]
#[rtype(result = "()")]
struct ForgetDue;

pub struct ConsumedKeys {
    windows: HashMap<GroupName, KeyWindow>,
    stored: ConsumedKeyTable,
    groups: GroupTable,
    clock: SharedClock,
    mailbox_capacity: usize,
    flush: SharedFlush,
}

impl ConsumedKeys {
    /// Reads every key.
    pub fn load(
        metadata: Metadata,
        groups: GroupTable,
        clock: SharedClock,
        mailbox_capacity: usize,
    ) -> Result<Self, MetadataError> {
        let stored = metadata.consumed_keys()?;
        let mut windows: HashMap<GroupName, KeyWindow> = HashMap::default();
        let mut known = stored.all()?;
        known.sort_by_key(|known| known.marked_at_ms);
        for known in known {
            let window = windows.entry(known.group).or_default();
            window.mark(&known.key, known.marked_at_ms, i64::MIN);
        }
        Ok(Self {
            windows,
            stored,
            groups,
            clock,
            mailbox_capacity,
            flush: SharedFlush::new(Arc::new(move || metadata.flush())),
        })
    }

    /// Where the window of a group begins; `None`: it keeps no keys.
    fn begins_at_ms(&self, group: &GroupName) -> Option<i64> {
        let config = self.groups.get(group)?;
        let window_ms: i64 = config.attributes.get(CONSUMED_WINDOW_MS)?.parse().ok()?;
        Some(self.clock.now().0.saturating_sub(window_ms))
    }

    /// As [`begins_at_ms`](Self::begins_at_ms), with the reason why there is none.
    fn window_of(&self, group: &GroupName) -> Result<i64, Refusal> {
        self.begins_at_ms(group).ok_or_else(|| match self.groups.get(group) {
            None => Refusal::GroupNeverSeen { group: group.clone() },
            Some(_) => Refusal::NoPermission {
                what: format!("keeping consumed keys of group {group}"),
                remedy: "its attribute consumed.window.ms is not set; set it: telstar group create -a consumed.window.ms=600000, mqadmin updateSubGroup -a +consumed.window.ms=600000",
            },
        })
    }

    /// Marks and writes; nothing is durable yet.
    fn mark(&mut self, MarkConsumed { group, keys }: &MarkConsumed) -> Result<Vec<Option<i64>>, Refusal> {
        let begins_at_ms = self.window_of(group)?;
        let now_ms = self.clock.now().0;
        let window = self.windows.entry(group.clone()).or_default();
        let before: Vec<_> = keys.iter().map(|key| window.mark(key, now_ms, begins_at_ms)).collect();
        let fresh = keys.iter().zip(&before).filter(|(_, before)| before.is_none());
        let fresh: Vec<&str> = fresh.map(|(key, _)| key.as_str()).collect();
        if let Err(error) = self.stored.put_all(group, &fresh, now_ms) {
            error!(%group, %error, "consumed keys not saved");
            fresh.iter().for_each(|key| window.unmark(key));
            return Err(Refusal::NotSaved { what: "what is consumed", cause: error.to_string() });
        }
        self.forget(group, begins_at_ms);
        Ok(before)
    }

    fn forget(&mut self, group: &GroupName, begins_at_ms: i64) {
        let Some(window) = self.windows.get_mut(group) else { return };
        for key in window.forget(begins_at_ms, KEYS_MAX, FORGOTTEN_PER_TURN) {
            if let Err(error) = self.stored.delete(group, &key) {
                // The next start reads it, and forgets it again.
                error!(%group, %error, "consumed key not deleted");
            }
        }
    }

    /// Has everything that was written made durable, for those who wait now.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        if self.flush.is_under_way() || !self.flush.is_awaited() {
            return;
        }
        let flushed = self.flush.begin();
        ctx.spawn(flushed.into_actor(self).map(|flushed, keys, ctx| {
            keys.flush.end();
            if let Err(error) = flushed {
                error!(%error, "consumed keys not brought to disk");
            }
            keys.flush(ctx);
        }));
    }
}

impl Actor for ConsumedKeys {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
        ctx.notify_later(ForgetDue, FORGET_INTERVAL);
        ctx.spawn(TurnEnd);
        let keys: usize = self.windows.values().map(KeyWindow::len).sum();
        if keys > 0 {
            info!(keys, "consumed keys loaded");
        }
    }
}

observed!(ConsumedKeys);

impl ActsAtTurnEnd for ConsumedKeys {
    fn turn_end(&mut self, ctx: &mut Self::Context) {
        self.flush(ctx);
    }
}

impl Handler<MarkConsumed> for ConsumedKeys {
    type Result = ResponseFuture<Result<Vec<Option<i64>>, Refusal>>;

    fn handle(&mut self, mark: MarkConsumed, _: &mut Self::Context) -> Self::Result {
        let marked = self.mark(&mark);
        // What others have marked may be on its way to the disk only: who hears of it waits as well.
        let marked = marked.map(|before| (before, self.flush.wait("what is marked as consumed")));
        Box::pin(async move {
            let (before, durable) = marked?;
            durable.await.map(|()| before)
        })
    }
}

impl Handler<QueryConsumed> for ConsumedKeys {
    type Result = Result<Vec<Option<i64>>, Refusal>;

    fn handle(
        &mut self,
        QueryConsumed { group, keys }: QueryConsumed,
        _: &mut Self::Context,
    ) -> Self::Result {
        let begins_at_ms = self.window_of(&group)?;
        let window = self.windows.get(&group);
        let marked_at = |key: &String| window.and_then(|window| window.marked_at(key, begins_at_ms));
        Ok(keys.iter().map(marked_at).collect())
    }
}

impl Handler<ForgetDue> for ConsumedKeys {
    type Result = ();

    fn handle(&mut self, _: ForgetDue, ctx: &mut Self::Context) {
        let groups: Vec<_> = self.windows.keys().cloned().collect();
        for group in groups {
            // A group that no longer keeps keys, or no longer exists, has none within its window.
            self.forget(&group, self.begins_at_ms(&group).unwrap_or(i64::MAX));
        }
        self.windows.retain(|_, window| !window.is_empty());
        ctx.notify_later(ForgetDue, FORGET_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::actors::group_table::{GroupMap, GroupTablePublisher};
    use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
    use crate::testing::{CLOCK_BEGINS, RuntimeClock};

    const WINDOW_MS: i64 = 60_000;

    fn groups_with(window_ms: Option<i64>) -> GroupMap {
        let attribute = window_ms.map(|ms| (CONSUMED_WINDOW_MS.to_owned(), ms.to_string()));
        let config = SubscriptionGroupConfig {
            attributes: attribute.into_iter().collect::<BTreeMap<_, _>>(),
            ..SubscriptionGroupConfig::new("g")
        };
        let mut map = GroupMap::default();
        map.groups.insert("g".into(), Arc::new(config));
        map.groups.insert("without".into(), Arc::new(SubscriptionGroupConfig::new("without")));
        map
    }

    struct Bench {
        metadata: Metadata,
        publisher: GroupTablePublisher,
        groups: GroupTable,
        keys: Addr<ConsumedKeys>,
    }

    impl Bench {
        fn start() -> Self {
            let metadata = Metadata::temporary().unwrap();
            let (publisher, groups) = GroupTable::new(groups_with(Some(WINDOW_MS)));
            let keys = start(&metadata, &groups);
            Self { metadata, publisher, groups, keys }
        }

        /// As after a crash: what was in memory is gone.
        fn restart(&mut self) {
            self.keys = start(&self.metadata, &self.groups);
        }

        async fn mark(&self, keys: &[&str]) -> Result<Vec<bool>, Refusal> {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let marked = self.keys.send(MarkConsumed { group: "g".into(), keys }).await.unwrap();
            marked.map(|marked| marked.iter().map(Option::is_some).collect())
        }

        async fn query(&self, keys: &[&str]) -> Vec<Option<i64>> {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            self.keys.send(QueryConsumed { group: "g".into(), keys }).await.unwrap().unwrap()
        }
    }

    fn start(metadata: &Metadata, groups: &GroupTable) -> Addr<ConsumedKeys> {
        let keys = ConsumedKeys::load(metadata.clone(), groups.clone(), RuntimeClock::shared(), 64);
        keys.unwrap().start()
    }

    #[actix::test]
    async fn what_is_marked_is_known_to_others_and_after_a_restart() {
        let mut bench = Bench::start();
        assert_eq!(bench.query(&["a", "b"]).await, [None, None]);
        assert_eq!(bench.mark(&["a", "b", "a"]).await.unwrap(), [false, false, true]);
        assert_eq!(bench.mark(&["b", "c"]).await.unwrap(), [true, false], "who marks is told who was first");
        bench.restart();
        let known = bench.query(&["a", "b", "c", "d"]).await;
        assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
        assert!(known[0].unwrap() >= CLOCK_BEGINS.0);
    }

    #[actix::test]
    async fn mark_that_is_not_on_disk_is_not_promised() {
        let bench = Bench::start();
        bench.metadata.fail_flushes(true);
        let refused = bench.mark(&["a"]).await.unwrap_err();
        assert!(matches!(refused, Refusal::NotDurable { .. }), "{refused}");
        let again = bench.mark(&["a"]).await.unwrap_err();
        assert!(matches!(again, Refusal::NotDurable { .. }), "nor to who hears of it: {again}");
        bench.metadata.fail_flushes(false);
        assert_eq!(bench.mark(&["a"]).await.unwrap(), [true], "it holds, and is on disk now");
    }

    #[actix::test]
    async fn groups_that_do_not_ask_for_it_are_refused_with_the_mend() {
        let bench = Bench::start();
        for (group, word) in [("without", "consumed.window.ms"), ("nobody", "does not exist")] {
            let mark = MarkConsumed { group: group.into(), keys: vec!["a".into()] };
            let refused = bench.keys.send(mark).await.unwrap().unwrap_err();
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }

    #[actix::test]
    async fn keys_leave_memory_and_disk_with_their_window_or_with_the_attribute() {
        tokio::time::pause();
        let bench = Bench::start();
        bench.mark(&["a"]).await.unwrap();
        tokio::time::advance(Duration::from_millis(WINDOW_MS as u64 / 2)).await;
        bench.mark(&["b"]).await.unwrap();
        tokio::time::advance(Duration::from_millis(WINDOW_MS as u64 / 2 + 10)).await;
        let known = bench.query(&["a", "b"]).await;
        assert_eq!((known[0], known[1].is_some()), (None, true));
        tokio::time::advance(FORGET_INTERVAL * 2).await;
        bench.query(&[]).await;
        let stored = || bench.metadata.consumed_keys().unwrap().all().unwrap().len();
        assert_eq!(stored(), 1);
        bench.publisher.publish(groups_with(None));
        tokio::time::advance(FORGET_INTERVAL * 2).await;
        let query = QueryConsumed { group: "g".into(), keys: Vec::new() };
        assert!(bench.keys.send(query).await.unwrap().is_err());
        assert_eq!(stored(), 0);
    }
}
