//! `telstar dlq`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::args::{OutputArgs, OutputFormat, ServerArgs, parse_count, parse_property, parse_rate};
use super::brokers::{PlaceArgs, all_masters};
use super::error::CliError;
use super::message::print_found;
use super::output::{self, Column};
use crate::client::queue_reader::FoundMessage;
use crate::client::remoting::Call;
use crate::client::route::{self, BrokerAt};
use crate::client::{ClientError, Servers, calendar};
use crate::filter::{FilterRules, SqlFilter};
use crate::protocol::body::dead_letters::{
    ReplayList, ReplayOrder, ReplayProgress, ReplayState, ReplayTarget,
};
use crate::protocol::body::route::TopicList;
use crate::protocol::body::stats::TopicStatsTable;
use crate::protocol::fastjson;
use crate::protocol::header::{GroupHeader, OptionalGroupHeader, TopicHeader};
use crate::protocol::message::StoredMessage;
use crate::protocol::names;
use crate::protocol::properties::names as property;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::GroupName;

/// Look at messages that were not consumed after all retries, have them consumed again, or throw them away
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    List(ListArgs),
    Peek(PeekArgs),
    Replay(ReplayArgs),
    Purge(PurgeArgs),
}

/// List the groups that have dead letters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar dlq list
  telstar dlq list -o json")]
pub struct ListArgs {
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show the dead letters of a group: which message, where from, how often it was tried, and why it died
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar dlq peek billing
  telstar dlq peek billing --limit 100 --filter tag=paid
  telstar dlq peek billing --sql \"RETRY_TOPIC = 'orders' AND body.price > 100\"
  telstar dlq peek billing --verbose")]
pub struct PeekArgs {
    /// The consumer group
    group: GroupName,
    /// How many of the last ones on each broker
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "20")]
    limit: u64,
    /// Only those with this: topic, tag, key, client, or a property by its name
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_property)]
    filter: Vec<(String, String)>,
    /// Only those whose properties, or fields of JSON bodies, satisfy this SQL92 condition
    #[arg(long, value_name = "EXPR")]
    sql: Option<String>,
    /// Each message in full, with its properties
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Have what is in the dead letter queue of a group now consumed again
///
/// The broker does it, at the rate that is given, and goes on with it after a restart. Replayed messages begin anew, with
/// all their retries; the dead letter queue itself stays as it is. A broker that crashes may replay one tenth of a second's
/// messages twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar dlq replay billing --rate 200/s
  telstar dlq replay billing --filter topic=orders --filter tag=paid
  telstar dlq replay billing --sql \"region = 'eu' AND body.price > 100\"
  telstar dlq replay billing --to origin
  telstar dlq replay billing --show
  telstar dlq replay billing --stop")]
pub struct ReplayArgs {
    /// The consumer group
    group: GroupName,
    /// Messages a second, on each broker
    #[arg(long, value_name = "RATE", value_parser = parse_rate, default_value = "100/s")]
    rate: f64,
    /// Only those with this: topic, tag, key, client, or a property by its name
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_property)]
    filter: Vec<(String, String)>,
    /// Only those whose properties, or fields of JSON bodies, satisfy this SQL92 condition
    #[arg(long, value_name = "EXPR")]
    sql: Option<String>,
    /// Who is to consume them
    #[arg(long, value_enum, default_value = "group")]
    to: To,
    /// Only show how far it is
    #[arg(long, conflicts_with_all = ["stop", "filter", "sql"])]
    show: bool,
    /// End it; what is replayed stays so
    #[arg(long, conflicts_with_all = ["filter", "sql"])]
    stop: bool,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// This group alone
    Group,
    /// Every group of the topics they were sent to first
    Origin,
}

/// Throw away all dead letters of a group
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar dlq purge billing --yes")]
pub struct PurgeArgs {
    /// The consumer group
    group: GroupName,
    /// Do it; otherwise it is only said how many messages would go
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    servers: ServerArgs,
}

pub async fn run(command: DlqCommand) -> Result<(), CliError> {
    match command {
        DlqCommand::List(args) => list(args).await,
        DlqCommand::Peek(args) => peek(args).await,
        DlqCommand::Replay(args) => replay(args).await,
        DlqCommand::Purge(args) => purge(args).await,
    }
}

