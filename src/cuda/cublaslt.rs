//! Fully connected layers through NVIDIA's cuBLASLt, where the machine has its library.
//!
//! cuBLASLt's matrices are column-major: a row-major matrix is its own transpose there. A layer's output (N, K) = input (N, C)
//! x filter (K, C)^T is the column-major (K, N) = filter (C, K)^T x input (C, N), in which the bias, one value a row, is what
//! cuBLASLt's epilogue adds.
//!
//! Everything that may allocate or wait happens in [`Matmul::new`]; [`Matmul::run`] only starts kernels, as a stream that is
//! being captured needs. The first run of an algorithm may load its kernels, as a first launch of any kernel does, and is
//! best not a captured one.

use std::borrow::Cow;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr as _};
use libloading::Library;

use super::args::{Addresses, DevicePtr};
use super::element::{Element, filter_pitch};
use super::launch::Launcher;
use super::shared::to_device;
use super::watch::Watch;
use super::{CudaDevice, Rules};
use crate::net::Shape;
use crate::options::Precision;
use crate::plan::{Step, StepKind};
use crate::{Error, Result};

/// Most workspace that an algorithm may ask for, in bytes: what NVIDIA recommends for Hopper.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// The oldest version whose interface is called: CUDA 12.0's.
const MIN_VERSION: usize = 120_000;
/// Bytes that operands' addresses are multiples of, as [`Launcher::launch_step`](super::Launcher::launch_step) has it.
const ALIGNMENT: u32 = 16;

/// Every function that is called. cudarc looks a function up when it is first called and panics where it is missing, so that
/// all are looked up here first.
const FUNCTIONS: [&str; 13] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// Why cuBLASLt cannot be used.
pub(super) struct Unusable {
    pub reason: String,
    /// What to do for it to be used, or to do without.
    pub fix: &'static str,
}

/// cuBLASLt, ready for one device.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    context: Arc<CudaContext>,
    version: usize,
}

