//! End-to-end tests, one binary. Each file is named for what it looks at.

mod support;
mod tidy;
mod topics;