/// What lies in one dead letter queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetters {
    group: String,
    broker_name: String,
    messages: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at_ms: Option<i64>,
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    let call = Call::new(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER);
    let topics: TopicList = servers.ask_name_server(call).await?.success()?.json()?;
    let mut groups: Vec<GroupName> = topics
        .topic_list
        .iter()
        .filter_map(|topic| names::group_of_dead_letter_queue(topic))
        .map(GroupName::from)
        .collect();
    groups.sort();
    let mut listed = Vec::new();
    for group in groups {
        listed.extend(dead_letters(&mut servers, &masters, &group).await?);
    }
    output::print_as(args.output.output, &listed, |listed| {
        let columns = [
            Column::Text("GROUP"),
            Column::Text("BROKER"),
            Column::Number("MESSAGES"),
            Column::Text("LAST DIED"),
        ];
        let row = |row: &DeadLetters| {
            let last = row.last_at_ms.map(calendar::format_ms).unwrap_or_default();
            vec![row.group.clone(), row.broker_name.clone(), row.messages.to_string(), last]
        };
        output::table_or("no group has dead letters", &columns, listed, row)
    })
}

/// The dead letters of a group on each broker that has a queue for them.
async fn dead_letters(
    servers: &mut Servers,
    masters: &[BrokerAt],
    group: &GroupName,
) -> Result<Vec<DeadLetters>, CliError> {
    let header = TopicHeader { topic: names::dead_letter_queue(group) };
    let mut found = Vec::new();
    for master in masters {
        let call = Call::new(RequestCode::GET_TOPIC_STATS_INFO).header(&header);
        let answer = servers.ask(&master.addr, call).await?;
        if answer.code == ResponseCode::TOPIC_NOT_EXIST {
            continue;
        }
        let stats: TopicStatsTable = answer.success()?.json()?;
        let queues = stats.offset_table.0.values();
        found.push(DeadLetters {
            group: group.to_string(),
            broker_name: master.broker_name.to_string(),
            messages: queues.clone().map(|queue| queue.max_offset - queue.min_offset).sum(),
            last_at_ms: queues.map(|queue| queue.last_update_timestamp).max().filter(|ms| *ms > 0),
        });
    }
    Ok(found)
}

async fn peek(args: PeekArgs) -> Result<(), CliError> {
    let compile = |text| SqlFilter::compile(text, &FilterRules::default());
    let condition = args.sql.as_deref().map(compile).transpose()?;
    let mut servers = args.servers.servers();
    let topic = names::dead_letter_queue(&args.group);
    let Some(route) = servers.find_route(&topic).await? else {
        return Err(CliError::NoDeadLetters { group: args.group });
    };
    let mut found = Vec::new();
    for at in route::read_queues(&topic, &route) {
        let extent = servers.extent(&at).await?;
        let from = extent.max.saturating_sub(args.limit as i64).max(extent.min);
        let reader = servers.queue_reader(&at).await?;
        found.extend(reader.read_range(from, extent.max, args.limit as usize).await?);
    }
    found.retain(|found| args.filter.iter().all(|(name, wanted)| has(found, name, wanted)));
    if let Some(condition) = condition {
        let satisfies = |message: &StoredMessage| {
            condition.evaluate(&message.properties, &message.body, message.sys_flag) == Ok(Some(true))
        };
        found.retain(|found| satisfies(&found.message));
    }
    found.sort_by_key(|found| found.message.stored_at_ms);
    if args.verbose || args.output.output == OutputFormat::Json {
        return print_found(&found, args.output.output, args.verbose);
    }
    if found.is_empty() {
        return output::print(&format!("group {} has no such dead letters", args.group));
    }
    let columns = [
        Column::Text("DIED"),
        Column::Text("BROKER"),
        Column::Number("OFFSET"),
        Column::Text("MESSAGE ID"),
        Column::Text("FROM TOPIC"),
        Column::Text("TAG"),
        Column::Text("KEYS"),
        Column::Number("RETRIES"),
        Column::Text("LAST CLIENT"),
        Column::Text("REASON"),
    ];
    output::print(&output::table(&columns, found.iter().map(peek_row)))
}

fn peek_row(found: &FoundMessage) -> Vec<String> {
    let message = &found.message;
    let value_of = |name| message.text(name).to_owned();
    let retries = match value_of(property::DLQ_RETRIES) {
        // As a Java broker stores it: with the attempt counted that never came.
        none if none.is_empty() => (message.reconsume_times - 1).max(0).to_string(),
        retries => retries,
    };
    vec![
        calendar::format_ms(message.stored_at_ms),
        found.broker_name.to_string(),
        message.queue_offset.to_string(),
        value_of(property::UNIQ_KEY),
        value_of(property::RETRY_TOPIC),
        value_of(property::TAGS),
        value_of(property::KEYS),
        retries,
        value_of(property::DLQ_CLIENT),
        value_of(property::DLQ_REASON),
    ]
}

