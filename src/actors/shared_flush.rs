//! A flush of the metadata that those who wait together share. State of the actor that writes; the flush itself runs
//! on another thread.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::aside::aside;
use crate::error::Refusal;
use crate::store::metadata::MetadataError;

/// Makes durable what was written; blocks.
pub type Flush = Arc<dyn Fn() -> Result<(), MetadataError> + Send + Sync>;
/// What became of a flush: done, or why not.
pub type Flushed = Result<(), Arc<str>>;

/// Who waits for a flush, and whether one is under way.
pub struct SharedFlush {
    flush: Flush,
    is_under_way: bool,
    /// Those who wait for a flush that has not begun.
    waiting: Vec<oneshot::Sender<Flushed>>,
}

impl SharedFlush {
    pub fn new(flush: Flush) -> Self {
        Self { flush, is_under_way: false, waiting: Vec::new() }
    }

    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Whether somebody waits for a flush that has not begun.
    pub fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Resolves when what was written so far is durable; the flush is for the owner to begin. `what`: as the refusal names it.
    pub fn wait(&mut self, what: &'static str) -> impl Future<Output = Result<(), Refusal>> + use<> {
        let (told, flushed) = oneshot::channel();
        self.waiting.push(told);
        async move {
            match flushed.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(cause)) => Err(Refusal::NotDurable { what, cause: cause.to_string() }),
                Err(_) => Err(Refusal::ShuttingDown),
            }
        }
    }

    /// Begins one for those who wait now, while none is under way; they are told by what is returned, and the owner calls
    /// [`end`](Self::end) then.
    pub fn begin(&mut self) -> impl Future<Output = Flushed> + use<> {
        debug_assert!(!self.is_under_way, "a second flush would claim what the first has yet to do");
        self.is_under_way = true;
        let flush = self.flush.clone();
        let waiting = std::mem::take(&mut self.waiting);
        let flushing = aside(move || flush().map_err(|error| error.to_string()));
        async move {
            // A thread that could not run is one more failed flush.
            let flushed = flushing.await.unwrap_or_else(|error| Err(error.to_string())).map_err(Arc::from);
            tell(waiting, &flushed);
            flushed
        }
    }

    /// The flush that was begun has ended.
    pub fn end(&mut self) {
        self.is_under_way = false;
    }

    /// Nothing can be flushed: tells those who wait why.
    pub fn fail(&mut self, cause: &str) {
        tell(std::mem::take(&mut self.waiting), &Err(cause.into()));
    }

    /// Flushes now; blocks.
    pub fn flush_now(&self) -> Result<(), MetadataError> {
        (self.flush)()
    }
}

fn tell(waiting: Vec<oneshot::Sender<Flushed>>, flushed: &Flushed) {
    for told in waiting {
        // Whoever asked may have stopped waiting.
        let _ = told.send(flushed.clone());
    }
}
