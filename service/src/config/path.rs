//! Paths of keys, as TOML would write them.

use std::fmt;

/// One step from a value to a value inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

/// Path of a value from the root of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The path of `key` inside the table at this path.
    pub(super) fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// The path of element `index` of the array at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    pub(super) fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The path of what contains this one; the root's is the root.
    pub(super) fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is `outer` or lies inside it.
    pub(super) fn is_within(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }
}

impl FromIterator<Step> for KeyPath {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl From<&serde_path_to_error::Path> for KeyPath {
    /// As far as it leads through tables and arrays: below that, an enum's variant is no key.
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        path.iter()
            .map_while(|segment| match segment {
                Segment::Seq { index } => Some(Step::Index(*index)),
                Segment::Map { key } => Some(Step::Key(key.clone())),
                Segment::Enum { .. } | Segment::Unknown => None,
            })
            .collect()
    }
}

impl From<&serde_ignored::Path<'_>> for KeyPath {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path;
        match path {
            Path::Root => Self::default(),
            Path::Seq { parent, index } => Self::from(*parent).index(*index),
            Path::Map { parent, key } => Self::from(*parent).key(key),
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                Self::from(*parent)
            }
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("(root)");
        }
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    let bare = !key.is_empty()
                        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
                    if bare { f.write_str(key)? } else { write!(f, "{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_toml_writes_them() {
        let root = KeyPath::default();
        let check = |path: KeyPath, expected: &str| assert_eq!(path.to_string(), expected);
        check(root.clone(), "(root)");
        check(root.key("server").key("listen"), "server.listen");
        check(root.key("models").index(2).key("name"), "models[2].name");
        check(root.key("models").key("a.b").key("source"), r#"models."a.b".source"#);
        check(root.key(""), r#""""#);
    }

    #[test]
    fn within_is_by_step() {
        let server = KeyPath::default().key("server");
        assert!(server.key("listen").is_within(&server));
        assert!(server.is_within(&server));
        assert!(!KeyPath::default().key("servers").is_within(&server));
        assert_eq!(server.key("listen").parent(), server);
    }
}
