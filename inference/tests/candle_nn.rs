//! A second opinion on the packed encoder: the same BERT put together from candle-nn's layers, one sequence at a time,
//! on a small random model. candle-nn's layers share no code with the kernels between our matrix products.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use std::collections::HashMap;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, embedding, layer_norm, linear, ops::softmax};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_core::Operation;
use sluice_inference::{CpuEngine, CpuOptions, load_folder};
use sluice_kernels::Isa;
use support::{ROOMY, assert_close, batch, plain, run, tiny, tokens};
use tempfile::TempDir;
use tiny::{LONG, SMALL, Sizes, TOKEN_TYPES};

#[test]
fn token_vectors_equal_those_of_candle_nn() {
    for (sizes, seed, lengths) in [
        (SMALL, 0, &[1, 2, 8, 17, 33, SMALL.max_positions][..]),
        (SMALL, 1, &[60, 59, 1, 1, 31]),
        (LONG, 2, &[1, 512, 7, 129, 300, 2, 64, 511, 12, 13]),
    ] {
        let tensors = tiny::tensors_of(sizes, seed, 1);
        let folder = TempDir::new().unwrap();
        tiny::write_model_of(sizes, folder.path(), "BertModel", &tensors);
        let mut rng = SmallRng::seed_from_u64(seed);
        let vocabulary = tiny::vocabulary().len() as u32;
        let sequences: Vec<Vec<u32>> =
            lengths.iter().map(|&length| (0..length).map(|_| rng.random_range(0..vocabulary)).collect()).collect();
        let packed = batch(Operation::EncodeTokens, &sequences.iter().cloned().map(plain).collect::<Vec<_>>());
        let weights = variables(&tensors);
        let expected: Vec<Vec<f32>> = sequences
            .iter()
            .map(|ids| unit_rows(&encode(&weights, sizes, ids).unwrap()).unwrap().into_iter().flatten().collect())
            .collect();
        for options in engines() {
            let mut model = load_folder(folder.path(), String::new(), String::new(), &options).unwrap();
            let found = tokens(run(&mut *model.backend, &packed).unwrap());
            for ((ids, expected), found) in sequences.iter().zip(&expected).zip(&found) {
                let what = format!("{}, seed {seed}, {} tokens", model.info.backend, ids.len());
                assert_close(found, expected.iter().copied().map(f64::from), 2e-4, &what);
            }
        }
    }
}

/// Our own engine with every instruction set that the machine has, and the other one.
fn engines() -> Vec<CpuOptions> {
    let own = Isa::available().map(|isa| CpuOptions { isa: Some(isa), ..ROOMY });
    own.chain([CpuOptions { engine: CpuEngine::Candle, ..ROOMY }]).collect()
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
fn encode(weights: &VarBuilder<'_>, sizes: Sizes, ids: &[u32]) -> Result<Tensor> {
    let Sizes { hidden, num_heads, num_layers, intermediate, max_positions } = sizes;
    let length = ids.len();
    let index = |values: Vec<u32>| Tensor::from_vec(values, length, &Device::Cpu);
    let table = |name: &str, rows| embedding(rows, hidden, weights.pp(format!("embeddings.{name}_embeddings")));
    let words = table("word", tiny::vocabulary().len())?.forward(&index(ids.to_vec())?)?;
    let positions = table("position", max_positions)?.forward(&index((0..length as u32).collect())?)?;
    let types = table("token_type", TOKEN_TYPES)?.forward(&index(vec![0; length])?)?;
    let norm = |name: &str| layer_norm(hidden, 1e-12, weights.pp(name));
    let mut x = norm("embeddings.LayerNorm")?.forward(&((words + positions)? + types)?)?;
    for layer in 0..num_layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let project = |part: &str| -> Result<Tensor> {
            let projected = linear(hidden, hidden, weights.pp(name(&format!("attention.self.{part}"))))?.forward(&x)?;
            projected.reshape((length, num_heads, hidden / num_heads))?.transpose(0, 1)?.contiguous()
        };
        let (query, key, value) = (project("query")?, project("key")?, project("value")?);
        let scale = ((hidden / num_heads) as f64).sqrt();
        let weights_of = softmax(&(query.matmul(&key.t()?.contiguous()?)? / scale)?, D::Minus1)?;
        let attended = weights_of.matmul(&value)?.transpose(0, 1)?.contiguous()?.reshape((length, hidden))?;
        let attended = linear(hidden, hidden, weights.pp(name("attention.output.dense")))?.forward(&attended)?;
        let attended = norm(&name("attention.output.LayerNorm"))?.forward(&(attended + &x)?)?;
        let inner = linear(hidden, intermediate, weights.pp(name("intermediate.dense")))?.forward(&attended)?;
        let inner = linear(intermediate, hidden, weights.pp(name("output.dense")))?.forward(&inner.gelu_erf()?)?;
        x = norm(&name("output.LayerNorm"))?.forward(&(inner + attended)?)?;
    }
    Ok(x)
}

fn unit_rows(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?.to_vec2()
}
