//! The archiver's other thread, which gives way to nobody.
//!
//! While few journal files wait, those who wait for an answer come first, and the
//! archiver takes what they leave of the processors. Where they leave nothing, the journal
//! would fill up, and all producers stand still until a whole pass is through. So a pass
//! that begins while many files wait is made by this thread. One thread can't do both:
//! whoever gave way once may not take that back.
//!
//! Invariant: there is one pass at a time, since the archiver waits for those that it
//! orders.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::engine::Shared;
use crate::storage::ArchiveError;

/// What became of a pass: how many files there were.
type Pass = Result<usize, ArchiveError>;

/// Where the archiver and its other thread meet.
#[derive(Debug, Default)]
pub(super) struct Haste {
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Turn {
    /// The thread isn't there.
    #[default]
    Absent,
    /// It waits.
    Idle,
    /// It is to make a pass.
    Ordered,
    /// It has made one.
    Made(Pass),
    /// It is to end.
    Over,
}

impl Haste {
    /// Has the other thread make a pass; `None` if there is none that could.
    fn order(&self) -> Option<Pass> {
        let mut turn = self.lock();
        if !matches!(*turn, Turn::Idle) {
            return None;
        }
        *turn = Turn::Ordered;
        self.changed.notify_all();
        let ordered = |turn: &mut Turn| matches!(turn, Turn::Ordered);
        let made = self.changed.wait_while(turn, ordered);
        let mut turn = made.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *turn, Turn::Idle) {
            Turn::Made(pass) => Some(pass),
            _ => unreachable!("what was ordered is made"),
        }
    }

    /// From now on the other thread makes passes.
    pub(super) fn begin(&self) {
        *self.lock() = Turn::Idle;
    }

    /// Makes what is ordered, until the archiver ends.
    fn serve(&self, mut make: impl FnMut() -> Pass) {
        while self.wait() {
            let pass = make();
            *self.lock() = Turn::Made(pass);
            self.changed.notify_all();
        }
    }

    /// Waits for an order; false when none will come any more.
    fn wait(&self) -> bool {
        let nothing = |turn: &mut Turn| matches!(turn, Turn::Idle | Turn::Made(_));
        let waited = self.changed.wait_while(self.lock(), nothing);
        let turn = waited.unwrap_or_else(PoisonError::into_inner);
        matches!(*turn, Turn::Ordered)
    }

    /// The archiver ends, and orders nothing more.
    pub(super) fn end(&self) {
        *self.lock() = Turn::Over;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Archives the oldest closed journal files, in haste if many wait.
    pub(super) fn archive_oldest(&self) -> Pass {
        let in_haste = || (!self.archiver_keeps_up()).then(|| self.haste.order());
        match in_haste().flatten() {
            Some(pass) => pass,
            None => self.storage.archive_oldest(self.clock.now_ms(), self),
        }
    }

    /// Makes passes that are ordered.
    pub(super) fn run_haste(&self) {
        let archive = || self.storage.archive_oldest(self.clock.now_ms(), self);
        self.haste.serve(archive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_is_made_by_the_other_thread_while_there_is_one() {
        let haste = Haste::default();
        assert!(haste.order().is_none(), "nobody is there");
        haste.begin();
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                let mut made = 0;
                haste.serve(|| {
                    made += 1;
                    match made {
                        3 => Err(ArchiveError::NoSpace("full".into())),
                        _ => Ok(made),
                    }
                });
                made
            });
            for nth in 1..=4 {
                match haste.order().expect("it is there") {
                    Ok(made) => assert_eq!(made, nth),
                    Err(_) => assert_eq!(nth, 3),
                }
            }
            haste.end();
            assert_eq!(maker.join().unwrap(), 4);
        });
        assert!(haste.order().is_none(), "nobody is there any more");
    }
}
