//! Typed client of Sluice, and the sluice command.
