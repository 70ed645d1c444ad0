//! Has the kernel begin to write early what is flushed later.
//!
//! `syncfs` is the only call that begins it for many files at once, and it waits until
//! all is done. So a thread of its own makes that call, and nobody waits for it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// At most one such call at a time.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    is_under_way: Arc<AtomicBool>,
}

impl Writeback {
    /// Begins it for the file system that `root` lies in, unless it is under way.
    pub(super) fn begin(&self, root: &Path) {
        if self.is_under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        let under_way = UnderWay(self.is_under_way.clone());
        // The kernel tells each open file of an error once: with one of its own, this call
        // hides none from the flush that follows.
        let Ok(handle) = File::open(root) else {
            return;
        };
        // Without a thread, the flush does it all.
        let _ = thread::Builder::new()
            .name("writeback".to_owned())
            .spawn(move || {
                let _ = rustix::fs::syncfs(&handle);
                drop(under_way);
            });
    }
}

/// However the call ends, the next one may begin.
struct UnderWay(Arc<AtomicBool>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
