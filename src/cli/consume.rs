//! `telstar consume`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{ServerArgs, TimeArg, parse_count, parse_time};
use super::error::CliError;
use super::message_format::{FORMAT_HELP, MessageFormat, Printable};
use super::output::is_output_gone;
use crate::client::queue_reader::READER_GROUP;
use crate::client::{ClientError, ConsumeFrom, Consumer, ConsumerOptions, Membership, ReceivedMessage};
use crate::clock::{Clock, SystemClock};
use crate::protocol::body::subscription::{EVERY_TAG, SQL92, SubscriptionData, TAG};
use crate::protocol::{message_body, names};
use crate::types::{ClientId, GroupName, TopicName};

/// Print the messages of a topic as they come, as a member of a consumer group or alone
#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  telstar consume orders
  telstar consume orders --from first --count 10 --format '%q %o %T %k %b\\n'
  telstar consume orders --group billing --tag 'created || paid'
  telstar consume orders --from 15m -o json
  telstar consume orders --sql \"region = 'eu'\"

Without --group it reads every queue by itself and leaves no trace: nothing is shared, no offsets are kept.

{FORMAT_HELP}"))]
pub struct ConsumeArgs {
    /// The topic
    topic: TopicName,
    /// Join this consumer group: its members share the messages, its offsets are kept
    #[arg(short, long)]
    group: Option<GroupName>,
    /// Where a group without offsets begins: first, last, a time (ms since 1970, or 2024-05-01T10:00),
    /// or how long ago (15m)
    #[arg(short, long, value_parser = parse_from, default_value = "last")]
    from: ConsumeFromArg,
    /// Only messages with these tags, as 'A || B'
    #[arg(short, long, value_name = "EXPR", default_value = EVERY_TAG)]
    tag: String,
    /// Only messages whose properties satisfy this SQL92 condition
    #[arg(long, value_name = "EXPR", conflicts_with = "tag")]
    sql: Option<String>,
    /// Stop after so many messages
    #[arg(short, long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// How each message is written, see below
    #[arg(long, value_parser = MessageFormat::parse, default_value = "%b\\n", conflicts_with = "output")]
    format: MessageFormat,
    /// As text in the form of --format, or as one JSON object per line
    #[arg(short, long, value_enum, default_value = "text")]
    output: MessageOutput,
    #[command(flatten)]
    servers: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum MessageOutput {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How often it is looked whether somebody still reads our output.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ConsumeFromArg {
    First,
    Last,
    Time(TimeArg),
}

fn parse_from(text: &str) -> Result<ConsumeFromArg, String> {
    match text {
        "first" => Ok(ConsumeFromArg::First),
        "last" => Ok(ConsumeFromArg::Last),
        time => match parse_time(time) {
            Ok(time) => Ok(ConsumeFromArg::Time(time)),
            Err(error) => Err(format!("use first, last, or a time: {error}")),
        },
    }
}

pub async fn run(args: ConsumeArgs) -> Result<(), CliError> {
    names::check_topic(&args.topic)?;
    let options = consumer_options(&args)?;
    names::check_group(&options.group)?;
    let mut consumer = Consumer::join(&args.servers.name_server, options, args.servers.timeout).await?;
    let interactive = io::stderr().is_terminal();
    if interactive {
        let role = match &args.group {
            Some(group) => format!("as a member of {group}"),
            None => "as a reader".to_owned(),
        };
        eprintln!("telstar: {} queues of {} {role}; ctrl-C ends it", consumer.held_queues(), args.topic);
    }
    let printed = print_messages(&args, &mut consumer).await;
    let left = consumer.leave().await;
    printed?;
    Ok(left?)
}

fn consumer_options(args: &ConsumeArgs) -> Result<ConsumerOptions, CliError> {
    let now = SystemClock.now();
    let (expression, kind) = match &args.sql {
        Some(sql) => (sql.as_str(), SQL92),
        None => (args.tag.as_str(), TAG),
    };
    let subscription = SubscriptionData::build(args.topic.clone(), expression, kind)?;
    let (group, membership) = match &args.group {
        Some(group) => (group.clone(), Membership::Member),
        None => (READER_GROUP.into(), Membership::Reader),
    };
    Ok(ConsumerOptions {
        group,
        membership,
        client_id: ClientId::from(format!("127.0.0.1@{}#{}", std::process::id(), now.0)),
        subscription: SubscriptionData { sub_version: now.0, ..subscription },
        from: match args.from {
            ConsumeFromArg::First => ConsumeFrom::First,
            ConsumeFromArg::Last => ConsumeFrom::Last,
            ConsumeFromArg::Time(time) => ConsumeFrom::TimestampMs(time.ms(now)),
        },
    })
}

/// Prints until enough came, or somebody says stop.
async fn print_messages(args: &ConsumeArgs, consumer: &mut Consumer) -> Result<(), CliError> {
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut out = io::stdout().lock();
    let mut line = Vec::new();
    let mut left = args.count;
    while left != Some(0) {
        let received = tokio::select! {
            biased;
            _ = &mut stop => break,
            received = consumer.next() => received,
            _ = look.tick() => {
                if is_output_gone() {
                    break;
                }
                continue;
            }
        };
        let Some(received) = received else {
            report_failure(consumer.take_failure())?;
            continue;
        };
        line.clear();
        write_message(args, &received, &mut line);
        out.write_all(&line).and_then(|()| out.flush()).map_err(CliError::Output)?;
        left = left.map(|left| left - 1);
    }
    // The last one is printed: let the consumer count it as consumed, without waiting for another.
    consumer.settle();
    Ok(())
}

fn write_message(args: &ConsumeArgs, received: &ReceivedMessage, line: &mut Vec<u8>) {
    let message = &received.message;
    let opened = message_body::open(&message.body, message.sys_flag);
    let body = match &opened {
        Ok(body) => body,
        Err(error) => {
            eprintln!(
                "telstar: queue {} offset {}: {error}; printed as it is",
                message.queue_id, message.queue_offset
            );
            &message.body[..]
        }
    };
    let printable = Printable { message, broker_name: &received.queue.broker_name, body };
    match args.output {
        MessageOutput::Text => args.format.write(&printable, line),
        MessageOutput::Json => {
            line.extend_from_slice(printable.json().to_string().as_bytes());
            line.push(b'\n');
        }
    }
}

/// What a broker refuses for good ends it; what may mend itself is only told.
fn report_failure(failure: Option<ClientError>) -> Result<(), CliError> {
    use crate::protocol::response_code::ResponseCode as Code;
    match failure {
        Some(
            error @ ClientError::Refused {
                code: Code::SUBSCRIPTION_PARSE_FAILED | Code::NO_PERMISSION, ..
            },
        ) => Err(error.into()),
        Some(error) => {
            eprintln!("telstar: {error}; trying again");
            Ok(())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_read_in_every_form() {
        assert_eq!(parse_from("first"), Ok(ConsumeFromArg::First));
        assert_eq!(parse_from("last"), Ok(ConsumeFromArg::Last));
        assert_eq!(parse_from("15m"), Ok(ConsumeFromArg::Time(TimeArg::AgoMs(900_000))));
        assert!(parse_from("yesterday").unwrap_err().contains("15m"));
    }
}
