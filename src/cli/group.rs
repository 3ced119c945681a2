//! `telstar group`.

mod consumed;
mod reset;
mod why;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::{OutputArgs, ServerArgs, parse_attribute};
use super::brokers::{self, PlaceArgs, all_masters, ask_each, call_each};
use super::error::CliError;
use super::output::{self, Column};
use crate::client::remoting::Call;
use crate::client::route::BrokerAt;
use crate::client::{ClientError, Servers, calendar};
use crate::protocol::attributes::{Attributes, parse_change};
use crate::protocol::body::connections::ConsumerConnection;
use crate::protocol::body::route::KVTable;
use crate::protocol::body::settings::SubscriptionGroupWrapper;
use crate::protocol::body::stats::ConsumeStats;
use crate::protocol::body::stats::LOSS_PREFIX;
use crate::protocol::fastjson;
use crate::protocol::header::{ConsumeStatsHeader, ConsumerGroupHeader, DeleteGroup, GetAllGroupConfig};
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::types::GroupName;

/// Create, look at and delete consumer groups, and move their offsets
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    List(ListArgs),
    Show(ShowArgs),
    Why(why::WhyArgs),
    Consumed(consumed::ConsumedArgs),
    Create(CreateArgs),
    Delete(DeleteArgs),
    Reset(reset::ResetArgs),
    Clone(reset::CloneArgs),
}

/// List consumer groups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group list
  telstar group list --all -o json")]
pub struct ListArgs {
    /// Those of the servers, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show the members of a consumer group, and how far it is in each queue
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group show billing
  telstar group show billing -o json")]
pub struct ShowArgs {
    /// The consumer group
    group: GroupName,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Create a consumer group on every broker, or alter it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group create billing
  telstar group create billing --retries 3 --orderly
  telstar group create billing --attribute consumed.window.ms=600000")]
pub struct CreateArgs {
    /// The consumer group
    group: GroupName,
    /// How often a message is delivered again before it goes to the dead letter queue
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), default_value = "16")]
    retries: i32,
    /// Messages of one message group are delivered one after the other (clients of the gRPC protocol)
    #[arg(long)]
    orderly: bool,
    /// Set an attribute of the group; may be given several times
    #[arg(short, long = "attribute", value_name = "KEY=VALUE", value_parser = parse_attribute)]
    attributes: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Delete a consumer group, its offsets and its retry topic; its dead letter queue stays
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group delete billing")]
pub struct DeleteArgs {
    /// The consumer group
    group: GroupName,
    #[command(flatten)]
    servers: ServerArgs,
}

pub async fn run(command: GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::List(args) => list(args).await,
        GroupCommand::Show(args) => show(args).await,
        GroupCommand::Why(args) => why::why(args).await,
        GroupCommand::Consumed(args) => consumed::consumed(args).await,
        GroupCommand::Create(args) => create(args).await,
        GroupCommand::Delete(args) => delete(args).await,
        GroupCommand::Reset(args) => reset::reset(args).await,
        GroupCommand::Clone(args) => reset::clone(args).await,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    group: String,
    members: usize,
    retry_max_times: i32,
}

/// Settings of every group, as any broker has them.
async fn all_groups(
    servers: &mut Servers,
    masters: &[BrokerAt],
) -> Result<BTreeMap<GroupName, SubscriptionGroupConfig>, CliError> {
    let header = GetAllGroupConfig { group_seq: None, data_version: None, max_group_num: None };
    let call = Call::new(RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG).header(&header);
    let tables: Vec<SubscriptionGroupWrapper> = ask_each(servers, masters, &call).await?;
    Ok(tables.into_iter().flat_map(|table| table.subscription_group_table).collect())
}

