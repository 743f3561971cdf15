//! How a task goes, by its id's first letters and by when it was first asked for.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// More than a gateway watches at its default limits, at some 20 MB if all are used; who was asked for longest ago
/// goes first, and begins anew.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(131_072).expect("not zero");
const TODO_FOR: Duration = Duration::from_secs(2);
const DOING_FOR: Duration = Duration::from_secs(5);

/// What a call for a task comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The task has not begun.
    Todo,
    /// It is under way.
    Doing,
    /// It is done, for every user.
    Done,
    /// It is done, and a user failed in each of the ways there are.
    DoneWithFailures,
    /// There is nobody by that name.
    Missing,
    /// The load balancer could reach nobody.
    Unavailable,
}

/// The tasks that were asked for.
pub(super) struct Tasks {
    known: LruCache<String, Task>,
}

struct Task {
    begun: Instant,
    calls: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { known: LruCache::sparse(CAPACITY) }
    }
}

impl Tasks {
    /// One call for the task `id`, which begins now if it is the first.
    pub(super) fn ask(&mut self, id: &str, now: Instant) -> Outcome {
        let task = self.known.get_or_insert_mut_ref(id, || Task { begun: now, calls: 0 });
        task.calls += 1;
        let age = now.saturating_duration_since(task.begun);
        if id.starts_with("missing-") {
            Outcome::Missing
        } else if id.starts_with("stuck-") {
            Outcome::Doing
        } else if id.starts_with("flaky-") && task.calls % 2 == 1 {
            Outcome::Unavailable
        } else if age < TODO_FOR {
            Outcome::Todo
        } else if age < TODO_FOR + DOING_FOR {
            Outcome::Doing
        } else if id.starts_with("fail-") {
            Outcome::DoneWithFailures
        } else {
            Outcome::Done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::*;
    use super::*;

    #[test]
    fn a_task_goes_its_way_from_when_it_was_first_asked_for() {
        let start = Instant::now();
        let table = [
            ("1659446191820726274", [Todo, Todo, Doing, Doing, Done, Done]),
            ("fail-1", [Todo, Todo, Doing, Doing, DoneWithFailures, DoneWithFailures]),
            ("stuck-1", [Doing; 6]),
            ("missing-1", [Missing; 6]),
            ("flaky-1", [Unavailable, Todo, Unavailable, Doing, Unavailable, Done]),
            ("slow-1", [Todo, Todo, Doing, Doing, Done, Done]),
            // A prefix is the beginning alone, and has its dash.
            ("a-fail-1", [Todo, Todo, Doing, Doing, Done, Done]),
            ("missing", [Todo, Todo, Doing, Doing, Done, Done]),
        ];
        let mut tasks = Tasks::default();
        for (id, outcomes) in table {
            let ages_ms = [0, 1_999, 2_000, 6_999, 7_000, 86_400_000];
            let got = ages_ms.map(|age_ms| tasks.ask(id, start + Duration::from_millis(age_ms)));
            assert_eq!(got, outcomes, "{id}");
        }
    }

    #[test]
    fn flaky_ids_are_counted_apart() {
        let now = Instant::now();
        let mut tasks = Tasks::default();
        assert_eq!(tasks.ask("flaky-1", now), Unavailable);
        assert_eq!(tasks.ask("flaky-2", now), Unavailable);
        assert_eq!(tasks.ask("flaky-1", now), Todo);
    }

    #[test]
    fn so_many_ids_and_no_more() {
        let start = Instant::now();
        let mut tasks = Tasks::default();
        tasks.ask("first", start);
        for number in 1..CAPACITY.get() {
            tasks.ask(&number.to_string(), start);
        }
        let later = start + Duration::from_secs(2);
        assert_eq!(tasks.ask("first", later), Doing);
        tasks.ask("one more", later);
        assert_eq!(tasks.known.len(), CAPACITY.get());
        // It was asked for just now; "1" was not.
        assert_eq!(tasks.ask("first", later), Doing);
        assert_eq!(tasks.ask("1", later), Todo);
    }
}
