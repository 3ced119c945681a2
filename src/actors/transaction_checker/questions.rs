//! What may be asked of the transaction checker. Answering changes nothing.

use actix::prelude::*;
use serde::Serialize;

use super::TransactionChecker;
use crate::actors::open_halves::{HalfState, OpenHalf};
use crate::protocol::body::transactions::TransactionInfo;
use crate::protocol::properties::names as property;
use crate::protocol::transaction::TransactionKey;
use crate::types::{GroupName, QueueOffset, TopicName};

/// Halves that are looked at for one answer.
const LOOKED_AT_MAX: usize = 4096;

/// Open transactions, in the order they began.
#[derive(Message, Clone, Debug, Default)]
#[rtype(result = "TransactionPage")]
pub struct ListTransactions {
    /// The first half that is looked at.
    pub from: QueueOffset,
    pub group: Option<GroupName>,
    pub topic: Option<TopicName>,
    /// Its unique key.
    pub transaction_id: Option<String>,
    pub min_age_ms: i64,
    pub max: usize,
}

#[derive(MessageResponse, Clone, PartialEq, Debug, Default)]
pub struct TransactionPage {
    pub transactions: Vec<TransactionInfo>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<QueueOffset>,
    /// All that have not ended, whatever was asked for.
    pub open: usize,
}

/// How the checker is.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "TransactionCheckerState")]
pub struct Observe;

#[derive(MessageResponse, Serialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransactionCheckerState {
    /// Halves that have not ended.
    pub open: usize,
    /// Halves in memory, with those that are being settled.
    pub known: usize,
    /// Since the start.
    pub committed: u64,
    pub rolled_back: u64,
    pub given_up: u64,
    /// Questions put to producers.
    pub asked: u64,
    /// Deleted by a full disk while they were open.
    pub lost: u64,
}

impl TransactionChecker {
    /// `None`: it is settled, or not what was asked for.
    fn info(
        &self,
        offset: QueueOffset,
        half: &OpenHalf,
        wanted: &ListTransactions,
    ) -> Option<TransactionInfo> {
        if half.state != HalfState::Open || wanted.group.as_ref().is_some_and(|group| *group != half.group) {
            return None;
        }
        let age_ms = self.parts.clock.now().0.saturating_sub(half.stored_at_ms);
        if age_ms < wanted.min_age_ms {
            return None;
        }
        let message = self.half_message(half.at);
        let topic = message.as_ref().map(|message| message.real_topic.clone()).unwrap_or_default();
        if wanted.topic.as_ref().is_some_and(|wanted| *wanted != topic) {
            return None;
        }
        let property = |name| message.as_ref()?.property(name).map(str::to_owned);
        let transaction_id = property(property::UNIQ_KEY).unwrap_or_default();
        if wanted.transaction_id.as_ref().is_some_and(|wanted| *wanted != transaction_id) {
            return None;
        }
        Some(TransactionInfo {
            half_offset: offset.0,
            physical_offset: half.at.0,
            transaction_id,
            group: half.group.clone(),
            topic,
            queue_id: message.as_ref().map_or(0, |message| message.real_queue.0),
            keys: property(property::KEYS).unwrap_or_default(),
            body_bytes: message.as_ref().map_or(0, |message| message.body_len()),
            stored_at_ms: half.stored_at_ms,
            age_ms,
            checks: half.checks,
            check_max: self.parts.settings.load().transaction_check_max,
            next_check_ms: half.due_ms,
            unattended: half.unattended,
        })
    }
}

impl Handler<ListTransactions> for TransactionChecker {
    type Result = TransactionPage;

    fn handle(&mut self, wanted: ListTransactions, _: &mut Self::Context) -> TransactionPage {
        let key = wanted.transaction_id.as_deref().map(TransactionKey::of);
        let mut page = TransactionPage { open: self.halves.not_ended(), ..TransactionPage::default() };
        for (looked_at, (offset, half)) in self.halves.iter_from(wanted.from).enumerate() {
            if page.transactions.len() >= wanted.max || looked_at >= LOOKED_AT_MAX {
                page.next = Some(offset);
                break;
            }
            if key.is_none_or(|key| key == half.key) {
                page.transactions.extend(self.info(offset, half, &wanted));
            }
        }
        page
    }
}

impl Handler<Observe> for TransactionChecker {
    type Result = TransactionCheckerState;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> TransactionCheckerState {
        TransactionCheckerState {
            open: self.halves.not_ended(),
            known: self.halves.len(),
            committed: self.counts.committed,
            rolled_back: self.counts.rolled_back,
            given_up: self.counts.given_up,
            asked: self.counts.asked,
            lost: self.counts.lost,
        }
    }
}
