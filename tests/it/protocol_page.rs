//! `docs/protocol.md` agrees with the code. Its table of reasons is compared
//! next to that of the code, in the protocol crate.

use std::ops::RangeInclusive;
use std::path::Path;

use statecast_broker::limits;
use statecast_proto::batch::BatchLimits;

const PYTHON_FILES: [&str; 4] = ["client.py", "batches.py", "consumer.py", "state.py"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/protocol.md")).unwrap()
}

#[test]
fn python_on_the_page_is_that_of_the_files() {
    let page = page();
    for file in PYTHON_FILES {
        let source =
            std::fs::read_to_string(root().join("docs/examples/python").join(file)).unwrap();
        assert!(
            page.contains(&format!("```python\n{source}```\n")),
            "{file}"
        );
    }
}

/// `8388608` as `8 MiB`.
fn bytes(count: usize) -> String {
    match count {
        count if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        count => format!("{} KiB", count >> 10),
    }
}

/// `65536` as `65,536`.
fn number(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", number(count / 1000), count % 1000),
    }
}

fn range<T: Copy + TryInto<usize>>(range: &RangeInclusive<T>, show: fn(usize) -> String) -> String {
    let show = |bound: T| show(bound.try_into().ok().expect("limits are small"));
    format!("{} to {}", show(*range.start()), show(*range.end()))
}

#[test]
fn limits_on_the_page_are_those_of_the_code() {
    let batch = BatchLimits::DEFAULT;
    let count = |count: u32| number(count as usize);
    let default = |default: u32| bytes(default as usize);
    let expected = [
        ("name of a topic", range(&limits::TOPIC_NAME_BYTES, number)),
        (
            "name of a producer",
            range(&limits::PRODUCER_NAME_BYTES, number),
        ),
        ("epoch of a producer", number(usize::from(u16::MAX))),
        (
            "`request_id` of `Produce`",
            range(&limits::REQUEST_ID_BYTES, number),
        ),
        (
            "partitions of a topic",
            range(&limits::PARTITIONS_PER_TOPIC, number),
        ),
        ("partitions of all topics", count(limits::PARTITIONS)),
        ("records of a batch", count(batch.max_records)),
        (
            "a batch",
            format!(
                "`max_batch_bytes` of its topic: {}, by default {}",
                range(&limits::MAX_BATCH_BYTES, bytes),
                default(limits::DEFAULT_MAX_BATCH_BYTES)
            ),
        ),
        (
            "the records of a batch, uncompressed",
            bytes(batch.max_uncompressed),
        ),
        ("a record, encoded", bytes(batch.max_record)),
        ("a key", bytes(batch.max_key)),
        ("headers of a record", count(batch.max_headers)),
        (
            "name of a header",
            format!("1 to {} bytes of UTF-8", batch.max_header_name),
        ),
        (
            "batches of a request of `ProduceStream`",
            range(&limits::BATCHES_PER_REQUEST, number),
        ),
        (
            "all batches of such a request",
            bytes(limits::REQUEST_BYTES),
        ),
        (
            "its compressed batches, uncompressed",
            bytes(limits::REQUEST_UNCOMPRESSED_BYTES),
        ),
        (
            "`max_bytes` of `Fetch`",
            format!(
                "{}, by default {}",
                range(&limits::FETCH_BYTES, bytes),
                default(limits::DEFAULT_FETCH_BYTES)
            ),
        ),
        (
            "partitions that a `Fetch` or `ListOffsets` names",
            number(limits::PARTITIONS_PER_FETCH),
        ),
        (
            "`page_size` of `ListTopics` and `ListGroups`",
            range(&limits::PAGE_SIZE, number),
        ),
    ];
    let page = page();
    for (what, bound) in expected {
        let row = format!("| {what} | {bound}");
        assert!(page.contains(&row), "a row begins with: {row}");
    }
}

#[test]
fn bounds_in_the_text_are_those_of_the_code() {
    let page = page();
    let heartbeat = limits::MEMBER_HEARTBEAT.as_secs();
    let heartbeat = format!("nothing else was said for {heartbeat} seconds");
    assert!(page.contains(&heartbeat), "{heartbeat}");
    let days = limits::OFFSETS_RETENTION.as_secs() / 86_400;
    let retention = format!("Without members it is kept for {days} days");
    assert!(page.contains(&retention), "{retention}");
    let in_flight = format!(
        "With {} requests or {} on their way",
        number(limits::REQUESTS_IN_FLIGHT),
        bytes(limits::BYTES_IN_FLIGHT)
    );
    assert!(page.contains(&in_flight), "{in_flight}");
    let commits = format!(
        "With {} commits, or {} positions of commits,",
        number(limits::COMMITS_IN_FLIGHT),
        number(limits::COMMIT_POSITIONS_IN_FLIGHT)
    );
    assert!(page.contains(&commits), "{commits}");
    let message = format!("A gRPC message over {}", bytes(limits::MESSAGE_BYTES));
    assert!(page.contains(&message), "{message}");
    let heartbeat = format!("said for {} seconds", limits::HEARTBEAT.as_secs());
    assert!(page.contains(&heartbeat), "{heartbeat}");
}

