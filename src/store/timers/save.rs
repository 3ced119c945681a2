//! Brings what is pending to disk: a batch at the end of the journal, and now and then a new run and manifest.
//!
//! [`PendingTimers::begin_save`] says what is to be written, without waiting; [`SaveJob::run`] writes it, away from the
//! thread that delivers; [`PendingTimers::finish_save`] takes note. Only what lies below a position of the log that is
//! on disk is saved: when the power fails no entry is there that the log has not.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::entry::{ENTRY_BYTES, TimerEntry, TimerKey};
use super::journal::JournalStep;
use super::manifest::Manifest;
use super::merge::{Merge, RunWriter, choose};
use super::pending::PendingTimers;
use super::run::{RunFacts, TimerRun};
use crate::store::file::{OpenMode, StoreFile, StoreFiles};
use crate::types::PhysicalOffset;

/// Steps of a journal, after which a run is made of what is pending.
pub const JOURNAL_STEPS: u64 = 64 * 1024;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct TimerDir {
    pub files: Arc<dyn StoreFiles>,
    pub path: PathBuf,
    /// Steps that the journal has room for; tests have fewer.
    pub journal_steps: u64,
}

impl TimerDir {
    pub fn new(files: Arc<dyn StoreFiles>, path: PathBuf) -> Self {
        Self { files, path, journal_steps: JOURNAL_STEPS }
    }

    pub fn run_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.run"))
    }

    pub fn journal_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.journal"))
    }

    pub fn manifest_path(&self) -> PathBuf {
        self.path.join("manifest")
    }
}

/// The open journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pub number: u64,
    pub file: Arc<dyn StoreFile>,
    pub len_bytes: u64,
    pub steps: u64,
}

/// What a save writes.
#[derive(Debug)]
pub struct SaveJob {
    dir: TimerDir,
    /// Records it covers.
    records: usize,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Append { journal: Journal, bytes: Vec<u8> },
    Rotate(Box<Rotation>),
}

#[derive(Debug)]
struct Rotation {
    manifest: Manifest,
    /// For a new run, in order.
    entries: Vec<TimerEntry>,
    run_number: u64,
    merge: Option<Merge>,
    obsolete: Vec<PathBuf>,
}

/// What a save has written.
#[derive(Debug)]
pub struct Saved {
    records: usize,
    written: Written,
}

#[derive(Debug)]
enum Written {
    Appended(Journal),
    Rotated(Box<Rotated>),
}

#[derive(Debug)]
struct Rotated {
    run: Option<TimerRun>,
    /// Those of the run.
    entries: Vec<TimerEntry>,
    merged: Option<Merged>,
    journal: Journal,
}

/// A run that takes the place of others.
#[derive(Debug)]
struct Merged {
    run: Option<TimerRun>,
    replaces: Vec<u64>,
    dropped: Vec<TimerKey>,
}

impl PendingTimers {
    /// Everything below `through` is to be saved; it is on disk in the log. One save at a time.
    pub fn begin_save(&mut self, through: PhysicalOffset) -> SaveJob {
        let through = through.max(self.save_through);
        self.save_through = through;
        let records = self.unsaved.iter().take_while(|unsaved| unsaved.at < through).count();
        let mut bytes = Vec::new();
        let mut steps = 1;
        for unsaved in self.unsaved.iter().take(records) {
            let settled = unsaved.settles.map(JournalStep::Settled);
            for step in settled.into_iter().chain(unsaved.adds.map(JournalStep::Added)) {
                step.put(&mut bytes);
                steps += 1;
            }
        }
        JournalStep::Mark(through).put(&mut bytes);
        let work = match &self.journal {
            Some(journal) if journal.steps + steps <= self.dir.journal_steps => {
                let journal = Journal { steps: journal.steps + steps, ..journal.clone() };
                Work::Append { journal, bytes }
            }
            _ => Work::Rotate(Box::new(self.rotation(through, records))),
        };
        SaveJob { dir: self.dir.clone(), records, work }
    }

