//! Kernels on candle's tensors.

use candle_core::{CpuStorage, CustomOp1, Error, InplaceOp1, Layout, Result, Shape, Storage, Tensor};
use sluice_kernels::{
    Isa, ShapeError,
    attention::{Attention, attention},
};

/// Runs a kernel on the memory of a contiguous f32 tensor.
pub(super) fn in_place(
    name: &'static str,
    tensor: &Tensor,
    kernel: impl Fn(&mut [f32]) -> std::result::Result<(), ShapeError>,
) -> Result<()> {
    tensor.inplace_op1(&InPlace { name, kernel })
}

/// Lends the values of a contiguous f32 tensor.
pub(super) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(values(storage, layout)?)),
        _ => Err(Error::msg("a tensor is not in main memory")),
    }
}

struct InPlace<F> {
    name: &'static str,
    kernel: F,
}

impl<F: Fn(&mut [f32]) -> std::result::Result<(), ShapeError>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (start, end) = contiguous(layout)?;
        match storage {
            CpuStorage::F32(values) => (self.kernel)(&mut values[start..end]).map_err(Error::wrap),
            _ => Err(Error::msg("a tensor is not f32")),
        }
    }
}

/// Attention over packed sequences: `[tokens, 3·heads·head_dim]` → `[tokens, heads·head_dim]`.
pub(super) struct AttentionOp {
    pub(super) cu_seqlens: Vec<u32>,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = values(storage, layout)?;
        let dim = self.num_heads * self.head_dim;
        let mut out = vec![0.0; qkv.len() / 3];
        let args = Attention {
            qkv,
            cu_seqlens: &self.cu_seqlens,
            num_heads: self.num_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        };
        attention(Isa::best(), args, &mut out).map_err(Error::wrap)?;
        let shape = Shape::from((out.len() / dim, dim));
        Ok((CpuStorage::F32(out), shape))
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = contiguous(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| Error::msg("a tensor is not contiguous"))
}