// SAFETY: NVIDIA documents cuBLASLt's functions as callable from several threads, with one handle too; every thread that
// calls binds the context first.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// Opens the library for `device`.
    ///
    /// # Errors
    /// Not found, too old, refused by the driver.
    pub fn open(device: &CudaDevice) -> Result<Self, Unusable> {
        const FIX: &str = "install cuBLAS of CUDA 12 or 13 and have its folder in LD_LIBRARY_PATH, or say --fc own";
        Self::find(device).map_err(|reason| Unusable { reason, fix: FIX })
    }

    fn find(device: &CudaDevice) -> Result<Self, String> {
        if !load() {
            return Err("found no libcublasLt.so.13, libcublasLt.so.12 or libcublasLt.so".into());
        }
        // SAFETY: the library is there, as load() found; the addresses are looked up and not used.
        let is_missing = |name: &&&str| unsafe { sys::culib().get::<*const ()>(name.as_bytes()).is_err() };
        if let Some(missing) = FUNCTIONS.iter().find(is_missing) {
            return Err(format!("found no {missing} in libcublasLt, needed the functions of CUDA 12.0 or later"));
        }
        // SAFETY: takes and touches nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < MIN_VERSION {
            return Err(format!("found cuBLASLt {}, needed 12.0 or later", Version(version)));
        }
        let context = Arc::clone(device.context());
        let handle = context.bind_to_thread().map_err(|e| e.to_string()).and_then(|()| {
            result::create_handle().map_err(|CublasError(status)| format!("{status:?}, perhaps of an older driver"))
        });
        let handle = handle.map_err(|e| format!("cuBLASLt {} does not start on {device}: {e}", Version(version)))?;
        Ok(CublasLt { handle, context, version })
    }

    /// Whether a NaN survives its ReLU, which NVIDIA documents as max(x, 0): asked of the device, with a small product. `None`
    /// where there is no algorithm for that.
    ///
    /// # Errors
    /// Those of the device and of cuBLASLt.
    pub fn keeps_nan(self: &Arc<Self>, launcher: &Launcher, watch: &Watch, rules: &Rules) -> Result<Option<bool>> {
        const DOING: &str = "trying cuBLASLt";
        const N: usize = 8;
        let step = square("a probe", N, true);
        let element = rules.element();
        let upload = |value: f32, count: usize| to_device(launcher, watch, &element.encode(&vec![value; count]));
        let (source, filter, bias, target) =
            (upload(f32::NAN, N * N)?, upload(1.0, N * N)?, upload(0.0, N)?, upload(0.0, N * N)?);
        let workspace = to_device(launcher, watch, &vec![0u8; WORKSPACE_BYTES])?;
        let stream = launcher.own_stream();
        let at = |slice: &CudaSlice<u8>| slice.device_ptr(stream).0;
        let Some(matmul) = Matmul::new(self, &step, N, rules, at(&bias))? else { return Ok(None) };
        let addresses = Addresses {
            source: at(&source),
            target: at(&target),
            filter: at(&filter),
            workspace: at(&workspace),
            ..Addresses::default()
        };
        // SAFETY: N inputs and outputs of N elements, as the step says, and N rows of N elements, which need no padding; all
        // live until the result is downloaded, on this one stream.
        unsafe { matmul.run(stream, &addresses)? };
        // Waited for before it is copied, since a copy to ordinary memory waits without limit.
        watch.wait_for(stream, DOING)?;
        let bytes = stream.clone_dtoh(&target).map_err(|e| super::failed(DOING, e))?;
        stream.synchronize().map_err(|e| super::failed(DOING, e))?;
        let mut values = vec![];
        element.decode(&bytes, &mut values);
        Ok(Some(values.iter().all(|value| value.is_nan())))
    }

    /// Makes the context current, which every call relies on.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| super::failed("calling cuBLASLt", e))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // Errors have nowhere to go, and end with the process.
        let _ = self.context.bind_to_thread();
        // SAFETY: made by `open` and destroyed once; every `Matmul` holds this, so that none is left.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl CublasLt {
    /// Its version as NVIDIA writes it.
    pub(super) fn version(&self) -> String {
        Version(self.version).to_string()
    }
}

impl fmt::Display for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt {}", Version(self.version))
    }
}

/// A fully connected layer by itself, with `side` inputs and as many outputs.
pub(super) fn square(name: &'static str, side: usize, relu: bool) -> Step {
    let shape = Shape { h: 1, w: 1, c: side };
    Step {
        layers: vec![name],
        kind: StepKind::Linear { weights: 0, relu },
        input: shape,
        output: shape,
        source: Some(0),
        target: 1,
        kept: false,
        logits: false,
        half: None,
    }
}

/// Whether cudarc will find the library, which panics where it does not. It stays loaded: cudarc's own check unloads it, and
/// loading its half a gigabyte again takes as long as the first time.
fn load() -> bool {
    let names = cudarc::get_lib_name_candidates("cublasLt");
    names.into_iter().any(|name| {
        // SAFETY: the library's initialisers are sound to run at any time.
        unsafe { Library::new(name) }.map(std::mem::forget).is_ok()
    })
}

/// As cuBLASLt counts: 10000 * major + 100 * minor + patch.
struct Version(usize);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// What a product does.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by cublasLtMatmulDescCreate and destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Operation {
    /// transposed(A) x B in `compute`, then `epilogue` with the bias at `bias`, which is of the output's type.
    fn new(
        compute: sys::cublasComputeType_t,
        epilogue: sys::cublasLtEpilogue_t,
        bias: DevicePtr,
    ) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let operation = Operation(result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?);
        let set = |attribute, value: *const c_void, size| {
            // SAFETY: the descriptor is alive, and each value below has the type that its attribute is documented to have.
            unsafe { result::set_matmul_desc_attribute(operation.0, attribute, value, size) }
        };
        const TRANSPOSED: i32 = 1; // CUBLAS_OP_T, which cudarc's bindings lack
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, ptr::from_ref(&TRANSPOSED).cast(), size_of::<i32>())?;
        let epilogue = epilogue as u32;
        set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), size_of::<u32>())?;
        set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), size_of::<DevicePtr>())?;
        Ok(operation)
    }
}