/// As the broker filters a replay.
fn has(found: &FoundMessage, name: &str, wanted: &str) -> bool {
    let value_of = |name| found.message.property(name);
    match name {
        "topic" => value_of(property::RETRY_TOPIC) == Some(wanted),
        "tag" => value_of(property::TAGS) == Some(wanted),
        "key" => value_of(property::KEYS).is_some_and(|keys| keys.split(' ').any(|key| key == wanted)),
        "client" => value_of(property::DLQ_CLIENT) == Some(wanted),
        name => value_of(name) == Some(wanted),
    }
}

/// A replay on one broker.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerReplay {
    broker_name: String,
    #[serde(flatten)]
    progress: ReplayProgress,
}

async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let (mut servers, masters) = args.place.masters().await?;
    let group = args.group.clone();
    let mut replays = Vec::new();
    for master in &masters {
        let of_broker: Vec<ReplayProgress> = if args.show {
            let header = OptionalGroupHeader { group: Some(group.clone()) };
            let call = Call::new(RequestCode::LIST_REPLAYS).header(&header);
            servers.call(&master.addr, call).await?.json::<ReplayList>()?.replays
        } else {
            let call = match args.stop {
                true => Call::new(RequestCode::STOP_REPLAY).header(&GroupHeader { group: group.clone() }),
                false => Call::new(RequestCode::START_REPLAY).body(order(&args)?),
            };
            let answer = servers.ask(&master.addr, call).await?;
            // Dead letters may lie on some of the brokers only.
            match answer.code {
                ResponseCode::QUERY_NOT_FOUND if masters.len() > 1 => Vec::new(),
                _ => vec![answer.success()?.json()?],
            }
        };
        let at = |progress| BrokerReplay { broker_name: master.broker_name.to_string(), progress };
        replays.extend(of_broker.into_iter().map(at));
    }
    if replays.is_empty() {
        return Err(CliError::NoDeadLetters { group });
    }
    output::print_as(args.output.output, &replays, |replays| {
        let columns = [
            Column::Text("BROKER"),
            Column::Text("STATE"),
            Column::Number("REPLAYED"),
            Column::Number("PASSED OVER"),
            Column::Number("LEFT"),
            Column::Number("RATE"),
            Column::Text("STARTED"),
            Column::Text("CAUSE"),
        ];
        output::table(&columns, replays.iter().map(replay_row))
    })
}

fn order(args: &ReplayArgs) -> Result<bytes::Bytes, CliError> {
    let order = ReplayOrder {
        group: args.group.clone(),
        rate: (args.rate.round() as u32).max(1),
        filter: args.filter.iter().cloned().collect::<BTreeMap<_, _>>(),
        condition: args.sql.clone(),
        target: match args.to {
            To::Group => ReplayTarget::Group,
            To::Origin => ReplayTarget::Origin,
        },
    };
    Ok(fastjson::to_vec(&order).map_err(ClientError::from)?.into())
}

fn replay_row(replay: &BrokerReplay) -> Vec<String> {
    let progress = &replay.progress;
    let state = match progress.state {
        ReplayState::Running => "running",
        ReplayState::Done => "done",
        ReplayState::Stopped => "stopped",
        ReplayState::Failed => "failed",
    };
    vec![
        replay.broker_name.clone(),
        state.to_owned(),
        progress.replayed.to_string(),
        progress.passed_over.to_string(),
        progress.left.to_string(),
        format!("{}/s", progress.order.rate),
        calendar::format_ms(progress.started_at_ms),
        progress.cause.clone().unwrap_or_default(),
    ]
}

async fn purge(args: PurgeArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    let found = dead_letters(&mut servers, &masters, &args.group).await?;
    if found.is_empty() {
        return Err(CliError::NoDeadLetters { group: args.group });
    }
    let messages: i64 = found.iter().map(|found| found.messages).sum();
    let group = &args.group;
    if !args.yes {
        return output::print(&format!("{messages} dead letters of group {group} would go; --yes does it"));
    }
    servers.delete_topic(&names::dead_letter_queue(group), &masters).await?;
    output::print(&format!("{messages} dead letters of group {group} are gone"))
}
