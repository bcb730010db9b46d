//! Named benchmark scenarios with their rivals.
