//! Health and metrics over HTTP, for orchestrators and scrapers.

use std::fmt::Write;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::http_listener::HttpListener;
use super::memory::Memory;
use super::{Context, ServeError, process};
use crate::coordinator::GroupCounts;
use crate::partition::Traffic;

/// Serves HTTP, if there is a listener, until it is dropped.
pub(super) async fn serve(
    listener: Option<TcpListener>,
    context: Context,
) -> Result<(), ServeError> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(context);
    axum::serve(HttpListener::new(listener), routes).await?;
    Ok(())
}

async fn ready(State(context): State<Context>) -> (StatusCode, &'static str) {
    if context.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if !context.broker.writable() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "read-only: a write failed\n",
        )
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// In the Prometheus text format.
async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    let broker = &context.broker;
    let (topics, partitions) = broker.counts();
    let traffic = broker.engine().traffic();
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "# HELP statecast_info The broker's version.
# TYPE statecast_info gauge
statecast_info{{version=\"{version}\"}} 1
"
    );
    let mut put = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string doesn't fail.
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    };
    put(
        "statecast_writable",
        "gauge",
        "0 since a write or flush failed, until a restart.",
        f64::from(u8::from(broker.writable())),
    );
    put("statecast_topics", "gauge", "Topics.", topics as f64);
    put(
        "statecast_partitions",
        "gauge",
        "Partitions of all topics.",
        f64::from(partitions),
    );
    put_traffic(&mut put, traffic);
    put_groups(&mut put, broker.groups().counts());
    put_memory(&mut put, &context.memory);
    let (keys, records) = broker.view_memory();
    put(
        "statecast_view_key_bytes",
        "gauge",
        "Memory that the keys of compacted topics take.",
        keys as f64,
    );
    put(
        "statecast_view_record_bytes",
        "gauge",
        "Memory that the latest records beside those keys take.",
        records as f64,
    );
    put(
        "statecast_archiver_lag_files",
        "gauge",
        "Journal files that are full and not in segments yet.",
        broker.engine().archiver_lag() as f64,
    );
    put(
        "process_cpu_seconds_total",
        "counter",
        "CPU time, user and system.",
        process::cpu_time().as_secs_f64(),
    );
    put(
        "process_resident_memory_bytes",
        "gauge",
        "Memory that the process holds.",
        process::resident_bytes() as f64,
    );
    put(
        "process_start_time_seconds",
        "gauge",
        "When the broker became ready.",
        broker.started_ms() as f64 / 1000.0,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

fn put_groups(put: &mut impl FnMut(&str, &str, &str, f64), counts: GroupCounts) {
    let gauges = [
        ("statecast_groups", "Consumer groups.", counts.groups),
        (
            "statecast_group_members",
            "Members of groups that are connected.",
            counts.members,
        ),
    ];
    for (name, help, value) in gauges {
        put(name, "gauge", help, value as f64);
    }
    let counters = [
        (
            "statecast_committed_offsets_total",
            "Offsets that members of groups committed.",
            counts.commits,
        ),
        (
            "statecast_rebalances_total",
            "Changes of which member has which partitions.",
            counts.rebalances,
        ),
    ];
    for (name, help, value) in counters {
        put(name, "counter", help, value as f64);
    }
}

fn put_traffic(put: &mut impl FnMut(&str, &str, &str, f64), traffic: Traffic) {
    let counters = [
        (
            "statecast_appended_records_total",
            "Records that were appended and acknowledged.",
            traffic.appended_records,
        ),
        (
            "statecast_appended_batches_total",
            "The batches that they came in.",
            traffic.appended_batches,
        ),
        (
            "statecast_appended_bytes_total",
            "The size of those batches.",
            traffic.appended_bytes,
        ),
        (
            "statecast_read_batches_total",
            "Batches that were read, once for each reader.",
            traffic.read_batches,
        ),
        (
            "statecast_read_bytes_total",
            "The size of those batches.",
            traffic.read_bytes,
        ),
        (
            "statecast_compaction_read_bytes_total",
            "What compaction read.",
            traffic.compaction_read_bytes,
        ),
        (
            "statecast_compaction_written_bytes_total",
            "What compaction wrote in the place of more.",
            traffic.compaction_written_bytes,
        ),
        (
            "statecast_compaction_dropped_records_total",
            "Records that compaction dropped.",
            traffic.compaction_dropped_records,
        ),
    ];
    for (name, help, value) in counters {
        put(name, "counter", help, value as f64);
    }
}

fn put_memory(put: &mut impl FnMut(&str, &str, &str, f64), memory: &Memory) {
    let gauges = [
        (
            "statecast_connections",
            "Open connections for gRPC.",
            memory.connections.taken(),
        ),
        (
            "statecast_calls",
            "Calls that are not answered to their end.",
            memory.calls.taken(),
        ),
        (
            "statecast_receiving_bytes",
            "Memory that messages have which are being received.",
            memory.receiving.used(),
        ),
        (
            "statecast_sending_bytes",
            "Memory that responses have which are on their way to readers.",
            memory.sending.used(),
        ),
        (
            "statecast_answering_bytes",
            "Memory that answers of produce streams have which wait.",
            memory.answering.used(),
        ),
    ];
    for (name, help, value) in gauges {
        put(name, "gauge", help, value as f64);
    }
}
