//! The binary `statecast`: the broker and its command line.

use std::process::ExitCode;

/// The system's allocator halves throughput on musl, and costs on glibc too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    statecast_broker::cli::run()
}
