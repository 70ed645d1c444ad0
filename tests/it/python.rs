//! The Python client of `docs/protocol.md`, run with code generated as the page
//! says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use statecast_proto::batch::{BatchBuilder, Compression, RecordRef};
use statecast_proto::v1;
use tempfile::TempDir;

use crate::support::{Binary, TestBroker};

/// Python, if it can import these modules; else says that the test is skipped.
fn python_with(modules: &str, packages: &str) -> Option<&'static str> {
    let import = format!("import {modules}");
    let imported = Command::new("python3").args(["-c", &import]).output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some("python3");
    }
    // Past the capture of the test's output: who runs the tests should see it.
    let skipped = format!("skipped: python3 with {packages} is not installed\n");
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

/// Runs a command and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Generates the code for Python.
fn generate(python: &str) -> TempDir {
    let generated = tempfile::tempdir().unwrap();
    let out = generated.path().display();
    let protos = root().join("proto/proto");
    let files = ["record", "log", "groups", "admin", "state"];
    run(Command::new(python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&protos)
        .arg(format!("--python_out={out}"))
        .arg(format!("--grpc_python_out={out}"))
        .args(files.map(|file| protos.join(format!("statecast/v1/{file}.proto")))));
    generated
}

/// An example that is to be run with generated code.
fn example(python: &str, file: &str, generated: &TempDir) -> Command {
    let mut command = Command::new(python);
    command
        .arg(root().join("docs/examples/python").join(file))
        .env("PYTHONPATH", generated.path())
        // Nothing is left next to the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs the client for a topic of a broker; returns what it printed.
async fn run_client(python: &'static str, broker: SocketAddr, topic: &'static str) -> String {
    run_example(python, "client.py", broker, vec![topic]).await
}

/// Runs an example against a broker; returns what it printed.
async fn run_example(
    python: &'static str,
    file: &'static str,
    broker: SocketAddr,
    arguments: Vec<&'static str>,
) -> String {
    let example = move || {
        let generated = generate(python);
        run(example(python, file, &generated)
            .arg(broker.to_string())
            .args(arguments))
    };
    tokio::task::spawn_blocking(example).await.unwrap()
}

#[tokio::test]
async fn client_prints_what_the_page_shows() {
    let Some(python) = python_with("grpc, grpc_tools", "grpcio") else {
        return;
    };
    let broker = TestBroker::start().await;
    let printed = run_client(python, broker.address(), "lamps").await;
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    assert!(
        page.contains(&format!("```\n{printed}```\n")),
        "the page should show:\n{printed}"
    );
}

#[tokio::test]
async fn consumer_prints_what_the_page_shows_and_commits_it() {
    let Some(python) = python_with("grpc, grpc_tools", "grpcio") else {
        return;
    };
    let broker = TestBroker::start().await;
    run_client(python, broker.address(), "lamps").await;
    let printed = run_example(
        python,
        "consumer.py",
        broker.address(),
        vec!["lamps", "lighting"],
    )
    .await;
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    assert!(
        page.contains(&format!("```\n{printed}```\n")),
        "the page should show:\n{printed}"
    );
    let described = broker.describe_group("lighting").await;
    let committed = described.partitions.iter().map(|p| p.committed_offset);
    assert_eq!(committed.collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(described.members, [], "it has left");
    let again = run_example(
        python,
        "consumer.py",
        broker.address(),
        vec!["lamps", "lighting"],
    )
    .await;
    assert_eq!(again, "", "nothing comes twice");
}

#[tokio::test]
async fn state_prints_what_the_page_shows_as_often_as_it_is_run() {
    let Some(python) = python_with("grpc, grpc_tools", "grpcio") else {
        return;
    };
    let broker = TestBroker::start().await;
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    for _ in 0..2 {
        let printed = run_example(python, "state.py", broker.address(), vec!["rooms"]).await;
        assert!(
            page.contains(&format!("```\n{printed}```\n")),
            "the page should show:\n{printed}"
        );
    }
}

#[tokio::test]
async fn consumer_joins_again_when_the_broker_comes_again() {
    let Some(python) = python_with("grpc, grpc_tools", "grpcio") else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    let address = broker
        .endpoint()
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    run_client(python, address.parse().unwrap(), "lamps").await;
    broker.kill();
    let printed = tokio::task::spawn_blocking(move || {
        let generated = generate(python);
        let mut consumer = example(python, "consumer.py", &generated)
            .args([&*address, "lamps", "lighting"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(consumer.stderr.take().unwrap());
        let told = told.lines().map_while(Result::ok);
        let mut told = told.filter(|line| line.starts_with("joining again"));
        told.next().expect("it doesn't give up");
        let _broker = Binary::serve_at(data.path(), &address);
        // It may have to try once more, and is not to be held up by what it says of it.
        assert!(told.all(|line| line.starts_with("joining again")));
        consumer.wait_with_output().unwrap()
    });
    let printed = printed.await.unwrap();
    assert!(printed.status.success());
    let read = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(read.lines().count(), 3, "all that is in the topic: {read}");
}

#[tokio::test]
async fn client_reads_what_others_compressed() {
    let modules = "grpc, grpc_tools, lz4.block, zstandard";
    let Some(python) = python_with(modules, "grpcio, lz4 and zstandard") else {
        return;
    };
    let broker = TestBroker::start().await;
    for (topic, compression) in [("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        broker.create_topic(topic, 1).await;
        let mut builder = BatchBuilder::new(compression);
        for _ in 0..100 {
            builder.push(&RecordRef::new(b"key", b"value")).unwrap();
        }
        let uncompressed_len = builder.encoded_len();
        let batch = builder.finish().payload;
        assert!(batch.len() < uncompressed_len, "it is compressed");
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(0),
            batch,
            ..v1::ProduceRequest::default()
        };
        broker.log().produce(request).await.unwrap();

        let printed = run_client(python, broker.address(), topic).await;
        let mut fetched = printed.lines().filter(|line| line.starts_with("fetched"));
        for offset in 0..100 {
            let expected = format!("fetched 0 {offset} b'key' b'value'");
            assert_eq!(fetched.next(), Some(&expected[..]));
        }
    }
}
