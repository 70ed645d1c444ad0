//! What a watcher is to be told and hasn't taken yet: bounded, and dropped when the
//! watcher is too slow. It then reads the log by itself, from where it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ViewError;
use super::decode::Change;
use crate::limits;
use crate::model::Offset;

/// The memory of the outboxes of all watchers.
#[derive(Debug)]
pub(super) struct OutboxMemory {
    used: AtomicUsize,
    limit: usize,
}

impl OutboxMemory {
    /// With so many bytes.
    pub(super) fn new(limit: usize) -> OutboxMemory {
        OutboxMemory {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let within = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Something that a watcher is told.
#[derive(Debug, Clone)]
pub(super) enum News {
    Change(Change),
    /// Retention removed what lies below.
    Truncated {
        partition: u32,
        start: Offset,
    },
    /// The views were so far when this was added: the watcher asked for it.
    Reached(Vec<Offset>),
}

impl News {
    /// Bytes that it takes in memory, about.
    fn size(&self) -> usize {
        match self {
            News::Change(change) => change.size(),
            News::Truncated { .. } => size_of::<News>(),
            News::Reached(offsets) => size_of::<News>() + size_of_val(&offsets[..]),
        }
    }
}

/// What a watcher finds in its outbox.
#[derive(Debug)]
pub(super) enum Taken {
    /// Some of the oldest: one that isn't a change, or changes that go into a message.
    News(Vec<News>),
    /// It was too slow: something was dropped, and it is told nothing any more.
    Overflowed,
    /// There is nothing to be told any more.
    Ended(ViewError),
}

/// What a watcher is to be told.
#[derive(Debug)]
pub(super) struct Outbox {
    memory: Arc<OutboxMemory>,
    content: Mutex<Content>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Content {
    news: VecDeque<News>,
    bytes: usize,
    overflowed: bool,
    ended: Option<ViewError>,
}

impl Outbox {
    pub(super) fn new(memory: Arc<OutboxMemory>) -> Outbox {
        Outbox {
            memory,
            content: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Adds something, or drops everything if there is no room.
    pub(super) fn push(&self, news: News) {
        let mut content = self.lock();
        if content.overflowed || content.ended.is_some() {
            return;
        }
        let bytes = news.size();
        let has_room = content.bytes + bytes <= limits::WATCH_OUTBOX_BYTES;
        if has_room && self.memory.take(bytes) {
            content.news.push_back(news);
            content.bytes += bytes;
        } else {
            self.drop_all(&mut content);
        }
        drop(content);
        self.filled.notify_one();
    }

    /// Drops everything, as if there had been no room.
    pub(super) fn overflow(&self) {
        self.drop_all(&mut self.lock());
        self.filled.notify_one();
    }

    fn drop_all(&self, content: &mut Content) {
        self.memory.give(content.bytes);
        *content = Content {
            overflowed: true,
            ended: content.ended.take(),
            ..Content::default()
        };
    }

    /// Says that nothing comes any more.
    pub(super) fn end(&self, why: ViewError) {
        self.lock().ended = Some(why);
        self.filled.notify_one();
    }

    /// Takes some of what there is. The rest stays, to be dropped if there is no room.
    pub(super) fn take(&self) -> Taken {
        let mut content = self.lock();
        if content.overflowed {
            return Taken::Overflowed;
        }
        if content.news.is_empty()
            && let Some(why) = &content.ended
        {
            return Taken::Ended(why.clone());
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(news) = content.news.front() {
            let is_change = matches!(news, News::Change(_));
            if bytes >= limits::WATCH_MESSAGE_BYTES || (!is_change && !taken.is_empty()) {
                break;
            }
            bytes += news.size();
            taken.extend(content.news.pop_front());
            if !is_change {
                break;
            }
        }
        content.bytes -= bytes;
        self.memory.give(bytes);
        Taken::News(taken)
    }

    /// Waits until there is something.
    pub(super) async fn filled(&self) {
        loop {
            let filled = self.filled.notified();
            let has_some = {
                let content = self.lock();
                !content.news.is_empty() || content.overflowed || content.ended.is_some()
            };
            if has_some {
                return;
            }
            filled.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.memory.give(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn change(bytes: usize) -> News {
        News::Change(Change {
            partition: 0,
            offset: Offset::ZERO,
            key: Bytes::from(vec![0; bytes]),
            body: Bytes::new(),
            is_tombstone: true,
        })
    }

    #[test]
    fn one_that_is_full_is_dropped_and_stays_so() {
        let memory = Arc::new(OutboxMemory::new(usize::MAX));
        let outbox = Outbox::new(memory.clone());
        outbox.push(change(10));
        assert!(matches!(outbox.take(), Taken::News(news) if news.len() == 1));
        outbox.push(change(limits::WATCH_OUTBOX_BYTES / 2));
        outbox.push(change(limits::WATCH_OUTBOX_BYTES / 2));
        assert!(matches!(outbox.take(), Taken::Overflowed));
        outbox.push(change(1));
        assert!(matches!(outbox.take(), Taken::Overflowed));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_taken_goes_into_a_message_and_the_rest_stays_counted() {
        let memory = Arc::new(OutboxMemory::new(usize::MAX));
        let outbox = Outbox::new(memory.clone());
        let truncated = News::Truncated {
            partition: 0,
            start: Offset(7),
        };
        let half = limits::WATCH_MESSAGE_BYTES / 2;
        for news in [change(half), change(half), change(1), truncated, change(1)] {
            outbox.push(news);
        }
        let rest = 2 * (size_of::<Change>() + 1) + size_of::<News>();
        let mut counts = Vec::new();
        for _ in 0..5 {
            let Taken::News(news) = outbox.take() else {
                panic!("there is room");
            };
            if counts.is_empty() {
                assert_eq!(memory.used.load(Ordering::Relaxed), rest);
            }
            counts.push(news.len());
        }
        assert_eq!(counts, [2, 1, 1, 1, 0]);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_together_are_bounded_too() {
        let memory = Arc::new(OutboxMemory::new(1000));
        let outboxes = [Outbox::new(memory.clone()), Outbox::new(memory.clone())];
        outboxes[0].push(change(600));
        outboxes[1].push(change(600));
        assert!(matches!(outboxes[1].take(), Taken::Overflowed));
        drop(outboxes);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
