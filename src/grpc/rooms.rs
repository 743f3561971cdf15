//! How many calls there may be at once, and who takes a place among them.

use tokio::time::Instant;

use crate::limits::{Place, Room};
use crate::metrics::Method;

/// The places of a server; clones share them.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// QueryTask calls.
    pub in_flight: Room,
    /// WatchTask and Health.Watch streams, counted together.
    pub watches: Room,
}

/// There is no place left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

impl Rooms {
    /// A place for a call, if it needs one; [`Full`] if there is none left.
    pub(super) fn enter(&self, method: Method, is_draining: bool) -> Result<Option<Place>, Full> {
        let Some(room) = self.of(method) else { return Ok(None) };
        let place = room.enter();
        // In a drain streams end at once, saying why, and that is the better answer.
        let ends_at_once = method != Method::QueryTask && is_draining;
        if place.is_some() || ends_at_once {
            return Ok(place);
        }
        if room.is_news(Instant::now()) {
            tracing::warn!(
                rpc.method = method.name(),
                limit = room.places(),
                "calls are refused: the limit on their number is reached"
            );
        }
        Err(Full)
    }

    /// Where a call of that method takes a place. What operators look with needs none.
    fn of(&self, method: Method) -> Option<&Room> {
        match method {
            Method::QueryTask => Some(&self.in_flight),
            Method::WatchTask | Method::HealthWatch => Some(&self.watches),
            Method::HealthCheck | Method::Reflection | Method::ReflectionAlpha | Method::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_calls_that_have_a_limit_are_refused_and_a_drain_says_so_by_itself() {
        let rooms = Rooms { in_flight: Room::new(1), watches: Room::new(1) };
        let is_refused = |method, is_draining| rooms.enter(method, is_draining).is_err();
        let query = rooms.enter(Method::QueryTask, false).ok().flatten();
        assert!(
            query.is_some() && is_refused(Method::QueryTask, false) && !is_refused(Method::WatchTask, false)
        );
        let watch = rooms.enter(Method::HealthWatch, false).ok().flatten();
        assert!(
            watch.is_some() && is_refused(Method::WatchTask, false) && is_refused(Method::HealthWatch, false)
        );
        let free = [Method::HealthCheck, Method::Reflection, Method::ReflectionAlpha, Method::Unknown];
        assert!(!free.into_iter().any(|method| is_refused(method, false)));
        // Streams end at once, with SHUTTING_DOWN; queries are served to the end, as far as there is room.
        assert!(!is_refused(Method::WatchTask, true) && !is_refused(Method::HealthWatch, true));
        assert!(is_refused(Method::QueryTask, true));
        drop((query, watch));
        assert!(!is_refused(Method::QueryTask, false));
    }
}