/// Settings of a group that should exist.
async fn known_group(
    servers: &mut Servers,
    masters: &[BrokerAt],
    group: &GroupName,
) -> Result<SubscriptionGroupConfig, CliError> {
    let mut groups = all_groups(servers, masters).await?;
    groups.remove(group).ok_or_else(|| CliError::GroupUnknown { group: group.clone() })
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    let groups = all_groups(&mut servers, &masters).await?;
    let mut listed = Vec::with_capacity(groups.len());
    for (group, config) in groups {
        if !args.all && names::is_system_group(&group) {
            continue;
        }
        let members = members(&mut servers, &masters, &group).await?.len();
        listed.push(Listed { group: group.to_string(), members, retry_max_times: config.retry_max_times });
    }
    output::print_as(args.output.output, &listed, |listed| {
        let columns = [Column::Text("GROUP"), Column::Number("MEMBERS"), Column::Number("RETRIES")];
        let row =
            |row: &Listed| vec![row.group.clone(), row.members.to_string(), row.retry_max_times.to_string()];
        output::table(&columns, listed.iter().map(row))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    client_id: String,
    addr: String,
    language: String,
    version: i32,
    /// Topic and expression.
    subscriptions: BTreeMap<String, String>,
}

/// Members over all brokers; a client is connected to each of them.
async fn members(
    servers: &mut Servers,
    masters: &[BrokerAt],
    group: &GroupName,
) -> Result<BTreeMap<String, Member>, CliError> {
    let mut members = BTreeMap::new();
    for master in masters {
        let header = ConsumerGroupHeader { consumer_group: group.clone() };
        let call = Call::new(RequestCode::GET_CONSUMER_CONNECTION_LIST).header(&header);
        let answer = servers.ask(&master.addr, call).await?;
        if answer.code == ResponseCode::CONSUMER_NOT_ONLINE {
            continue;
        }
        let connections: ConsumerConnection = answer.success()?.json()?;
        let table = connections.subscription_table.into_iter();
        let subscriptions: BTreeMap<String, String> =
            table.map(|(topic, data)| (topic.to_string(), data.sub_string)).collect();
        for connection in connections.connection_set {
            let member = Member {
                client_id: connection.client_id.to_string(),
                addr: connection.client_addr,
                language: connection.language.unwrap_or_default(),
                version: connection.version,
                subscriptions: subscriptions.clone(),
            };
            members.insert(member.client_id.clone(), member);
        }
    }
    Ok(members)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    group: String,
    retry_max_times: i32,
    /// The setting `consumeMessageOrderly`.
    orderly: bool,
    attributes: Attributes,
    consume_tps: f64,
    /// Messages not yet consumed, over all queues.
    lag: i64,
    /// Messages that retention deleted before they were consumed, since the brokers started.
    deleted_unconsumed: u64,
    members: Vec<Member>,
    queues: Vec<ShownQueue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownQueue {
    topic: String,
    broker_name: String,
    queue_id: i32,
    max_offset: i64,
    consumer_offset: i64,
    lag: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_consumed_stored_at_ms: Option<i64>,
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    let config = known_group(&mut servers, &masters, &args.group).await?;
    let members = members(&mut servers, &masters, &args.group).await?;
    let mut queues = Vec::new();
    let mut consume_tps = 0.0;
    let header = ConsumeStatsHeader { consumer_group: args.group.clone(), topic: None, topic_list: None };
    let call = Call::new(RequestCode::GET_CONSUME_STATS).header(&header);
    for stats in ask_each::<ConsumeStats>(&mut servers, &masters, &call).await? {
        consume_tps += stats.consume_tps;
        queues.extend(stats.offset_table.0.into_iter().map(|(queue, offsets)| ShownQueue {
            topic: queue.topic.to_string(),
            broker_name: queue.broker_name.to_string(),
            queue_id: queue.queue_id,
            max_offset: offsets.broker_offset,
            consumer_offset: offsets.consumer_offset,
            lag: offsets.broker_offset - offsets.consumer_offset,
            last_consumed_stored_at_ms: Some(offsets.last_timestamp).filter(|ms| *ms > 0),
        }));
    }
    queues
        .sort_by(|a, b| (&a.topic, &a.broker_name, a.queue_id).cmp(&(&b.topic, &b.broker_name, b.queue_id)));
    let shown = Shown {
        group: args.group.to_string(),
        retry_max_times: config.retry_max_times,
        orderly: config.consume_message_orderly,
        attributes: config.attributes,
        consume_tps,
        lag: queues.iter().map(|queue| queue.lag).sum(),
        deleted_unconsumed: deleted_unconsumed(&mut servers, &masters, &args.group).await?,
        members: members.into_values().collect(),
        queues,
    };
    output::print_as(args.output.output, &shown, shown_as_text)
}

/// What the brokers say that retention took from the group.
async fn deleted_unconsumed(
    servers: &mut Servers,
    masters: &[BrokerAt],
    group: &GroupName,
) -> Result<u64, CliError> {
    let prefix = format!("{LOSS_PREFIX}{group}@");
    let mut deleted = 0;
    for master in masters {
        let figures: KVTable =
            servers.call(&master.addr, Call::new(RequestCode::GET_BROKER_RUNTIME_INFO)).await?.json()?;
        let of_group = figures.table.iter().filter(|(key, _)| key.starts_with(&prefix));
        deleted += of_group.filter_map(|(_, messages)| messages.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(deleted)
}

fn shown_as_text(shown: &Shown) -> String {
    let mut text = output::facts(&[
        ("group", shown.group.clone()),
        ("members", shown.members.len().to_string()),
        ("lag", shown.lag.to_string()),
        ("deleted unconsumed", shown.deleted_unconsumed.to_string()),
        ("consumed per second", format!("{:.1}", shown.consume_tps)),
        ("retries", shown.retry_max_times.to_string()),
        ("orderly", if shown.orderly { "yes" } else { "no" }.to_owned()),
    ]);
    for (key, value) in &shown.attributes {
        text += &format!("attribute {key} = {value}\n");
    }
    if !shown.members.is_empty() {
        let member = |member: &Member| {
            let subscriptions =
                member.subscriptions.iter().filter(|(topic, _)| !names::is_retry_topic(topic));
            let subscriptions: Vec<String> =
                subscriptions.map(|(topic, expression)| format!("{topic}:{expression}")).collect();
            vec![
                member.client_id.clone(),
                member.addr.clone(),
                member.language.clone(),
                subscriptions.join(" "),
            ]
        };
        let columns = [
            Column::Text("MEMBER"),
            Column::Text("ADDRESS"),
            Column::Text("LANGUAGE"),
            Column::Text("SUBSCRIPTIONS"),
        ];
        text += "\n";
        text += &output::table(&columns, shown.members.iter().map(member));
    }
    if !shown.queues.is_empty() {
        let queue = |queue: &ShownQueue| {
            vec![
                queue.topic.clone(),
                queue.broker_name.clone(),
                queue.queue_id.to_string(),
                queue.max_offset.to_string(),
                queue.consumer_offset.to_string(),
                queue.lag.to_string(),
                queue.last_consumed_stored_at_ms.map(calendar::format_ms).unwrap_or_default(),
            ]
        };
        let columns = [
            Column::Text("TOPIC"),
            Column::Text("BROKER"),
            Column::Number("QUEUE"),
            Column::Number("MAX OFFSET"),
            Column::Number("CONSUMER OFFSET"),
            Column::Number("LAG"),
            Column::Text("CONSUMED UP TO"),
        ];
        text += "\n";
        text += &output::table(&columns, shown.queues.iter().map(queue));
    }
    text
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    names::check_group(&args.group)?;
    let (mut servers, masters) = args.place.masters().await?;
    let config = SubscriptionGroupConfig {
        group_name: args.group.clone(),
        retry_max_times: args.retries,
        consume_message_orderly: args.orderly,
        attributes: parse_change(&args.attributes.join(",")).map_err(CliError::Attribute)?,
        ..SubscriptionGroupConfig::default()
    };
    let body = bytes::Bytes::from(fastjson::to_vec(&config).map_err(ClientError::from)?);
    let call = Call::new(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body(body);
    call_each(&mut servers, &masters, &call).await?;
    output::print(&format!("group {} is on {}", args.group, brokers::names(&masters)))
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    known_group(&mut servers, &masters, &args.group).await?;
    let header = DeleteGroup { group_name: args.group.clone(), clean_offset: true };
    let call = Call::new(RequestCode::DELETE_SUBSCRIPTIONGROUP).header(&header);
    call_each(&mut servers, &masters, &call).await?;
    servers.delete_topic(&names::retry_topic(&args.group), &masters).await?;
    output::print(&format!("group {} is deleted", args.group))
}
