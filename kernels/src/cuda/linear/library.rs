//! cuBLASLt's functions, looked up when they are needed first.
//!
//! cudarc's own loader panics where the library or a function is missing, and knows no library of CUDA 13; its constants
//! are used, its functions are not. Statuses are plain numbers here: a newer library may return one that an enum of an
//! older header lacks.
#![allow(unsafe_code, reason = "the library is written in C")]

use std::{
    ffi::{c_int, c_void},
    sync::OnceLock,
};

use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulPreference_t, cublasLtMatrixLayout_t,
};
use libloading::Library;

use crate::cuda::CudaError;

/// What the library is called, of the newest major version first; the last is what a development package has.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
/// Its name in errors.
const LIBRARY: &str = "cuBLASLt library";

/// `cublasStatus_t`.
pub(super) type Status = u32;

/// `cublasLtMatmulHeuristicResult_t`, its state as a number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct HeuristicResult {
    pub algorithm: cublasLtMatmulAlgo_t,
    pub workspace_bytes: usize,
    pub state: Status,
    pub waves: f32,
    pub reserved: [c_int; 4],
}

const _: () = assert!(size_of::<HeuristicResult>() == 96);

impl HeuristicResult {
    pub const NONE: Self = Self {
        algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspace_bytes: 0,
        state: 0,
        waves: 0.0,
        reserved: [0; 4],
    };
}

