//! Opens what the last check point left of timers, or begins anew.

use std::collections::HashSet;
use std::io;

use tracing::warn;

use super::journal::{JournalContent, JournalStep};
use super::manifest::Manifest;
use super::pending::PendingTimers;
use super::run::TimerRun;
use super::save::{Journal, TimerDir, run_bytes};
use crate::store::file::OpenMode;
use crate::types::PhysicalOffset;

/// What was opened.
#[derive(Debug)]
pub struct OpenedTimers {
    pub pending: PendingTimers,
    /// It lacks what the log tells below the position asked for: all of it is to be taken again.
    pub is_missing: bool,
}

/// Opens the files in `dir`. They are of use when they hold what the log tells up to `dispatched`, and nothing that the
/// log, which ends at `log_end`, does not have; otherwise they are removed.
pub fn open_timers(
    dir: TimerDir,
    dispatched: PhysicalOffset,
    log_end: PhysicalOffset,
) -> io::Result<OpenedTimers> {
    let (cause, is_there) = match read(&dir)? {
        Ok(pending) if pending.through >= dispatched && pending.through <= log_end => {
            return Ok(OpenedTimers { pending, is_missing: false });
        }
        Ok(_) => ("they end elsewhere than the check point", true),
        Err(cause) => (cause, dir.files.stat(&dir.path)?.is_some()),
    };
    if is_there {
        warn!(dir = %dir.path.display(), cause, "files of timers cannot be used");
    }
    dir.files.remove_dir_all(&dir.path)?;
    Ok(OpenedTimers { pending: PendingTimers::new(dir, PhysicalOffset(0)), is_missing: true })
}

impl PendingTimers {
    /// A log without timers below `through`.
    pub fn begin_at(&mut self, through: PhysicalOffset) {
        self.through = self.through.max(through);
    }
}

fn read(dir: &TimerDir) -> io::Result<Result<PendingTimers, &'static str>> {
    let Some(bytes) = dir.files.read(&dir.manifest_path())? else {
        return Ok(Err("the manifest is missing"));
    };
    let Some(manifest) = Manifest::decode(&bytes) else { return Ok(Err("the manifest is damaged")) };
    let mut pending = PendingTimers::new(dir.clone(), manifest.through);
    let mut known: HashSet<String> = HashSet::from(["manifest".to_owned()]);
    for (facts, from) in manifest.runs {
        let path = dir.run_path(facts.number);
        known.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        match dir.files.stat(&path)? {
            Some(stat) if stat.len_bytes == run_bytes(&facts) => {}
            _ => return Ok(Err("a run is missing or cut")),
        }
        let run = TimerRun::new(facts, dir.files.open(&path, OpenMode::Existing)?);
        if !run.is_sound()? {
            return Ok(Err("a run does not hold what was written to it"));
        }
        pending.runs.push(run.starting_at(from)?);
        pending.next_number = pending.next_number.max(facts.number + 1);
    }
    let path = dir.journal_path(manifest.journal);
    known.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    let Some(bytes) = dir.files.read(&path)? else { return Ok(Err("the journal is missing")) };
    pending.next_number = pending.next_number.max(manifest.journal + 1);
    pending.settled = manifest.settled.into_iter().collect();
    pending.counts = manifest.counts.into_iter().collect();
    let content = JournalContent::read(&bytes);
    for step in &content.steps {
        match step {
            JournalStep::Added(entry) => pending.add(*entry),
            JournalStep::Settled(settled) => drop(pending.settle(*settled)),
            JournalStep::Mark(_) => {}
        }
    }
    pending.through = content.through.unwrap_or(manifest.through).max(manifest.through);
    pending.save_through = pending.through;
    pending.journal = Some(Journal {
        number: manifest.journal,
        file: dir.files.open(&path, OpenMode::Existing)?,
        len_bytes: content.len_bytes,
        steps: content.steps.len() as u64,
    });
    for entry in dir.files.list(&dir.path)?.into_iter().filter(|entry| !known.contains(&entry.name)) {
        // Left behind by a save that did not end, or names of nobody's.
        if entry.name.ends_with(".run") || entry.name.ends_with(".journal") || entry.name == "manifest.new" {
            dir.files.remove_file(&dir.path.join(entry.name))?;
        }
    }
    Ok(Ok(pending))
}
