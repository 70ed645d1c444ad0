//! What every disk must do, run against the real and the simulated one; what
//! only the simulated one does; who may use a directory on the real one.

mod conformance;
mod faults;
mod lock;
