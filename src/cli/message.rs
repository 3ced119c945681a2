//! `telstar message`.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::stream::{FuturesUnordered, StreamExt};

use super::args::{OutputArgs, OutputFormat, ServerArgs, TimeArg, parse_count, parse_time};
use super::error::CliError;
use super::message_format::{Printable, ROW_COLUMNS};
use super::output::{self, is_output_gone};
use crate::client::queue_reader::{AtEnd, Extent, FoundMessage, KeyKind, KeySearch, QueueReader, ReadBatch};
use crate::client::route::{self, QueueAt};
use crate::client::{ClientError, Servers};
use crate::clock::{Clock, SystemClock};
use crate::protocol::message_body;
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::names;
use crate::types::{BrokerName, TopicName};

/// Look at single messages: by id, by key, by place, by time, or as they come
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    Get(GetArgs),
    Find(FindArgs),
    Tail(TailArgs),
}

/// Show one message, by the id that its sender or its broker gave it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar message get 7F00000100002A9F00000000000004D2
  telstar message get 7F00000118B44AA42C1E6A5C7F0B0000 --topic orders -o json

Ids of brokers say where the message lies. Ids of senders do not, so they need the topic.")]
pub struct GetArgs {
    /// The message id
    id: String,
    /// The topic; then the id may be one that a sender made
    #[arg(short, long)]
    topic: Option<TopicName>,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Find messages by key, unique key or tag, by queue and offset, or by time
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar message find --topic orders --key order-4711
  telstar message find --topic orders --unique-key 7F00000118B44AA42C1E6A5C7F0B0000 --verbose
  telstar message find --topic orders --queue 3 --offset 1200 --limit 5
  telstar message find --topic orders --from 2024-05-01T10:00 --to 2024-05-01T10:05
  telstar message find --topic orders --tag paid --from 15m -o json")]
pub struct FindArgs {
    /// The topic
    #[arg(short, long)]
    topic: TopicName,
    /// With this key, one of the words that its sender gave it
    #[arg(short, long, group = "by")]
    key: Option<String>,
    /// With this id, made by its sender
    #[arg(short, long, value_name = "ID", group = "by")]
    unique_key: Option<String>,
    /// With this tag; brokers of Apache RocketMQ find tags since 5.5
    #[arg(long, group = "by")]
    tag: Option<String>,
    /// From this queue offset on; needs --queue
    #[arg(long, value_name = "N", group = "by", requires = "queue", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Only in the queue of this number
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with_all = ["key", "unique_key", "tag"])]
    queue: Option<i32>,
    /// Only on this broker
    #[arg(short, long)]
    broker: Option<BrokerName>,
    /// Stored at this time or later (ms since 1970, 2024-05-01T10:00 in UTC, or 15m for 15 minutes ago)
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "offset")]
    from: Option<TimeArg>,
    /// Stored at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "offset")]
    to: Option<TimeArg>,
    /// Most messages that are shown; by default 1 with --offset, otherwise 32. By key a broker gives 64 at most
    #[arg(short, long, value_name = "N", value_parser = parse_count)]
    limit: Option<u64>,
    /// Each message in full, with its properties
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show the last messages of a topic, and those that come
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar message tail --topic orders
  telstar message tail --topic orders --limit 100 --follow
  telstar message tail --topic orders --follow -o json")]
pub struct TailArgs {
    /// The topic
    #[arg(short, long)]
    topic: TopicName,
    /// How many of the last messages
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "10")]
    limit: u64,
    /// Go on with those that come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Each message in full, with its properties
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Messages of one answer about a key; brokers give no more.
const KEY_LIMIT: i32 = 64;
const DEFAULT_LIMIT: u64 = 32;
/// Pause after a read that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody still reads our output.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn run(command: MessageCommand) -> Result<(), CliError> {
    match command {
        MessageCommand::Get(args) => get(args).await,
        MessageCommand::Find(args) => find(args).await,
        MessageCommand::Tail(args) => tail(args).await,
    }
}

async fn get(args: GetArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let found = match get_by_unique_key(&mut servers, &args).await? {
        Some(found) => Some(found),
        None => get_by_place(&mut servers, &args).await?,
    };
    let found = found.ok_or_else(|| CliError::NoMessage {
        what: format!("with the id {}", args.id),
        hint: match args.topic {
            Some(_) => "it has expired, or was never stored in this topic",
            None => "if a sender made the id, give its --topic",
        },
    })?;
    print_found(&[found], args.output.output, true)
}

