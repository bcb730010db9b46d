//! Products on a device: planned once, run as often as asked.
#![allow(unsafe_code, reason = "the library is written in C")]

use std::{collections::HashMap, ffi::c_void, ptr};

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t,
    cudaDataType_t,
};

use super::{
    library::{self, Functions, HeuristicResult, check},
    plan::{Columns, Epilogue, Multiplication, Product, row_counts, workspace_bytes},
};
use crate::cuda::{CudaDevice, CudaError, memory::DeviceBuffer};

/// What rows, weights and biases are aligned to, in bytes.
pub(super) const ALIGNMENT: u32 = 16;
/// `CUBLAS_OP_T` of cublas_v2.h.
const TRANSPOSED: i32 = 1;

/// cuBLASLt on one device, and the plans that were made. Used by one thread at a time, as its device is.
pub struct Products {
    /// `None` for those that the library has no algorithm for.
    plans: HashMap<Product, Option<Plan>>,
    workspace: DeviceBuffer,
    library: Library,
}

/// The library's functions and its handle.
pub(super) struct Library {
    pub(super) functions: &'static Functions,
    pub(super) handle: cublasLtHandle_t,
}

/// An algorithm and what describes its matrices. Given back by [`Products`], which has the functions.
pub(super) struct Plan {
    pub(super) desc: cublasLtMatmulDesc_t,
    pub(super) weight: cublasLtMatrixLayout_t,
    pub(super) x: cublasLtMatrixLayout_t,
    pub(super) y: cublasLtMatrixLayout_t,
    algorithm: cublasLtMatmulAlgo_t,
    workspace_bytes: usize,
}

// SAFETY: handles and descriptions are plain memory of the library, which has no ties to a thread; `&mut` keeps two
// threads from using them at once.
unsafe impl Send for Products {}

impl std::fmt::Debug for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Products").field("plans", &self.plans.len()).finish_non_exhaustive()
    }
}

impl Products {
    /// Loads cuBLASLt and reserves its workspace.
    ///
    /// # Errors
    /// [`CudaError::LibraryMissing`] where it is not installed; [`CudaError::OutOfMemory`], or another fault of the
    /// device.
    pub fn open(device: &CudaDevice) -> Result<Self, CudaError> {
        device.bind()?;
        let (functions, handle) = library::open(|functions| {
            let mut handle = ptr::null_mut();
            // SAFETY: the device's context is bound, and the library writes one pointer.
            check("opening cuBLASLt", unsafe { (functions.create)(&raw mut handle) }).map(|()| handle)
        })?;
        let library = Library { functions, handle };
        let workspace = device.allocate(workspace_bytes(device.compute_capability()))?;
        Ok(Self { plans: HashMap::new(), workspace, library })
    }

    /// The library's version: 10,000 · major + 100 · minor + patch, from 12 on.
    #[must_use]
    pub fn version(&self) -> usize {
        // SAFETY: it has no precondition.
        unsafe { (self.library.functions.version)() }
    }

    /// Plans a product, once. `false` if the library has no algorithm that adds up each sum in one piece and takes every
    /// padded number of rows.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Lost`], or [`CudaError::Launch`] if the library does not answer.
    ///
    /// # Panics
    /// If the product is not [sound](Product::is_sound).
    pub(crate) fn plan(&mut self, device: &CudaDevice, product: &Product) -> Result<bool, CudaError> {
        if let Some(plan) = self.plans.get(product) {
            return Ok(plan.is_some());
        }
        assert!(product.is_sound(), "a product has a shape: {product:?}");
        device.bind()?;
        let plan = self.library.plan(product, &self.workspace).map_err(|error| explained(device, error))?;
        let planned = plan.is_some();
        self.plans.insert(*product, plan);
        Ok(planned)
    }

