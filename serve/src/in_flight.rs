//! The bytes that requests under way hold: bodies while they arrive, and the tensors that are read from them.
//!
//! Each request is bounded by itself (`--max-body`, `--max-elements`), and those that wait by their number; this bounds the sum.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::refusal::Refusal;

/// What all requests hold, and may.
#[derive(Debug)]
pub(crate) struct InFlight {
    held: AtomicU64,
    limit: u64,
}

impl InFlight {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), limit })
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Refuses what could not be held if it came now.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), Refusal> {
        let (held, limit) = (self.held(), self.limit);
        let fits = held.checked_add(bytes).is_some_and(|sum| sum <= limit);
        if fits { Ok(()) } else { Err(Refusal::InFlight { held, asked: bytes, limit }) }
    }
}

/// What one request holds, given back when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    of: Arc<InFlight>,
    bytes: AtomicU64,
}

impl Hold {
    pub(crate) fn new(of: &Arc<InFlight>) -> Self {
        Self { of: Arc::clone(of), bytes: AtomicU64::new(0) }
    }

    /// Holds so many more, or none of them.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), Refusal> {
        let held = self.of.held.fetch_add(bytes, Ordering::Relaxed);
        if held.saturating_add(bytes) > self.of.limit {
            self.of.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Refusal::InFlight { held, asked: bytes, limit: self.of.limit });
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.of.held.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// A body of which every byte is held for as long as the request is under way.
pub(crate) struct Held {
    pub(crate) body: Body,
    pub(crate) hold: Arc<Hold>,
    /// What a refusal is read as: that of gRPC, or [`Refusal`].
    pub(crate) grpc: bool,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(frame) => frame?,
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        Poll::Ready(Some(match self.hold.grow(bytes) {
            Ok(()) => Ok(frame),
            Err(refusal) if self.grpc => Err(tonic::Status::from(refusal).into()),
            Err(refusal) => Err(refusal.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let all = InFlight::new(100);
        let (one, other) = (Hold::new(&all), Hold::new(&all));
        one.grow(60).unwrap();
        other.grow(40).unwrap();
        assert!(matches!(other.grow(1), Err(Refusal::InFlight { held: 100, asked: 1, limit: 100 })));
        assert_eq!(all.held(), 100);
        drop(other);
        assert_eq!(all.held(), 60);
        assert!(all.check(40).is_ok() && all.check(41).is_err() && all.check(u64::MAX).is_err());
        drop(one);
        assert_eq!(all.held(), 0);
    }
}
