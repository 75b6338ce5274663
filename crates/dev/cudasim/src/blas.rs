//! cuBLASLt: matrix products with f32 sums.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::device::{Op, device, refuse};
use crate::product::{Matrix, Product, R_16BF, R_16F, R_32F};

/// Results (`cublasStatus_t`).
const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 7;
const EXECUTION_FAILED: c_int = 13;
const NOT_SUPPORTED: c_int = 15;

/// Compute types (`cublasComputeType_t`) that sum unrounded operands in f32.
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_PEDANTIC: c_int = 69;

/// Attributes of a product (`cublasLtMatmulDescAttributes_t`) and of a matrix (`cublasLtMatrixLayoutAttribute_t`).
const DESC_POINTER_MODE: c_int = 2;
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const LAYOUT_ORDER: c_int = 1;

/// `CUBLAS_OP_T`
const TRANSPOSE: c_int = 1;

#[derive(Clone, Copy, Default)]
pub struct Desc {
    transpose_a: bool,
    transpose_b: bool,
}

/// A heuristic's result. `algo` is opaque; here it holds a mark that it came from this library, and a number.
#[repr(C)]
pub struct Heuristic {
    algo: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// The number of algorithms. They compute the same. The first one, which the heuristic prefers, works only for
/// [`WIDE_COLUMNS`] columns or more: on a GPU, too, not every algorithm works for every shape.
const ALGORITHMS: u64 = 3;
const WIDE_COLUMNS: usize = 16;

const fn found(number: u64) -> Heuristic {
    Heuristic {
        algo: [0x5e1f1e, number, 0, 0, 0, 0, 0, 0],
        workspace: 0,
        state: SUCCESS,
        waves: 1.0,
        reserved: [0; 4],
    }
}

/// An error unless the algorithm is one of ours and can compute `d`.
fn check_algorithm(algo: &[u64; 8], d: &Matrix) -> c_int {
    match *algo {
        [0x5e1f1e, 0, ..] if d.columns < WIDE_COLUMNS => NOT_SUPPORTED,
        [0x5e1f1e, number, ..] if number < ALGORITHMS => SUCCESS,
        _ => refuse(INVALID_VALUE, "an algorithm that no heuristic returned"),
    }
}

/// # Safety
/// As NVIDIA's reference requires of the caller; the same holds for all functions here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut usize) -> c_int {
    // SAFETY: the API's contract.
    unsafe { handle.write(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(_handle: usize) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: c_int) -> *const c_char {
    status_text(status).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusString(status: c_int) -> *const c_char {
    status_text(status).as_ptr()
}

fn status_text(status: c_int) -> &'static CStr {
    match status {
        SUCCESS => c"CUBLAS_STATUS_SUCCESS",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS of another library",
    }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    desc: *mut *mut Desc,
    compute: c_int,
    scale: c_int,
) -> c_int {
    if !matches!(compute, COMPUTE_32F | COMPUTE_32F_PEDANTIC) || scale != R_32F {
        return refuse(
            NOT_SUPPORTED,
            format!("compute type {compute} with scale type {scale} is not simulated"),
        );
    }
    // SAFETY: the API's contract.
    unsafe { desc.write(Box::into_raw(Box::default())) };
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(desc: *mut Desc) -> c_int {
    // SAFETY: it came from `cublasLtMatmulDescCreate`.
    drop(unsafe { Box::from_raw(desc) });
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    desc: *mut Desc,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> c_int {
    if bytes != size_of::<c_int>() {
        return INVALID_VALUE;
    }
    // SAFETY: the API's contract: `value` has `bytes` bytes, and the descriptor is one of ours.
    let (value, desc) = unsafe { (value.cast::<c_int>().read_unaligned(), &mut *desc) };
    match attribute {
        DESC_TRANSA => desc.transpose_a = value == TRANSPOSE,
        DESC_TRANSB => desc.transpose_b = value == TRANSPOSE,
        DESC_POINTER_MODE if value == 0 => {}
        _ => {
            return refuse(
                NOT_SUPPORTED,
                format!("attribute {attribute} = {value} of a product is not simulated"),
            );
        }
    }
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut Matrix,
    dtype: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> c_int {
    if !matches!(dtype, R_32F | R_16F | R_16BF) || stride < rows as i64 {
        return refuse(
            INVALID_VALUE,
            format!("a matrix of type {dtype}, {rows} x {columns}, with stride {stride}"),
        );
    }
    let matrix = Matrix {
        dtype,
        rows: rows as usize,
        columns: columns as usize,
        stride: stride as usize,
    };
    // SAFETY: the API's contract.
    unsafe { layout.write(Box::into_raw(Box::new(matrix))) };
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Matrix) -> c_int {
    // SAFETY: it came from `cublasLtMatrixLayoutCreate`.
    drop(unsafe { Box::from_raw(layout) });
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    _layout: *mut Matrix,
    attribute: c_int,
    value: *const c_void,
    _bytes: usize,
) -> c_int {
    // SAFETY: the API's contract; the order is an int.
    if attribute == LAYOUT_ORDER && unsafe { value.cast::<c_int>().read_unaligned() } == 0 {
        return SUCCESS;
    }
    refuse(
        NOT_SUPPORTED,
        format!("attribute {attribute} of a matrix is not simulated"),
    )
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut usize) -> c_int {
    // SAFETY: the API's contract.
    unsafe { preference.write(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(_preference: usize) -> c_int {
    SUCCESS
}

/// Ignored: no algorithm needs a workspace or splits a sum.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _preference: usize,
    _attribute: c_int,
    _value: *const c_void,
    _bytes: usize,
) -> c_int {
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: usize,
    desc: *const Desc,
    a: *const Matrix,
    b: *const Matrix,
    c: *const Matrix,
    d: *const Matrix,
    _preference: usize,
    requested: c_int,
    results: *mut Heuristic,
    returned: *mut c_int,
) -> c_int {
    // SAFETY: the API's contract: all of them are our descriptors.
    if let Err(error) = unsafe { check(&*desc, &*a, &*b, &*c, &*d) } {
        return error;
    }
    if requested < 1 {
        return INVALID_VALUE;
    }
    // SAFETY: `d` is one of our descriptors.
    let columns = unsafe { (*d).columns };
    let first = u64::from(columns < WIDE_COLUMNS);
    let count = (ALGORITHMS - first).min(requested as u64);
    for i in 0..count {
        // SAFETY: the API's contract: the array has room for the requested number of results.
        unsafe { results.add(i as usize).write(found(first + i)) };
    }
    // SAFETY: the API's contract.
    unsafe { returned.write(count as c_int) };
    SUCCESS
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoCheck(
    _handle: usize,
    desc: *const Desc,
    a: *const Matrix,
    b: *const Matrix,
    c: *const Matrix,
    d: *const Matrix,
    algo: *const [u64; 8],
    result: *mut Heuristic,
) -> c_int {
    // SAFETY: the API's contract: all of them are our descriptors, and `result` may be written.
    unsafe {
        if let Err(error) = check(&*desc, &*a, &*b, &*c, &*d) {
            return error;
        }
        result.write(found((*algo)[1]));
        check_algorithm(&*algo, &*d)
    }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    _handle: usize,
    desc: *const Desc,
    alpha: *const f32,
    a: u64,
    a_layout: *const Matrix,
    b: u64,
    b_layout: *const Matrix,
    beta: *const f32,
    c: u64,
    c_layout: *const Matrix,
    d: u64,
    d_layout: *const Matrix,
    algo: *const [u64; 8],
    _workspace: u64,
    _workspace_bytes: usize,
    stream: usize,
) -> c_int {
    // SAFETY: the API's contract: all of them are our descriptors, and the scales are f32 on the host.
    let (desc, layouts, scales) = unsafe {
        (
            *desc,
            [*a_layout, *b_layout, *c_layout, *d_layout],
            [*alpha, *beta],
        )
    };
    let [a_layout, b_layout, c_layout, d_layout] = layouts;
    if let Err(error) = check(&desc, &a_layout, &b_layout, &c_layout, &d_layout) {
        return error;
    }
    if algo.is_null() {
        return refuse(
            NOT_SUPPORTED,
            "a product without an algorithm is not simulated",
        );
    }
    // SAFETY: the API's contract.
    match check_algorithm(unsafe { &*algo }, &d_layout) {
        SUCCESS => {}
        error => return error,
    }
    let product = Product {
        alpha: scales[0],
        beta: scales[1],
        a: (a, a_layout),
        b: (b, b_layout),
        c,
        d: (d, d_layout),
        transpose_a: desc.transpose_a,
        transpose_b: desc.transpose_b,
    };
    let mut device = device();
    if device.faults.not_supported.is_due() {
        return refuse(NOT_SUPPORTED, "a product is not supported, as requested");
    }
    // SAFETY: a product uses no host memory.
    match unsafe { device.submit(stream, Op::Multiply(product)) } {
        Ok(()) => SUCCESS,
        Err(_) => EXECUTION_FAILED,
    }
}

/// An error unless the shapes and types make a product.
fn check(desc: &Desc, a: &Matrix, b: &Matrix, c: &Matrix, d: &Matrix) -> Result<(), c_int> {
    let (m, k) = if desc.transpose_a {
        (a.columns, a.rows)
    } else {
        (a.rows, a.columns)
    };
    let (k2, n) = if desc.transpose_b {
        (b.columns, b.rows)
    } else {
        (b.rows, b.columns)
    };
    let shapes = k == k2 && (d.rows, d.columns) == (m, n) && (c.rows, c.columns) == (m, n);
    let types = a.dtype == b.dtype && c.dtype == d.dtype && [R_32F, a.dtype].contains(&d.dtype);
    if shapes && types && c.stride == d.stride {
        Ok(())
    } else {
        Err(refuse(
            NOT_SUPPORTED,
            format!("a product of {a:?} and {b:?} to {d:?} from {c:?}"),
        ))
    }
}