async fn get_by_unique_key(servers: &mut Servers, args: &GetArgs) -> Result<Option<FoundMessage>, CliError> {
    let Some(topic) = args.topic.clone() else { return Ok(None) };
    let search = KeySearch {
        topic,
        key: args.id.clone(),
        kind: KeyKind::UniqueKey,
        from_ms: 0,
        to_ms: i64::MAX,
        max: KEY_LIMIT,
    };
    Ok(servers.find_by_key(&search).await?.into_iter().next())
}

/// Ids of brokers hold an address. A sender's id may look like one, so only brokers that are registered are asked.
async fn get_by_place(servers: &mut Servers, args: &GetArgs) -> Result<Option<FoundMessage>, CliError> {
    let Ok((addr, at)) = parse_offset_message_id(&args.id) else { return Ok(None) };
    let addr = addr.to_string();
    let brokers = servers.cluster_info().await?.broker_addr_table.into_values();
    let mut known = brokers.filter(|broker| broker.broker_addrs.values().any(|known| *known == addr));
    let Some(broker) = known.next() else { return Ok(None) };
    match servers.message_at(&addr, at).await {
        Ok(message) => Ok(message.map(|message| FoundMessage { broker_name: broker.broker_name, message })),
        // That is how brokers say that no message begins there.
        Err(ClientError::Refused { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn find(args: FindArgs) -> Result<(), CliError> {
    names::check_topic(&args.topic)?;
    let mut servers = args.servers.servers();
    let limit = args.limit.unwrap_or(if args.offset.is_some() { 1 } else { DEFAULT_LIMIT });
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let now = SystemClock.now();
    let from_ms = args.from.map_or(0, |from| from.ms(now));
    let to_ms = args.to.map_or(i64::MAX, |to| to.ms(now));
    let by_key =
        [(KeyKind::Key, &args.key), (KeyKind::UniqueKey, &args.unique_key), (KeyKind::Tag, &args.tag)];
    let by_key = by_key.into_iter().find_map(|(kind, key)| Some((kind, key.clone()?)));
    let (mut found, what) = match by_key {
        Some((kind, key)) => {
            let what = format!("with {} {key} in topic {}", kind_name(kind), args.topic);
            let max = i32::try_from(limit).unwrap_or(KEY_LIMIT).min(KEY_LIMIT);
            let search = KeySearch { topic: args.topic.clone(), key, kind, from_ms, to_ms, max };
            let mut found = servers.find_by_key(&search).await?;
            found.retain(|found| args.broker.as_ref().is_none_or(|broker| found.broker_name == *broker));
            (found, what)
        }
        None => {
            let span = Span { offset: args.offset, from_ms, to_ms };
            let found = find_in_queues(&mut servers, &args, span, limit).await?;
            (found, format!("there in topic {}", args.topic))
        }
    };
    found.truncate(limit);
    if found.is_empty() {
        return Err(CliError::NoMessage {
            what,
            hint: "it may have expired; `telstar topic show` has the offsets",
        });
    }
    print_found(&found, args.output.output, args.verbose)
}

fn kind_name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Key => "key",
        KeyKind::UniqueKey => "unique key",
        KeyKind::Tag => "tag",
    }
}

/// What of a queue is looked at: from an offset on, or between two times, both included.
#[derive(Clone, Copy)]
struct Span {
    offset: Option<i64>,
    from_ms: i64,
    to_ms: i64,
}

/// Oldest first.
async fn find_in_queues(
    servers: &mut Servers,
    args: &FindArgs,
    span: Span,
    limit: usize,
) -> Result<Vec<FoundMessage>, CliError> {
    let is_wanted = |at: &QueueAt| {
        args.queue.is_none_or(|queue| at.queue.queue_id == queue)
            && args.broker.as_ref().is_none_or(|broker| at.queue.broker_name == *broker)
    };
    let mut queues = queues_of(servers, &args.topic).await?;
    queues.retain(is_wanted);
    if queues.is_empty() {
        return Err(CliError::NoQueue { topic: args.topic.clone() });
    }
    let mut found = Vec::new();
    for at in &queues {
        let (from, end) = match span.offset {
            Some(offset) => (offset, i64::MAX),
            None => {
                let end = match span.to_ms.checked_add(1) {
                    Some(after) => servers.offset_by_time(at, after).await?,
                    None => i64::MAX,
                };
                (servers.offset_by_time(at, span.from_ms.max(0)).await?, end)
            }
        };
        let Extent { min, max } = servers.extent(at).await?;
        let reader = servers.queue_reader(at).await?;
        found.extend(reader.read_range(from.max(min), end.min(max), limit).await?);
    }
    found.sort_by_key(|found| found.message.stored_at_ms);
    Ok(found)
}

async fn queues_of(servers: &mut Servers, topic: &TopicName) -> Result<Vec<QueueAt>, CliError> {
    Ok(route::read_queues(topic, &servers.route(topic).await?))
}

async fn tail(args: TailArgs) -> Result<(), CliError> {
    names::check_topic(&args.topic)?;
    let mut servers = args.servers.servers();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut last = Vec::new();
    let mut ends = Vec::new();
    for at in queues_of(&mut servers, &args.topic).await? {
        let Extent { min, max } = servers.extent(&at).await?;
        let reader = servers.queue_reader(&at).await?;
        let from = max.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX)).max(min);
        last.extend(reader.read_range(from, max, limit).await?);
        ends.push((reader, max));
    }
    last.sort_by_key(|found| found.message.stored_at_ms);
    let last = last.split_off(last.len().saturating_sub(limit));
    if !args.follow {
        return print_found(&last, args.output.output, args.verbose);
    }
    let mut out = io::stdout().lock();
    for found in &last {
        print_following(&mut out, found, &args)?;
    }
    follow(&args, ends, &mut out).await
}

