//! End-to-end tests, one binary. Each file is named for what it looks at.

// A failed unwrap fails the test, which is what is wanted.
#![allow(clippy::unwrap_used)]

mod bad_batches;
mod cleanup;
mod client_examples;
mod commit_memory;
mod compacted;
mod containers;
mod demo;
mod endings;
mod exactly_once;
mod fetch;
mod fetch_open;
mod format_1;
mod group_admin;
mod group_crashes;
mod group_edges;
mod group_generations;
mod group_idle;
mod group_members;
mod group_records;
mod group_requests;
mod group_sharing;
mod group_starts;
mod group_verbs;
mod groups;
mod health;
mod idempotent_producer;
mod inspect;
mod killed;
mod library;
mod main_job;
mod memory;
mod power_cut;
mod produce;
mod protocol_page;
mod python;
mod request_id;
mod serve;
mod state;
mod state_leases;
mod state_library;
mod state_refusals;
mod state_saved;
mod state_verbs;
mod state_view;
mod state_watch;
mod state_watcher;
mod state_write;
mod support;
mod tidy;
mod topics;
mod verbs;
