//! The binary `statecast serve`: how it starts, how it ends, and what it says
//! when it can't.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use statecast_proto::v1;
use statecast_proto::v1::admin_client::AdminClient;
use statecast_proto::v1::log_client::LogClient;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Binary, batch, statecast};

/// What it wrote to standard error.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `statecast` with these arguments to its end.
fn run(arguments: &[&str]) -> Output {
    statecast()
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn serve_in(data_dir: &Path, more: &[&str]) -> Output {
    let data_dir = data_dir.to_str().expect("temporary paths are text");
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--http-listen", "off"];
    arguments.extend(["--data-dir", data_dir]);
    arguments.extend(more);
    run(&arguments)
}

async fn produce(broker: &Binary, records: usize) {
    let mut admin = AdminClient::connect(broker.endpoint()).await.unwrap();
    let create = v1::CreateTopicRequest {
        name: "t".to_owned(),
        ..Default::default()
    };
    admin.create_topic(create).await.unwrap();
    let mut log = LogClient::connect(broker.endpoint()).await.unwrap();
    let request = v1::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        batch: batch(records),
        ..v1::ProduceRequest::default()
    };
    log.produce(request).await.unwrap();
}

async fn high_watermark(broker: &Binary) -> u64 {
    let mut log = LogClient::connect(broker.endpoint()).await.unwrap();
    let list = v1::ListOffsetsRequest {
        topic: "t".to_owned(),
        ..Default::default()
    };
    log.list_offsets(list)
        .await
        .unwrap()
        .into_inner()
        .partitions[0]
        .high_watermark
}

#[test]
fn it_says_once_that_it_is_ready_and_stops_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Binary::serve(dir.path());
    let line = broker.ready_line().to_owned();
    assert!(
        line.starts_with(concat!(
            "statecast ",
            env!("CARGO_PKG_VERSION"),
            " ready: gRPC 127.0.0.1:"
        )),
        "{line}"
    );
    assert!(
        line.ends_with(&format!(", data {}", dir.path().display())),
        "{line}"
    );
    let mut stream = TcpStream::connect(broker.http()).unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    broker.terminate();
    let output = broker.wait();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stdout.is_empty(), "one line and no more");
}

#[tokio::test]
async fn acknowledged_records_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Binary::serve(dir.path());
    produce(&broker, 500).await;
    broker.kill();
    let broker = Binary::serve(dir.path());
    assert_eq!(high_watermark(&broker).await, 500);
}

#[tokio::test]
async fn acknowledged_records_survive_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Binary::serve(dir.path());
    produce(&broker, 500).await;
    broker.terminate();
    assert!(broker.wait().status.success());
    let broker = Binary::serve(dir.path());
    assert_eq!(high_watermark(&broker).await, 500);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Binary::serve(dir.path());
    produce(&broker, 50_000).await;
    // A consumer that doesn't read can't be told that the broker stops, so
    // draining waits for it.
    let mut log = LogClient::connect(broker.endpoint()).await.unwrap();
    let fetch = v1::FetchRequest {
        topic: "t".to_owned(),
        ..Default::default()
    };
    let _unread = log.fetch(fetch).await.unwrap();
    let endpoint = tonic::transport::Endpoint::try_from(broker.endpoint()).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut status = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(status().await, ServingStatus::Serving);
    broker.terminate();
    assert_eq!(status().await, ServingStatus::NotServing);
    broker.terminate();
    let output = broker.wait();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("at once"), "{}", said(&output));
}

#[test]
fn a_data_directory_serves_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Binary::serve(dir.path());
    let output = serve_in(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("in use"), "{said}");
    assert!(
        said.contains(&broker.pid().to_string()),
        "it names the other process: {said}"
    );
    broker.terminate();
    assert!(broker.wait().status.success(), "the first one serves on");
}

