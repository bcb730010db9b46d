//! Which device computes what: settled once, before anything is fetched.
//!
//! | `device` | models | comparing token vectors |
//! |---|---|---|
//! | `cpu` | the processor | the processor |
//! | `auto` | the first CUDA device if it is usable, does what the model needs and has room for it, else the processor | likewise |
//! | `cuda`, `cuda:N` | that device, or the server does not start | that device |
//! | `cuda:N,M,…`, `cuda:all` | each of those devices, or the server does not start | each of them |
//!
//! A `backend` that is named is one of the processor's, and so is `precision = "int8"`: `auto` leaves models there. `auto` takes one device of
//! several: who shares a machine with others says which devices are his. What is scripted may stand for several devices;
//! then every model is loaded as often.

use std::sync::Arc;

use metrics::Label;
use sluice_core::{DeviceIndex, backend::Backend};
use sluice_inference::{
    CpuComparer, CpuOptions, CudaComparer, CudaOptions, LoadError, LoadedModel, ModelError, ModelInfo, Resolver, Source,
};

use crate::{
    ServerConfig,
    config::{CpuBackend, Device, ModelConfig, Precision},
    engine::Backends,
    metrics as counted,
    models::Models,
    serve::{Machine, ServerError},
};

/// Tokens of a batch on the CPU where none are configured: enough for the matrix products to run at full
/// speed, little enough that a newcomer does not wait long for the batch before it.
const CPU_BATCH_TOKENS: u32 = 1024;
/// Tokens of a batch on a CUDA device where none are configured: a hundred pairs of 256 tokens, 8 ms of BERT-base at
/// three quarters of an H100's peak.
const CUDA_BATCH_TOKENS: u32 = 32_768;
/// Sequences of a batch: bounds what a batch of very short texts costs beside its tokens.
const CPU_BATCH_SEQUENCES: u32 = 256;
/// The same on a CUDA device, which has to be given more at once.
const CUDA_BATCH_SEQUENCES: u32 = 1024;

/// Where things compute.
pub(crate) struct Placement<'a> {
    config: &'a ServerConfig,
    /// The CUDA devices that are used, by number.
    cuda: Vec<usize>,
    /// Nothing else will do.
    insists: bool,
}

/// What was placed: what requests ask about, and what each device computes with.
pub(crate) struct Placed {
    pub(crate) models: Models,
    /// At least one.
    pub(crate) devices: Vec<Backends>,
}

impl<'a> Placement<'a> {
    /// Looks for CUDA devices, unless none is wanted; says in one line what became of that.
    pub(crate) fn settle(config: &'a ServerConfig) -> Result<Self, ServerError> {
        let (cuda, insists) = match &config.device {
            Device::Cpu => (Vec::new(), false),
            Device::Cuda(ordinals) => {
                let names: Result<Vec<String>, _> =
                    ordinals.iter().map(|&one| sluice_inference::cuda_device(one)).collect();
                (named(ordinals.clone(), &names?)?, true)
            }
            Device::CudaAll => {
                let names = sluice_inference::cuda_devices()?;
                (named((0..names.len()).collect(), &names)?, true)
            }
            Device::Auto => match sluice_inference::cuda_device(0) {
                Ok(device) => {
                    tracing::info!(device, "a CUDA device computes what it can");
                    (vec![0], false)
                }
                Err(reason) => {
                    tracing::info!(%reason, "no CUDA device is used");
                    (Vec::new(), false)
                }
            },
        };
        Ok(Self { config, cuda, insists })
    }

    /// Loads every model that is configured once for each device, and what compares token vectors there.
    pub(crate) fn load(&self, machine: &Machine) -> Result<Placed, ServerError> {
        let first = self.load_models(machine, DeviceIndex(0))?;
        let scripted = first.iter().map(|(_, model)| model.devices.get()).max().unwrap_or(1);
        let count = u16::try_from(self.cuda.len()).unwrap_or(u16::MAX).max(scripted);
        for (name, LoadedModel { info, .. }) in &first {
            let ModelInfo { source, digest, architecture, backend, max_tokens, .. } = info;
            tracing::info!(model = name, source, digest, architecture, backend, max_tokens, "model loaded");
            counted::model(vec![
                Label::new("model", name.clone()),
                Label::new("digest", digest.clone()),
                Label::new("backend", *backend),
            ]);
        }
        let (models, backends) = Models::split(first);
        let mut devices = vec![Backends { models: backends, vectors: self.comparer(DeviceIndex(0))? }];
        for device in (1..count).map(DeviceIndex) {
            let loaded = self.load_models(machine, device)?;
            for ((name, other), (_, model)) in loaded.iter().zip(models.iter()) {
                if (&other.info.digest, other.info.backend) != (&model.info.digest, model.info.backend) {
                    return Err(ServerError::ModelsDiffer { name: name.clone() });
                }
            }
            let backends = loaded.into_iter().map(|(_, model)| model.backend).collect();
            devices.push(Backends { models: backends, vectors: self.comparer(device)? });
        }
        Ok(Placed { models, devices })
    }

