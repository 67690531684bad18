//! Spans for whoever listens through the crate `tracing`: `load`, `prepare`, `plan` (which shapes) and `run`, of target
//! `poda`. Without feature `tracing` there is nothing of them.

/// A span from here to the end of the block, of a level and with fields as `tracing` writes them.
macro_rules! span {
    ($level:ident, $($said:tt)+) => {
        #[cfg(feature = "tracing")]
        let _span = tracing::span!(target: "poda", tracing::Level::$level, $($said)+).entered();
    };
}

pub(crate) use span;
