//! Matrix products by cuBLASLt. An algorithm is chosen once per shape.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulAlgo_t as Algorithm,
    cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtReductionScheme_t as Reduction,
    cublasStatus_t as Status, cudaDataType as DataType,
};
use cudarc::driver::sys::CUstream;

use super::CudaOptions;
use super::device::Device;
use super::problem::{Layout, Problem};
use super::tune;
use crate::gpu::Gemm;
use crate::{DType, KernelError, Result};

/// `CUBLAS_OP_N` and `CUBLAS_OP_T` of cuBLAS's header: not transposed, and transposed.
const OPERATIONS: [i32; 2] = [0, 1];

/// Workspace bytes on Hopper and later, and before, as NVIDIA's documentation of cuBLAS recommends.
const WORKSPACE: (usize, usize) = (32 << 20, 4 << 20);

/// Algorithms to request from the heuristic.
const CANDIDATES: usize = 8;

/// Other numbers of rows, beside that of [any batch](Problem::of_any_batch), for which an algorithm must be valid if it
/// is to serve all.
const OTHER_ROWS: [usize; 3] = [1, 16, 8192];

/// The library's handle, and the algorithms chosen so far.
pub(super) struct Products {
    device: String,
    handle: sys::cublasLtHandle_t,
    deterministic: bool,
    tune: bool,
    workspace: u64,
    workspace_bytes: usize,
    plans: HashMap<Problem, Plan>,
    /// In deterministic mode, the algorithm for each weight's shape. Otherwise, if products are timed, the algorithm
    /// for [like batches](Problem::of_like_batches).
    algorithms: HashMap<Problem, Algorithm>,
}

impl Products {
    pub(super) fn new(device: &Device, options: CudaOptions) -> Result<Self> {
        let deterministic = options.deterministic;
        // Without a workspace, no sum can be split between blocks.
        let workspace_bytes = match (deterministic, device.compute.0) {
            (true, _) => 0,
            (false, 9..) => WORKSPACE.0,
            (false, _) => WORKSPACE.1,
        };
        let handle = result::create_handle()
            .map_err(|e| failed(&device.name, "starting cuBLASLt".to_owned(), e))?;
        let mut products = Self {
            device: device.name.clone(),
            handle,
            deterministic,
            tune: options.tune,
            workspace: 0,
            workspace_bytes,
            plans: HashMap::new(),
            algorithms: HashMap::new(),
        };
        products.workspace = device.alloc("cuBLASLt's workspace", workspace_bytes as u64)?;
        Ok(products)
    }

    /// Whether this is the first product of its shape.
    pub(super) fn is_new(&self, gemm: &Gemm) -> bool {
        !self.plans.contains_key(&Problem::new(gemm))
    }

    /// Chooses how to compute a product. It may time the product, so earlier work must already be on the stream.
    pub(super) fn prepare(&mut self, gemm: &Gemm, stream: CUstream) -> Result<()> {
        let plan = self.plan(gemm, stream).map_err(|e| self.failed(gemm, e))?;
        self.plans.insert(Problem::new(gemm), plan);
        Ok(())
    }

    /// Puts a [prepared](Self::prepare) product on the stream.
    ///
    /// # Safety
    /// The product's addresses are as [`Gemm`] says.
    pub(super) unsafe fn send(&self, gemm: &Gemm, stream: CUstream) -> Result<()> {
        let plan = &self.plans[&Problem::new(gemm)];
        // SAFETY: the caller's addresses.
        let sent = unsafe { self.multiply(gemm, plan, &plan.algorithm, stream) };
        sent.map_err(|e| self.failed(gemm, e))
    }

