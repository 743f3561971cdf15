//! An access token as calls carry it: made once a login, shared by all calls, wiped with the last of them.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

/// The longest AccessToken that is believed, in bytes (contract 3).
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const SCHEME: &str = "Bearer ";

/// An access token, as the value of an `Authorization` header: made once, shared by all calls.
pub struct Bearer(HeaderValue);

impl Bearer {
    /// Takes an access token into keeping; `None` if it is none: empty, over 8 KiB, or not of visible ASCII.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let is_token = !token.is_empty()
            && token.len() <= MAX_TOKEN_BYTES
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        // With the whole capacity at once: a buffer that grows leaves copies behind that nobody wipes.
        let mut value = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
        value.extend_from_slice(SCHEME.as_bytes());
        value.extend_from_slice(token.as_bytes());
        let value = is_token.then(|| HeaderValue::from_maybe_shared(Bytes::from_owner(value)));
        let mut value = value?.ok()?;
        // Also shown by nobody else's Debug.
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The header's value; clones share the memory, and the last one wipes it.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Whether a text holds this token, so that the text must not be passed on.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        std::str::from_utf8(&self.0.as_bytes()[SCHEME.len()..]).is_ok_and(|token| text.contains(token))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_it() {
        let bearer = Bearer::new("hunter2").unwrap();
        assert_eq!(format!("{bearer:?}"), "[redacted]");
        assert_eq!(bearer.header_value(), "Bearer hunter2");
        assert!(bearer.is_in("a hunter2 b") && !bearer.is_in("Bearer"));
    }

    #[test]
    fn what_is_no_token_is_none() {
        assert!(Bearer::new(&"a".repeat(8 * 1024)).is_some());
        for token in [&"a".repeat(8 * 1024 + 1), "", "a b", "a\r\nb", "t\u{f6}k\u{e9}n", "a\u{7f}"] {
            assert!(Bearer::new(token).is_none(), "{token:?}");
        }
    }
}
