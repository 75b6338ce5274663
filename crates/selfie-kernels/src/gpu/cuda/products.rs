//! Matrix products by cuBLASLt, with an algorithm chosen once a shape.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulAlgo_t as Algorithm,
    cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType as DataType,
};

use super::device::Device;
use super::problem::{Layout, Problem};
use crate::gpu::Gemm;
use crate::{DType, KernelError, Result};

/// `CUBLAS_OP_N` and `CUBLAS_OP_T` of cuBLAS's header: as it lies, and transposed.
const OPERATIONS: [i32; 2] = [0, 1];

/// Workspace on Hopper and later, as NVIDIA's documentation of cuBLAS recommends it, and before.
const WORKSPACE: (usize, usize) = (32 << 20, 4 << 20);

/// The library's handle, and what has been chosen.
pub(super) struct Products {
    device: String,
    handle: sys::cublasLtHandle_t,
    deterministic: bool,
    workspace: u64,
    workspace_bytes: usize,
    plans: HashMap<Problem, Plan>,
    /// In deterministic mode: the algorithm of each weight's shape.
    algorithms: HashMap<Problem, Algorithm>,
}

impl Products {
    pub(super) fn new(device: &Device, deterministic: bool) -> Result<Self> {
        // Without a workspace no sum can be split between blocks.
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
            workspace: 0,
            workspace_bytes,
            plans: HashMap::new(),
            algorithms: HashMap::new(),
        };
        products.workspace = device.alloc("cuBLASLt's workspace", workspace_bytes as u64)?;
        Ok(products)
    }

    /// Chooses how a product is computed, if there was none of its shape before.
    pub(super) fn prepare(&mut self, gemm: &Gemm) -> Result<()> {
        let problem = Problem::new(gemm);
        if self.plans.contains_key(&problem) {
            return Ok(());
        }
        let plan = self.plan(problem).map_err(|e| self.failed(gemm, e))?;
        self.plans.insert(problem, plan);
        Ok(())
    }

    /// Puts a product on the stream that has been [prepared](Self::prepare).
    ///
    /// # Safety
    /// The product's addresses are what [`Gemm`] says.
    pub(super) unsafe fn send(
        &self,
        gemm: &Gemm,
        stream: cudarc::driver::sys::CUstream,
    ) -> Result<()> {
        let plan = &self.plans[&Problem::new(gemm)];
        let (alpha, beta) = (1f32, if gemm.accumulate { 1f32 } else { 0f32 });
        let pointer = |address: u64| address as *const c_void;
        let out = gemm.out as *mut c_void;
        // SAFETY: the layouts describe what is at the addresses; alpha and beta are read before the call returns.
        let sent = unsafe {
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
                &plan.algorithm,
                self.workspace as *mut c_void,
                self.workspace_bytes,
                stream.cast(),
            )
        };
        sent.map_err(|e| self.failed(gemm, e))
    }

    fn plan(&mut self, problem: Problem) -> Result<Plan, CublasError> {
        let mut plan = Plan::new(&problem)?;
        if !self.deterministic {
            plan.algorithm = self.choose(&problem, &plan)?;
            return Ok(plan);
        }
        let any = problem.of_any_batch();
        plan.algorithm = match self.algorithms.get(&any) {
            Some(&algorithm) => algorithm,
            None => {
                let algorithm = self.choose(&any, &Plan::new(&any)?)?;
                self.algorithms.insert(any, algorithm);
                algorithm
            }
        };
        // SAFETY: the result is plain numbers, for which 0 is a value.
        let mut checked: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: handle, description and layouts are alive.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                plan.description.0,
                plan.weight.0,
                plan.operand.0,
                plan.out.0,
                plan.out.0,
                &plan.algorithm,
                &mut checked,
            )
        };
        status.result()?;
        Ok(plan)
    }

    /// What cuBLASLt's heuristic takes for the fastest algorithm.
    fn choose(&self, problem: &Problem, plan: &Plan) -> Result<Algorithm, CublasError> {
        let preference = PreferenceHandle(result::create_matmul_pref()?);
        preference.set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &self.workspace_bytes,
        )?;
        if self.deterministic {
            let none = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
            preference.set(
                Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                &none,
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
        // SAFETY: handle, description, layouts and preference are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                plan.description.0,
                plan.weight.0,
                plan.operand.0,
                plan.out.0,
                plan.out.0,
                preference.0,
            )
        };
        Ok(found?.algo)
    }

    fn failed(&self, gemm: &Gemm, error: CublasError) -> KernelError {
        let Gemm { m, n, k, dtype, .. } = gemm;
        let doing = format!("multiplying [{m}, {k}] by [{k}, {n}] in {dtype}");
        failed(&self.device, doing, error)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: the stream has been waited for, and both are this value's own; 0 is an address that was never given.
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

/// A problem in cuBLASLt's own words.
struct Plan {
    description: DescriptionHandle,
    weight: LayoutHandle,
    operand: LayoutHandle,
    out: LayoutHandle,
    algorithm: Algorithm,
}

impl Plan {
    /// All but the algorithm.
    fn new(problem: &Problem) -> Result<Self, CublasError> {
        let (data, compute) = match problem.dtype {
            DType::Bf16 => (DataType::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F),
            DType::F16 => (DataType::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F),
            // Pedantic: neither TF32 nor f32 put together from bf16, whatever the environment asks of the library.
            DType::F32 => (DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_PEDANTIC),
        };
        let description = result::create_matmul_desc(compute, DataType::CUDA_R_32F)?;
        let plan = Self {
            description: DescriptionHandle(description),
            weight: LayoutHandle::new(data, problem.weight())?,
            operand: LayoutHandle::new(data, problem.operand())?,
            out: LayoutHandle::new(DataType::CUDA_R_32F, problem.out())?,
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

struct DescriptionHandle(sys::cublasLtMatmulDesc_t);

impl Drop for DescriptionHandle {
    fn drop(&mut self) {
        // SAFETY: it is this value's own.
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
        // SAFETY: it is this value's own.
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
        // SAFETY: it is this value's own.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
