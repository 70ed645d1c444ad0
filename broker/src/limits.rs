//! Every bound on what clients may ask, and on the memory, files and disk that
//! the broker takes, with its unit. What a record batch may hold is bounded by the
//! codec that both ends share: `statecast_proto::batch::BatchLimits`. How large the
//! pieces are in which the archiver works stands with it.

mod state;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use state::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Length of a topic's name: bytes.
pub const TOPIC_NAME_BYTES: RangeInclusive<usize> = 1..=200;

/// Length of a producer's name: bytes.
pub const PRODUCER_NAME_BYTES: RangeInclusive<usize> = 1..=200;

/// Length of a `request_id`: bytes.
pub const REQUEST_ID_BYTES: RangeInclusive<usize> = 1..=64;

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC: RangeInclusive<u32> = 1..=10_000;

/// Partitions of all topics together. Each costs some memory and a directory.
pub const PARTITIONS: u32 = 100_000;

/// Size of a segment: bytes.
pub const SEGMENT_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;

/// Default size of a segment: bytes.
pub const DEFAULT_SEGMENT_BYTES: u64 = 128 << 20;

/// The largest batch that a topic takes: bytes.
pub const MAX_BATCH_BYTES: RangeInclusive<u32> = 1 << 10..=8 << 20;

/// Default of the largest batch that a topic takes: bytes.
pub const DEFAULT_MAX_BATCH_BYTES: u32 = 4 << 20;

/// How often a topic with a flush interval is made durable: milliseconds.
pub const FLUSH_INTERVAL_MS: RangeInclusive<u32> = 1..=3_600_000;

/// Default time that records are kept: milliseconds (7 days).
pub const DEFAULT_RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Default time that tombstones of a compacted topic stay after what they removed is
/// gone: milliseconds (1 day).
pub const DEFAULT_TOMBSTONE_GRACE_MS: u64 = 24 * 60 * 60 * 1000;

/// Share of a compacted topic's sealed segments that is written since the last pass
/// before there is another one: percent of their bytes. Half, as in Kafka: a partition
/// then has at most twice the bytes of what is kept, and each byte that comes in is
/// rewritten about once more for each doubling.
pub const MIN_DIRTY_PERCENT: u8 = 50;

/// Topics in one answer of `ListTopics`.
pub const PAGE_SIZE: RangeInclusive<u32> = 1..=1000;

/// Size of a gRPC message that is taken: bytes.
pub const MESSAGE_BYTES: usize = 16 * MIB;

/// Topics that a `ProduceStream` needs not look up for each batch. It holds on to them,
/// and to those of them that are deleted until it looks up others.
pub const TOPICS_PER_SENDER: usize = 1024;

/// Batches in one request of `ProduceStream`.
pub const BATCHES_PER_REQUEST: RangeInclusive<usize> = 1..=4096;

/// Bytes of all batches in one request of `ProduceStream`.
pub const REQUEST_BYTES: usize = 8 * MIB;

/// What the compressed batches of one request of `ProduceStream` unpack to: bytes.
pub const REQUEST_UNCOMPRESSED_BYTES: usize = 64 * MIB;

/// Compressed batches that unpack to more are checked off the runtime, which has
/// calls of others to serve: bytes, some hundreds of microseconds.
pub const CHECKED_IN_PLACE_BYTES: usize = 512 * KIB;

/// Such checks at the same time.
pub const CHECKS_OFF_RUNTIME: usize = 4;

/// Requests of one `ProduceStream` that wait for their acknowledgement.
pub const REQUESTS_IN_FLIGHT: usize = 1024;

/// Bytes of batches of one `ProduceStream` that wait for their acknowledgement;
/// one request is always let in.
pub const BYTES_IN_FLIGHT: usize = 8 * MIB;

/// Partitions that one `Fetch` names.
pub const PARTITIONS_PER_FETCH: usize = 10_000;

/// Bytes of batches in one response of `Fetch`.
pub const FETCH_BYTES: RangeInclusive<u32> = 1 << 10..=8 << 20;

/// Default bytes of batches in one response of `Fetch`.
pub const DEFAULT_FETCH_BYTES: u32 = 1 << 20;

/// What one partition gives of a response before others that are in line have their
/// turn: bytes, but at least one batch.
pub const TURN_BYTES: usize = 256 * KIB;

/// A `Fetch` that has nothing to say says so this often.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// A watch of the broker's health looks this often.
pub const HEALTH_WATCH: Duration = Duration::from_secs(1);

/// How long stopping waits for requests in flight.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long connections without a request may take to close when the broker
/// stops.
pub const FAREWELL: Duration = Duration::from_millis(250);