/// How a matrix lies in memory.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by cublasLtMatrixLayoutCreate and destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

impl Layout {
    /// A row-major matrix of `rows` rows, `pitch` elements apart: to cuBLASLt, as many columns.
    fn row_major(element: Element, rows: usize, columns: usize, pitch: usize) -> Result<Self, CublasError> {
        let kind = match element {
            Element::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Element::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Element::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        Ok(Layout(result::create_matrix_layout(kind, columns as u64, rows as u64, pitch as i64)?))
    }
}

/// What an algorithm may be like.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by cublasLtMatmulPreferenceCreate and destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Preference {
    /// Workspace and alignment as above, and sums that are the same bits in every run: parts of GEMM_K, where it is split, are
    /// kept in the workspace as float32 and added up afterwards, never in the output as they come.
    fn new() -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Preference(result::create_matmul_pref()?);
        let set = |attribute, value: *const c_void, size| {
            // SAFETY: the preference is alive, and each value below has the type that its attribute is documented to have.
            unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, size) }
        };
        let workspace = WORKSPACE_BYTES as u64;
        set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), size_of::<u64>())?;
        let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32; // or none
        set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const reduction).cast(), size_of::<u32>())?;
        for operand in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            set(operand, ptr::from_ref(&ALIGNMENT).cast(), size_of::<u32>())?;
        }
        Ok(preference)
    }
}

/// A fully connected layer for one number of images, with the algorithm that cuBLASLt's heuristic puts first.
pub(super) struct Matmul {
    // Fields are dropped in order: the library last.
    operation: Operation,
    filter: Layout,
    input: Layout,
    output: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Bytes that the algorithm needs, up to [`WORKSPACE_BYTES`].
    workspace: usize,
    name: &'static str,
    library: Arc<CublasLt>,
}

// SAFETY: the descriptors are host memory that no other thread has a pointer to.
unsafe impl Send for Matmul {}

impl Matmul {
    /// `step`, a fully connected layer, for `images` images. The bias at `bias`, of the output's type, must stay allocated
    /// until the last run is over. `None` where cuBLASLt has no algorithm.
    ///
    /// # Errors
    /// [`Error::Device`] with what cuBLASLt reports.
    pub fn new(
        library: &Arc<CublasLt>,
        step: &Step,
        images: usize,
        rules: &Rules,
        bias: DevicePtr,
    ) -> Result<Option<Self>> {
        library.bind()?;
        let name = step.layers[0];
        match Self::with_algorithm(library, step, images, rules, bias) {
            Ok(matmul) => Ok(Some(matmul)),
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(e) => Err(library_failed(library, &format!("setting up {name} for {images} images"), e)),
        }
    }

