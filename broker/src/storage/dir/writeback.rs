//! Has the kernel begin to write early what is flushed later.
//!
//! `syncfs` is the only call that begins it for many files at once, and it waits until
//! all is done. So a thread of its own makes that call. The kernel tells of some errors only
//! once: what this call hears of counts as if the flush that follows had, so that flush
//! asks with [`Writeback::finish`].

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// At most one such call at a time.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    call: Mutex<Call>,
}

#[derive(Debug, Default)]
enum Call {
    #[default]
    None,
    /// Perhaps done by now.
    Made(JoinHandle<io::Result<()>>),
    /// Nobody was told of it yet.
    Failed(io::Error),
}

impl Writeback {
    /// Begins it for the file system that `root` lies in, unless it is under way.
    pub(super) fn begin(&self, root: &Path) {
        let mut call = self.lock();
        if matches!(&*call, Call::Made(made) if !made.is_finished()) {
            return;
        }
        *call = match std::mem::take(&mut *call).end() {
            Ok(()) => make(root),
            Err(error) => Call::Failed(error),
        };
    }

    /// Waits for the call that is under way, if any; fails if one has failed.
    pub(super) fn finish(&self) -> io::Result<()> {
        std::mem::take(&mut *self.lock()).end()
    }

    fn lock(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    fn end(self) -> io::Result<()> {
        match self {
            Call::None => Ok(()),
            Call::Made(made) => {
                let panicked = |_| Err(io::Error::other("the thread that writes panicked"));
                made.join().unwrap_or_else(panicked)
            }
            Call::Failed(error) => Err(error),
        }
    }
}

/// Without a descriptor or a thread for it, the flush does it all.
fn make(root: &Path) -> Call {
    let Ok(handle) = File::open(root) else {
        return Call::None;
    };
    let call = move || rustix::fs::syncfs(&handle).map_err(io::Error::from);
    let made = thread::Builder::new()
        .name("writeback".to_owned())
        .spawn(call);
    made.map_or(Call::None, Call::Made)
}
