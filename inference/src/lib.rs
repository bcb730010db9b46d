//! Models: resolver, tokenizers, weights and the backends that compute.
