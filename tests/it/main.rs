//! End-to-end tests, one binary. Each file is named for what it looks at.

mod bad_batches;
mod fetch;
mod health;
mod library;
mod main_job;
mod produce;
mod support;
mod tidy;
mod topics;
mod verbs;
