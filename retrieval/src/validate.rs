//! The boundary: wire messages in, valid jobs out. Nothing behind it checks again.
//!
//! Every fault of a message is reported, each with the path of its field. What a path cannot be told for, the domain's
//! own check finds at the end: nothing that it would refuse comes through.

mod collection;
mod document;
mod filter;
mod search;
mod vector;

use sluice_service::status::{FieldFault, Refusal};

pub(crate) use self::{collection::LANGUAGES, search::LEGS_MAX};
pub use self::{
    collection::{alias, create_collection, existing, restore, snapshot},
    document::{Deletion, batch, deletion, ids, projection},
    search::{explain, search},
};
use crate::identity::check_name;

/// Faults listed in one answer: a request of nothing but faults must not be answered with a book.
const FAULTS_MAX: usize = 32;

/// Faults so far.
#[derive(Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(FieldFault { field: field.into(), description: description.into() });
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn finish(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::InvalidArgument(self.0)) }
    }

    fn unknown_value<T>(&mut self, field: impl Into<String>, value: i32, otherwise: T) -> T {
        self.add(field, format!("{value} is not a value of this enum"));
        otherwise
    }

    /// A name for something new.
    fn new_name(&mut self, field: impl Into<String>, name: &str) {
        if let Err(error) = check_name(name) {
            self.add(field, error.to_string());
        }
    }

    fn count(&mut self, field: impl Into<String>, count: usize, max: usize) {
        if count == 0 {
            self.add(field, "must not be empty");
        } else if count > max {
            self.add(field, format!("must be at most {max}, got {count}"));
        }
    }
}

/// A path inside another.
fn at(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
