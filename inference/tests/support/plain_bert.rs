//! BERT as its paper writes it, one sequence at a time, in f64, sharing no code with what it checks.

use std::f64::consts::PI;

use super::tiny::{HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_LAYERS, Tensors};

type Matrix = Vec<Vec<f64>>;

/// An encoder over unprefixed tensors.
pub struct PlainBert<'a>(pub &'a Tensors);

impl PlainBert<'_> {
    /// The last hidden state of every token.
    pub fn hidden(&self, ids: &[u32], types: &[u32]) -> Matrix {
        let embedding = |name: &str, row: usize| self.row(&format!("embeddings.{name}_embeddings.weight"), row, HIDDEN);
        let mut x: Matrix = (0..ids.len())
            .map(|i| {
                let parts = [
                    embedding("word", ids[i] as usize),
                    embedding("position", i),
                    embedding("token_type", types[i] as usize),
                ];
                (0..HIDDEN).map(|k| parts.iter().map(|part| part[k]).sum()).collect()
            })
            .map(|row: Vec<f64>| self.norm("embeddings.LayerNorm", &row))
            .collect();
        for layer in 0..NUM_LAYERS {
            x = self.layer(&format!("encoder.layer.{layer}"), &x);
        }
        x
    }

    /// The head's logit.
    pub fn logit(&self, ids: &[u32], types: &[u32]) -> f64 {
        let first = &self.hidden(ids, types)[0];
        let pooled: Vec<f64> = self.linear("pooler.dense", first, HIDDEN).iter().map(|x| x.tanh()).collect();
        self.linear("classifier", &pooled, 1)[0]
    }

    fn layer(&self, name: &str, x: &Matrix) -> Matrix {
        let project = |part: &str| -> Matrix {
            x.iter().map(|row| self.linear(&format!("{name}.attention.self.{part}"), row, HIDDEN)).collect()
        };
        let attended = attend(&project("query"), &project("key"), &project("value"));
        (0..x.len())
            .map(|i| {
                let y = self.linear(&format!("{name}.attention.output.dense"), &attended[i], HIDDEN);
                let y = self.norm(&format!("{name}.attention.output.LayerNorm"), &sum(&y, &x[i]));
                let inner = self.linear(&format!("{name}.intermediate.dense"), &y, INTERMEDIATE);
                let inner: Vec<f64> = inner.into_iter().map(gelu).collect();
                let z = self.linear(&format!("{name}.output.dense"), &inner, HIDDEN);
                self.norm(&format!("{name}.output.LayerNorm"), &sum(&z, &y))
            })
            .collect()
    }

    fn linear(&self, name: &str, x: &[f64], outputs: usize) -> Vec<f64> {
        let bias = self.row(&format!("{name}.bias"), 0, outputs);
        (0..outputs).map(|o| dot(&self.row(&format!("{name}.weight"), o, x.len()), x) + bias[o]).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (gamma, beta) =
            (self.row(&format!("{name}.weight"), 0, HIDDEN), self.row(&format!("{name}.bias"), 0, HIDDEN));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
        (0..x.len()).map(|k| (x[k] - mean) / (variance + 1e-12).sqrt() * gamma[k] + beta[k]).collect()
    }

    fn row(&self, name: &str, row: usize, columns: usize) -> Vec<f64> {
        let (_, values) = &self.0[name];
        values[row * columns..(row + 1) * columns].iter().map(|&x| f64::from(x)).collect()
    }
}

fn attend(queries: &Matrix, keys: &Matrix, values: &Matrix) -> Matrix {
    let head_dim = HIDDEN / NUM_HEADS;
    queries
        .iter()
        .map(|query| {
            (0..NUM_HEADS)
                .flat_map(|head| {
                    let part = head * head_dim..(head + 1) * head_dim;
                    let weights: Vec<f64> = keys
                        .iter()
                        .map(|key| (dot(&query[part.clone()], &key[part.clone()]) / (head_dim as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = weights.iter().sum();
                    part.map(move |k| {
                        weights.iter().zip(values).map(|(weight, value)| weight / total * value[k]).sum::<f64>()
                    })
                    .collect::<Vec<_>>()
                })
                .collect()
        })
        .collect()
}

/// x · Φ(x), with Φ by Simpson's rule on the normal density from 0 to x.
fn gelu(x: f64) -> f64 {
    const STEPS: usize = 400;
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * PI).sqrt();
    let width = x / STEPS as f64;
    let weight = |i: usize| match i {
        0 | STEPS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let integral = (0..=STEPS).map(|i| weight(i) * density(i as f64 * width)).sum::<f64>() * width / 3.0;
    x * (0.5 + integral)
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A vector over its length.
pub fn unit(x: &[f64]) -> Vec<f64> {
    let norm = dot(x, x).sqrt();
    x.iter().map(|x| x / norm).collect()
}

/// Σ over query rows of the largest cosine with a document row.
pub fn maxsim(query: &Matrix, document: &Matrix) -> f64 {
    let units = |rows: &Matrix| -> Matrix { rows.iter().map(|row| unit(row)).collect() };
    let (query, document) = (units(query), units(document));
    query.iter().map(|q| document.iter().map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max)).sum()
}
