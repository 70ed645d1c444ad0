//! Bounds of what is true: views, watches, writes on conditions, leases.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{KIB, MIB};

/// What the keys of all compacted topics may take: bytes. A key of 30 bytes takes
/// some 130; beyond, the view of the topic is given up that a key is put into, and its log
/// goes on.
pub const VIEW_KEY_BYTES: usize = 1 << 30;

/// A view that was given up is tried again after so long.
pub const VIEW_REGAIN_AFTER: Duration = match cfg!(test) {
    true => Duration::from_millis(20),
    false => Duration::from_secs(60),
};

/// And not before so many times what it took to try: one in so many of its moments goes
/// into reading a log for nothing, and one topic is tried at a time.
pub const VIEW_REGAIN_SHARE: u32 = 10;

/// One that is tried again leaves others one part in so many of the memory for keys, so
/// that it pushes nobody out.
pub const VIEW_SPARE_SHARE: usize = 16;

/// What records beside the keys may take, so that they needn't be read: bytes. Those
/// that find no room are read from the log.
pub const VIEW_RECORD_BYTES: usize = 256 * MIB;

/// What a view reads and applies at a time: bytes, but at least one batch.
pub const VIEW_READ_BYTES: usize = 256 * KIB;

/// How long a call waits for a view to get as far as it wants.
pub const VIEW_WAIT: Duration = Duration::from_secs(10);

/// When a view tries again to read what the disk failed to.
pub const VIEW_RETRY: Duration = Duration::from_secs(1);

/// What waits for one watcher: bytes. One that is slower reads the log.
pub const WATCH_OUTBOX_BYTES: usize = MIB;

/// What waits for all watchers: bytes.
pub const WATCH_OUTBOXES_BYTES: usize = 64 * MIB;

/// A watcher that has nothing to hear is told how far it is this often.
pub const WATCH_HEARTBEAT: Duration = match cfg!(test) {
    true => Duration::from_millis(20),
    false => super::HEARTBEAT,
};

/// A message to a watcher holds so much, and one record more: bytes.
pub const WATCH_MESSAGE_BYTES: usize = 128 * KIB;

/// What a watcher that is behind reads of a partition at a time: bytes, but at least
/// one batch. A message to it holds no more changes, unpacked, and one record more.
pub const WATCH_READ_BYTES: usize = 256 * KIB;

/// Compressed batches of more than [`CHECKED_IN_PLACE_BYTES`](super::CHECKED_IN_PLACE_BYTES)
/// that views and watchers have unpacked at the same time.
pub const UNPACKED_AT_ONCE: usize = 4;

/// Unpacked batches that are kept for those who read them piece by piece: bytes in all.
/// A reader whose batch is gone reads it again.
pub const KEPT_BATCHES_BYTES: usize = 64 * MIB;

/// A smaller batch isn't kept: bytes.
pub const KEPT_BATCH_BYTES: usize = 64 * KIB;

/// Who reads records keeps so much room for the next one: bytes.
pub const RECORD_ROOM_BYTES: usize = 64 * KIB;

/// Watchers that read the log at the same time: each holds a batch meanwhile.
pub const WATCHERS_READING_AT_ONCE: usize = 8;

/// Calls of `Get` and `Scan` that do.
pub const LOOKUPS_READING_AT_ONCE: usize = 16;

/// Saved views that are read at the same time.
pub const VIEWS_RESTORED_AT_ONCE: usize = 4;

/// Calls that look into the past at the same time: each reads the log from its start.
pub const HISTORIES_AT_ONCE: usize = 4;

/// Keys that a snapshot looks at while others wait.
pub const SNAPSHOT_KEYS_PER_LOOK: usize = 4096;

/// The longest key of a record, and the longest prefix: bytes.
pub const KEY_BYTES: usize = 64 * KIB;

/// Keys that one `Put` changes, or one `Watch` names.
pub const KEYS_PER_CALL: usize = 1000;

/// Entries in one answer of `Scan`.
pub const SCAN_ENTRIES: RangeInclusive<u32> = 1..=10_000;

/// Default of entries in one answer of `Scan`.
pub const DEFAULT_SCAN_ENTRIES: u32 = 1000;

/// An answer of `Scan` ends once it has so much, but has at least one entry: bytes.
pub const SCAN_BYTES: usize = MIB;

/// What is read of the past at a time: bytes, but at least one batch.
pub const HISTORY_READ_BYTES: usize = MIB;

/// A view is saved after so many changes, or half as many as it has keys, whichever is
/// more: what a start has to fold again at most.
pub const VIEW_SAVE_CHANGES: u64 = 100_000;

/// When the broker stops, it is saved after so many.
pub const VIEW_SAVE_CHANGES_AT_STOP: u64 = if cfg!(test) { 1 } else { 1000 };

/// Leases at the same time.
pub const LEASES: usize = 100_000;

/// How long a lease may live without being kept alive: milliseconds.
pub const LEASE_TTL_MS: RangeInclusive<u64> = 1000..=86_400_000;

/// Leases that are ended at the same time. Each is looked for in all compacted topics.
pub const LEASES_ENDING_AT_ONCE: usize = 1024;

/// Writes that remove their keys at the same time.
pub const LEASE_WRITES_AT_ONCE: usize = 256;

/// How often keys are looked for that outlived their lease.
pub const LEASE_SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Leases of a partition that are looked at together for that.
pub const LEASES_SWEPT_AT_ONCE: usize = 1000;

/// Writes that remove such keys at the same time; ends of leases have the other turns.
pub const LEASE_SWEEP_WRITES_AT_ONCE: usize = 64;

/// The keys of a lease that one write removes: bytes, but at least one key.
pub const LEASE_WRITE_BYTES: usize = 128 * KIB;

/// How long the end of a lease waits for a view before others have their turn.
pub const LEASE_VIEW_WAIT: Duration = Duration::from_millis(100);

/// When the keys of a lease that is over couldn't be removed, it is tried again: soon at
/// first, and then this often.
pub const LEASE_RETRY: Duration = Duration::from_secs(1);

/// Batches that are appended all or none.
pub const UNIT_APPENDS: usize = 10_000;

/// Records of a partition whose keys are remembered until its view has them, so that
/// conditions on keys can be checked. Each takes 36 to 56 bytes of memory.
pub const RECENT_KEYS_PER_PARTITION: usize = 256 << 10;

/// Such records of all partitions together.
pub const RECENT_KEYS: usize = 1 << 20;

/// Such records of a partition when there are more in all.
pub const FEW_RECENT_KEYS: usize = 256;
