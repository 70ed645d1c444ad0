//! `statecast state watch`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use statecast_client::{Change, KeyEvent, StateView};

use super::printer::Printer;
use super::{NextOffsets, Watch};
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::output::{Ending, Stop};
use crate::cli::pipe::readers_gone;
use crate::cli::signals::stop_requested;

/// What the callbacks of the view and the verb share.
struct Shared {
    printer: Printer,
    /// Nothing more is to be printed.
    is_done: bool,
    /// Why a callback couldn't print.
    stop: Option<Stop>,
}

impl Shared {
    fn print(&mut self, print: impl FnOnce(&mut Printer) -> Result<(), Stop>) {
        if self.is_done || self.stop.is_some() {
            return;
        }
        self.stop = print(&mut self.printer).err();
    }
}

pub(super) async fn watch(watch: Watch, common: &Common) -> Result<(), Failure> {
    if let Some(NextOffsets(next_offsets)) = &watch.from {
        return print_changes(&watch, next_offsets, common).await;
    }
    let client = common.connect().await?;
    let shared = Arc::new(Mutex::new(Shared {
        printer: Printer::of_changes(&watch.topic, watch.format.as_ref(), common),
        is_done: false,
        stop: None,
    }));
    let mut builder = client.state_view(watch.topic.as_str());
    if let Some(prefix) = &watch.prefix {
        builder = builder.prefix(prefix);
    }
    let (printing, syncing) = (Arc::clone(&shared), Arc::clone(&shared));
    let (quiet, until_synced) = (!common.shows_notes(), watch.until_synced);
    let view = builder
        .keys(&watch.keys)
        .on_change(move |change: &Change| {
            lock(&printing).print(|printer| printer.print_change(change));
        })
        .on_synced(move |next_offsets| {
            let mut shared = lock(&syncing);
            shared.print(|printer| {
                printer.print_synced(next_offsets);
                // So that the marker comes behind all that it is about.
                printer.flush()
            });
            shared.is_done |= until_synced;
            if !quiet {
                anstream::eprintln!("synced: {}", places(next_offsets));
            }
        });
    // Before anything is printed, after which somebody may ask to stop.
    let stop = stop_requested()?;
    let mut view = view.open().await?;
    let outcome = tokio::select! {
        outcome = print_all(&mut view, &shared, until_synced) => outcome,
        () = stop => Err(Stop::Interrupted),
        () = readers_gone() => Err(Stop::BrokenPipe),
    };
    match outcome.in_order(|| lock(&shared).printer.flush()) {
        Err(Stop::Interrupted) if until_synced => {
            Err(Failure::failed("interrupted before all was printed"))
        }
        // Who watches without an end has seen enough when they say so.
        Ok(()) | Err(Stop::BrokenPipe | Stop::Interrupted) => Ok(()),
        Err(Stop::Failure(failure)) => Err(failure),
    }
}

async fn print_all(
    view: &mut StateView,
    shared: &Mutex<Shared>,
    until_synced: bool,
) -> Result<(), Stop> {
    if until_synced {
        view.wait_synced().await?;
        return lock(shared).stop.take().map_or(Ok(()), Err);
    }
    loop {
        view.changed().await?;
        let mut shared = lock(shared);
        if let Some(stop) = shared.stop.take() {
            return Err(stop);
        }
        shared.printer.flush()?;
    }
}

/// Prints what has changed since some offsets, and then every change.
async fn print_changes(
    watch: &Watch,
    next_offsets: &[u64],
    common: &Common,
) -> Result<(), Failure> {
    let state = common.connect().await?.state(watch.topic.as_str());
    let mut printer = Printer::of_changes(&watch.topic, watch.format.as_ref(), common);
    // Before anything is printed, after which somebody may ask to stop.
    let stop = stop_requested()?;
    let prefix = watch.prefix.as_deref().unwrap_or_default();
    let mut changes = state.changes(prefix, next_offsets).await?;
    let print = async {
        loop {
            let event = changes.next().await?;
            printer.print_event(&event)?;
            if let KeyEvent::Synced(next_offsets) = &event {
                printer.flush()?;
                common.note(format_args!("synced: {}", places(next_offsets)));
                if watch.until_synced {
                    return Ok(());
                }
            }
            if !changes.has_more() {
                printer.flush()?;
            }
        }
    };
    let outcome: Result<(), Stop> = tokio::select! {
        outcome = print => outcome,
        () = stop => Err(Stop::Interrupted),
        () = readers_gone() => Err(Stop::BrokenPipe),
    };
    match outcome.in_order(|| printer.flush()) {
        Err(Stop::Interrupted) if watch.until_synced => {
            Err(Failure::failed("interrupted before all was printed"))
        }
        Ok(()) | Err(Stop::BrokenPipe | Stop::Interrupted) => Ok(()),
        Err(Stop::Failure(failure)) => Err(failure),
    }
}

/// As `0:12 1:7`.
fn places(next_offsets: &[u64]) -> String {
    let places = next_offsets.iter().enumerate();
    let places: Vec<_> = places
        .map(|(partition, offset)| format!("{partition}:{offset}"))
        .collect();
    places.join(" ")
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