type Desc = cublasLtMatmulDesc_t;
type Layout = cublasLtMatrixLayout_t;
type Preference = cublasLtMatmulPreference_t;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal: $type:ty;)*) => {
        /// The functions. They stay valid as long as this lives.
        pub(super) struct Functions {
            $($(#[$doc])* pub $name: $type,)*
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> Result<Self, libloading::Error> {
                $(
                    // SAFETY: the symbol has the type that cublasLt.h declares, in every version from 11 to 13.
                    let $name = unsafe { *library.get::<$type>($symbol.as_bytes())? };
                )*
                Ok(Self { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    create = "cublasLtCreate": unsafe extern "C" fn(*mut cublasLtHandle_t) -> Status;
    destroy = "cublasLtDestroy": unsafe extern "C" fn(cublasLtHandle_t) -> Status;
    version = "cublasLtGetVersion": unsafe extern "C" fn() -> usize;
    layout_create = "cublasLtMatrixLayoutCreate": unsafe extern "C" fn(*mut Layout, u32, u64, u64, i64) -> Status;
    layout_set = "cublasLtMatrixLayoutSetAttribute":
        unsafe extern "C" fn(Layout, u32, *const c_void, usize) -> Status;
    layout_destroy = "cublasLtMatrixLayoutDestroy": unsafe extern "C" fn(Layout) -> Status;
    desc_create = "cublasLtMatmulDescCreate": unsafe extern "C" fn(*mut Desc, u32, u32) -> Status;
    desc_set = "cublasLtMatmulDescSetAttribute": unsafe extern "C" fn(Desc, u32, *const c_void, usize) -> Status;
    desc_destroy = "cublasLtMatmulDescDestroy": unsafe extern "C" fn(Desc) -> Status;
    preference_create = "cublasLtMatmulPreferenceCreate": unsafe extern "C" fn(*mut Preference) -> Status;
    preference_set = "cublasLtMatmulPreferenceSetAttribute":
        unsafe extern "C" fn(Preference, u32, *const c_void, usize) -> Status;
    preference_destroy = "cublasLtMatmulPreferenceDestroy": unsafe extern "C" fn(Preference) -> Status;
    heuristic = "cublasLtMatmulAlgoGetHeuristic": unsafe extern "C" fn(
        cublasLtHandle_t, Desc, Layout, Layout, Layout, Layout, Preference, c_int, *mut HeuristicResult, *mut c_int,
    ) -> Status;
    algorithm_get = "cublasLtMatmulAlgoConfigGetAttribute":
        unsafe extern "C" fn(*const cublasLtMatmulAlgo_t, u32, *mut c_void, usize, *mut usize) -> Status;
    algorithm_check = "cublasLtMatmulAlgoCheck": unsafe extern "C" fn(
        cublasLtHandle_t, Desc, Layout, Layout, Layout, Layout, *const cublasLtMatmulAlgo_t, *mut HeuristicResult,
    ) -> Status;
    matmul = "cublasLtMatmul": unsafe extern "C" fn(
        cublasLtHandle_t, Desc, *const c_void, *const c_void, Layout, *const c_void, Layout, *const c_void,
        *const c_void, Layout, *mut c_void, Layout, *const cublasLtMatmulAlgo_t, *mut c_void, usize, *mut c_void,
    ) -> Status;
}

/// The functions of the newest library that `create` succeeds with, and what it created: a driver may be too old for the
/// newest that is installed. They are looked up once and never given back, since what a library keeps of a device outlives
/// its handles; which library it is, is decided by the first success.
///
/// # Errors
/// [`CudaError::LibraryMissing`] if there is no library of any of the names, or it lacks a function; else what `create`
/// said of the newest.
pub(super) fn open<T>(
    create: impl Fn(&Functions) -> Result<T, CudaError>,
) -> Result<(&'static Functions, T), CudaError> {
    static LOADED: [OnceLock<Option<Functions>>; NAMES.len()] = [const { OnceLock::new() }; NAMES.len()];
    static DECIDED: OnceLock<&'static Functions> = OnceLock::new();
    if let Some(functions) = DECIDED.get() {
        return Ok((functions, create(functions)?));
    }
    let installed =
        NAMES.iter().zip(&LOADED).filter_map(|(name, loaded)| loaded.get_or_init(|| Functions::load(name)).as_ref());
    let (functions, created) = first_usable(installed, create)?;
    Ok((DECIDED.get_or_init(|| functions), created))
}

/// The first that `create` succeeds with, else why the first of all did not.
fn first_usable<F: Copy, T>(
    installed: impl Iterator<Item = F>,
    create: impl Fn(F) -> Result<T, CudaError>,
) -> Result<(F, T), CudaError> {
    let mut fault = None;
    for functions in installed {
        match create(functions) {
            Ok(created) => return Ok((functions, created)),
            Err(error) => drop(fault.get_or_insert(error)),
        }
    }
    Err(fault.unwrap_or(CudaError::LibraryMissing { library: LIBRARY }))
}

impl Functions {
    fn load(name: &str) -> Option<Self> {
        // SAFETY: loading runs the library's initialisation, which has no precondition; the names are NVIDIA's.
        unsafe { Library::new(name) }.and_then(Self::of).ok()
    }
}

/// `CUBLAS_STATUS_NOT_SUPPORTED`: of the heuristic, that it knows no algorithm.
pub(super) const NOT_SUPPORTED: Status = 15;

/// What a status means to a caller.
pub(super) fn check(what: &'static str, status: Status) -> Result<(), CudaError> {
    const ALLOCATION_FAILED: Status = 3;
    match status {
        0 => Ok(()),
        ALLOCATION_FAILED => Err(CudaError::OutOfMemory { bytes: 0 }),
        other => Err(CudaError::Launch { what, code: format!("cuBLASLt status {other}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_is_another_is_a_fact_and_no_panic() {
        for name in ["libsluice-no-such-library.so", "libc.so.6", "/", "libm.so.6"] {
            assert!(Functions::load(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_newest_library_that_works_is_taken() {
        let missing = CudaError::LibraryMissing { library: LIBRARY };
        let old = |version: u32| CudaError::Launch { what: "opening", code: version.to_string() };
        let check = |installed: &[u32], works: &[u32], expected: Result<(u32, u32), CudaError>| {
            let create = |version: u32| if works.contains(&version) { Ok(10 * version) } else { Err(old(version)) };
            assert_eq!(first_usable(installed.iter().copied(), create), expected, "{installed:?}, {works:?}");
        };
        check(&[13, 12], &[13, 12], Ok((13, 130)));
        check(&[13, 12], &[12], Ok((12, 120)));
        check(&[13, 12], &[], Err(old(13)));
        check(&[], &[12], Err(missing.clone()));
        assert_eq!(missing.to_string(), "there is no cuBLASLt library on this machine");
    }

    #[test]
    fn statuses_are_sorted_by_what_a_caller_does() {
        assert_eq!(check("multiplying", 0), Ok(()));
        assert_eq!(check("multiplying", 3), Err(CudaError::OutOfMemory { bytes: 0 }));
        let other = check("multiplying", 99).unwrap_err();
        assert_eq!(other.to_string(), "multiplying: cuBLASLt status 99");
    }
}