/// How long a connection may take to say what HTTP/2 begins with.
pub const GREETING: Duration = Duration::from_secs(10);

/// What a client should wait before it tries again what may pass soon.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Largest HTTP/2 frame that is taken: bytes. Four times the default halves the
/// cost of a byte; larger ones bring nothing more.
pub const HTTP2_FRAME_BYTES: u32 = 64 << 10;

/// HTTP/2 receive window of a stream: bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 2 << 20;

/// HTTP/2 receive window of a connection: bytes. What lies in it was not read by
/// the broker yet.
pub const HTTP2_CONNECTION_WINDOW: u32 = 8 << 20;

/// Connections that get these windows; further ones get narrow ones, so that the
/// sum of all windows stays bounded.
pub const WIDE_CONNECTIONS: usize = 32;

/// The receive window of a stream of further connections, at most: bytes. A
/// quarter of the connection's, as it is with wide ones.
pub const NARROW_STREAM_WINDOW: u32 = 128 << 10;

/// The receive window of further connections, at most: bytes. The HTTP/2 library
/// lets unread frames of a few bytes waste half of the window, 256 each, before it
/// takes them for an attack: this is the least that leaves room for one on each
/// of [`STREAMS_PER_CONNECTION`].
pub const NARROW_CONNECTION_WINDOW: u32 = 512 << 10;

/// Streams that one connection has open at a time.
pub const STREAMS_PER_CONNECTION: u32 = 1024;

/// Connections for gRPC at a time.
pub const MAX_CONNECTIONS: RangeInclusive<usize> = 1..=100_000;

/// Default of the connections for gRPC at a time.
pub const DEFAULT_MAX_CONNECTIONS: usize = 2048;

/// Open files that are for neither gRPC's connections nor [`GROWING_SEGMENTS`]: segments
/// that are read, the journal, the index, connections for HTTP. Half of all where there
/// are few.
pub const RESERVED_FILES: u64 = 1024;

/// Calls at a time, of all connections together, for each that there may be. A
/// call that waits for something takes some 20 KiB.
pub const CALLS_PER_CONNECTION: usize = 8;

/// Connections for HTTP at a time.
pub const HTTP_CONNECTIONS: usize = 64;

/// How long a connection for HTTP may be silent.
pub const HTTP_IDLE: Duration = Duration::from_secs(30);

/// After a connection could not be accepted for want of something, the next try
/// waits so long.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Messages that are being received, of all clients together: bytes. One that
/// comes whole in a single frame of HTTP/2 is not counted.
pub const RECEIVING_BYTES: usize = 128 * MIB;

/// What was read for readers and has not been sent, of all of them together:
/// bytes.
pub const SENDING_BYTES: usize = 256 * MIB;

/// What the calls of one connection have given to its transport that was not sent
/// yet: bytes. Beyond that the connection is crowded: a call of `Fetch` waits with its
/// next response until the last one was sent.
pub const UNSENT_BYTES: usize = 4 * MIB;

/// Responses of all calls of `Fetch` on a connection that is crowded: bytes, of which
/// each call has its share.
pub const CROWDED_FETCH_BYTES: usize = 8 * MIB;

/// The least that such a share comes to: bytes.
pub const LEAST_FETCH_SHARE: usize = 16 * KIB;

/// Answers of produce streams, and commits with their answers, that wait for the
/// log, or for a client that doesn't read them, of all clients together: bytes.
pub const ANSWERING_BYTES: usize = 64 * MIB;

/// What the answers of one stream take without asking: bytes.
pub const FREE_ANSWER_ROOM: usize = 16 * KIB;

/// In what steps the answers of a stream ask for more: bytes.
pub const ANSWER_ROOM_STEP: usize = 32 * KIB;

/// How long a client may keep others waiting for such memory without giving any
/// back.
pub const STALLED: Duration = Duration::from_secs(10);

/// Partitions that all readers together read. Each takes some 150 bytes.
pub const CURSORS: usize = 1 << 20;

/// How long a connection may take to answer an HTTP/2 ping.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time without traffic after which a connection is pinged.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// Memory for the pages of the metadata index: bytes.
pub const INDEX_CACHE_BYTES: u64 = 4 << 20;

/// Bytes of one read while the metadata is caught up from its log.
pub const METADATA_READ_BYTES: usize = 256 * KIB;

/// Changes of topics that wait for their turn.
pub const ADMIN_CALLS_IN_FLIGHT: usize = 64;

/// Producers that wait for their id.
pub const REGISTRATIONS_IN_FLIGHT: usize = 1024;

