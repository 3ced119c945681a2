//! `telstar send`.

use std::io::{BufRead, IsTerminal, Read};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::args::{OutputArgs, OutputFormat, ServerArgs, parse_count, parse_property};
use super::error::CliError;
use super::output;
use crate::client::{OutgoingMessage, Producer, SentMessage};
use crate::clock::SystemClock;
use crate::protocol::names as topic_names;
use crate::protocol::properties::names;
use crate::types::TopicName;

/// Send messages to a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar send orders 'hello'
  telstar send orders '{\"id\":7}' --tag created --key 7 --property region=eu
  telstar send orders hello --count 100 -o json
  telstar send orders --lines - < messages.txt
  telstar send orders 'in 30 s' --property DELAY=4")]
pub struct SendArgs {
    /// The topic; it is created with 4 queues if the broker allows it
    topic: TopicName,
    /// The body, or - for standard input
    #[arg(default_value = "-")]
    body: String,
    /// Read standard input as one message per line
    #[arg(long)]
    lines: bool,
    /// Business keys, separated by blanks
    #[arg(short, long)]
    key: Option<String>,
    /// The tag consumers can filter by
    #[arg(long)]
    tag: Option<String>,
    /// A property, may be repeated
    #[arg(short, long = "property", value_name = "NAME=VALUE", value_parser = parse_property)]
    properties: Vec<(String, String)>,
    /// Send each message so many times
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "1")]
    count: u64,
    /// Only to queues with this number, rather than to all in turn
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// The producer group
    #[arg(short, long, default_value = "telstar-send")]
    group: String,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is told of each message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    message_id: String,
    offset_message_id: String,
    topic: String,
    broker_name: String,
    queue_id: i32,
    queue_offset: i64,
    /// SUCCESS, or in what the stored message falls short.
    status: String,
}

impl From<SentMessage> for Receipt {
    fn from(sent: SentMessage) -> Self {
        Self {
            message_id: sent.message_id,
            offset_message_id: sent.offset_message_id,
            topic: sent.queue.topic.to_string(),
            broker_name: sent.queue.broker_name.to_string(),
            queue_id: sent.queue.queue_id,
            queue_offset: sent.queue_offset,
            status: sent.code.name().to_owned(),
        }
    }
}

pub async fn run(args: SendArgs) -> Result<(), CliError> {
    topic_names::check_topic(&args.topic)?;
    let properties = args.all_properties()?;
    let bodies: Box<dyn Iterator<Item = Result<Bytes, CliError>>> = match args.body.as_str() {
        "-" if args.lines => Box::new(lines_of_input()),
        "-" => Box::new(std::iter::once(whole_input())),
        body => Box::new(std::iter::once(Ok(Bytes::from(body.to_owned())))),
    };
    let mut producer =
        Producer::new(args.servers.servers(), args.group.as_str().into(), SystemClock::shared());
    let mut table = ReceiptTable { format: args.output.output, begun: false };
    for body in bodies {
        let body = body?;
        for _ in 0..args.count {
            let message = OutgoingMessage {
                topic: args.topic.clone(),
                body: body.clone(),
                properties: properties.clone(),
                queue_id: args.queue.map(|id| id as i32),
            };
            table.row(producer.send(message).await?.into())?;
        }
    }
    Ok(())
}

impl SendArgs {
    fn all_properties(&self) -> Result<Vec<(String, String)>, CliError> {
        let mut all = self.properties.clone();
        for (what, name, value) in [("the key", names::KEYS, &self.key), ("the tag", names::TAGS, &self.tag)]
        {
            let Some(value) = value else { continue };
            if all.iter().any(|(given, _)| given == name) {
                return Err(CliError::GivenTwice { what });
            }
            all.push((name.to_owned(), value.clone()));
        }
        Ok(all)
    }
}

fn whole_input() -> Result<Bytes, CliError> {
    if std::io::stdin().is_terminal() {
        eprintln!("telstar: reading the body from the terminal; end it with ctrl-D");
    }
    let mut body = Vec::new();
    std::io::stdin().lock().read_to_end(&mut body).map_err(CliError::Input)?;
    Ok(body.into())
}

fn lines_of_input() -> impl Iterator<Item = Result<Bytes, CliError>> {
    let lines = std::io::stdin().lock().split(b'\n');
    lines.map(|line| line.map(Bytes::from).map_err(CliError::Input))
}

/// Receipts one by one, as they come: there may be many.
struct ReceiptTable {
    format: OutputFormat,
    begun: bool,
}

impl ReceiptTable {
    fn row(&mut self, receipt: Receipt) -> Result<(), CliError> {
        if self.format == OutputFormat::Json {
            return output::print(&output::json_line(&receipt));
        }
        if !std::mem::replace(&mut self.begun, true) {
            output::print(&format!(
                "{:32}  {:16}  {:>5}  {:>10}",
                "MESSAGE ID", "BROKER", "QUEUE", "OFFSET"
            ))?;
        }
        let Receipt { message_id, broker_name, queue_id, queue_offset, status, .. } = receipt;
        let note = if status == "SUCCESS" { String::new() } else { format!("  {status}") };
        output::print(&format!("{message_id:32}  {broker_name:16}  {queue_id:>5}  {queue_offset:>10}{note}"))
    }
}