    /// # Safety
    /// The product's addresses are as [`Gemm`] says.
    unsafe fn multiply(
        &self,
        gemm: &Gemm,
        plan: &Plan,
        algorithm: &Algorithm,
        stream: CUstream,
    ) -> Result<(), CublasError> {
        let (alpha, beta) = (1f32, if gemm.accumulate { 1f32 } else { 0f32 });
        let pointer = |address: u64| address as *const c_void;
        let out = gemm.out as *mut c_void;
        // SAFETY: the layouts describe what is at the addresses; alpha and beta are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.description.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(gemm.w),
                plan.weight.0,
                pointer(gemm.a),
                plan.operand.0,
                out,
                plan.out.0,
                out,
                plan.out.0,
                algorithm,
                self.workspace as *mut c_void,
                self.workspace_bytes,
                stream.cast(),
            )
        }
    }

    fn plan(&mut self, gemm: &Gemm, stream: CUstream) -> Result<Plan, CublasError> {
        let problem = Problem::new(gemm);
        let mut plan = Plan::new(&problem)?;
        plan.algorithm = if self.deterministic {
            self.for_any_batch(&problem)?
        } else if self.tune {
            self.fastest(gemm, &problem, &plan, stream)?
        } else {
            self.candidates(&problem, &plan, 1)?[0]
        };
        self.workspace_of(&plan, &plan.algorithm)?;
        Ok(plan)
    }

    /// The first of the heuristic's algorithms that works for any number of rows: those for 128 rows first, then those
    /// for other numbers. If none does, the first for 128 rows; row counts that it cannot handle are then an error.
    fn for_any_batch(&mut self, problem: &Problem) -> Result<Algorithm, CublasError> {
        let any = problem.of_any_batch();
        if let Some(&algorithm) = self.algorithms.get(&any) {
            return Ok(algorithm);
        }
        let plan = Plan::new(&any)?;
        let mut candidates = self.candidates(&any, &plan, CANDIDATES)?;
        let mut plans = vec![plan];
        for m in OTHER_ROWS {
            let problem = any.with_rows(m);
            let plan = Plan::new(&problem)?;
            // No algorithm for that many rows is not an error: those for 128 remain.
            let more = self.candidates(&problem, &plan, CANDIDATES);
            candidates.extend(more.unwrap_or_default());
            plans.push(plan);
        }
        let does =
            |algorithm: &&Algorithm| plans.iter().all(|plan| self.check(plan, algorithm).is_ok());
        let algorithm = *candidates.iter().find(does).unwrap_or(&candidates[0]);
        self.algorithms.insert(any, algorithm);
        Ok(algorithm)
    }

    /// The fastest of the heuristic's algorithms on this very product, or on one with roughly as many rows.
    fn fastest(
        &mut self,
        gemm: &Gemm,
        problem: &Problem,
        plan: &Plan,
        stream: CUstream,
    ) -> Result<Algorithm, CublasError> {
        let like = problem.of_like_batches();
        if let Some(algorithm) = self.algorithms.get(&like)
            && self.check(plan, algorithm).is_ok()
        {
            return Ok(*algorithm);
        }
        let candidates = self.candidates(problem, plan, CANDIDATES)?;
        let fastest = tune::fastest(gemm, problem, &candidates, stream, |gemm, algorithm| {
            // SAFETY: the addresses are those of the product, or of equally large memory.
            unsafe { self.multiply(gemm, plan, algorithm, stream) }
        });
        let algorithm = candidates[fastest];
        self.algorithms.insert(like, algorithm);
        Ok(algorithm)
    }

    /// An error unless the algorithm can compute the product in the available workspace.
    fn check(&self, plan: &Plan, algorithm: &Algorithm) -> Result<(), CublasError> {
        if self.workspace_of(plan, algorithm)? > self.workspace_bytes {
            return Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(())
    }

    /// The bytes of workspace that the algorithm needs for the product; an error if it cannot compute it.
    fn workspace_of(&self, plan: &Plan, algorithm: &Algorithm) -> Result<usize, CublasError> {
        let mut checked = no_results::<1>();
        // SAFETY: handle, description and layouts are alive.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                plan.description.0,
                plan.weight.0,
                plan.operand.0,
                plan.out.0,
                plan.out.0,
                algorithm,
                checked.as_mut_ptr(),
            )
        };
        status.result()?;
        Ok(checked[0].workspaceSize)
    }

    /// Between one and `most` algorithms, in the order of cuBLASLt's heuristic: the presumed fastest first.
    fn candidates(
        &self,
        problem: &Problem,
        plan: &Plan,
        most: usize,
    ) -> Result<Vec<Algorithm>, CublasError> {
        let preference = PreferenceHandle(result::create_matmul_pref()?);
        preference.set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &self.workspace_bytes,
        )?;
        // A sum that is split between blocks is added up in f32, not in the type of the output.
        let scheme = match (self.deterministic, problem.out_dtype) {
            (true, _) => Some(Reduction::CUBLASLT_REDUCTION_SCHEME_NONE),
            (false, DType::F32) => None,
            (false, _) => Some(Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE),
        };
        if let Some(scheme) = scheme {
            preference.set(
                Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                &(scheme as u32),
            )?;
        }
        let out = problem.out().alignment;
        for (attribute, alignment) in [
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                problem.weight().alignment,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                problem.operand().alignment,
            ),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            preference.set(attribute, &alignment)?;
        }
        let mut found = no_results::<CANDIDATES>();
        let mut count = 0;
        // SAFETY: handle, description, layouts and preference are alive, and the array holds that many results.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                plan.description.0,
                plan.weight.0,
                plan.operand.0,
                plan.out.0,
                plan.out.0,
                preference.0,
                most.min(CANDIDATES) as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        status.result()?;
        let found = found.iter().take(count as usize);
        let usable = found.filter(|result| result.state == Status::CUBLAS_STATUS_SUCCESS);
        let algorithms: Vec<Algorithm> = usable.map(|result| result.algo).collect();
        if algorithms.is_empty() {
            return Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(algorithms)
    }

    fn failed(&self, gemm: &Gemm, error: CublasError) -> KernelError {
        let Gemm { m, n, k, dtype, .. } = gemm;
        let doing = format!("multiplying [{m}, {k}] by [{k}, {n}] in {dtype}");
        failed(&self.device, doing, error)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: the stream has been waited for, and this value owns both. An allocation is never at address 0.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            if self.workspace != 0 {
                let _ = cudarc::driver::result::free_sync(self.workspace);
            }
        }
    }
}

