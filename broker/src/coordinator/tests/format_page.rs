//! Holds what `docs/format.md` says of the groups' records to the code.
