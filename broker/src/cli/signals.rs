//! The signals that ask a client verb to end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::failure::Failure;

/// What ends with the first SIGINT or SIGTERM. Ending in order may wait for the
/// broker, or for whoever reads our output: the second signal ends the process
/// at once, with exit code 1.
pub(super) fn stop_requested() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let (sender, first) = oneshot::channel();
    // On a thread of its own: the verb may be held up in a write.
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        // A verb that is ending anyway doesn't listen any more.
        let _ = sender.send(());
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(1);
    });
    Ok(async {
        if first.await.is_err() {
            // The runtime is going away, and with it the verb.
            std::future::pending::<()>().await;
        }
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