/// Memory that a sender's stream keeps for unpacking its next compressed batch:
/// bytes.
pub const KEPT_SCRATCH_BYTES: usize = 4 * MIB;

/// What HTTP/2 receive windows may be set to: bytes.
pub const HTTP2_WINDOWS: RangeInclusive<usize> = 65_535..=(1 << 31) - 1;

/// Threads that serve requests.
pub const THREADS: RangeInclusive<usize> = 1..=1024;

/// Size of a journal file: bytes.
pub const JOURNAL_FILE_BYTES: u32 = 64 << 20;

/// Journal files at most: what may be appended before the archiver has to be done
/// with it. The last one is for internal partitions.
pub const JOURNAL_FILES: usize = 16;

/// Journal files that are kept ready.
pub const JOURNAL_SPARES: usize = 3;

/// Batches in one journal file. Until it is archived, each takes some 10 bytes of
/// memory, and 60 more if it is its partition's first one in the file.
pub const BATCHES_PER_JOURNAL_FILE: usize = 160 << 10;

/// The tail of the journal that is kept in memory: bytes.
pub const TAIL_BYTES: usize = 32 * MIB;

/// Segments that are kept open for reading, of two files each.
pub const OPEN_SEGMENTS: usize = 256;

/// Segments that are kept open for writing while one pass of the archiver follows the
/// other, at most: as many as open files are left beside those of connections and
/// [`RESERVED_FILES`]. Should descriptors be short all the same, they are closed when the
/// archiver is who finds none.
pub const GROWING_SEGMENTS: usize = 16 << 10;

/// Batches that wait to be written, of all producers together: bytes.
pub const MAILBOX_BYTES: usize = 32 * MIB;

/// What one write to the journal takes: bytes, but at least one submission.
pub const GROUP_BYTES: usize = 2 * MIB;

/// Reads from disk at the same time.
pub const DISK_READS: usize = 16;

/// Batches that one read returns: bounds what tiny ones cost.
pub const BATCHES_PER_READ: usize = 8192;

/// Size of a segment of an internal partition that is compacted: bytes. Small, as only
/// sealed segments are compacted.
pub const COMPACTED_INTERNAL_SEGMENT_BYTES: u64 = 8 << 20;

/// What an internal partition has written since it was compacted, before it is again
/// whatever share that is: bytes.
pub const INTERNAL_DIRTY_BYTES: u64 = 64 << 20;

/// Memory for the keys of one compaction, of which there is one at a time: bytes.
/// Each key takes 32 to 48 of them. When there are more keys, it takes several passes.
pub const COMPACTION_KEY_BYTES: usize = 64 * MIB;

/// Records that compaction puts together to one batch, uncompressed: bytes, but at
/// least one record.
pub const COMPACTED_BATCH_BYTES: usize = 256 * KIB;

/// Damaged ranges that are remembered of a partition; reads report all of them.
pub const QUARANTINED_RANGES: usize = 1000;

/// Length of the name of a consumer group or of a member: bytes.
pub const GROUP_NAME_BYTES: RangeInclusive<usize> = 1..=200;

/// Members of one group, those included that may still come again.
pub const MEMBERS_PER_GROUP: usize = 10_000;

/// Topics and patterns that one member reads.
pub const SUBSCRIPTIONS_PER_MEMBER: RangeInclusive<usize> = 1..=100;

/// Different subscriptions among the members of one group: bounds the work of
/// finding out who may read what.
pub const SUBSCRIPTIONS_PER_GROUP: usize = 256;

/// How long a member may be silent: milliseconds.
pub const SESSION_TIMEOUT_MS: RangeInclusive<u32> = 1_000..=600_000;

/// Default of how long a member may be silent: milliseconds.
pub const DEFAULT_SESSION_TIMEOUT_MS: u32 = 10_000;

/// How long a member may take to give a partition back: milliseconds.
pub const REVOKE_TIMEOUT_MS: RangeInclusive<u32> = 0..=300_000;

/// Default of how long a member may take to give a partition back: milliseconds.
pub const DEFAULT_REVOKE_TIMEOUT_MS: u32 = 10_000;

/// Partitions are distributed anew when no member came or went for so long:
/// milliseconds.
pub const REBALANCE_QUIET_MS: u64 = 20;

/// Partitions are distributed anew at the latest so long after the first member
/// came or went: milliseconds.
pub const REBALANCE_DELAY_MS: u64 = 200;

/// After a start of the broker, the partitions of a group are first distributed when
/// as many members are there as before, or so long after the first of them came:
/// milliseconds.
pub const RETURN_DELAY_MS: u64 = 2_000;

