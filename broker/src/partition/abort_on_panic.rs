//! No thread of the log is missed unnoticed.

/// A log that lost one of its threads would take appends and never answer them.
/// So the process ends, and a restart recovers.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the log panicked: the broker ends");
            std::process::abort();
        }
    }
}
