//! Room for the commits of a member.
//!
//! It is taken for all that becomes of a commit, before anything does: the positions
//! and why they are refused, their records on the way into the log, and the answer
//! until the transport has it. A member may go in the middle of that, so the room
//! goes with the commit and not with the member's stream; the place of its call is
//! free again when the last of it is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use statecast_proto::v1;

use crate::group::GroupName;
use crate::server::answer_room::AnswerRoom;
use crate::server::call::Call;
use crate::server::memory::Held;

/// What a commit takes, besides its positions: bytes, about.
const PER_COMMIT: usize = 512;
/// What each of them takes, besides names, and when it is refused: bytes, about.
const PER_POSITION: usize = 400;
pub(super) const PER_REFUSAL: usize = 1024;

/// What a commit of a group takes at most, if all of it is refused: bytes, about.
pub(super) fn room_for(commit: &v1::Commit, group: &GroupName) -> usize {
    let names = |position: &v1::CommitPosition| group.as_str().len() + 2 * position.topic.len();
    let positions = commit.positions.iter();
    let positions = positions.map(|position| PER_POSITION + PER_REFUSAL + names(position));
    PER_COMMIT + positions.sum::<usize>()
}

/// What all commits of a member take.
#[derive(Debug, Clone)]
pub(super) struct MemberRoom(Arc<Mutex<AnswerRoom>>);

/// What one commit takes: given back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    of: MemberRoom,
    bytes: AtomicUsize,
}

impl MemberRoom {
    pub(super) fn new(call: Arc<Call>) -> MemberRoom {
        MemberRoom(Arc::new(Mutex::new(AnswerRoom::new(call))))
    }

    /// Takes so many bytes. If they aren't there yet, what brings them is to be
    /// waited for, and to be added.
    pub(super) fn take(&self, bytes: usize) -> (Room, Option<impl Future<Output = Held> + use<>>) {
        let missing = self.lock().add(bytes);
        let room = Room {
            of: self.clone(),
            bytes: AtomicUsize::new(bytes),
        };
        (room, missing)
    }

    /// Has more room.
    pub(super) fn grow(&self, more: Held) {
        self.lock().grow(more);
    }

    fn lock(&self) -> MutexGuard<'_, AnswerRoom> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// So many bytes go to the transport, which has room for them until they are
    /// sent.
    pub(super) fn hand_over(&self, bytes: usize) {
        let left = |left: usize| Some(left - bytes.min(left));
        let relaxed = Ordering::Relaxed;
        let before = self.bytes.fetch_update(relaxed, relaxed, left);
        let before = before.unwrap_or_else(|same| same);
        self.of.lock().hand_over(bytes.min(before));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.of.lock().remove(bytes);
    }
}