/// When what was to be done at a time is done later than this, the broker was
/// stopped or starved, and members may have been heard of but for that:
/// milliseconds.
pub const TICK_LATENESS_MS: u64 = 1_000;

/// Consumer groups, those without members included.
pub const GROUPS: usize = 10_000;

/// Partitions of which groups have committed offsets, counted for each group. Each
/// takes some 80 bytes of memory.
pub const COMMITTED_OFFSETS: usize = 2_000_000;

/// How long a group that has no members keeps what it committed (7 days).
pub const OFFSETS_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// No group is forgotten so soon after the start of the broker, however long it was
/// off: members need time to come again, and the clock may be set right meanwhile.
pub const OFFSETS_GRACE: Duration = Duration::from_secs(60 * 60);

/// A group that couldn't be removed is tried again after so long.
pub const EXPIRY_RETRY: Duration = Duration::from_secs(60);

/// Messages that wait for a group's task.
pub const GROUP_MAILBOX: usize = 1024;

/// Messages that a group hears before it sends what it has to write.
pub const GROUP_MESSAGES_AT_ONCE: usize = 128;

/// Writes that one group has on their way into the log; while there are as many,
/// what follows gathers.
pub const GROUP_WRITES_IN_FLIGHT: usize = 16;

/// Records that go into the groups partition together; a single write may have more.
pub const GROUP_RECORDS_AT_ONCE: usize = 10_000;

/// Size of a batch of an internal partition that has several records, give or take
/// one: bytes.
pub const INTERNAL_BATCH_BYTES: usize = MIB;

/// Records in one batch of an internal partition.
pub const INTERNAL_BATCH_RECORDS: usize = 16_384;

/// Groups hear of topics that come and go at most this often.
pub const TOPICS_QUIET: Duration = Duration::from_millis(50);

/// Events that wait for a member's stream.
pub const MEMBER_OUTBOX: usize = 2048;

/// How long a member may hold records without committing any or taking more:
/// milliseconds.
pub const MAX_PROCESSING_TIME_MS: RangeInclusive<u32> = 1_000..=86_400_000;

/// Default of how long a member may hold records: milliseconds.
pub const DEFAULT_MAX_PROCESSING_TIME_MS: u32 = 300_000;

/// What a member calls itself: bytes.
pub const CLIENT_BYTES: usize = 200;

/// A member that has nothing to be told is told so this often.
pub const MEMBER_HEARTBEAT: Duration = Duration::from_secs(3);

/// Positions in one commit.
pub const POSITIONS_PER_COMMIT: RangeInclusive<usize> = 1..=10_000;

/// Commits of a member whose answers it hasn't taken; while there are as many, no
/// more of its requests are read.
pub const COMMITS_IN_FLIGHT: usize = 1024;

/// Positions of those commits; a single commit may have more than are left.
pub const COMMIT_POSITIONS_IN_FLIGHT: usize = 10_000;

/// Refused requests, other than commits, that a member hasn't been told of; while
/// there are as many, no more of its requests are read.
pub const REFUSALS_UNTOLD: usize = 16;

/// Partitions that one event names to a member; there are more events where there
/// are more.
pub const PARTITIONS_PER_EVENT: usize = 10_000;

/// Partitions in events that a member hasn't taken yet: up to 12 MiB of memory. A member
/// that doesn't read what it is told, for as long as that takes, has to go.
pub const PARTITIONS_UNTOLD: usize = 250_000;

/// Producers whose last batches a partition knows. Beyond that, those go that have
/// been silent for longest. Each takes 72 bytes of memory, and mostly
/// two more, ten at most, for each of the runs before its last one.
pub const PRODUCERS_PER_PARTITION: usize = 4096;

/// Runs of records that are known of a producer in a partition. A run goes on for
/// as long as no other batch comes between those of the producer, and to the end of
/// a journal file.
pub const RUNS_PER_PRODUCER: usize = 32;

/// What all partitions together know of producers: bytes. Beyond that, a partition
/// makes room for a producer by forgetting others of its own.
pub const PRODUCERS_BYTES: usize = 64 * MIB;

/// A producer that has appended nothing to a partition for so long is forgotten
/// there.
pub const PRODUCER_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a request with a name is remembered.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(10 * 60);

/// Requests with names that a partition remembers.
pub const REQUESTS_PER_PARTITION: usize = 10_000;

/// Requests with names that all partitions together remember; each takes some 70
/// bytes of memory.
pub const REQUESTS: usize = 500_000;

/// Names of producers that are remembered. Beyond that, those go that began the
/// longest ago.
pub const PRODUCER_NAMES: usize = 100_000;
