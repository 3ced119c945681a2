//! `telstar store`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::OutputArgs;
use super::error::CliError;
use super::output;
use crate::protocol::message::RecordView;
use crate::protocol::properties;
use crate::store::consume_queue::{list_queues, queue_dir};
use crate::store::file::{DiskFiles, StoreFiles};
use crate::store::java_config::config_dir;
use crate::store::java_export;
use crate::store::known_derived::KnownDerived;
use crate::store::metadata::Metadata;
use crate::store::store_lock::StoreLock;
use crate::store::verify::{LogFiles, Met, StoreReport, verify_store};
use crate::types::PhysicalOffset;

/// Work on a data directory that no broker uses
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    ExportConfig(ExportConfigArgs),
    Verify(VerifyArgs),
    Dump(DumpArgs),
    Repair(RepairArgs),
}

/// Check every record of the log, and queues and index against it; nothing is changed
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 when something is wrong. A torn tail, which a kill leaves, is told and is not wrong: the next start cuts it.

Examples:
  telstar store verify ~/.local/share/telstar
  telstar store verify /data -o json | jq '.findings[].place'")]
pub struct VerifyArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Write the records of the log, one JSON object a line
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar store dump /data --topic orders --limit 10
  telstar store dump /data --from 1073741824 --bodies | jq .body")]
pub struct DumpArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// First physical offset
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Physical offset to end before
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// Only this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only queues of this number
    #[arg(long)]
    queue: Option<u32>,
    /// End after so many records
    #[arg(long)]
    limit: Option<u64>,
    /// Write bodies too, as text; bytes that are no UTF-8 are replaced
    #[arg(long)]
    bodies: bool,
}

/// Take away queues and index files that do not agree with the log; the next start derives them again
#[derive(Debug, Args)]
#[command(after_help = "\
The log itself is left as it is: the next start cuts a torn tail and passes over damaged records.

Examples:
  telstar store repair /data --dry-run
  telstar store repair /data --yes")]
pub struct RepairArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Derive all queues and the index again, also those that are right
    #[arg(long)]
    all: bool,
}

/// Write topics, groups and offsets as the files of a Java broker, so that one can open the data directory
#[derive(Debug, Args)]
#[command(after_help = "\
The files go to config/ in the data directory. Files that are there already become backups, NAME.bak.

Examples:
  telstar store export-config ~/.local/share/telstar")]
pub struct ExportConfigArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(command: StoreCommand) -> Result<(), CliError> {
    match command {
        StoreCommand::ExportConfig(args) => {
            export_config(&args.dir)?;
            output::print(&format!("written to {}", config_dir(&args.dir).display()))
        }
        StoreCommand::Verify(args) => verify(&args),
        StoreCommand::Dump(args) => dump(&args),
        StoreCommand::Repair(args) => repair(&args),
    }
}

/// The right to a store of ours or of RocketMQ's, and what is known of its derived files.
struct Offline {
    _lock: StoreLock,
    known: KnownDerived,
    files: Arc<dyn StoreFiles>,
}

/// `keeps`: something is to be written down. A directory of RocketMQ's is not given metadata just to be looked at.
fn open_offline(dir: &Path, keeps: bool) -> Result<Offline, CliError> {
    if !dir.join("commitlog").is_dir() {
        return Err(CliError::NoStore { dir: dir.to_owned() });
    }
    let lock = StoreLock::acquire(dir)?;
    let metadata_dir = dir.join("metadata");
    let metadata =
        if keeps || metadata_dir.is_dir() { Metadata::open(&metadata_dir)? } else { Metadata::temporary()? };
    Ok(Offline { _lock: lock, known: KnownDerived::open(&metadata)?, files: DiskFiles::shared() })
}

fn verify(args: &VerifyArgs) -> Result<(), CliError> {
    let report = report_of(&open_offline(&args.dir, false)?, &args.dir)?;
    output::print_as(args.output.output, &report, table_of)?;
    if report.is_sound() {
        Ok(())
    } else {
        let problems = report.findings.len() as u64 + report.more_findings;
        Err(CliError::StoreUnsound { dir: args.dir.clone(), problems })
    }
}

fn report_of(offline: &Offline, dir: &Path) -> Result<StoreReport, CliError> {
    let sizes = offline.known.index_sizes()?.unwrap_or_default();
    Ok(verify_store(&offline.files, dir, sizes)?)
}

fn table_of(report: &StoreReport) -> String {
    let mut text = output::facts(&[
        ("log", format!("{} to {}, {} segments", report.log_start, report.log_end, report.segments)),
        ("records", report.records.to_string()),
        ("torn tail", format!("{} bytes", report.torn_tail_bytes)),
        ("queues", format!("{}, {} units", report.queues, report.units)),
        ("index", format!("{} files, {} entries", report.index_files, report.index_entries)),
        ("compacted", format!("{} queues, {} records", report.compacted_queues, report.compacted_records)),
        ("problems", (report.findings.len() as u64 + report.more_findings).to_string()),
    ]);
    for finding in &report.findings {
        text.push_str(&format!("{}: {}\n", finding.place, finding.problem));
    }
    text
}

