//! Looks at compacted logs that no broker uses, and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dirs::{COMPACTION_DIR, CompactedDirs, LOG_DIR, Part};
use super::opening::{is_blank, walk};
use super::unit::{CompactedUnit, UNIT_BYTES};
use crate::store::file::StoreFiles;
use crate::types::{QueueId, TopicName};

/// What was found in the compacted logs of a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompactedReport {
    pub queues: usize,
    pub records: u64,
    /// Files, and what is wrong with each.
    pub problems: Vec<(PathBuf, String)>,
}

/// Looks at the compacted logs of the store in `root`.
pub fn verify_compacted(files: &Arc<dyn StoreFiles>, root: &Path) -> io::Result<CompactedReport> {
    let mut report = CompactedReport::default();
    let logs = root.join(COMPACTION_DIR).join(LOG_DIR);
    for topic in files.list(&logs)?.into_iter().filter(|entry| entry.stat.is_dir) {
        for queue in files.list(&logs.join(&topic.name))? {
            let Ok(queue_id) = queue.name.parse() else { continue };
            let topic = TopicName::from(topic.name.as_str());
            verify_queue(&CompactedDirs::of(files.clone(), root, &topic, QueueId(queue_id)), &mut report)?;
        }
    }
    Ok(report)
}

fn verify_queue(dirs: &CompactedDirs, report: &mut CompactedReport) -> io::Result<()> {
    report.queues += 1;
    let mut last = None;
    for base in dirs.bases(Part::Log)? {
        let (log_path, index_path) = (dirs.path(Part::Log, base), dirs.path(Part::Index, base));
        let mut find = |path: &PathBuf, problem: String| report.problems.push((path.clone(), problem));
        if dirs.files.stat(&log_path)?.is_some_and(|stat| stat.len_bytes == 0) {
            continue; // made by a process that died; the next start sweeps it
        }
        let log = dirs.files.open_map(&log_path)?;
        let bytes = log.bytes(0..log.len());
        let walked = walk(bytes, 0, base, None);
        if !is_blank(bytes, walked.end) && bytes[walked.end..].iter().any(|byte| *byte != 0) {
            find(&log_path, format!("no whole message with a key at byte {}", walked.end));
        }
        let first = walked.units.first().map(|unit| unit.queue_offset);
        if first.is_some() && first <= last {
            find(&log_path, "its messages do not lie behind those of the file before".to_owned());
        }
        last = walked.units.last().map(|unit| unit.queue_offset).or(last);
        report.records += walked.units.len() as u64;
        let index = dirs.files.read(&index_path)?.unwrap_or_default();
        let listed: Vec<CompactedUnit> = index.chunks(UNIT_BYTES).map_while(CompactedUnit::decode).collect();
        let places = |units: &[CompactedUnit]| -> Vec<_> {
            units.iter().map(|unit| (unit.position, unit.size_bytes, unit.queue_offset)).collect()
        };
        // What was written to the log and not to the index is found by the next start.
        if !places(&walked.units).starts_with(&places(&listed)) {
            let problem = "its units do not lead to the messages beside; with the file away, it is made anew";
            report.problems.push((index_path, problem.to_owned()));
        }
    }
    Ok(())
}