    /// # Errors
    /// NOT_SUPPORTED where there is no algorithm.
    fn with_algorithm(
        library: &Arc<CublasLt>,
        step: &Step,
        images: usize,
        rules: &Rules,
        bias: DevicePtr,
    ) -> Result<Self, CublasError> {
        let StepKind::Linear { relu, .. } = step.kind else { panic!("{:?} is not fully connected", step.kind) };
        let (inputs, outputs) = (step.input.len(), step.output.c);
        let element = rules.element();
        let compute = match rules.precision {
            Precision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let epilogue = match relu {
            true => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
            false => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        };
        let operation = Operation::new(compute, epilogue, bias)?;
        let pitch = filter_pitch(rules.precision, inputs) / element.bytes();
        let filter = Layout::row_major(element, outputs, inputs, pitch)?;
        let input = Layout::row_major(element, images, inputs, inputs)?;
        let output = Layout::row_major(element.of_output(step), images, outputs, outputs)?;
        let preference = Preference::new()?;
        // SAFETY: the handle and all descriptors are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                library.handle,
                operation.0,
                filter.0,
                input.0,
                output.0,
                output.0,
                preference.0,
            )?
        };
        let (algorithm, workspace) = (found.algo, found.workspaceSize);
        let name = step.layers[0];
        Ok(Matmul { operation, filter, input, output, algorithm, workspace, name, library: Arc::clone(library) })
    }

    /// Queues it on `stream` and returns at once. Partial sums and bias are not taken from `addresses`.
    ///
    /// # Safety
    /// The addresses are of memory on the stream's device that stays allocated until the stream has run this: `source` and
    /// `target` with room for the images' inputs and outputs, `filter` as [`encode_filter`](super::encode_filter) gives it,
    /// all at multiples of 16, and `workspace` as [`Addresses`] says, which nothing else on another stream uses.
    ///
    /// # Errors
    /// [`Error::Device`] naming the layer.
    pub unsafe fn run(&self, stream: &CudaStream, addresses: &Addresses) -> Result<()> {
        self.library.bind()?;
        let pointer = |address: DevicePtr| ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let (alpha, beta) = (1f32, 0f32);
        let target = pointer(addresses.target);
        // SAFETY: handle, descriptors and algorithm are alive and belong together; the scalars are float32 on the host, which
        // are read before the call returns. With a beta of zero C is not read, and D's address and layout do for it. The
        // rest is the caller's promise, and the bias that of whoever made this.
        let started = unsafe {
            result::matmul(
                self.library.handle,
                self.operation.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(addresses.filter),
                self.filter.0,
                pointer(addresses.source),
                self.input.0,
                target,
                self.output.0,
                target,
                self.output.0,
                &self.algorithm,
                pointer(addresses.workspace),
                self.workspace,
                stream.cu_stream().cast(),
            )
        };
        started.map_err(|e| library_failed(&self.library, &format!("starting {}", self.name), e))
    }
}

fn library_failed(library: &CublasLt, doing: &str, CublasError(status): CublasError) -> Error {
    Error::Device(format!("{library} reports {status:?} while {doing}; say --fc own to do without it"))
}

/// A bias in the type of activations, which cuBLASLt wants where its output has that type; `name` is the layer's.
///
/// # Errors
/// A finite value beyond the type's range.
pub(super) fn encode_bias<'a>(element: Element, name: &str, bias: &'a [f32]) -> Result<Cow<'a, [u8]>, Unusable> {
    let bytes = element.encode(bias);
    let mut stored = vec![];
    element.decode(&bytes, &mut stored);
    match bias.iter().zip(stored).find(|(value, stored)| value.is_finite() && !stored.is_finite()) {
        None => Ok(bytes),
        Some((value, _)) => Err(Unusable {
            reason: format!(
                "{name} has a bias of {value}, beyond the range of activations, in whose type it takes biases"
            ),
            fix: "say --fc own",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_nvidia_writes_them() {
        assert_eq!(Version(130_102).to_string(), "13.1.2");
        assert_eq!(Version(111_103).to_string(), "11.11.3");
    }

    #[test]
    fn a_bias_beyond_f16_is_refused() {
        let bias = [1.0, f32::INFINITY, 65_519.0];
        let bytes = encode_bias(Element::F16, "fc6", &bias).ok().unwrap();
        assert_eq!(bytes[..], [0x00, 0x3C, 0x00, 0x7C, 0xFF, 0x7B]);
        let reason = encode_bias(Element::F16, "fc6", &[0.0, -65_520.0]).err().unwrap().reason;
        assert!(reason.contains("fc6") && reason.contains("-65520"), "{reason}");
        assert!(encode_bias(Element::Bf16, "fc6", &[-65_520.0]).is_ok());
    }
}
