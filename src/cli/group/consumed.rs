//! `telstar group consumed`.

use clap::Args;
use serde::Serialize;

use crate::cli::args::{OutputArgs, ServerArgs};
use crate::cli::error::CliError;
use crate::cli::output::{self, Column};
use crate::client::{ConsumedKeys, calendar};
use crate::types::GroupName;

/// Tell whether the members of a group have marked messages as consumed, by their unique keys, and when
///
/// Every broker is asked. Only groups with the attribute consumed.window.ms keep such keys, for so long.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group consumed billing 7F00000118B44AA42C1E6A5C7F0B0000
  telstar group consumed billing KEY1 KEY2 -o json")]
pub struct ConsumedArgs {
    /// The consumer group
    group: GroupName,
    /// Unique keys, as producers are told them and consumers find them
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AskedKey {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    marked_at_ms: Option<i64>,
}

pub async fn consumed(args: ConsumedArgs) -> Result<(), CliError> {
    let mut keys = ConsumedKeys::new(args.servers.servers(), args.group);
    let marked = keys.marked_at(&args.keys).await?;
    let asked = args.keys.into_iter().zip(marked);
    let asked: Vec<_> = asked.map(|(key, marked_at_ms)| AskedKey { key, marked_at_ms }).collect();
    output::print_as(args.output.output, &asked, |asked| {
        let row = |asked: &AskedKey| {
            vec![asked.key.clone(), asked.marked_at_ms.map_or_else(|| "-".to_owned(), calendar::format_ms)]
        };
        output::table(&[Column::Text("KEY"), Column::Text("CONSUMED")], asked.iter().map(row))
    })
}
