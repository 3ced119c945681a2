//! `telstar tx`: transactions that nobody has decided.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{OutputArgs, parse_duration};
use super::brokers::PlaceArgs;
use super::error::CliError;
use super::output::{self, Column};
use super::paging::{self, AtBroker, PageRequest};
use crate::client::Servers;
use crate::client::calendar::format_ms;
use crate::client::remoting::Call;
use crate::client::route::BrokerAt;
use crate::protocol::body::transactions::{TransactionInfo, TransactionList};
use crate::protocol::header::{DecideTransactionHeader, ListTransactionsHeader};
use crate::protocol::request_code::RequestCode;
use crate::types::{GroupName, TopicName};

/// Look at transactions that are open, and decide those that no producer will
#[derive(Debug, Subcommand)]
pub enum TxCommand {
    List(ListArgs),
    Show(ShowArgs),
    Commit(CommitArgs),
    Rollback(RollbackArgs),
}

/// List transactions that are neither committed nor rolled back, the oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar tx list
  telstar tx list --group payments --older-than 10m
  telstar tx list --topic orders -o json")]
pub struct ListArgs {
    /// Only those of this producer group
    #[arg(short, long)]
    group: Option<GroupName>,
    /// Only messages for this topic
    #[arg(short, long)]
    topic: Option<TopicName>,
    /// Only those that began so long ago or earlier
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    older_than: Duration,
    /// At most so many of each broker
    #[arg(short, long, default_value_t = 100)]
    max: usize,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show an open transaction, and what it waits for
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar tx show 1742
  telstar tx show 7F0000010A2B18B4AAC2A1B2C3D40000 -o json")]
pub struct ShowArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Commit an open transaction: its consumers get the message
///
/// A producer that says otherwise afterwards is refused.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar tx commit 1742
  telstar tx commit 1742 --on broker-a")]
pub struct CommitArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Roll an open transaction back: nobody gets the message
///
/// A producer that says otherwise afterwards is refused.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar tx rollback 1742
  telstar tx rollback 7F0000010A2B18B4AAC2A1B2C3D40000")]
pub struct RollbackArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// What `telstar tx list` calls it (HALF), or its transaction id
    #[arg(value_name = "HALF|ID")]
    transaction: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// A transaction, and the broker that has it.
type OpenTransaction = AtBroker<TransactionInfo>;

impl PageRequest for ListTransactionsHeader {
    const CODE: RequestCode = RequestCode::LIST_TRANSACTIONS;
    type Page = TransactionList;
    type Item = TransactionInfo;

    fn limit(&mut self, max: i32) {
        self.max = max;
    }

    fn turn(&mut self, page: TransactionList) -> (Vec<TransactionInfo>, bool) {
        self.from = page.next.map_or(self.from, |next| next as i64);
        (page.transactions, page.next.is_some())
    }
}

pub async fn run(command: TxCommand) -> Result<(), CliError> {
    match command {
        TxCommand::List(args) => list(args).await,
        TxCommand::Show(args) => {
            let (_, broker, item) = find(&args.which).await?;
            let found = OpenTransaction { broker: broker.broker_name.to_string(), item };
            output::print_as(args.output.output, &found, as_text)
        }
        TxCommand::Commit(CommitArgs { which }) => decide(which, "commit", "committed").await,
        TxCommand::Rollback(RollbackArgs { which }) => decide(which, "rollback", "rolled back").await,
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let (mut servers, masters) = args.place.masters().await?;
    let wanted = ListTransactionsHeader {
        from: 0,
        group: args.group,
        topic: args.topic,
        transaction_id: None,
        min_age_ms: args.older_than.as_millis() as i64,
        max: 0,
    };
    let found = paging::first_of_each(&mut servers, &masters, &wanted, args.max).await?;
    output::print_as(args.output.output, &found, |found| as_table(found))
}

/// The open transaction that is meant, and who has it. A number may mean one of each of several brokers.
async fn find(which: &WhichArgs) -> Result<(Servers, BrokerAt, TransactionInfo), CliError> {
    let (mut servers, masters) = which.place.masters().await?;
    let half: Option<u64> = which.transaction.parse().ok();
    let wanted = ListTransactionsHeader {
        from: half.unwrap_or(0) as i64,
        group: None,
        topic: None,
        transaction_id: half.is_none().then(|| which.transaction.clone()),
        min_age_ms: 0,
        max: 0,
    };
    let mut found = Vec::new();
    for broker in masters {
        let info = match half {
            // By its number it is the first that is looked at, or none.
            Some(half) => {
                let first =
                    paging::first_of_each(&mut servers, std::slice::from_ref(&broker), &wanted, 1).await?;
                first.into_iter().map(|first| first.item).find(|info| info.half_offset == half)
            }
            None => paging::find(&mut servers, &broker, wanted.clone(), |_| true).await?,
        };
        found.extend(info.map(|info| (broker, info)));
    }
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|(broker, _)| broker.broker_name.to_string()).collect();
        return Err(CliError::WhichTransaction { brokers: names.join(", ") });
    }
    let (broker, info) =
        found.pop().ok_or_else(|| CliError::NoTransaction { id: which.transaction.clone() })?;
    Ok((servers, broker, info))
}

