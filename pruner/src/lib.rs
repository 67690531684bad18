//! Poda.