    /// Products that were to be planned and could not.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &Product> {
        self.plans.iter().filter(|(_, plan)| plan.is_none()).map(|(product, _)| product)
    }

    /// Has the device compute a product that was [planned](Self::plan), in the order of its stream.
    ///
    /// # Safety
    /// The matrices must be device memory of the product's shape, each at a multiple of 16 bytes and y beside the others,
    /// until the device has been waited for.
    ///
    /// # Errors
    /// [`CudaError::Launch`] if the library refuses, [`CudaError::Lost`].
    ///
    /// # Panics
    /// If it was not planned.
    pub(crate) unsafe fn run(&mut self, device: &CudaDevice, multiplication: &Multiplication) -> Result<(), CudaError> {
        let &Multiplication { product, rows, x, weight, bias, y } = multiplication;
        if rows == 0 {
            return Ok(());
        }
        device.bind()?;
        let plan = self.plans.get(&product).and_then(Option::as_ref).expect("it was planned when it was checked");
        let Library { functions, handle } = &self.library;
        self.library.set_rows(plan, rows)?;
        if product.epilogue != Epilogue::None {
            self.library.set_desc(plan.desc, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let (one, zero) = (1.0_f32, 0.0_f32);
        let device_pointer = |address: u64| address as *const c_void;
        // SAFETY: descriptions are of this library and alive; the two factors are read before the call returns; memory
        // is the caller's promise, and the workspace lives as long as this does.
        let status = unsafe {
            (functions.matmul)(
                *handle,
                plan.desc,
                (&raw const one).cast(),
                device_pointer(weight),
                plan.weight,
                device_pointer(x),
                plan.x,
                (&raw const zero).cast(),
                device_pointer(y),
                plan.y,
                y as *mut c_void,
                plan.y,
                &raw const plan.algorithm,
                self.workspace.address() as *mut c_void,
                plan.workspace_bytes,
                device.stream().cast(),
            )
        };
        check("multiplying", status).map_err(|error| explained(device, error))
    }
}

/// A device that is lost fails the library's calls with codes of the library's own.
fn explained(device: &CudaDevice, error: CudaError) -> CudaError {
    match (error, device.query()) {
        (CudaError::Launch { .. }, Err(lost @ CudaError::Lost { .. })) => lost,
        (error, _) => error,
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        for plan in self.plans.values().flatten() {
            self.library.give_back(plan);
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is this library's and is not used after this. There is no answer to a failure.
        let _ = unsafe { (self.functions.destroy)(self.handle) };
    }
}

impl Library {
    /// `None` if there is no algorithm for it.
    fn plan(&self, product: &Product, workspace: &DeviceBuffer) -> Result<Option<Plan>, CudaError> {
        let workspace_bytes = workspace.bytes();
        let mut plan = self.describe(product, workspace)?;
        let chosen = self.choose(product, &plan, workspace_bytes);
        if let Ok(Some(algorithm)) = chosen {
            (plan.algorithm, plan.workspace_bytes) = (algorithm, workspace_bytes);
            return Ok(Some(plan));
        }
        self.give_back(&plan);
        chosen.map(|_| None)
    }

    /// The first algorithm that computes a sum in one piece and takes every padded number of rows: the heuristic's order is
    /// by speed.
    fn choose(
        &self,
        product: &Product,
        plan: &Plan,
        workspace_bytes: usize,
    ) -> Result<Option<cublasLtMatmulAlgo_t>, CudaError> {
        for found in self.candidates(plan, workspace_bytes)? {
            // What an algorithm does not say of itself counts against it.
            if self.candidate(&found).is_ok_and(|candidate| candidate.fits(workspace_bytes))
                && self.takes_all_rows(product, plan, &found.algorithm, workspace_bytes)?
            {
                return Ok(Some(found.algorithm));
            }
        }
        Ok(None)
    }

    fn takes_all_rows(
        &self,
        product: &Product,
        plan: &Plan,
        algorithm: &cublasLtMatmulAlgo_t,
        workspace_bytes: usize,
    ) -> Result<bool, CudaError> {
        for rows in row_counts(product.rows_max) {
            self.set_rows(plan, rows)?;
            let mut result = HeuristicResult::NONE;
            // SAFETY: all of it is this library's, and it writes one result.
            let status = unsafe {
                (self.functions.algorithm_check)(
                    self.handle,
                    plan.desc,
                    plan.weight,
                    plan.x,
                    plan.y,
                    plan.y,
                    ptr::from_ref(algorithm),
                    &raw mut result,
                )
            };
            if status != 0 || result.state != 0 || result.workspace_bytes > workspace_bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn set_rows(&self, plan: &Plan, rows: u32) -> Result<(), CudaError> {
        let columns = cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS as u32;
        self.set_layout(plan.x, columns, &u64::from(rows))?;
        self.set_layout(plan.y, columns, &u64::from(rows))
    }

    /// A plan without its algorithm.
    fn describe(&self, product: &Product, workspace: &DeviceBuffer) -> Result<Plan, CudaError> {
        let mut plan = Plan {
            desc: ptr::null_mut(),
            weight: ptr::null_mut(),
            x: ptr::null_mut(),
            y: ptr::null_mut(),
            algorithm: HeuristicResult::NONE.algorithm,
            workspace_bytes: 0,
        };
        let matrices = product.matrices(product.rows_max);
        let described = self
            .create_desc(product.epilogue, workspace, &mut plan.desc)
            .and_then(|()| self.create_layout(matrices.weight, &mut plan.weight))
            .and_then(|()| self.create_layout(matrices.x, &mut plan.x))
            .and_then(|()| self.create_layout(matrices.y, &mut plan.y));
        match described {
            Ok(()) => Ok(plan),
            Err(error) => {
                self.give_back(&plan);
                Err(error)
            }
        }
    }

    fn create_desc(
        &self,
        epilogue: Epilogue,
        workspace: &DeviceBuffer,
        desc: &mut cublasLtMatmulDesc_t,
    ) -> Result<(), CudaError> {
        let (sums, scale) = (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F);
        // SAFETY: the library writes one pointer.
        check("describing a product", unsafe { (self.functions.desc_create)(desc, sums as u32, scale as u32) })?;
        self.set_desc(*desc, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if epilogue != Epilogue::None {
            // Algorithms are chosen for a bias that is there, and aligned no better than any will be.
            let somewhere = workspace.address() + u64::from(ALIGNMENT);
            self.set_desc(*desc, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &somewhere)?;
        }
        let epilogue = match epilogue {
            Epilogue::None => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGeluTanh => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        self.set_desc(*desc, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))
    }

    fn create_layout(&self, columns: Columns, layout: &mut cublasLtMatrixLayout_t) -> Result<(), CudaError> {
        let Columns { rows, columns, pitch } = columns;
        let half = cudaDataType_t::CUDA_R_16F as u32;
        // SAFETY: the library writes one pointer.
        let status = unsafe { (self.functions.layout_create)(layout, half, rows, columns, pitch) };
        check("describing a matrix", status)
    }

    fn set_desc<T>(&self, desc: cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), CudaError> {
        let bytes = size_of::<T>();
        // SAFETY: the description is this library's, and the value has that many bytes.
        let status = unsafe { (self.functions.desc_set)(desc, attribute as u32, ptr::from_ref(value).cast(), bytes) };
        check("describing a product", status)
    }

    fn set_layout<T>(&self, layout: cublasLtMatrixLayout_t, attribute: u32, value: &T) -> Result<(), CudaError> {
        // SAFETY: as above.
        let status =
            unsafe { (self.functions.layout_set)(layout, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        check("describing a matrix", status)
    }

    fn give_back(&self, plan: &Plan) {
        for layout in [plan.weight, plan.x, plan.y] {
            if !layout.is_null() {
                // SAFETY: created by this library, given back once: a plan is dropped after this. Failures have no answer.
                let _ = unsafe { (self.functions.layout_destroy)(layout) };
            }
        }
        if !plan.desc.is_null() {
            // SAFETY: as above.
            let _ = unsafe { (self.functions.desc_destroy)(plan.desc) };
        }
    }
}