fn dump(args: &DumpArgs) -> Result<(), CliError> {
    let offline = open_offline(&args.dir, false)?;
    let log = LogFiles::open(&*offline.files, &args.dir)?;
    let (mut left, mut outcome) = (args.limit.unwrap_or(u64::MAX), Ok(()));
    log.walk(|offset, met| {
        if left == 0 || offset.0 >= args.to {
            return false;
        }
        let line = match met {
            _ if offset.0 < args.from => None,
            Met::Record(record) => is_wanted(args, &record).then(|| json_of(offset, &record, args.bodies)),
            Met::Damage { len_bytes, cause } => {
                Some(json!({ "physicalOffset": offset.0, "damagedBytes": len_bytes, "cause": cause }))
            }
        };
        if let Some(line) = line {
            left -= 1;
            outcome = output::print(&line.to_string());
        }
        outcome.is_ok()
    });
    outcome
}

fn is_wanted(args: &DumpArgs, record: &RecordView<'_>) -> bool {
    args.topic.as_deref().is_none_or(|topic| topic == record.topic())
        && args.queue.is_none_or(|queue| queue == record.queue_id().0)
}

fn json_of(offset: PhysicalOffset, record: &RecordView<'_>, bodies: bool) -> Value {
    let pairs = properties::pairs(record.properties());
    let properties: serde_json::Map<String, Value> =
        pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut line = json!({
        "physicalOffset": offset.0,
        "sizeBytes": record.total_len(),
        "topic": record.topic(),
        "queueId": record.queue_id().0,
        "queueOffset": record.queue_offset().0,
        "storeTimestamp": record.stored_at_ms(),
        "bornTimestamp": record.born_at_ms(),
        "bornHost": record.born_host().to_string(),
        "sysFlag": record.sys_flag(),
        "reconsumeTimes": record.reconsume_times(),
        "bodyBytes": record.body().len(),
        "properties": properties,
    });
    if bodies {
        line["body"] = String::from_utf8_lossy(record.body()).into();
    }
    line
}

fn repair(args: &RepairArgs) -> Result<(), CliError> {
    let offline = open_offline(&args.dir, args.yes)?;
    let report = report_of(&offline, &args.dir)?;
    let consume_queues = args.dir.join("consumequeue");
    let mut queues: Vec<_> = report.wrong_queues.iter().cloned().collect();
    if args.all {
        let listed = list_queues(&*offline.files, &consume_queues)?;
        queues = listed
            .into_iter()
            .flat_map(|(topic, ids)| ids.into_iter().map(move |id| (topic.clone(), id)))
            .collect();
    }
    let index = report.wrong_index || args.all;
    let mut plan: Vec<String> = queues
        .iter()
        .map(|(topic, queue_id)| format!("derive topic {topic}, queue {queue_id} again"))
        .chain(index.then(|| "derive the index again".to_owned()))
        .collect();
    if report.torn_tail_bytes > 0 {
        plan.push(format!("cut {} bytes behind the log's end at {}", report.torn_tail_bytes, report.log_end));
    }
    if plan.is_empty() {
        return output::print("nothing to repair");
    }
    let (title, ending) = match args.yes {
        true => ("At the next start:", "what is wrong was taken away"),
        false => ("At the next start, once it is repaired:", "nothing was changed; --yes does it"),
    };
    if args.yes {
        // What is missing is noted first: files that go unnoted would not be missed.
        offline.known.want_derived(&queues, index)?;
        let removed = |path: &Path| {
            let removed = offline.files.remove_dir_all(path);
            removed.map_err(|source| CliError::NotRemoved { path: path.to_owned(), source })
        };
        for (topic, queue_id) in &queues {
            removed(&queue_dir(&consume_queues, topic, *queue_id))?;
        }
        if index {
            removed(&args.dir.join("index"))?;
        }
    }
    output::print(&format!("{title}\n  {}\n{ending}", plan.join("\n  ")))
}

fn export_config(dir: &Path) -> Result<(), CliError> {
    let metadata_dir = dir.join("metadata");
    if !metadata_dir.is_dir() {
        return Err(CliError::NoStore { dir: dir.to_owned() });
    }
    let _lock = StoreLock::acquire(dir)?;
    let metadata = Metadata::open(&metadata_dir).map_err(java_export::JavaExportError::from)?;
    Ok(java_export::export(&DiskFiles, dir, &metadata)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::topic_config::TopicConfig;

    #[test]
    fn config_is_exported_unless_the_directory_is_in_use_or_holds_no_store() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        let error = export_config(&dir).unwrap_err();
        assert!(error.to_string().starts_with("no store of telstar in "), "{error}");
        assert!(!dir.exists());

        let metadata = Metadata::open(&dir.join("metadata")).unwrap();
        metadata.topics().unwrap().put(&TopicConfig::new("orders", 4)).unwrap();
        metadata.flush().unwrap();
        drop(metadata);
        let lock = StoreLock::acquire(&dir).unwrap();
        let error = export_config(&dir).unwrap_err();
        assert!(error.to_string().ends_with("is in use: stop its broker first"), "{error}");
        drop(lock);

        export_config(&dir).unwrap();
        let topics = std::fs::read_to_string(dir.join("config/topics.json")).unwrap();
        assert!(topics.contains(r#""orders""#), "{topics}");
    }
}
