//! What to do when a connection can't be taken: skip a fault of that connection's own, wait when the machine is
//! short of something. Owns the waiting and its log lines, knows no kind of socket.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Short enough that nobody notices a passing shortage, long enough that a lasting one costs nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A client's connect timeout is seconds: pauses longer than this would outlast it after the shortage is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Longer than the first pause: a shortage in which every freed file is taken at once is one spell, not ten a
/// second.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Where connections come from.
pub(super) trait Accept {
    /// What is taken.
    type Connection;

    /// One attempt. Dropping the future must lose no connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// Remembers a shortage, so that it is waited out and logged once, across calls that were dropped.
#[derive(Debug, Default)]
pub(super) struct Patience {
    spell: Option<Spell>,
}

/// A time in which connections can't be taken, or only now and then.
#[derive(Debug)]
struct Spell {
    last_failure: Instant,
    pause: Duration,
    /// A connection was taken since the last failure.
    has_eased: bool,
}

impl Patience {
    /// The next connection of `source`; `addr` is for the log.
    pub(super) async fn accept<A: Accept>(&mut self, source: &A, addr: &str) -> A::Connection {
        loop {
            if let Some(spell) = self.spell.as_ref().filter(|spell| !spell.has_eased) {
                sleep_until(spell.last_failure + spell.pause).await;
            }
            let settled = self.settles_at();
            let result = tokio::select! {
                biased;
                () = sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => {
                    self.spell = None;
                    tracing::info!(addr, "accepting connections again");
                    continue;
                }
                result = source.accept() => result,
            };
            match result {
                Ok(connection) => {
                    self.taken();
                    return connection;
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Connection => {
                        tracing::debug!(addr, %error, "a connection was gone before it was taken")
                    }
                    Fault::Shortage => {
                        if self.failed(Instant::now()) {
                            tracing::warn!(addr, %error, "can't accept connections, pausing");
                        }
                    }
                },
            }
        }
    }

    /// Notes a shortage; true if it is a new one, which the log should tell of.
    fn failed(&mut self, now: Instant) -> bool {
        match &mut self.spell {
            None => {
                self.spell = Some(Spell { last_failure: now, pause: FIRST_PAUSE, has_eased: false });
                true
            }
            Some(spell) => {
                spell.pause =
                    if spell.has_eased { FIRST_PAUSE } else { (spell.pause * 2).min(LONGEST_PAUSE) };
                spell.last_failure = now;
                spell.has_eased = false;
                false
            }
        }
    }

    fn taken(&mut self) {
        if let Some(spell) = &mut self.spell {
            spell.has_eased = true;
        }
    }

    /// When the shortage counts as over, unless it shows again before.
    fn settles_at(&self) -> Option<Instant> {
        self.spell.as_ref().filter(|spell| spell.has_eased).map(|spell| spell.last_failure + SETTLED_AFTER)
    }
}

/// Whose fault a failed accept is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection's own: the next one may be good.
    Connection,
    /// The machine's: trying again at once would only spin. An error that nobody foresaw is taken for one, as
    /// pausing is right for whatever repeats.
    Shortage,
}

impl Fault {
    /// Linux hands out a pending error of the new connection as accept's own (`man 2 accept`, "Error handling"),
    /// and EPERM where a firewall forbids it.
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied
            | Kind::Interrupted
            | Kind::WouldBlock => Self::Connection,
            _ => Self::Shortage,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// Gives what it was told to, in order, and notes when it was asked; then nothing more.
    struct Script {
        results: Mutex<VecDeque<io::Result<u32>>>,
        asked: Mutex<Vec<Instant>>,
    }

    impl Script {
        fn new(results: impl IntoIterator<Item = io::Result<u32>>) -> Self {
            Self { results: Mutex::new(results.into_iter().collect()), asked: Mutex::default() }
        }

        fn asked_ms(&self, from: Instant) -> Vec<u128> {
            self.asked.lock().unwrap().iter().map(|at| (*at - from).as_millis()).collect()
        }
    }

    impl Accept for Script {
        type Connection = u32;

        async fn accept(&self) -> io::Result<u32> {
            self.asked.lock().unwrap().push(Instant::now());
            let result = self.results.lock().unwrap().pop_front();
            match result {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    }

    fn out_of_files() -> io::Result<u32> {
        Err(io::Error::other("out of files"))
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn faults_by_error_number() {
        let of = |number| Fault::of(&io::Error::from_raw_os_error(number));
        // ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EPERM, EINTR
        for number in [103, 104, 110, 113, 101, 100, 1, 4] {
            assert_eq!(of(number), Fault::Connection, "{number}");
        }
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, and EINVAL for what should never be
        for number in [24, 23, 105, 12, 22] {
            assert_eq!(of(number), Fault::Shortage, "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connections_own_fault_is_skipped_at_once() {
        let script = Script::new([Err(io::ErrorKind::ConnectionAborted.into()), Ok(7)]);
        let start = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.accept(&script, "test").await, 7);
        assert_eq!(script.asked_ms(start), [0, 0]);
        assert!(patience.spell.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_waited_out_with_bounded_pauses() {
        let script = Script::new((0..6).map(|_| out_of_files()).chain([Ok(7)]));
        let start = Instant::now();
        assert_eq!(Patience::default().accept(&script, "test").await, 7);
        assert_eq!(script.asked_ms(start), [0, 100, 300, 700, 1500, 2500, 3500]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_accept_does_not_shorten_the_pause() {
        let script = Script::new([out_of_files(), Ok(7)]);
        let start = Instant::now();
        let mut patience = Patience::default();
        for _ in 0..4 {
            let early =
                tokio::time::timeout(Duration::from_millis(20), patience.accept(&script, "test")).await;
            assert!(early.is_err());
        }
        assert_eq!(patience.accept(&script, "test").await, 7);
        assert_eq!(script.asked_ms(start), [0, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_that_comes_and_goes_is_told_of_once() {
        let mut patience = Patience::default();
        assert!(patience.failed(Instant::now()));
        for _ in 0..30 {
            tokio::time::advance(FIRST_PAUSE).await;
            patience.taken();
            assert!(!patience.failed(Instant::now()));
            assert_eq!(patience.spell.as_ref().unwrap().pause, FIRST_PAUSE);
        }
        // Once it has been good for a while the spell is over, whether or not more connections come …
        patience.taken();
        let nobody = Script::new([]);
        let idle = patience.accept(&nobody, "test");
        assert!(tokio::time::timeout(SETTLED_AFTER, idle).await.is_err());
        assert!(patience.spell.is_none());
        // … and the next shortage is news.
        assert!(patience.failed(Instant::now()));
    }
}
