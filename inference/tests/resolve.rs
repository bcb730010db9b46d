//! The resolver against a pip and a hub of the tests' own, on this machine.
#![cfg(unix)]

#[path = "resolve/default_model.rs"]
mod default_model;
#[path = "resolve/fake_hub.rs"]
mod fake_hub;
#[path = "resolve/fake_pip.rs"]
mod fake_pip;
#[path = "resolve/fixture.rs"]
mod fixture;
#[path = "resolve/folders.rs"]
mod folders;
#[path = "resolve/hub.rs"]
mod hub;
#[path = "resolve/packages.rs"]
mod packages;
