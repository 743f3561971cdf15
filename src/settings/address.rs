//! Addresses to listen on, as people write them. Resolves and binds nothing.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::problem::Fault;

/// The longest path that a unix socket's address holds on Linux, less its closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(HostPort),
    /// A unix socket's absolute path.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host and a port, as `ToSocketAddrs` and a resolver take it when shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Which interface or host.
    pub host: Host,
    /// The port; 0 picks one where it is listened on.
    pub port: u16,
}

/// A literal address, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal IPv4 address.
    V4(Ipv4Addr),
    /// A literal IPv6 address, which is written in brackets.
    V6(Ipv6Addr),
    /// A name, in lower case.
    Name(String),
}

impl Host {
    /// Whether nobody beyond this machine can reach it: 127.0.0.0/8, ::1 and `localhost`. What any other name
    /// means is its resolver's to say, so it is not.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `host:port` or `unix:/path`.
pub(super) fn listen(text: &str) -> Result<ListenAddress, Fault> {
    let Some(path) = text.strip_prefix("unix:") else {
        return host_port(text).map(ListenAddress::Tcp);
    };
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(Fault::new("names no absolute path", "write unix:/path/to/socket"));
    }
    if path.len() > MAX_SOCKET_PATH_BYTES {
        return Err(Fault::new(
            format!("is too long a path for a unix socket, which takes {MAX_SOCKET_PATH_BYTES} bytes"),
            "choose a shorter path",
        ));
    }
    if path.contains('\0') {
        return Err(Fault::new("holds a zero byte", "write unix:/path/to/socket"));
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

/// `host:port`, or `off` as `None`.
pub(super) fn optional(text: &str) -> Result<Option<HostPort>, Fault> {
    if text == "off" { Ok(None) } else { host_port(text).map(Some) }
}

/// `host:port`.
pub(super) fn host_port(text: &str) -> Result<HostPort, Fault> {
    const REMEDY: &str = "write host:port, like 127.0.0.1:50051, [::1]:50051 or localhost:50051";
    let fault = |predicate: &str| Fault::new(predicate, REMEDY);
    if text.is_empty() {
        return Err(fault("is empty"));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| fault("has no port"))?;
    // `u16::from_str` takes a sign.
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number).ok_or_else(|| fault("has no port from 0 to 65535"))?;
    let host = if let Some(literal) = host.strip_prefix('[') {
        let literal = literal.strip_suffix(']').and_then(|literal| literal.parse().ok());
        Host::V6(literal.ok_or_else(|| fault("holds no IPv6 address between its brackets"))?)
    } else if host.contains(':') {
        return Err(fault("holds an IPv6 address without brackets"));
    } else if host.is_empty() {
        return Err(Fault::new("names no host", "write 0.0.0.0:port or [::]:port for every interface"));
    } else if let Ok(address) = host.parse() {
        Host::V4(address)
    } else if is_name(host) {
        Host::Name(host.to_ascii_lowercase())
    } else {
        return Err(fault("holds neither an address nor a host's name"));
    };
    Ok(HostPort { host, port })
}

/// Whether it can be a host's name. One that ends in digits alone is a mistyped address, which some resolvers
/// would even take (`127.1`).
fn is_name(host: &str) -> bool {
    let labels_fit = host.strip_suffix('.').unwrap_or(host).split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    labels_fit && host.len() <= 253 && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_taken() {
        for text in
            ["127.0.0.1:0", "[::1]:50051", "localhost:1", "gateway.internal:65535", "unix:/run/g.sock"]
        {
            assert_eq!(listen(text).unwrap().to_string(), text);
        }
        assert_eq!(optional("off").unwrap(), None);
        assert!(optional("127.0.0.1:1").unwrap().is_some());
    }

    #[test]
    fn loopback_is_what_the_contract_says() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.255.0.9:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("LOCALHOST:1", true),
            ("localhost.:1", false),
            ("localhost.localdomain:1", false),
            ("my-localhost:1", false),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("128.0.0.1:1", false),
        ] {
            assert_eq!(host_port(text).unwrap().host.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "50051",
            ":50051",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:65536",
            "127.0.0.1:+1",
            "::1:50051",
            "[::1]",
            "[::1:50051",
            "[localhost]:1",
            "127.0.0.256:1",
            "127.1:1",
            "2130706433:1",
            "a b:1",
            "a..b:1",
            "é:1",
            "http://127.0.0.1:1",
            "unix:",
            "unix:run/g.sock",
            "unix:/",
            "1.2.3.4.:1",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
        assert!(listen(&format!("unix:/{}", "a".repeat(106))).is_ok());
        assert!(listen(&format!("unix:/{}", "a".repeat(107))).is_err());
    }
}
