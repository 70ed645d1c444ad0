//! The client verbs of the built binary: what they print and how they end.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Binary, Done, Verb};

/// A broker and a way to say verbs to it.
struct Shell {
    broker: Binary,
    _data: TempDir,
}

impl Shell {
    fn start() -> Shell {
        let data = tempfile::tempdir().unwrap();
        Shell {
            broker: Binary::serve(data.path()),
            _data: data,
        }
    }

    fn verb(&self, args: &[&str]) -> Verb {
        Verb::new(&self.broker.endpoint(), args)
    }

    fn says(&self, args: &[&str]) -> Done {
        self.verb(args).succeeds()
    }
}

/// The numbers from 0, a line each.
fn lines(count: u32) -> String {
    let lines: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    lines.join("\n") + "\n"
}

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let shell = Shell::start();
    let config = [
        "--retention",
        "forever",
        "--flush",
        "100ms",
        "--retention-bytes",
        "10GiB",
    ];
    let create = [
        &["topic", "create", "orders", "--partitions", "3"],
        &config[..],
    ]
    .concat();
    let created = shell.says(&create);
    assert_eq!(created.stdout, "");
    assert!(
        created
            .stderr
            .contains("created topic orders with 3 partitions")
    );

    let listed = shell.says(&["topic", "list", "-o", "json"]).json();
    assert_eq!(listed[0]["name"], "orders");
    assert_eq!(listed[0]["config"]["retention_ms"], Value::Null);
    assert_eq!(listed[0]["config"]["retention_bytes"], 10_u64 << 30);
    assert_eq!(listed[0]["config"]["flush"], "100ms");

    shell.says(&[
        "topic",
        "alter",
        "orders",
        "--partitions",
        "5",
        "--flush",
        "always",
    ]);
    let described = shell
        .says(&["topic", "describe", "orders", "-o", "json"])
        .json();
    assert_eq!(described["partitions"], 5);
    assert_eq!(described["config"]["flush"], "always");
    assert_eq!(
        described["config"]["retention_ms"],
        Value::Null,
        "what isn't named stays"
    );
    assert_eq!(described["partition_states"].as_array().unwrap().len(), 5);

    shell.says(&["topic", "delete", "orders"]);
    assert_eq!(
        shell.says(&["topic", "list", "-o", "json"]).json(),
        json!([])
    );
}

#[test]
fn refusals_are_told_on_standard_error_and_by_exit_code() {
    let shell = Shell::start();
    let missing = shell.verb(&["topic", "describe", "nope"]).run();
    assert_eq!((missing.code, &*missing.stdout), (1, ""));
    assert!(missing.stderr.starts_with("error: "), "{}", missing.stderr);
    assert!(missing.stderr.contains("nope"), "{}", missing.stderr);

    let missing = shell
        .verb(&["topic", "describe", "nope", "-o", "json"])
        .run();
    let error: Value = serde_json::from_str(&missing.stderr).unwrap();
    assert_eq!(error["reason"], "TOPIC_NOT_FOUND");
    assert_eq!(error["metadata"]["topic"], "nope");
}

#[test]
fn values_that_cannot_be_meant_are_usage_errors() {
    for args in [
        &["produce", "t", "--rate", "0"][..],
        &["produce", "t", "--timeout", "0s"],
        &["health", "--timeout", "0s"],
        &["bench", "end-to-end", "--rate", "0"],
        &["topic", "create", "t", "--flush", "sometimes"],
        &["topic", "create", "t", "--flush", "1500us"],
        &["topic", "create", "t", "--flush", "2h"],
        &["topic", "create", "t", "--retention", "0s"],
        &["topic", "alter", "t", "--retention-bytes", "0"],
    ] {
        // Nobody is asked.
        let usage = Verb::new("http://127.0.0.1:1", args).run();
        assert_eq!(usage.code, 2, "{args:?}: {}", usage.stderr);
    }
}