async fn decide(which: WhichArgs, decision: &str, done: &str) -> Result<(), CliError> {
    let (mut servers, broker, info) = find(&which).await?;
    let header =
        DecideTransactionHeader { half_offset: info.half_offset as i64, decision: decision.to_owned() };
    servers.call(&broker.addr, Call::new(RequestCode::DECIDE_TRANSACTION).header(&header)).await?;
    output::print(&format!(
        "transaction {} of group {} is {done} (message for topic {})",
        info.half_offset, info.group, info.topic
    ))
}

fn as_table(found: &[OpenTransaction]) -> String {
    let columns = [
        Column::Text("BROKER"),
        Column::Number("HALF"),
        Column::Text("GROUP"),
        Column::Text("TOPIC"),
        Column::Number("AGE"),
        Column::Number("CHECKS"),
        Column::Text("TRANSACTION"),
        Column::Text(""),
    ];
    let row = |open: &OpenTransaction| {
        let info = &open.item;
        vec![
            open.broker.clone(),
            info.half_offset.to_string(),
            info.group.to_string(),
            info.topic.to_string(),
            age(info.age_ms),
            format!("{}/{}", info.checks, info.check_max),
            info.transaction_id.clone(),
            if info.unattended { "no producer online".to_owned() } else { String::new() },
        ]
    };
    output::table_or("no open transactions", &columns, found, row)
}

fn as_text(open: &OpenTransaction) -> String {
    let info = &open.item;
    let mut facts = vec![
        ("transaction", info.transaction_id.clone()),
        ("half", info.half_offset.to_string()),
        ("broker", open.broker.clone()),
        ("group", info.group.to_string()),
        ("topic", format!("{}, queue {}", info.topic, info.queue_id)),
        ("body", format!("{} bytes", info.body_bytes)),
        ("began", format!("{} ({} ago)", format_ms(info.stored_at_ms), age(info.age_ms))),
        ("checks", format!("{} of {}", info.checks, info.check_max)),
        ("waits for", waits_for(info)),
    ];
    if !info.keys.is_empty() {
        facts.insert(5, ("keys", info.keys.clone()));
    }
    output::facts(&facts)
}

/// Why it is open, and what will happen.
fn waits_for(info: &TransactionInfo) -> String {
    let next = format_ms(info.next_check_ms);
    if info.unattended {
        return format!(
            "a producer of group {}: none is online, which counts as no check; looked for again at {next}",
            info.group
        );
    }
    match info.checks {
        0 => format!("its producer's decision; a producer is first asked at {next}"),
        checks if checks >= info.check_max => {
            format!("an answer to the last check; given up at {next}, into TRANS_CHECK_MAX_TIME_TOPIC")
        }
        _ => format!("an answer: what the producers said was lost, or \"unknown\"; asked again at {next}"),
    }
}

fn age(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> TransactionInfo {
        TransactionInfo { half_offset: 7, group: "pg".into(), check_max: 15, ..Default::default() }
    }

    #[test]
    fn what_a_transaction_waits_for_is_told() {
        let cases = [
            (info(), "first asked"),
            (TransactionInfo { unattended: true, ..info() }, "none is online"),
            (TransactionInfo { checks: 3, ..info() }, "asked again"),
            (TransactionInfo { checks: 15, ..info() }, "given up"),
        ];
        for (info, told) in cases {
            assert!(waits_for(&info).contains(told), "{told}: {}", waits_for(&info));
        }
    }

    #[test]
    fn ages_are_told_roughly() {
        assert_eq!([0, 119_000, 120_000, 7_200_000].map(age), ["0s", "119s", "2m", "2h"]);
    }
}
