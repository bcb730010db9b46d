//! A model's weights, rounded to f16, on their way to a device.

use std::path::Path;

use half::f16;
use sluice_kernels::cuda::encoder::{Norm as NormRegions, Region};

use super::{
    CudaEncoder, EncoderError, Machine, Multiplier, Regions,
    regions::{LayerRegions, LinearRegions},
};
use crate::{
    bert_weights::{BertFile, LinearWeights, Norm},
    folder::BertConfig,
    load_error::LoadError,
};

/// What a model is loaded from.
pub(crate) struct Weights<'a> {
    /// The weights file.
    pub(crate) path: &'a Path,
    /// For messages.
    pub(crate) config_path: &'a Path,
    pub(crate) config: &'a BertConfig,
}

impl<M: Machine> CudaEncoder<M> {
    /// Reads every tensor and writes it where it was planned. The machine has reserved what `regions` says.
    pub(crate) fn load(
        weights: &Weights<'_>,
        regions: Regions,
        multiplier: Multiplier,
        machine: M,
    ) -> Result<Self, LoadError> {
        let bytes = crate::folder::read_file(weights.path)?;
        let file = BertFile::read(weights.path, &bytes, weights.config)?;
        let mut upload = Upload { file: &file, machine };
        let embeddings = file.embeddings()?;
        upload.halves(regions.model.words.whole, &embeddings.words)?;
        upload.halves(regions.model.positions.whole, &embeddings.positions)?;
        upload.halves(regions.model.token_types.whole, &embeddings.token_types)?;
        upload.norm(&regions.model.norm, &embeddings.norm)?;
        drop(embeddings);
        for (index, layer) in (0..).zip(&regions.model.layers) {
            upload.layer(layer, index)?;
        }
        let mut head_bias = 0.0;
        if let Some(regions) = &regions.model.head {
            let head = file.head(weights.config_path)?;
            upload.linear(&regions.pooler, &head.pooler)?;
            upload.floats(regions.classifier, &head.classifier)?;
            head_bias = head.bias;
        }
        let machine = upload.machine;
        let parameters = file.parameters();
        Ok(Self { machine, config: weights.config.clone(), regions, multiplier, head_bias, parameters })
    }
}

struct Upload<'a, M> {
    file: &'a BertFile<'a>,
    machine: M,
}

impl<M: Machine> Upload<'_, M> {
    fn layer(&mut self, regions: &LayerRegions, index: u32) -> Result<(), LoadError> {
        let weights = self.file.layer(index)?;
        self.linear(&regions.qkv, &weights.qkv)?;
        self.linear(&regions.attention_output, &weights.attention_output)?;
        self.norm(&regions.attention_norm, &weights.attention_norm)?;
        self.linear(&regions.intermediate, &weights.intermediate)?;
        self.linear(&regions.output, &weights.output)?;
        self.norm(&regions.output_norm, &weights.output_norm)
    }

    fn linear(&mut self, regions: &LinearRegions, weights: &LinearWeights) -> Result<(), LoadError> {
        self.halves(regions.weight.whole, &weights.weight)?;
        self.halves(regions.bias, &weights.bias)
    }

    fn norm(&mut self, regions: &NormRegions, norm: &Norm) -> Result<(), LoadError> {
        let values = norm.args(&[], &[]);
        self.floats(regions.gamma, values.gamma)?;
        self.floats(regions.beta, values.beta)
    }

    fn halves(&mut self, region: Region<f16>, values: &[f32]) -> Result<(), LoadError> {
        let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
        if let Some(place) = halves.iter().position(|half| !half.is_finite()) {
            let reason = format!("a weight is {:e}, and a CUDA device computes in f16", values[place]);
            return Err(LoadError::CudaUnsupported { reason });
        }
        self.machine.write_f16(region, &halves).map_err(load_failure)
    }

    fn floats(&mut self, region: Region<f32>, values: &[f32]) -> Result<(), LoadError> {
        self.machine.write_f32(region, values).map_err(load_failure)
    }
}

/// What a device's failure means to whoever loads a model.
pub(crate) fn load_failure(error: EncoderError) -> LoadError {
    match error {
        EncoderError::Cuda(source) => LoadError::Cuda { source },
        other => LoadError::CudaUnsupported { reason: other.to_string() },
    }
}