    /// What compares token vectors.
    fn comparer(&self, device: DeviceIndex) -> Result<Box<dyn Backend>, ServerError> {
        let cpu = |sequences| CpuComparer::new(sequences, self.config.compute_threads).map_err(ServerError::Comparer);
        let Some(ordinal) = self.ordinal(device) else { return Ok(Box::new(cpu(CPU_BATCH_SEQUENCES)?)) };
        let cache_bytes = usize::try_from(self.config.token_store.device_cache_bytes_max).unwrap_or(usize::MAX);
        match CudaComparer::open(ordinal, cache_bytes, cpu(CUDA_BATCH_SEQUENCES)?) {
            Ok(comparer) => Ok(Box::new(comparer)),
            Err(reason) if self.insists => Err(reason.into()),
            Err(reason) => {
                tracing::info!(%reason, "token vectors are compared on the processor");
                Ok(Box::new(cpu(CPU_BATCH_SEQUENCES)?))
            }
        }
    }

    fn load_models(&self, machine: &Machine, device: DeviceIndex) -> Result<Vec<(String, LoadedModel)>, ServerError> {
        let cache = self.config.cache_dir.clone().unwrap_or_else(|| machine.cache_dir.clone());
        let resolver = Resolver::new(cache, Arc::clone(&machine.progress)).with_hub(machine.hub.clone());
        let mut loaded = Vec::new();
        for ModelConfig { name, source: from } in self.config.models() {
            let source: Source = from.parse()?;
            let model = self.load_model(&name, &source, &resolver, device).map_err(|source| ServerError::Model {
                name: name.clone(),
                from,
                source: Box::new(source),
            })?;
            loaded.push((name, model));
        }
        Ok(loaded)
    }

    fn load_model(
        &self,
        name: &str,
        source: &Source,
        resolver: &Resolver,
        device: DeviceIndex,
    ) -> Result<LoadedModel, ModelError> {
        if let Source::Scripted(file) = source {
            return Ok(sluice_inference::load_scripted_on(file, device)?);
        }
        // Who names an engine of the processor, or its int8, wants that.
        let on_cpu = self.config.backend != CpuBackend::Auto || self.config.precision == Precision::Int8;
        let wanted = self.insists || !on_cpu;
        if let Some(ordinal) = self.ordinal(device).filter(|_| wanted) {
            let options = CudaOptions {
                ordinal,
                batch_tokens_max: self.batch_tokens_max(CUDA_BATCH_TOKENS),
                batch_sequences_max: CUDA_BATCH_SEQUENCES,
                memory_bytes_max: Some(self.config.device_memory_bytes_max)
                    .filter(|max| *max > 0)
                    .and_then(|max| usize::try_from(max).ok())
                    .unwrap_or(usize::MAX),
            };
            match sluice_inference::load_cuda(source, resolver, &options) {
                Err(ModelError::Load(reason @ (LoadError::Cuda { .. } | LoadError::CudaUnsupported { .. })))
                    if !self.insists =>
                {
                    tracing::info!(model = name, %reason, "the model computes on the processor");
                }
                loaded => return loaded,
            }
        }
        let options = CpuOptions {
            engine: self.config.backend.engine(),
            precision: self.config.precision.into(),
            threads: self.config.compute_threads,
            ..CpuOptions::new(self.batch_tokens_max(CPU_BATCH_TOKENS), CPU_BATCH_SEQUENCES)
        };
        sluice_inference::load(source, resolver, &options)
    }

    /// The CUDA device's number.
    fn ordinal(&self, device: DeviceIndex) -> Option<usize> {
        self.cuda.get(usize::from(device.0)).copied()
    }

    fn batch_tokens_max(&self, default: u32) -> u32 {
        Some(self.config.scheduler.batch_tokens_max).filter(|max| *max > 0).unwrap_or(default)
    }
}

/// Says which devices compute. They must be alike: a pair's score is the same bits on all of them only then.
fn named(ordinals: Vec<usize>, names: &[String]) -> Result<Vec<usize>, ServerError> {
    if let Some(other) = names.iter().find(|name| **name != names[0]) {
        return Err(ServerError::DevicesDiffer { one: names[0].clone(), other: other.clone() });
    }
    let device = names.first().map_or("", String::as_str);
    match &ordinals[..] {
        [ordinal] => tracing::info!(device, ordinal, "a CUDA device computes"),
        ordinals => tracing::info!(device, ?ordinals, "CUDA devices compute"),
    }
    Ok(ordinals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_alike_or_not_used_together() {
        let check = |names: &[&str], expected: Result<usize, (&str, &str)>| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let found = match named((0..names.len()).collect(), &names) {
                Ok(ordinals) => Ok(ordinals.len()),
                Err(ServerError::DevicesDiffer { one, other }) => Err((one, other)),
                Err(error) => unreachable!("{error}"),
            };
            assert_eq!(found, expected.map_err(|(one, other)| (one.to_owned(), other.to_owned())), "{names:?}");
        };
        check(&["a"], Ok(1));
        check(&["a", "a", "a"], Ok(3));
        check(&["a", "a", "b", "c"], Err(("a", "b")));
    }
}