/// Prints what comes, queue by queue as it comes, until somebody says stop.
async fn follow(
    args: &TailArgs,
    ends: Vec<(QueueReader, i64)>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let read = |pause: Duration, reader: QueueReader, next: i64| async move {
        tokio::time::sleep(pause).await;
        let read = reader.read(next, i32::MAX, AtEnd::Wait).await;
        (reader, next, read)
    };
    let mut reads: FuturesUnordered<_> =
        ends.into_iter().map(|(reader, next)| read(Duration::ZERO, reader, next)).collect();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let (reader, at, read_there) = tokio::select! {
            biased;
            _ = &mut stop => return Ok(()),
            Some(done) = reads.next() => done,
            _ = look.tick() => match is_output_gone() {
                true => return Ok(()),
                false => continue,
            },
        };
        match read_there {
            Ok(ReadBatch { messages, next }) => {
                let broker_name = reader.at.queue.broker_name.clone();
                for message in messages {
                    print_following(out, &FoundMessage { broker_name: broker_name.clone(), message }, args)?;
                }
                reads.push(read(Duration::ZERO, reader, next));
            }
            Err(error) => {
                eprintln!("telstar: {error}; trying again");
                reads.push(read(PAUSE_AFTER_FAILURE, reader, at));
            }
        }
    }
}

fn print_following(out: &mut impl Write, found: &FoundMessage, args: &TailArgs) -> Result<(), CliError> {
    let line = with_body(found, |message| match (args.output.output, args.verbose) {
        (OutputFormat::Json, _) => message.json().to_string(),
        (OutputFormat::Table, true) => message.full() + "\n",
        (OutputFormat::Table, false) => message.row().join("  "),
    });
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Messages as `find` shows them.
pub(super) fn print_found(
    found: &[FoundMessage],
    format: OutputFormat,
    verbose: bool,
) -> Result<(), CliError> {
    match (format, verbose) {
        (OutputFormat::Json, _) => {
            let all: Vec<_> = found.iter().map(|found| with_body(found, |message| message.json())).collect();
            output::print(&output::json(&all))
        }
        (OutputFormat::Table, true) => {
            let all: Vec<_> = found.iter().map(|found| with_body(found, |message| message.full())).collect();
            output::print(&all.join("\n\n"))
        }
        (OutputFormat::Table, false) => {
            let rows = found.iter().map(|found| with_body(found, |message| message.row()));
            output::print(&output::table(&ROW_COLUMNS, rows))
        }
    }
}

/// Hands the message over with its body opened; one that cannot be opened is shown as it is.
fn with_body<T>(found: &FoundMessage, write: impl FnOnce(&Printable<'_>) -> T) -> T {
    let message = &found.message;
    let opened = message_body::open(&message.body, message.sys_flag);
    let body = match &opened {
        Ok(body) => body,
        Err(error) => {
            let (queue, offset) = (message.queue_id, message.queue_offset);
            eprintln!("telstar: queue {queue} offset {offset}: {error}; shown as it is");
            &message.body[..]
        }
    };
    write(&Printable { message, broker_name: &found.broker_name, body })
}
