//! The tokens that were given out, and until when each is good.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderMap;
use lru::LruCache;
use tokio::time::Instant;

/// Far more than any gateway holds; the oldest goes first.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");
/// What the reference allows, and what a login gets that asks for nothing.
const LONGEST_SECS: u64 = 3600;

/// The living tokens, and dead ones until they are crowded out.
pub(super) struct Tokens {
    good_until: LruCache<String, Instant>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { good_until: LruCache::sparse(CAPACITY) }
    }
}

impl Tokens {
    /// A new token, good for so long from `now` on.
    pub(super) fn issue(&mut self, now: Instant, lifetime_secs: u64) -> String {
        let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        self.good_until.put(token.clone(), now + Duration::from_secs(lifetime_secs));
        token
    }

    /// Whether `token` was given out and is still good.
    pub(super) fn is_living(&self, token: &[u8], now: Instant) -> bool {
        // A look that does not count as use, so that the oldest is what goes.
        std::str::from_utf8(token)
            .ok()
            .and_then(|token| self.good_until.peek(token))
            .is_some_and(|end| now < *end)
    }
}

/// The lifetime that a login asks for; nothing if it asks for one that can't be.
pub(super) fn lifetime_secs(headers: &HeaderMap) -> Option<u64> {
    match headers.get("x-token-expire") {
        None => Some(LONGEST_SECS),
        Some(value) => value.to_str().ok()?.parse().ok().filter(|secs| (1..=LONGEST_SECS).contains(secs)),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_lifetime() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.issue(now, 60);
        assert!(tokens.is_living(token.as_bytes(), now));
        assert!(tokens.is_living(token.as_bytes(), now + Duration::from_millis(59_999)));
        assert!(!tokens.is_living(token.as_bytes(), now + Duration::from_secs(60)));
        assert!(!tokens.is_living(b"made up", now) && !tokens.is_living(b"\xff", now));
        assert_ne!(token, tokens.issue(now, 60));
    }

    #[test]
    fn the_oldest_goes_first_however_often_it_is_used() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let oldest = tokens.issue(now, 60);
        let next = tokens.issue(now, 60);
        for _ in 2..CAPACITY.get() {
            tokens.issue(now, 60);
        }
        assert!(tokens.is_living(oldest.as_bytes(), now));
        tokens.issue(now, 60);
        assert!(!tokens.is_living(oldest.as_bytes(), now) && tokens.is_living(next.as_bytes(), now));
    }

    #[test]
    fn lifetimes() {
        let asked = |value| {
            lifetime_secs(&HeaderMap::from_iter([(
                "x-token-expire".parse().unwrap(),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(lifetime_secs(&HeaderMap::new()), Some(3600));
        assert_eq!((asked("1"), asked("600"), asked("3600")), (Some(1), Some(600), Some(3600)));
        for bad in ["0", "3601", "-1", "1.5", "", "soon"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
