//! What orchestrators, scrapers and curious clients are told.

use statecast_broker::server::Drained;
use statecast_proto::v1::{self, log_client::LogClient};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as OldReflectionClient;

use crate::memory::narrow;
use crate::support::{TestBroker, encode, get};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn each_service_is_healthy_and_others_are_unknown() {
    let broker = TestBroker::start().await;
    let mut health = HealthClient::new(broker.connect().await);
    for service in ["", "statecast.v1.Log", "statecast.v1.Admin"] {
        let checked = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(checked.status(), ServingStatus::Serving, "{service:?}");
    }
    let status = health.check(of("statecast.v1.Queue")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_sees_the_broker_stop() {
    let broker = TestBroker::start().await;
    let mut health = HealthClient::new(broker.connect().await);
    let mut watch = health.watch(of("")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let stopping = tokio::spawn(broker.stop_serving());
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none());
    stopping.await.unwrap();
}

#[tokio::test]
async fn http_tells_health_and_metrics() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3).await;
    for path in ["/livez", "/readyz"] {
        let (status, body) = get(broker.http(), path).await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 200 OK", "ok\n"),
            "{path}"
        );
    }
    let (status, _) = get(broker.http(), "/nowhere").await;
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    // In a topic of its own, with one partition.
    broker.assert_serves().await;
    let (_, metrics) = get(broker.http(), "/metrics").await;
    let value = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .expect(name);
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!((value("statecast_partitions ") - 4.0).abs() < f64::EPSILON);
    assert!((value("statecast_writable ") - 1.0).abs() < f64::EPSILON);
    assert!(value("process_resident_memory_bytes ") > 1e6);
    let appended = value("statecast_appended_records_total ");
    assert!(appended >= 1.0, "{appended}");
    assert!(value("statecast_appended_bytes_total ") >= appended);
    assert!(value("statecast_read_batches_total ") >= 1.0);
    assert!(value("statecast_read_bytes_total ") > 0.0);
}

#[tokio::test]
async fn the_broker_tells_about_itself() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3).await;
    let info = broker
        .admin()
        .get_broker_info(v1::GetBrokerInfoRequest {})
        .await
        .unwrap();
    let info = info.into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.cluster_id.len(), 32);
    assert_eq!((info.topics, info.partitions), (1, 3));
    assert!(info.writable);
    assert!(info.cpu_time_us > 0);
    assert!(info.resident_bytes > 1 << 20);
    let broker = broker.restart().await;
    let again = broker
        .admin()
        .get_broker_info(v1::GetBrokerInfoRequest {})
        .await
        .unwrap();
    assert_eq!(again.into_inner().cluster_id, info.cluster_id);
}

#[tokio::test]
async fn reflection_knows_records_by_their_fields() {
    let broker = TestBroker::start().await;
    let mut client = ServerReflectionClient::new(broker.connect().await);
    let ask = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let questions = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "statecast.v1.RecordBatch".to_owned(),
        )),
    ]);
    let mut answers = client
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    let listed = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
        panic!("services: {listed:?}")
    };
    let names: Vec<&str> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "statecast.v1.Log",
        "statecast.v1.Admin",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let file = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::FileDescriptorResponse(file)) = file else {
        panic!("a file: {file:?}")
    };
    let text = String::from_utf8_lossy(&file.file_descriptor_proto[0]).into_owned();
    assert!(
        text.contains("timestamp_ms"),
        "the fields of a record are there"
    );
}

#[tokio::test]
async fn clients_that_know_the_first_form_of_reflection_are_answered() {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;

    let broker = TestBroker::start().await;
    let mut client = OldReflectionClient::new(broker.connect().await);
    let symbol = "statecast.v1.Log".to_owned();
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol)),
    };
    let answers = client.server_reflection_info(tokio_stream::iter([question]));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::FileDescriptorResponse(file)) = answer else {
        panic!("a file: {answer:?}")
    };
    let text = String::from_utf8_lossy(&file.file_descriptor_proto[0]).into_owned();
    assert!(text.contains("ProduceStream"), "the service is there");
}

#[tokio::test]
async fn connections_without_a_call_hold_up_no_stop() {
    let broker = TestBroker::start().await;
    let silent = TcpStream::connect(broker.address()).await.unwrap();
    let mut half = TcpStream::connect(broker.address()).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    // It greets, and is never heard of again.
    let mut hung = TcpStream::connect(broker.address()).await.unwrap();
    hung.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut http = TcpStream::connect(broker.http()).await.unwrap();
    http.write_all(b"GET /rea").await.unwrap();
    let mut health = HealthClient::new(broker.connect().await);
    let mut watch = health.watch(of("unknown")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let (_, drained) = broker.stop_serving().await;
    assert_eq!(drained, Drained::Completely);
    assert!(watch.message().await.unwrap().is_none());
    drop((silent, half, hung, http));
}

#[tokio::test]
async fn http_says_that_the_broker_stops() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let http = broker.http();
    for _ in 0..8 {
        let large = v1::Record {
            value: Some(vec![7; 1 << 20].into()),
            ..v1::Record::default()
        };
        broker.produce("t", 0, encode(vec![large])).await;
    }
    // A call that stays open until its client is gone, which doesn't read, and takes
    // nothing that isn't read: so it can't be told that the broker stops.
    let mut log = LogClient::new(narrow(&broker).await);
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        ..v1::FetchRequest::default()
    };
    let unread = log.fetch(request).await.unwrap();
    let stopping = tokio::spawn(broker.stop_serving());
    loop {
        let (status, body) = get(http, "/readyz").await;
        if status == "HTTP/1.1 503 Service Unavailable" {
            assert_eq!(body, "stopping\n");
            break;
        }
        assert_eq!(status, "HTTP/1.1 200 OK");
    }
    assert_eq!(get(http, "/livez").await.1, "ok\n");
    drop((unread, log));
    assert_eq!(stopping.await.unwrap().1, Drained::Completely);
}