fn failed(device: &str, doing: String, error: CublasError) -> KernelError {
    KernelError::Device {
        device: device.to_owned(),
        doing,
        reason: format!("{:?}", error.0),
    }
}

/// Empty results for the heuristic to fill.
fn no_results<const N: usize>() -> [sys::cublasLtMatmulHeuristicResult_t; N] {
    // SAFETY: a result is plain numbers, and zero is valid for each; as a status it means success.
    unsafe { std::mem::zeroed() }
}

/// A problem in cuBLASLt's own types.
struct Plan {
    description: DescriptionHandle,
    weight: LayoutHandle,
    operand: LayoutHandle,
    out: LayoutHandle,
    algorithm: Algorithm,
}

impl Plan {
    /// Everything but the algorithm.
    fn new(problem: &Problem) -> Result<Self, CublasError> {
        let compute = match problem.dtype {
            DType::Bf16 | DType::F16 => Compute::CUBLAS_COMPUTE_32F,
            // Pedantic: neither TF32 nor f32 emulated with bf16, whatever the environment requests.
            DType::F32 => Compute::CUBLAS_COMPUTE_32F_PEDANTIC,
        };
        let (data, out) = (data_type(problem.dtype), data_type(problem.out_dtype));
        let description = result::create_matmul_desc(compute, DataType::CUDA_R_32F)?;
        let plan = Self {
            description: DescriptionHandle(description),
            weight: LayoutHandle::new(data, problem.weight())?,
            operand: LayoutHandle::new(data, problem.operand())?,
            out: LayoutHandle::new(out, problem.out())?,
            algorithm: Algorithm { data: [0; 8] },
        };
        let operation = OPERATIONS[usize::from(problem.transposed())];
        // SAFETY: the attribute is an integer of 32 bits.
        unsafe {
            result::set_matmul_desc_attribute(
                plan.description.0,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const operation).cast(),
                size_of_val(&operation),
            )?;
        }
        Ok(plan)
    }
}

/// cuBLASLt's name of an element type.
fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::CUDA_R_32F,
        DType::Bf16 => DataType::CUDA_R_16BF,
        DType::F16 => DataType::CUDA_R_16F,
    }
}

struct DescriptionHandle(sys::cublasLtMatmulDesc_t);

impl Drop for DescriptionHandle {
    fn drop(&mut self) {
        // SAFETY: this value owns it.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct LayoutHandle(sys::cublasLtMatrixLayout_t);

impl LayoutHandle {
    fn new(data: DataType, layout: Layout) -> Result<Self, CublasError> {
        let (rows, columns) = (layout.rows as u64, layout.columns as u64);
        let handle = result::create_matrix_layout(data, rows, columns, layout.stride as i64)?;
        Ok(Self(handle))
    }
}

impl Drop for LayoutHandle {
    fn drop(&mut self) {
        // SAFETY: this value owns it.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct PreferenceHandle(sys::cublasLtMatmulPreference_t);

impl PreferenceHandle {
    /// Sets an attribute that has the type `T`.
    fn set<T>(&self, attribute: Preference, value: &T) -> Result<(), CublasError> {
        // SAFETY: the attributes that are set here are of these types, and the value is copied.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                (&raw const *value).cast(),
                size_of_val(value),
            )
        }
    }
}

impl Drop for PreferenceHandle {
    fn drop(&mut self) {
        // SAFETY: this value owns it.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