    fn rotation(&mut self, through: PhysicalOffset, records: usize) -> Rotation {
        // What the log may yet lose is as if it had not happened.
        let later: Vec<_> = self.unsaved.iter().skip(records).collect();
        let later_settled: BTreeSet<_> =
            later.iter().filter_map(|later| later.settles).map(|settled| settled.key).collect();

        let of_out = self.out.values().filter(|out| !out.in_run).map(|out| out.entry);
        let of_later = later.iter().filter_map(|later| later.removed);
        let mut entries: Vec<_> = self.recent.values().copied().chain(of_out).chain(of_later).collect();
        entries.retain(|entry| entry.physical_offset < through);
        entries.sort_unstable_by_key(|entry| entry.key);

        let mut counts = self.counts.clone();
        for later in &later {
            if let Some(settled) = later.settles {
                *counts.entry(settled.topic_hash).or_default() += 1;
            }
            if let Some(entry) = later.adds {
                *counts.entry(entry.topic_hash).or_default() -= 1;
            }
        }

        let of_out = self.out.iter().filter(|(_, out)| out.in_run).map(|(key, _)| *key).min();
        let unsure = of_out.into_iter().chain(later_settled.first().copied()).min();
        let mut obsolete = Vec::new();
        self.runs.retain_mut(|run| {
            // A file that cannot be read is kept as it is.
            let head = run.head().map_or(Some(run.from), |head| head.map(|head| head.key));
            let settled_before = head.into_iter().chain(unsure).min();
            let is_needed = settled_before.is_some_and(|key| key <= run.facts.last);
            match settled_before {
                Some(key) if is_needed => run.from = run.from.max(key),
                _ => obsolete.push(self.dir.run_path(run.facts.number)),
            }
            is_needed
        });
        self.settled = match self.runs.iter().map(|run| run.from).min() {
            Some(from) => self.settled.split_off(&from),
            None => BTreeSet::new(),
        };
        let settled: Vec<_> = self.settled.difference(&later_settled).copied().collect();
        obsolete.extend(self.journal.iter().map(|journal| self.dir.journal_path(journal.number)));

        let merge = choose(&self.runs, settled.len(), self.dir.journal_steps).map(|chosen| Merge {
            number: self.number(),
            inputs: chosen
                .iter()
                .map(|at| &self.runs[*at])
                .map(|run| (run.facts, run.file.clone(), run.from))
                .collect(),
        });
        let merged = |number: u64| {
            merge.as_ref().is_some_and(|merge| merge.inputs.iter().any(|(facts, ..)| facts.number == number))
        };
        let kept = self.runs.iter().filter(|run| !merged(run.facts.number));
        let manifest = Manifest {
            through,
            journal: 0,
            runs: kept.map(|run| (run.facts, run.from)).collect(),
            settled,
            counts: counts.into_iter().filter(|(_, pending)| *pending != 0).collect(),
        };
        obsolete.extend(
            merge.iter().flat_map(|merge| &merge.inputs).map(|(facts, ..)| self.dir.run_path(facts.number)),
        );
        let run_number = self.number();
        let manifest = Manifest { journal: self.number(), ..manifest };
        Rotation { manifest, entries, run_number, merge, obsolete }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Takes note of what was written; without it, everything is written anew with the next save: after a sync that
    /// failed nobody knows what the old files hold.
    pub fn finish_save(&mut self, saved: Option<Saved>) {
        let Some(Saved { records, written }) = saved else {
            self.journal = None;
            return;
        };
        self.unsaved.drain(..records);
        let Rotated { run, entries, merged, journal } = match written {
            Written::Appended(journal) => {
                self.journal = Some(journal);
                return;
            }
            Written::Rotated(rotated) => *rotated,
        };
        self.journal = Some(journal);
        let is_in_run = |entry: &TimerEntry| entries.binary_search_by_key(&entry.key, |e| e.key).is_ok();
        for unsaved in &mut self.unsaved {
            unsaved.removed = unsaved.removed.filter(|entry| !is_in_run(entry));
        }
        for entry in &entries {
            if self.recent.remove(&entry.key).is_none() {
                match self.out.get_mut(&entry.key) {
                    Some(out) => out.in_run = true,
                    // Settled while the run was written.
                    None => drop(self.settled.insert(entry.key)),
                }
            }
        }
        if let Some(Merged { run, replaces, dropped }) = merged {
            self.runs.retain(|run| !replaces.contains(&run.facts.number));
            self.runs.extend(run);
            for key in dropped {
                self.settled.remove(&key);
            }
        }
        self.runs.extend(run);
    }
}

impl SaveJob {
    /// Writes, and waits for the disk.
    pub fn run(self) -> io::Result<Saved> {
        let written = match self.work {
            Work::Append { mut journal, bytes } => {
                journal.file.write_all_at(&bytes, journal.len_bytes)?;
                journal.file.sync()?;
                journal.len_bytes += bytes.len() as u64;
                Written::Appended(journal)
            }
            Work::Rotate(rotation) => Written::Rotated(Box::new(rotation.run(&self.dir)?)),
        };
        Ok(Saved { records: self.records, written })
    }
}

impl Rotation {
    fn run(self, dir: &TimerDir) -> io::Result<Rotated> {
        let Self { mut manifest, entries, run_number, merge, obsolete } = self;
        dir.files.create_dir_all(&dir.path)?;
        let run = match entries.is_empty() {
            true => None,
            false => {
                let mut writer = RunWriter::create(dir, run_number)?;
                entries.iter().try_for_each(|entry| writer.push(entry))?;
                writer.finish()?
            }
        };
        let merged = match merge {
            None => None,
            Some(merge) => {
                let replaces = merge.inputs.iter().map(|(facts, ..)| facts.number).collect();
                let settled: BTreeSet<_> = manifest.settled.iter().copied().collect();
                let (run, dropped) = merge.run(dir, &settled)?;
                let gone: BTreeSet<_> = dropped.iter().collect();
                manifest.settled.retain(|key| !gone.contains(key));
                Some(Merged { run, replaces, dropped })
            }
        };
        let fresh = run.iter().chain(merged.iter().filter_map(|merged| merged.run.as_ref()));
        manifest.runs.extend(fresh.map(|run| (run.facts, TimerKey::MIN)));
        let path = dir.journal_path(manifest.journal);
        let file = dir.files.open(&path, OpenMode::CreateMissing)?;
        file.set_len(0)?;
        file.sync()?;
        let draft = dir.path.join("manifest.new");
        let draft_file = dir.files.open(&draft, OpenMode::CreateMissing)?;
        draft_file.set_len(0)?;
        draft_file.write_all_at(&manifest.encode(), 0)?;
        draft_file.sync()?;
        dir.files.sync_dir(&dir.path)?;
        dir.files.rename(&draft, &dir.manifest_path())?;
        dir.files.sync_dir(&dir.path)?;
        for path in obsolete {
            // One that stays is removed at the next start.
            let _ = dir.files.remove_file(&path);
        }
        let journal = Journal { number: manifest.journal, file, len_bytes: 0, steps: 0 };
        Ok(Rotated { run, entries, merged, journal })
    }
}

/// Length of a run of `facts`.
pub fn run_bytes(facts: &RunFacts) -> u64 {
    facts.count * ENTRY_BYTES as u64
}
