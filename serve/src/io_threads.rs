//! The threads that speak with clients. Each has its connections to itself, so that a request is read, run if that is short, and
//! answered without waking another.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// Dropping it ends the threads, and with them the connections that are left.
#[derive(Debug)]
pub(crate) struct IoThreads {
    threads: Vec<IoThread>,
    _end: watch::Sender<()>,
}

#[derive(Debug)]
struct IoThread {
    runtime: Handle,
    /// Shared by its connections.
    open: Arc<()>,
}

impl IoThreads {
    /// At least one.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let (end, ended) = watch::channel(());
        let start = |_| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, mut ended) = (runtime.handle().clone(), ended.clone());
            thread::Builder::new().name("poda-io".into()).spawn(move || {
                // An error says that the sender is gone, and it never sends.
                let _ = runtime.block_on(ended.changed());
                runtime.shutdown_background();
            })?;
            Ok(IoThread { runtime: handle, open: Arc::default() })
        };
        Ok(Self { threads: (0..count.max(1)).map(start).collect::<io::Result<_>>()?, _end: end })
    }

    /// Has a connection served, by the thread that has the fewest.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let least = self.threads.iter().min_by_key(|thread| Arc::strong_count(&thread.open));
        let IoThread { runtime, open } = least.expect("at least one was started");
        let open = Arc::clone(open);
        runtime.spawn(async move {
            connection.await;
            drop(open);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn connections_are_dealt_out_and_end_with_the_threads() {
        let io_threads = IoThreads::start(2).unwrap();
        let (names, seen) = mpsc::channel();
        for _ in 0..4 {
            let names = names.clone();
            io_threads.spawn(async move {
                names.send(thread::current().id()).unwrap();
                // It would be served for ever, and lets go of its sender when it ends.
                std::future::pending::<()>().await;
                drop(names);
            });
        }
        drop(names);
        let ids: Vec<_> = seen.iter().take(4).collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 2);
        }
        drop(io_threads);
        assert!(seen.recv().is_err());
    }
}
