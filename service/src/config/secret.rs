//! Text that is read from a configuration and never shown.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What is shown in its place.
const HIDDEN: &str = "(hidden)";

/// A token or a password. Written as `(hidden)`, or as nothing if there is none.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { HIDDEN }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { HIDDEN })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_not_written() {
        #[derive(Debug, Deserialize, Serialize)]
        struct Config {
            token: Secret,
        }
        for (text, secret, shown) in [("token = \"x1\"\n", "x1", "(hidden)"), ("token = \"\"\n", "", "")] {
            let config: Config = toml::from_str(text).expect("valid");
            assert_eq!(config.token.reveal(), secret);
            assert_eq!(toml::to_string(&config).expect("it has text"), format!("token = \"{shown}\"\n"));
            assert!(!format!("{config:?}").contains("x1"));
        }
    }
}
