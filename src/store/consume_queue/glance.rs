//! A look at the files of a queue that nobody has opened, which changes nothing: retention asks about thousands of
//! idle queues, and opening each would keep it open for good.

use std::path::PathBuf;
use std::sync::Arc;

use super::segments::Segments;
use super::{ConsumeQueue, ConsumeQueueConfig, ConsumeQueueError};
use crate::store::file::StoreFiles;
use crate::types::{PhysicalOffset, QueueOffset};

/// A queue as its files are at this moment. Its owner may open it meanwhile: what is seen is then a little old.
#[derive(Debug)]
pub struct QueueGlance(ConsumeQueue);

impl QueueGlance {
    pub fn at(
        files: Arc<dyn StoreFiles>,
        dir: PathBuf,
        config: ConsumeQueueConfig,
    ) -> Result<Self, ConsumeQueueError> {
        let mut segments = Segments::look(files, dir, config.segment_units)?;
        let max = segments.find_end(|_unit| true)?;
        ConsumeQueue::of(segments, max, config).map(Self)
    }

    /// See [`ConsumeQueue::locate`].
    pub fn locate(&mut self, offset: QueueOffset) -> Result<Option<PhysicalOffset>, ConsumeQueueError> {
        self.0.locate(offset)
    }

    /// The first unit whose message does not lie before `position`.
    pub fn first_at(&mut self, position: PhysicalOffset) -> Result<QueueOffset, ConsumeQueueError> {
        self.0.search(|unit| unit.physical_offset < position)
    }

    /// Whether the first of several files holds only messages before `log_min`.
    pub fn has_deletable_file(&mut self, log_min: PhysicalOffset) -> Result<bool, ConsumeQueueError> {
        let Some(last) = self.0.segments.last_of_first_segment() else { return Ok(false) };
        let unit = self.0.segments.read_one(last)?;
        Ok(unit.is_filler() || unit.physical_offset < log_min)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::consume_queue::ConsumeQueueUnit;
    use crate::store::memory_files::MemoryFiles;

    const CONFIG: ConsumeQueueConfig = ConsumeQueueConfig { segment_units: 4, max_unwritten_units: 0 };

    fn glance(files: &MemoryFiles) -> QueueGlance {
        QueueGlance::at(Arc::new(files.clone()), "/q".into(), CONFIG).unwrap()
    }

    #[test]
    fn sees_what_the_files_hold_and_leaves_them_as_they_are() {
        let files = MemoryFiles::new();
        let mut queue = ConsumeQueue::open(Arc::new(files.clone()), "/q".into(), CONFIG, None).unwrap();
        assert_eq!(glance(&files).locate(QueueOffset(0)).unwrap(), None, "there is nothing yet");
        let unit = |n: u64| ConsumeQueueUnit {
            physical_offset: PhysicalOffset(n * 100),
            size_bytes: 100,
            tags_code: 0,
        };
        queue.append(QueueOffset(2), &(2..10).map(unit).collect::<Vec<_>>()).unwrap();

        let mut seen = glance(&files);
        assert_eq!(seen.locate(QueueOffset(0)).unwrap(), Some(PhysicalOffset(200)), "the first there is");
        assert_eq!(seen.locate(QueueOffset(9)).unwrap(), Some(PhysicalOffset(900)));
        assert_eq!(seen.locate(QueueOffset(10)).unwrap(), None);
        assert_eq!(seen.first_at(PhysicalOffset(450)).unwrap(), QueueOffset(5));
        assert!(!seen.has_deletable_file(PhysicalOffset(300)).unwrap());
        assert!(seen.has_deletable_file(PhysicalOffset(301)).unwrap());

        // A file that its owner is just making is neither deleted nor completed.
        let half_made = Path::new("/q").join(format!("{:020}", 3 * 80));
        files.open(&half_made, crate::store::file::OpenMode::CreateNew).unwrap();
        assert_eq!(glance(&files).locate(QueueOffset(9)).unwrap(), Some(PhysicalOffset(900)));
        assert_eq!(files.stat(&half_made).unwrap().unwrap().len_bytes, 0);
    }
}