#[test]
fn a_data_directory_of_a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let newer = "statecast data directory\nformat 99\n";
    fs::write(dir.path().join("FORMAT"), newer).unwrap();
    let output = serve_in(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("format 99"), "{}", said(&output));
    assert_eq!(
        fs::read_to_string(dir.path().join("FORMAT")).unwrap(),
        newer
    );
    let names = fs::read_dir(dir.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["FORMAT"], "nothing is made in it");
}

#[test]
fn a_data_directory_that_can_not_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let within = file.join("data");
    let output = serve_in(&within, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains(within.to_str().unwrap()),
        "{}",
        said(&output)
    );
}

/// Nobody, as far as the broker is concerned. Not 65534, which owns things.
const STRANGER: u32 = 65_432;

#[test]
fn a_data_directory_that_is_not_writable_is_named() {
    // The binary may lie where only its owner gets.
    let place = tempfile::tempdir().unwrap();
    let all_may_enter = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path(), all_may_enter.clone()).unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--http-listen", "off"];
    let mut command = if rustix::process::geteuid().is_root() {
        // Permissions don't hold for root: someone else has to try.
        fs::set_permissions(&data, all_may_enter).unwrap();
        let binary = place.path().join("statecast");
        fs::copy(statecast().get_program(), &binary).unwrap();
        let mut command = Command::new(binary);
        command.env_clear().uid(STRANGER).gid(STRANGER);
        command
    } else {
        fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
        statecast()
    };
    command.current_dir(place.path()).args(args);
    let output = match command.arg("--data-dir").arg(&data).output() {
        Ok(output) => output,
        Err(error) => {
            // Past the capture of the test's output: who runs the tests should see it.
            let skipped = format!("skipped: it can't be run as somebody else: {error}\n");
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return;
        }
    };
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert!(said.to_lowercase().contains("permission denied"), "{said}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "nothing is in it");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--http-listen"] {
        let mut command = statecast();
        command.args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "off"]);
        command.args(["--data-dir", dir.path().to_str().unwrap()]);
        let other: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut arguments: Vec<_> = other.iter().map(|a| a.to_str().unwrap()).collect();
        let at = arguments
            .iter()
            .position(|argument| argument == &flag)
            .unwrap();
        arguments[at + 1] = &address;
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(
            said(&output).contains(&address),
            "{flag}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains("in use"),
            "{flag}: {}",
            said(&output)
        );
    }
    assert!(!dir.path().join("FORMAT").exists(), "no data was touched");
}

#[test]
fn bad_settings_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("statecast.toml");
    let config = file.to_str().unwrap();
    let cases: [(&str, &[&str], &str); 6] = [
        ("", &["--listen", "nowhere"], "nowhere"),
        ("", &["--threads", "0"], "1 to 1024"),
        ("", &["--datadir", "x"], "--data-dir"),
        ("listne = '127.0.0.1:0'", &[], "did you mean `listen`?"),
        ("listen = 5", &[], "line 1"),
        ("listen = ", &[], "line 1"),
    ];
    for (text, flags, expected) in cases {
        fs::write(&file, text).unwrap();
        let mut arguments = vec!["serve", "--config", config];
        arguments.extend(flags);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{text} {flags:?}");
        assert!(
            said(&output).contains(expected),
            "{text} {flags:?}: {}",
            said(&output)
        );
    }
    let output = run(&["serve", "--config", "/nowhere/statecast.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("/nowhere/statecast.toml"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_environment_stands_between_flags_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("statecast.toml");
    fs::write(&file, "data_dir = 'file'\nlog_level = 'warn'\nthreads = 7").unwrap();
    let output = statecast()
        .args(["config", "show", "--data-dir", "flag"])
        .env("STATECAST_CONFIG", &file)
        .env("STATECAST_DATA_DIR", "environment")
        .env("STATECAST_LOG_LEVEL", "debug")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for line in [
        "data_dir = \"flag\"",
        "log_level = \"debug\"",
        "threads = 7",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} in {shown}"
        );
    }
}