#[test]
fn what_is_remembered_of_producers_is_that_of_the_code() {
    let page = page();
    let minutes = limits::REQUEST_MEMORY.as_secs() / 60;
    let remembered = [
        format!(
            "The broker remembers {} names",
            number(limits::PRODUCER_NAMES)
        ),
        format!(
            "knows up to {} producers",
            number(limits::PRODUCERS_PER_PARTITION)
        ),
        format!("the last {} runs", limits::RUNS_PER_PRODUCER),
        format!(
            "for {} hours, in which",
            limits::PRODUCER_IDLE.as_secs() / 3600
        ),
        format!("know more than {}", bytes(limits::PRODUCERS_BYTES)),
        format!(
            "the last {} such requests, for {minutes} minutes",
            number(limits::REQUESTS_PER_PARTITION)
        ),
        format!("together remember {}.", number(limits::REQUESTS)),
    ];
    let flowing = page.replace('\n', " ");
    for remembered in remembered {
        assert!(flowing.contains(&remembered), "{remembered}");
    }
}

#[test]
fn limits_of_groups_on_the_page_are_those_of_the_code() {
    let with_default = |bounds, default: u32| {
        let bounds = range::<u32>(&bounds, number);
        format!("{bounds}, by default {}", number(default as usize))
    };
    let max_bytes = limits::DEFAULT_FETCH_BYTES as usize;
    let expected = [
        ("groups", number(limits::GROUPS)),
        (
            "name of a group or member",
            range(&limits::GROUP_NAME_BYTES, number),
        ),
        ("members of a group", number(limits::MEMBERS_PER_GROUP)),
        (
            "topics and patterns of a member",
            range(&limits::SUBSCRIPTIONS_PER_MEMBER, number),
        ),
        (
            "different lists of topics in a group",
            number(limits::SUBSCRIPTIONS_PER_GROUP),
        ),
        (
            "`session_timeout_ms`",
            with_default(
                limits::SESSION_TIMEOUT_MS,
                limits::DEFAULT_SESSION_TIMEOUT_MS,
            ),
        ),
        (
            "`revoke_timeout_ms`",
            with_default(limits::REVOKE_TIMEOUT_MS, limits::DEFAULT_REVOKE_TIMEOUT_MS),
        ),
        (
            "`max_processing_time_ms`",
            with_default(
                limits::MAX_PROCESSING_TIME_MS,
                limits::DEFAULT_MAX_PROCESSING_TIME_MS,
            ),
        ),
        (
            "`max_bytes` of `Join`",
            format!(
                "{}, by default {}",
                range(&limits::FETCH_BYTES, bytes),
                bytes(max_bytes)
            ),
        ),
        (
            "positions of a commit",
            range(&limits::POSITIONS_PER_COMMIT, number),
        ),
        (
            "offsets that all groups have committed",
            number(limits::COMMITTED_OFFSETS),
        ),
    ];
    let page = page();
    for (what, bound) in expected {
        let row = format!("| {what} | {bound}");
        assert!(page.contains(&row), "a row begins with: {row}");
    }
}

#[test]
fn limits_of_state_on_the_page_are_those_of_the_code() {
    let expected = [
        (
            "keys that a `Watch` names, or a `Put` changes",
            number(limits::KEYS_PER_CALL),
        ),
        (
            "`page_size` of `Scan`",
            format!(
                "{}, by default {}",
                range(&limits::SCAN_ENTRIES, number),
                number(limits::DEFAULT_SCAN_ENTRIES as usize)
            ),
        ),
        ("leases", number(limits::LEASES)),
        (
            "`ttl_ms` of a lease",
            format!(
                "{} to {}",
                number(usize::try_from(*limits::LEASE_TTL_MS.start()).unwrap()),
                number(usize::try_from(*limits::LEASE_TTL_MS.end()).unwrap())
            ),
        ),
    ];
    let page = page();
    for (what, bound) in expected {
        let row = format!("| {what} | {bound}");
        assert!(page.contains(&row), "a row begins with: {row}");
    }
    let flowing = page.replace('\n', " ");
    for bound in [
        format!("after {} of entries", bytes(limits::SCAN_BYTES)),
        format!("within {} seconds", limits::VIEW_WAIT.as_secs()),
        format!("nothing else for {} seconds", limits::HEARTBEAT.as_secs()),
    ] {
        assert!(flowing.contains(&bound), "{bound}");
    }
}
