//! Requests about transactions: how they end, and what operators ask of those that do not.

use actix::Addr;
use tracing::debug;

use crate::actors::key_index::{KeyIndex, QueryKey};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::transaction_checker::{
    EndByHand, EndTransaction, ListTransactions, ResumeHalf, TransactionChecker, TransactionEnded,
};
use crate::error::Refusal;
use crate::protocol::body::transactions::TransactionList;
use crate::protocol::header::{
    DecideTransactionHeader, EndTransactionHeader, HeaderError, ListTransactionsHeader, ResumeCheck,
};
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::properties::names as property;
use crate::protocol::transaction::{Decision, HalfMessage, Told, TransactionFact};
use crate::store::commit_log::CommitLogReader;
use crate::types::{PhysicalOffset, QueueOffset};

/// Transactions of one answer.
const LIST_MAX: i32 = 1000;
/// Messages with one unique key that are looked at for how a transaction ended.
const ENDINGS_MAX: usize = 32;

/// Where a decision is carried out, or how an old one is found.
pub struct TransactionSources<'a> {
    pub checker: &'a Addr<TransactionChecker>,
    pub log: &'a CommitLogReader,
    pub key_index: Option<&'a Addr<KeyIndex>>,
}

/// END_TRANSACTION (37), nearly always one-way: who does not wait is asked later if it did not arrive.
pub async fn end_transaction(request: &Request, sources: &TransactionSources<'_>) -> Answered {
    const NAME: &str = "END_TRANSACTION";
    let header: EndTransactionHeader = request.header(NAME)?;
    let decision = match header.commit_or_rollback {
        8 => Decision::Commit,
        12 => Decision::Rollback,
        // The producer does not know yet. Java leaves even those without an answer who wait for one.
        0 => {
            debug!(half = header.tran_state_table_offset, group = %header.producer_group, "transaction left open");
            let remark = "the transaction stays open; its producer is asked again";
            return Ok(Some(Answer::success().with_remark(remark)));
        }
        other => {
            let (value, expected) = (other.to_string(), "8 (commit), 12 (rollback) or 0 (not known yet)");
            let error = HeaderError::NotA { field: "commitOrRollback", value, expected };
            return Err(Refusal::Header { request: NAME, error });
        }
    };
    let end = EndTransaction {
        half: QueueOffset(not_negative(NAME, "tranStateTableOffset", header.tran_state_table_offset)?),
        half_at: PhysicalOffset(not_negative(NAME, "commitLogOffset", header.commit_log_offset)?),
        group: header.producer_group,
        decision,
        is_asked: header.from_transaction_check,
    };
    match sources.checker.send(end.clone()).await.map_err(|_| Refusal::ShuttingDown)?? {
        TransactionEnded::AsAsked => {}
        TransactionEnded::Forgotten => repeat_old(&end, sources).await?,
    }
    Ok(Some(Answer::success()))
}

fn not_negative(request: &'static str, field: &'static str, value: i64) -> Result<u64, Refusal> {
    let error = || HeaderError::NotA { field, value: value.to_string(), expected: "0 or more" };
    u64::try_from(value).map_err(|_| Refusal::Header { request, error: error() })
}

/// Compares a decision with how the transaction ended, which nobody remembers and the log tells.
async fn repeat_old(end: &EndTransaction, sources: &TransactionSources<'_>) -> Result<(), Refusal> {
    let unknown = |cause: String| Refusal::TransactionUnknown { cause };
    let Some(index) = sources.key_index else {
        return Err(unknown(format!(
            "half message {} was settled before, and without the key index (store.index_enabled) nobody can tell how",
            end.half
        )));
    };
    let half = sources.log.read_record(end.half_at).and_then(|record| HalfMessage::decode(&record));
    let half =
        half.ok_or_else(|| unknown(format!("half message {} was settled before and has expired", end.half)))?;
    let query = QueryKey {
        topic: half.real_topic.clone(),
        key: half.property(property::UNIQ_KEY).unwrap_or_default().to_owned(),
        begin_ms: half.stored_at_ms().saturating_sub(999),
        end_ms: i64::MAX,
        before: None,
        max: ENDINGS_MAX,
    };
    let found = index.send(query).await.map_err(|_| Refusal::ShuttingDown)?;
    let was_committed = found.positions.into_iter().any(|at| {
        let fact = sources.log.with_record(at, |record| TransactionFact::of(at, &record)).flatten();
        let ended = fact.map(|fact| fact.what);
        matches!(ended, Some(Told::Ended { half_at, decision: Decision::Commit, .. }) if half_at == end.half_at)
    });
    let done = if was_committed { Decision::Commit } else { Decision::Rollback };
    if done == end.decision {
        return Ok(());
    }
    // A transaction that was given up is no rollback, and is not committed either.
    Err(Refusal::TransactionDecided { half: end.half, done: done.done(), asked: end.decision.done() })
}

/// RESUME_CHECK_HALF_MESSAGE (323): a message that was given up becomes a half again, and is checked anew.
pub async fn resume_check(request: &Request, checker: &Addr<TransactionChecker>) -> Answered {
    let header: ResumeCheck = request.header("RESUME_CHECK_HALF_MESSAGE")?;
    let (_broker, at) = parse_offset_message_id(&header.msg_id)
        .map_err(|error| Refusal::TransactionUnknown { cause: error.to_string() })?;
    checker.send(ResumeHalf { at }).await.map_err(|_| Refusal::ShuttingDown)??;
    Ok(Some(Answer::success()))
}

/// LIST_TRANSACTIONS (29101): a page of those that nobody has decided.
pub async fn list_transactions(request: &Request, checker: &Addr<TransactionChecker>) -> Answered {
    const NAME: &str = "LIST_TRANSACTIONS";
    let header: ListTransactionsHeader = request.header(NAME)?;
    let page = checker
        .send(ListTransactions {
            from: QueueOffset(not_negative(NAME, "from", header.from)?),
            group: header.group,
            topic: header.topic,
            transaction_id: header.transaction_id,
            min_age_ms: header.min_age_ms,
            max: header.max.clamp(1, LIST_MAX) as usize,
        })
        .await
        .map_err(|_| Refusal::ShuttingDown)?;
    Ok(Some(Answer::json(&TransactionList {
        transactions: page.transactions,
        next: page.next.map(|next| next.0),
        open: page.open,
    })))
}

/// DECIDE_TRANSACTION (29102): an operator ends what no producer does.
pub async fn decide_transaction(request: &Request, checker: &Addr<TransactionChecker>) -> Answered {
    const NAME: &str = "DECIDE_TRANSACTION";
    let header: DecideTransactionHeader = request.header(NAME)?;
    let decision = match header.decision.as_str() {
        "commit" => Decision::Commit,
        "rollback" => Decision::Rollback,
        _ => {
            let (value, expected) = (header.decision, "commit or rollback");
            let error = HeaderError::NotA { field: "decision", value, expected };
            return Err(Refusal::FieldIllegal { request: NAME, error });
        }
    };
    let half = QueueOffset(not_negative(NAME, "halfOffset", header.half_offset)?);
    checker.send(EndByHand { half, decision }).await.map_err(|_| Refusal::ShuttingDown)??;
    Ok(Some(Answer::success()))
}