#[test]
fn usage_errors_are_json_when_that_was_asked_for() {
    for args in [
        &["topic", "create", "-o", "json"][..],
        &["--output=json", "produce", "t", "--rate", "0"],
        &["topic", "-ojson"],
        &["nonsense", "--output", "json"],
    ] {
        let usage = Verb::new("http://127.0.0.1:1", args).run();
        assert_eq!((usage.code, &*usage.stdout), (2, ""), "{args:?}");
        let error: Value = serde_json::from_str(&usage.stderr).unwrap();
        let problem = error["error"].as_str().unwrap();
        assert!(!problem.contains("Usage"), "{problem}");
    }
    let text = Verb::new("http://127.0.0.1:1", &["topic", "create"]).run();
    assert!(text.stderr.starts_with("error: "), "{}", text.stderr);
}

#[test]
fn each_topic_that_is_to_be_deleted_is_tried() {
    let shell = Shell::start();
    for name in ["a", "b", "c"] {
        shell.says(&["topic", "create", name]);
    }
    let delete = ["topic", "delete", "a", "nope", "b", "none"];
    let partly = shell.verb(&delete).run();
    assert_eq!((partly.code, &*partly.stdout), (1, ""));
    let lines: Vec<_> = partly.stderr.lines().collect();
    assert_eq!(lines[..2], ["deleted topic a", "deleted topic b"]);
    for (line, name) in lines[2..].iter().zip(["nope", "none"]) {
        let begin = format!("error: can't delete {name}: ");
        assert!(line.starts_with(&begin), "{line}");
    }
    assert_eq!(lines.len(), 4, "{}", partly.stderr);

    let delete = ["topic", "delete", "c", "nope", "-o", "json"];
    let partly = shell.verb(&delete).run();
    assert_eq!(partly.code, 1);
    assert_eq!(partly.json(), json!({ "deleted": ["c"] }));
    let error: Value = serde_json::from_str(&partly.stderr).unwrap();
    assert_eq!(error["metadata"]["topic"], "nope");
}

#[test]
fn retention_without_a_bound_is_shown_in_its_own_words() {
    let shell = Shell::start();
    let words = ["--retention", "forever", "--retention-bytes", "unlimited"];
    shell.says(&[&["topic", "create", "t"], &words[..]].concat());
    let described = shell.says(&["topic", "describe", "t"]).stdout;
    for (fact, word) in [("retention:", "forever"), ("max size:", "unlimited")] {
        let line = described.lines().find(|line| line.starts_with(fact));
        assert!(line.unwrap().ends_with(word), "{described}");
    }
    let listed = shell.says(&["topic", "list"]).stdout;
    assert!(listed.contains("forever") && listed.contains("unlimited"));
}

#[test]
fn port_of_http_is_told_from_that_of_grpc() {
    let shell = Shell::start();
    let http = format!("http://{}", shell.broker.http());
    for args in [&["topic", "list"][..], &["produce", "t"], &["health"]] {
        let wrong = Verb::new(&http, args).run();
        assert_eq!(wrong.code, 1);
        assert!(wrong.stderr.contains("port of gRPC"), "{}", wrong.stderr);
    }
}

#[test]
fn endpoint_that_is_set_to_nothing_is_not_set() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().to_str().unwrap();
    let bench = ["bench", "disk", "--duration", "1ms", dir, "-o", "json"];
    let report = Verb::new("", &bench).succeeds().json();
    let endpoint = &report["environment"]["endpoint"];
    assert_eq!(endpoint, "http://127.0.0.1:7420");
}

#[test]
fn unreachable_broker_is_named() {
    let gone = Verb::new("http://127.0.0.1:1", &["topic", "list"]).run();
    assert_eq!(gone.code, 1);
    assert!(
        gone.stderr.contains("http://127.0.0.1:1"),
        "{}",
        gone.stderr
    );
    let health = Verb::new("http://127.0.0.1:1", &["health"]).run();
    assert_eq!(health.code, 1);
}

