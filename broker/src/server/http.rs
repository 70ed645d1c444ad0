//! Health and metrics over HTTP, for orchestrators and scrapers.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Context, ServeError, process};

/// Serves HTTP, if there is a listener, until draining begins.
pub(super) async fn serve(
    listener: Option<TcpListener>,
    context: Context,
) -> Result<(), ServeError> {
    let Some(listener) = listener else {
        return Ok(());
    };
    let draining = context.draining.clone();
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(context);
    axum::serve(listener, routes)
        .with_graceful_shutdown(draining.cancelled_owned())
        .await?;
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
    let (topics, partitions) = context.broker.counts();
    let writable = u8::from(context.broker.writable());
    let cpu_seconds = process::cpu_time().as_secs_f64();
    let resident = process::resident_bytes();
    let started = context.broker.started_ms() as f64 / 1000.0;
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "# HELP statecast_info The broker's version.
# TYPE statecast_info gauge
statecast_info{{version=\"{version}\"}} 1
# HELP statecast_writable 0 since a write or flush failed, until a restart.
# TYPE statecast_writable gauge
statecast_writable {writable}
# HELP statecast_topics Topics.
# TYPE statecast_topics gauge
statecast_topics {topics}
# HELP statecast_partitions Partitions of all topics.
# TYPE statecast_partitions gauge
statecast_partitions {partitions}
# HELP process_cpu_seconds_total CPU time, user and system.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu_seconds}
# HELP process_resident_memory_bytes Memory that the process holds.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes {resident}
# HELP process_start_time_seconds When the broker became ready.
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
"
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
