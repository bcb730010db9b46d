//! How to write what a request may spend, and how it is worked on in stages.

use std::time::Duration;

use sluice_proto::rerank::v1 as wire;

/// Writes a [`Budget`](wire::Budget): what is set bounds the work, and the answer then comes with the best order known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget(wire::Budget);

impl Budget {
    /// Time from the arrival of the request, or the beginning of the stage; more than zero.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        // Only what is beyond 292 billion years does not fit, and that is no limit.
        self.0.time = time.try_into().ok();
        self
    }

    /// Documents that are scored, the first ones; 0 means all. Of a request: counted over all its stages.
    #[must_use]
    pub fn pairs(mut self, pairs: u32) -> Self {
        self.0.pairs = pairs;
        self
    }

    /// The deadline of the call is a budget too: of a request, not of a stage.
    #[must_use]
    pub fn until_deadline(mut self) -> Self {
        self.0.until_deadline = true;
        self
    }
}

/// Writes a [`Stage`](wire::Stage): one pass over the documents, or over those that the passes before it put first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stage(wire::Stage);

impl Stage {
    /// A stage that scores like this.
    #[must_use]
    pub fn new(method: wire::Method) -> Self {
        Self(wire::Stage { method: method.into(), ..wire::Stage::default() })
    }

    /// Asks for a model by name; without, the request's.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.0.model = name.into();
        self
    }

    /// Documents that go on to the next stage; 0 means all. Not for the last.
    #[must_use]
    pub fn top_k(mut self, documents: u32) -> Self {
        self.0.top_k = documents;
        self
    }

    /// How much it may spend.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.0.budget = Some(budget.into());
        self
    }
}

impl From<Budget> for wire::Budget {
    fn from(budget: Budget) -> Self {
        budget.0
    }
}

impl From<Stage> for wire::Stage {
    fn from(stage: Stage) -> Self {
        stage.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn say_what_was_asked_and_nothing_else() {
        assert_eq!(wire::Budget::from(Budget::default()), wire::Budget::default());
        let written = Budget::default().time(Duration::from_millis(1500)).pairs(7).until_deadline();
        let full = wire::Budget::from(written);
        assert_eq!(full.time.map(|time| (time.seconds, time.nanos)), Some((1, 500_000_000)));
        assert_eq!((full.pairs, full.until_deadline), (7, true));

        let bare = wire::Stage { method: wire::Method::Dense.into(), ..wire::Stage::default() };
        assert_eq!(wire::Stage::from(Stage::new(wire::Method::Dense)), bare);
        let expected = wire::Stage { model: "m".into(), top_k: 9, budget: Some(full), ..bare };
        assert_eq!(wire::Stage::from(Stage::new(wire::Method::Dense).model("m").top_k(9).budget(written)), expected);
    }
}