#[test]
fn health_is_zero_while_the_broker_serves() {
    let shell = Shell::start();
    assert_eq!(shell.says(&["health"]).stdout, "serving\n");
    assert_eq!(
        shell.says(&["health", "-o", "json"]).json(),
        json!({ "serving": true })
    );
}

#[test]
fn values_with_keys_and_tombstones_come_back_as_they_were() {
    let shell = Shell::start();
    shell.says(&["topic", "create", "t"]);
    let produce = [
        "produce",
        "t",
        "--key-delimiter",
        ":",
        "--empty-value-is-tombstone",
    ];
    shell.verb(&produce).with_input("a:1\nb:\nc:x:y").succeeds();
    let format = ["consume", "t", "--until-end", "-f", "%p %o %k=%v%%\\n"];
    assert_eq!(
        shell.says(&format).stdout,
        "0 0 a=1%\n0 1 b=%\n0 2 c=x:y%\n"
    );

    let lines = shell
        .says(&["consume", "t", "--until-end", "-o", "json"])
        .stdout;
    let records: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let values: Vec<_> = records
        .iter()
        .map(|record| record["value"].clone())
        .collect();
    assert_eq!(values, [json!("1"), Value::Null, json!("x:y")]);
    assert_eq!(records[2]["offset"], 2);
}

#[test]
fn line_without_delimiter_stops_and_names_the_line() {
    let shell = Shell::start();
    shell.says(&["topic", "create", "t"]);
    let produce = ["produce", "t", "--key-delimiter", ":"];
    let failed = shell
        .verb(&produce)
        .with_input("a:1\nb:2\nnonsense\nc:3\n")
        .run();
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("line 3"), "{}", failed.stderr);
    // What was sent before is there, and nothing behind it.
    assert_eq!(
        shell.says(&["consume", "t", "--until-end"]).stdout,
        "1\n2\n"
    );
}

#[test]
fn compressed_lines_come_back_as_they_were() {
    let shell = Shell::start();
    let input = lines(2000);
    for codec in ["none", "lz4", "zstd"] {
        shell.says(&["topic", "create", codec]);
        let produce = ["produce", codec, "--compression", codec];
        shell.verb(&produce).with_input(&input).succeeds();
        let consumed = shell.says(&["consume", codec, "--until-end"]);
        assert_eq!(consumed.stdout, input, "{codec}");
    }
}

#[test]
fn consume_starts_and_stops_where_it_is_told() {
    let shell = Shell::start();
    shell.says(&["topic", "create", "t"]);
    let input = lines(10);
    shell.verb(&["produce", "t"]).with_input(&input).succeeds();
    let consume = |args: &[&str]| shell.says(&[&["consume", "t"], args].concat()).stdout;
    assert_eq!(consume(&["--from", "7", "--until-end"]), "7\n8\n9\n");
    assert_eq!(consume(&["--from", "2", "-n", "3"]), "2\n3\n4\n");
    assert_eq!(consume(&["--from", "latest", "--until-end"]), "");
    assert_eq!(consume(&["--from", "-1h", "-n", "1"]), "0\n");
    assert_eq!(
        consume(&["--from", "2200-01-01T00:00:00Z", "--until-end"]),
        ""
    );
    assert_eq!(consume(&["--partition", "0", "-n", "1"]), "0\n");

    let beyond = shell
        .verb(&["consume", "t", "--from", "11", "--until-end"])
        .run();
    assert_eq!(beyond.code, 1);
    assert!(beyond.stderr.contains("0 to 10"), "{}", beyond.stderr);
}

