//! What the library's heuristic proposes for a product.
#![allow(unsafe_code, reason = "the library is written in C")]

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use cudarc::cublaslt::sys::{
    cublasLtMatmulAlgoConfigAttributes_t as Config, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preferred, cublasLtReductionScheme_t,
};

use super::{
    library::{HeuristicResult, NOT_SUPPORTED, check},
    plan::Candidate,
    products::{ALIGNMENT, Library, Plan},
};
use crate::cuda::CudaError;

/// Proposals that are asked for: the first are seldom ruled out.
const CANDIDATES_MAX: usize = 16;

impl Library {
    /// What the heuristic proposes, best first.
    pub(super) fn candidates(&self, plan: &Plan, workspace_bytes: usize) -> Result<Vec<HeuristicResult>, CudaError> {
        let mut preference = ptr::null_mut();
        // SAFETY: the library writes one pointer.
        check("describing a preference", unsafe { (self.functions.preference_create)(&raw mut preference) })?;
        let mut found = vec![HeuristicResult::NONE; CANDIDATES_MAX];
        let mut count: c_int = 0;
        let asked = self.prefer(preference, workspace_bytes).and_then(|()| {
            // SAFETY: descriptions are this library's; it writes at most as many results as there is room for.
            let status = unsafe {
                (self.functions.heuristic)(
                    self.handle,
                    plan.desc,
                    plan.weight,
                    plan.x,
                    plan.y,
                    plan.y,
                    preference,
                    CANDIDATES_MAX as c_int,
                    found.as_mut_ptr(),
                    &raw mut count,
                )
            };
            if status == NOT_SUPPORTED {
                count = 0;
                return Ok(());
            }
            check("asking for algorithms", status)
        });
        // SAFETY: created above, and not used after this.
        let _ = unsafe { (self.functions.preference_destroy)(preference) };
        asked?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        Ok(found)
    }

    fn prefer(&self, preference: cublasLtMatmulPreference_t, workspace_bytes: usize) -> Result<(), CudaError> {
        let whole_sums = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        let set = |attribute: Preferred, value: *const c_void, bytes: usize| {
            // SAFETY: the value is a live local of that many bytes.
            let status = unsafe { (self.functions.preference_set)(preference, attribute as u32, value, bytes) };
            check("stating a preference", status)
        };
        let bytes = workspace_bytes as u64;
        set(Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), size_of_val(&bytes))?;
        for (attribute, value) in [
            (Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, whole_sums),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ALIGNMENT),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT),
        ] {
            set(attribute, (&raw const value).cast(), size_of_val(&value))?;
        }
        Ok(())
    }

    /// What an algorithm does with its sums.
    pub(super) fn candidate(&self, result: &HeuristicResult) -> Result<Candidate, CudaError> {
        let get = |attribute: Config| {
            let (mut value, mut written) = (0_u32, 0);
            // SAFETY: both attributes are 32 bits.
            let status = unsafe {
                let value = (&raw mut value).cast();
                (self.functions.algorithm_get)(
                    &raw const result.algorithm,
                    attribute as u32,
                    value,
                    4,
                    &raw mut written,
                )
            };
            check("reading an algorithm", status).map(|()| value)
        };
        Ok(Candidate {
            status: result.state,
            workspace_bytes: result.workspace_bytes,
            split_k: get(Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM)?.cast_signed(),
            reduction: get(Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)?,
        })
    }
}
