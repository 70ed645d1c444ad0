//! Whether anybody still reads what is printed.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, fstat};
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// Resolves when standard output is a pipe whose readers have all gone. A write
/// would tell as well, but there may be nothing to write for a long time.
pub(super) async fn readers_gone() {
    if let Ok(Some(pipe)) = stdout_pipe()
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Standard output, if it is a pipe. Only watched, so it stays one that blocks.
fn stdout_pipe() -> io::Result<Option<pipe::Sender>> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let kind = FileType::from_raw_mode(fstat(&stdout)?.st_mode);
    match kind {
        FileType::Fifo => pipe::Sender::from_owned_fd_unchecked(stdout).map(Some),
        _ => Ok(None),
    }
}
