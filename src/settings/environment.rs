//! Where variables are read: the process's environment, or a map that stands for one. Knows no setting.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A place that variables are read from.
pub trait Environment {
    /// The variable's value as it stands there, empty or no text though it may be.
    fn variable(&self, name: &str) -> Option<OsString>;
}

/// The process's own environment.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl Environment for BTreeMap<String, OsString> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).cloned()
    }
}

impl Environment for BTreeMap<&str, &str> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_stands_for_the_environment() {
        let map = BTreeMap::from([("A", "1")]);
        assert_eq!(map.variable("A"), Some(OsString::from("1")));
        assert_eq!(map.variable("B"), None);
        assert_eq!(ProcessEnvironment.variable("FEDERATION_NO_SUCH_VARIABLE"), None);
    }
}
