//! A second opinion on the packed encoder: the same BERT put together from candle-nn's layers, one sequence at a time,
//! on a small random model. candle-nn's layers share no code with the kernels between our matrix products.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use std::collections::HashMap;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, embedding, layer_norm, linear, ops::softmax};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_core::Operation;
use sluice_inference::load_folder;
use support::{ROOMY, assert_close, batch, plain, run, tiny, tokens};
use tempfile::TempDir;
use tiny::{HIDDEN, INTERMEDIATE, MAX_POSITIONS, NUM_HEADS, NUM_LAYERS, TOKEN_TYPES};

#[test]
fn token_vectors_equal_those_of_candle_nn() {
    for seed in 0..3 {
        let tensors = tiny::tensors(seed, 1);
        let folder = TempDir::new().unwrap();
        tiny::write_model(folder.path(), "BertModel", &tensors);
        let mut model = load_folder(folder.path(), String::new(), String::new(), &ROOMY).unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        let vocabulary = tiny::vocabulary().len() as u32;
        let sequences: Vec<Vec<u32>> = [1, 2, 8, 17, 33, MAX_POSITIONS]
            .map(|length| (0..length).map(|_| rng.random_range(0..vocabulary)).collect())
            .to_vec();
        let packed = batch(Operation::EncodeTokens, &sequences.iter().cloned().map(plain).collect::<Vec<_>>());
        let found = tokens(run(&mut *model.backend, &packed).unwrap());
        let weights = variables(&tensors);
        for (ids, found) in sequences.iter().zip(&found) {
            let expected = unit_rows(&encode(&weights, ids).unwrap()).unwrap();
            let expected = expected.into_iter().flatten().map(f64::from);
            assert_close(found, expected, 2e-4, &format!("seed {seed}, {} tokens", ids.len()));
        }
    }
}

fn variables(tensors: &tiny::Tensors) -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name.clone(), Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap())
        })
        .collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

/// The last hidden state of a sequence, `[tokens, hidden]`.
fn encode(weights: &VarBuilder<'_>, ids: &[u32]) -> Result<Tensor> {
    let length = ids.len();
    let index = |values: Vec<u32>| Tensor::from_vec(values, length, &Device::Cpu);
    let table = |name: &str, rows| embedding(rows, HIDDEN, weights.pp(format!("embeddings.{name}_embeddings")));
    let words = table("word", tiny::vocabulary().len())?.forward(&index(ids.to_vec())?)?;
    let positions = table("position", MAX_POSITIONS)?.forward(&index((0..length as u32).collect())?)?;
    let types = table("token_type", TOKEN_TYPES)?.forward(&index(vec![0; length])?)?;
    let norm = |name: &str| layer_norm(HIDDEN, 1e-12, weights.pp(name));
    let mut x = norm("embeddings.LayerNorm")?.forward(&((words + positions)? + types)?)?;
    for layer in 0..NUM_LAYERS {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let project = |part: &str| -> Result<Tensor> {
            let projected = linear(HIDDEN, HIDDEN, weights.pp(name(&format!("attention.self.{part}"))))?.forward(&x)?;
            projected.reshape((length, NUM_HEADS, HIDDEN / NUM_HEADS))?.transpose(0, 1)?.contiguous()
        };
        let (query, key, value) = (project("query")?, project("key")?, project("value")?);
        let scale = ((HIDDEN / NUM_HEADS) as f64).sqrt();
        let weights_of = softmax(&(query.matmul(&key.t()?.contiguous()?)? / scale)?, D::Minus1)?;
        let attended = weights_of.matmul(&value)?.transpose(0, 1)?.contiguous()?.reshape((length, HIDDEN))?;
        let attended = linear(HIDDEN, HIDDEN, weights.pp(name("attention.output.dense")))?.forward(&attended)?;
        let attended = norm(&name("attention.output.LayerNorm"))?.forward(&(attended + &x)?)?;
        let inner = linear(HIDDEN, INTERMEDIATE, weights.pp(name("intermediate.dense")))?.forward(&attended)?;
        let inner = linear(INTERMEDIATE, HIDDEN, weights.pp(name("output.dense")))?.forward(&inner.gelu_erf()?)?;
        x = norm(&name("output.LayerNorm"))?.forward(&(inner + attended)?)?;
    }
    Ok(x)
}

fn unit_rows(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?.to_vec2()
}
