//! Exactly once and in order, whatever is lost on the way.
