//! A stream that is watched for a moment once its request is answered.
//!
//! A client that asks for one small thing after another sends the next request when it has read the answer. To sleep until then, and be
//! woken, takes longer than such a request itself: 30 to 40 µs for each thread that is woken on an idle CPU of a virtual machine.
//! So where a request took little, and the one before it in this process came the same way, the thread looks a little while for the
//! next; among several clients it does not, as the others may have sent theirs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A request that took less is small.
const SMALL: Duration = Duration::from_millis(1);
/// How long the next one is looked for.
const WATCH: Duration = Duration::from_micros(100);

/// Streams, by number.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    count: AtomicU64,
    /// The one that was answered last.
    answered: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct BusyPoll {
    stream: TcpStream,
    /// None where it is not watched.
    of: Option<Arc<Streams>>,
    number: u64,
    /// When the request came that is not answered yet.
    asked: Option<Instant>,
    /// Whether to look for the next.
    watch: bool,
}

impl BusyPoll {
    pub(crate) fn new(stream: TcpStream, of: Option<Arc<Streams>>) -> Self {
        let number = of.as_ref().map_or(0, |of| of.count.fetch_add(1, Ordering::Relaxed) + 1);
        Self { stream, of, number, asked: None, watch: false }
    }

    /// Something is written: the beginning of an answer, where a request came before.
    fn answers(&mut self) {
        if let (Some(of), Some(asked)) = (&self.of, self.asked.take()) {
            let before = of.answered.swap(self.number, Ordering::Relaxed);
            self.watch = before == self.number && asked.elapsed() < SMALL;
        }
    }

    /// Returns when there is something to read, or after a moment.
    fn look(&self) {
        let begun = Instant::now();
        let mut streams = [PollFd::new(&self.stream, PollFlags::IN)];
        // (Should it fail the stream is slept on.)
        while begun.elapsed() < WATCH && matches!(poll(&mut streams, Some(&Timespec::default())), Ok(0)) {}
    }
}

impl AsyncRead for BusyPoll {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.asked.get_or_insert_with(Instant::now);
        } else if std::mem::take(&mut self.watch) {
            // What comes is told to the context at once: this thread finds it before it goes to sleep.
            self.look();
        }
        polled
    }
}

impl AsyncWrite for BusyPoll {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
