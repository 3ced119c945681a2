//! Makes one run of several, without what was settled meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::entry::{ENTRY_BYTES, TimerEntry, TimerKey};
use super::run::{RunFacts, TimerRun};
use super::save::TimerDir;
use crate::store::file::{OpenMode, StoreFile};
use crate::types::PhysicalOffset;

/// So many runs of about one size are merged.
const MERGED_RUNS: usize = 8;
/// Written at once, bytes.
const WRITE_BYTES: usize = 256 * 1024;

/// Which runs to merge, by their places: those of the smallest size of which there are enough, or all of them when too
/// much of what they hold is settled. A fresh run has about `run_entries`.
pub fn choose(runs: &[TimerRun], settled: usize, run_entries: u64) -> Option<Vec<usize>> {
    let held: u64 = runs.iter().map(|run| run.facts.count).sum();
    let is_stale = settled as u64 > 4 * run_entries && settled as u64 > held / 4;
    if is_stale {
        return Some((0..runs.len()).collect());
    }
    let size_of = |run: &TimerRun| (run.facts.count / run_entries).max(1).ilog(MERGED_RUNS as u64);
    let of_size = |size| (0..runs.len()).filter(move |at| size_of(&runs[*at]) == size).collect::<Vec<_>>();
    let mut sizes: Vec<_> = runs.iter().map(size_of).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.into_iter().map(of_size).find(|runs| runs.len() >= MERGED_RUNS)
}

/// Runs that become one.
#[derive(Debug)]
pub struct Merge {
    pub number: u64,
    /// Each with where it matters from.
    pub inputs: Vec<(RunFacts, Arc<dyn StoreFile>, TimerKey)>,
}

impl Merge {
    /// Writes the run, and tells which settled keys it dropped; `None` when nothing is left.
    pub fn run(
        self,
        dir: &TimerDir,
        settled: &BTreeSet<TimerKey>,
    ) -> io::Result<(Option<TimerRun>, Vec<TimerKey>)> {
        let open = |(facts, file, from)| TimerRun::new(facts, file).starting_at(from);
        let mut inputs = self.inputs.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut writer = RunWriter::create(dir, self.number)?;
        let mut dropped = Vec::new();
        loop {
            let mut first: Option<(usize, TimerEntry)> = None;
            for (number, run) in inputs.iter_mut().enumerate() {
                if let Some(head) = run.head()?
                    && first.is_none_or(|(_, first)| head.key < first.key)
                {
                    first = Some((number, head));
                }
            }
            let Some((number, entry)) = first else { break };
            inputs[number].pass_head();
            match settled.contains(&entry.key) {
                true => dropped.push(entry.key),
                false => writer.push(&entry)?,
            }
        }
        Ok((writer.finish()?, dropped))
    }
}

/// Writes a run, entry by entry.
pub struct RunWriter {
    facts: RunFacts,
    crc: crc32fast::Hasher,
    file: Arc<dyn StoreFile>,
    bytes: Vec<u8>,
    written_bytes: u64,
}

impl RunWriter {
    pub fn create(dir: &TimerDir, number: u64) -> io::Result<Self> {
        let file = dir.files.open(&dir.run_path(number), OpenMode::CreateMissing)?;
        file.set_len(0)?;
        let min_physical = PhysicalOffset(u64::MAX);
        let facts = RunFacts { number, count: 0, last: TimerKey::MIN, min_physical, crc: 0 };
        let crc = crc32fast::Hasher::new();
        Ok(Self { facts, crc, file, bytes: Vec::with_capacity(WRITE_BYTES), written_bytes: 0 })
    }

    pub fn push(&mut self, entry: &TimerEntry) -> io::Result<()> {
        debug_assert!(self.facts.count == 0 || self.facts.last < entry.key, "entries come in order, once");
        entry.put(&mut self.bytes);
        self.facts.count += 1;
        self.facts.last = entry.key;
        self.facts.min_physical = self.facts.min_physical.min(entry.physical_offset);
        if self.bytes.len() + ENTRY_BYTES > WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.written_bytes)?;
        self.crc.update(&self.bytes);
        self.written_bytes += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Makes it durable but for its name; `None` without entries.
    pub fn finish(mut self) -> io::Result<Option<TimerRun>> {
        self.write()?;
        self.file.sync()?;
        let facts = RunFacts { crc: self.crc.finalize(), ..self.facts };
        Ok((facts.count > 0).then(|| TimerRun::new(facts, self.file)))
    }
}
