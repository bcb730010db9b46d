//! Numeric kernels, each beside its plain f64 reference.
