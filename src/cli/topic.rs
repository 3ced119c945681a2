//! `telstar topic`.

use std::collections::BTreeSet;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::args::{OutputArgs, ServerArgs, parse_attribute};
use super::brokers::{PlaceArgs, ask_each, call_each};
use super::error::CliError;
use super::output::{self, Column};
use crate::client::remoting::Call;
use crate::client::route;
use crate::client::{Servers, calendar};
use crate::protocol::body::connections::GroupList;
use crate::protocol::body::route::{TopicList, TopicRouteData};
use crate::protocol::body::stats::TopicStatsTable;
use crate::protocol::header::{CreateTopic, TopicHeader};
use crate::protocol::names::{self, DEAD_LETTER_PREFIX, DEFAULT_TOPIC, OwnNames, RETRY_PREFIX};
use crate::protocol::request_code::RequestCode;
use crate::types::TopicName;

/// Create, look at and delete topics
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Delete(DeleteArgs),
}

/// Create a topic on every broker, or alter it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar topic create orders
  telstar topic create orders --queues 16 --on broker-a
  telstar topic create payments --type fifo
  telstar topic create archive --perm r
  telstar topic create bills --attribute body.filter=JSON")]
pub struct CreateArgs {
    /// The topic
    topic: TopicName,
    /// Message queues on each broker
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535), default_value = "8")]
    queues: u32,
    /// What may be done with it
    #[arg(long, value_enum, default_value = "rw")]
    perm: Perm,
    /// What kind of messages it takes
    #[arg(long = "type", value_enum, default_value = "normal")]
    message_type: MessageType,
    /// Set an attribute of the topic; may be given several times
    #[arg(short, long = "attribute", value_name = "KEY=VALUE", value_parser = parse_attribute)]
    attributes: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Perm {
    /// Read and write
    Rw,
    /// Only read
    R,
    /// Only write
    W,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MessageType {
    Normal,
    /// Ordered by message group
    Fifo,
    Delay,
    Transaction,
    /// Any kind
    Mixed,
}

impl MessageType {
    fn attribute(self) -> Option<String> {
        let name = match self {
            MessageType::Normal => return None,
            MessageType::Fifo => "FIFO",
            MessageType::Delay => "DELAY",
            MessageType::Transaction => "TRANSACTION",
            MessageType::Mixed => "MIXED",
        };
        Some(format!("+message.type={name}"))
    }
}

fn attribute_change(message_type: MessageType, attributes: &[String]) -> Option<String> {
    let changes: Vec<String> =
        message_type.attribute().into_iter().chain(attributes.iter().cloned()).collect();
    (!changes.is_empty()).then(|| changes.join(","))
}

/// List topics
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar topic list
  telstar topic list --long
  telstar topic list --all -o json")]
pub struct ListArgs {
    /// Those of the servers, and retry and dead letter topics, too
    #[arg(short, long)]
    all: bool,
    /// Queues and messages of each topic, which takes a request to each broker for each topic
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show where a topic is, its queues and who consumes it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar topic show orders
  telstar topic show orders -o json")]
pub struct ShowArgs {
    /// The topic
    topic: TopicName,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete a topic from every broker and name server; its messages cannot be reached any more
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar topic delete orders")]
pub struct DeleteArgs {
    /// The topic
    topic: TopicName,
    #[command(flatten)]
    servers: ServerArgs,
}

pub async fn run(command: TopicCommand) -> Result<(), CliError> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Show(args) => show(args).await,
        TopicCommand::Delete(args) => delete(args).await,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    topic: String,
    queues: u32,
    brokers: Vec<String>,
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    names::check_topic(&args.topic)?;
    let (mut servers, masters) = args.place.masters().await?;
    let header = CreateTopic {
        topic: args.topic.clone(),
        default_topic: DEFAULT_TOPIC.to_owned(),
        read_queue_nums: args.queues as i32,
        write_queue_nums: args.queues as i32,
        perm: match args.perm {
            Perm::Rw => 6,
            Perm::R => 4,
            Perm::W => 2,
        },
        topic_filter_type: "SINGLE_TAG".to_owned(),
        topic_sys_flag: 0,
        order: false,
        attributes: attribute_change(args.message_type, &args.attributes),
    };
    let call = Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&header);
    call_each(&mut servers, &masters, &call).await?;
    let brokers = masters.iter().map(|master| master.broker_name.to_string()).collect();
    let created = Created { topic: args.topic.to_string(), queues: args.queues, brokers };
    output::print_as(args.output.output, &created, |created| {
        format!("topic {} has {} queues on {}", created.topic, created.queues, created.brokers.join(", "))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    brokers: usize,
    queues: usize,
    /// Messages that can still be read.
    messages: i64,
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let call = Call::new(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER);
    let mut topics = servers.ask_name_server(call).await?.success()?.json::<TopicList>()?.topic_list;
    topics.sort();
    if !args.all {
        let info = servers.cluster_info().await?;
        let own: BTreeSet<(&str, &str)> = info
            .broker_addr_table
            .values()
            .map(|broker| (broker.cluster.as_str(), broker.broker_name.as_str()))
            .collect();
        let is_own = |topic: &str| {
            own.iter().any(|&(cluster, broker)| names::is_system_topic(topic, OwnNames { cluster, broker }))
        };
        let is_derived = |topic: &str| {
            [RETRY_PREFIX, DEAD_LETTER_PREFIX, "RMQ_SYS_"].iter().any(|prefix| topic.starts_with(prefix))
        };
        topics.retain(|topic| !is_own(topic) && !is_derived(topic));
    }
    let mut listed = Vec::with_capacity(topics.len());
    for topic in topics {
        let figures = if args.long { figures(&mut servers, &topic).await? } else { None };
        listed.push(Listed { topic: topic.to_string(), figures });
    }
    output::print_as(args.output.output, &listed, |listed| match args.long {
        false => listed.iter().map(|row| format!("{}\n", row.topic)).collect(),
        true => {
            let columns = [
                Column::Text("TOPIC"),
                Column::Number("BROKERS"),
                Column::Number("QUEUES"),
                Column::Number("MESSAGES"),
            ];
            let row = |row: &Listed| {
                let figure = |of: fn(&Figures) -> String| row.figures.as_ref().map_or("-".to_owned(), of);
                vec![
                    row.topic.clone(),
                    figure(|figures| figures.brokers.to_string()),
                    figure(|figures| figures.queues.to_string()),
                    figure(|figures| figures.messages.to_string()),
                ]
            };
            output::table(&columns, listed.iter().map(row))
        }
    })
}

/// `None` for a topic that has gone meanwhile.
async fn figures(servers: &mut Servers, topic: &TopicName) -> Result<Option<Figures>, CliError> {
    let Some(route) = servers.find_route(topic).await? else { return Ok(None) };
    let stats = stats(servers, topic, &route).await?;
    let offsets = stats.offset_table.values();
    let messages = offsets.map(|queue| queue.max_offset - queue.min_offset).sum();
    Ok(Some(Figures { brokers: route.broker_datas.len(), queues: stats.offset_table.len(), messages }))
}

/// Offsets of the topic's queues on all brokers.
async fn stats(
    servers: &mut Servers,
    topic: &TopicName,
    route: &TopicRouteData,
) -> Result<TopicStatsTable, CliError> {
    let mut all = TopicStatsTable::default();
    let header = TopicHeader { topic: topic.clone() };
    let call = Call::new(RequestCode::GET_TOPIC_STATS_INFO).header(&header);
    for stats in ask_each::<TopicStatsTable>(servers, &route::masters(route), &call).await? {
        all.topic_put_tps += stats.topic_put_tps;
        all.offset_table.0.extend(stats.offset_table.0);
    }
    Ok(all)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    topic: String,
    brokers: Vec<ShownBroker>,
    queues: Vec<ShownQueue>,
    /// Messages that can still be read.
    messages: i64,
    groups: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownBroker {
    broker_name: String,
    cluster: String,
    addrs: Vec<String>,
    read_queues: u32,
    write_queues: u32,
    /// Letters of what is allowed.
    perm: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownQueue {
    broker_name: String,
    queue_id: i32,
    min_offset: i64,
    max_offset: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_stored_at_ms: Option<i64>,
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let route = servers.route(&args.topic).await?;
    let stats = stats(&mut servers, &args.topic, &route).await?;
    let call =
        Call::new(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO).header(&TopicHeader { topic: args.topic.clone() });
    let lists: Vec<GroupList> = ask_each(&mut servers, &route::masters(&route), &call).await?;
    let groups: BTreeSet<String> =
        lists.iter().flat_map(|list| &list.group_list).map(ToString::to_string).collect();
    let brokers = route.queue_datas.iter().map(|data| {
        let broker = route.broker_datas.iter().find(|broker| broker.broker_name == data.broker_name);
        ShownBroker {
            broker_name: data.broker_name.to_string(),
            cluster: broker.map(|broker| broker.cluster.clone()).unwrap_or_default(),
            addrs: broker.map(|broker| broker.broker_addrs.values().cloned().collect()).unwrap_or_default(),
            read_queues: data.read_queue_nums,
            write_queues: data.write_queue_nums,
            perm: match (data.perm.is_readable(), data.perm.is_writable()) {
                (true, true) => "rw",
                (true, false) => "r",
                (false, true) => "w",
                (false, false) => "-",
            }
            .to_owned(),
        }
    });
    let queues: Vec<ShownQueue> = stats
        .offset_table
        .iter()
        .map(|(queue, offsets)| ShownQueue {
            broker_name: queue.broker_name.to_string(),
            queue_id: queue.queue_id,
            min_offset: offsets.min_offset,
            max_offset: offsets.max_offset,
            last_stored_at_ms: Some(offsets.last_update_timestamp).filter(|ms| *ms > 0),
        })
        .collect();
    let shown = Shown {
        topic: args.topic.to_string(),
        brokers: brokers.collect(),
        messages: queues.iter().map(|queue| queue.max_offset - queue.min_offset).sum(),
        queues,
        groups: groups.into_iter().collect(),
    };
    output::print_as(args.output.output, &shown, shown_as_text)
}

fn shown_as_text(shown: &Shown) -> String {
    let broker = |broker: &ShownBroker| {
        let queues = format!("{}/{}", broker.read_queues, broker.write_queues);
        vec![
            broker.broker_name.clone(),
            broker.cluster.clone(),
            broker.addrs.join(" "),
            queues,
            broker.perm.clone(),
        ]
    };
    let queue = |queue: &ShownQueue| {
        vec![
            queue.broker_name.clone(),
            queue.queue_id.to_string(),
            queue.min_offset.to_string(),
            queue.max_offset.to_string(),
            queue.last_stored_at_ms.map(calendar::format_ms).unwrap_or_default(),
        ]
    };
    let brokers = output::table(
        &[
            Column::Text("BROKER"),
            Column::Text("CLUSTER"),
            Column::Text("ADDRESSES"),
            Column::Number("QUEUES R/W"),
            Column::Text("PERM"),
        ],
        shown.brokers.iter().map(broker),
    );
    let queues = output::table(
        &[
            Column::Text("BROKER"),
            Column::Number("QUEUE"),
            Column::Number("MIN OFFSET"),
            Column::Number("MAX OFFSET"),
            Column::Text("LAST MESSAGE"),
        ],
        shown.queues.iter().map(queue),
    );
    let groups = if shown.groups.is_empty() { "none".to_owned() } else { shown.groups.join(" ") };
    let facts = output::facts(&[
        ("topic", shown.topic.clone()),
        ("messages", shown.messages.to_string()),
        ("consumer groups", groups),
    ]);
    format!("{facts}\n{brokers}\n{queues}")
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let route = servers.route(&args.topic).await?;
    servers.delete_topic(&args.topic, &route::masters(&route)).await?;
    output::print(&format!("topic {} is deleted", args.topic))
}