#[test]
fn topic_that_does_not_exist_is_refused_even_with_nothing_to_do() {
    let shell = Shell::start();
    for verb in [&["produce", "nope"][..], &["consume", "nope", "-n", "0"]] {
        let refused = shell.verb(&[verb, &["-o", "json"]].concat()).run();
        assert_eq!((refused.code, &*refused.stdout), (1, ""), "{verb:?}");
        let error: Value = serde_json::from_str(&refused.stderr).unwrap();
        assert_eq!(error["reason"], "TOPIC_NOT_FOUND");
    }
    shell.says(&["topic", "create", "t"]);
    shell.says(&["produce", "t"]);
    assert_eq!(shell.says(&["consume", "t", "-n", "0"]).stdout, "");
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let shell = Shell::start();
    shell.says(&["topic", "create", "t"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let failed = shell.verb(&["produce", "t", "-f", path]).run();
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains(path), "{}", failed.stderr);
}

#[test]
fn bench_reports_figures_parameters_and_environment() {
    let shell = Shell::start();
    for (workload, args) in [
        (
            "produce",
            &["--batch", "10", "--records", "1000", "--runs", "2"][..],
        ),
        (
            "produce",
            &[
                "--batch",
                "0",
                "--records",
                "500",
                "--partitions",
                "3",
                "--topics",
                "2",
            ],
        ),
        (
            "consume",
            &["--batch", "10", "--records", "1000", "--consumers", "2"],
        ),
        (
            "produce",
            &["--batch", "0", "--records", "500", "--not-idempotent"],
        ),
        ("produce-consume", &["--batch", "10", "--records", "1000"]),
        ("end-to-end", &["--rate", "1000", "--records", "100"]),
    ] {
        let args = [
            &["bench", workload, "--record-size", "64", "-o", "json"],
            args,
        ]
        .concat();
        let report = shell.says(&args).json();
        assert_eq!(report["workload"], workload);
        assert!(
            report["median"]["records_per_s"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        assert!(
            report["median"]["broker_rss_mib"].as_f64().unwrap() > 1.0,
            "{report}"
        );
        assert_eq!(report["parameters"]["record_size"], 64);
        assert!(report["environment"]["cores"].as_u64().unwrap() > 0);
        assert!(!report["runs"].as_array().unwrap().is_empty());
    }
    let left = shell.says(&["topic", "list", "-o", "json"]).json();
    assert_eq!(left, json!([]), "benches delete their topics");
    let calls = ["bench", "call", "--duration", "10ms", "-o", "json"];
    let report = shell.says(&calls).json();
    assert!(report["median"]["calls_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["median"]["p50_us"].as_f64().unwrap() > 0.0);
}

#[test]
fn bench_of_compaction_reports_what_it_took_and_cost() {
    let shell = Shell::start();
    let bench = ["bench", "compaction", "--duration", "50ms", "-o", "json"];
    let small = ["--compacted-bytes", "3MiB", "--compacted-partitions", "1"];
    let small = [&bench[..], &small, &["--segment-bytes", "1MiB"]].concat();
    let report = shell.says(&small).json();
    let median = |name: &str| report["median"][name].as_f64().unwrap();
    for figure in [
        "alone_records_per_s",
        "records_per_s",
        "compaction_s",
        "p99_us",
    ] {
        assert!(median(figure) > 0.0, "{figure}: {report}");
    }
    assert!(median("left_mb") < 1.5, "{report}");
    assert_eq!(report["parameters"]["live_percent"], 10);
    let left = shell.says(&["topic", "list", "-o", "json"]).json();
    assert_eq!(left, json!([]), "it deletes its topics");
    let large = ["--compacted-bytes", "4GiB", "--compacted-partitions", "1"];
    let refused = shell.verb(&[&bench[..2], &large[..]].concat()).run();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("--compacted-partitions"));
}

#[test]
fn completions_and_manual_name_the_verbs() {
    let completions = Verb::new("", &["completions", "bash"]).succeeds();
    assert!(completions.stdout.contains("_statecast"));
    let manual = Verb::new("", &["man"]).succeeds();
    assert!(manual.stdout.contains("statecast") && manual.stdout.contains("produce"));
    let pages = tempfile::tempdir().unwrap();
    let dir = pages.path().to_str().unwrap();
    Verb::new("", &["man", "--dir", dir]).succeeds();
    assert!(pages.path().join("statecast-topic-create.1").exists());
}
