//! The emulated cuBLASLt, through cudarc, against products in f64.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulHeuristicResult_t as Heuristic, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasStatus_t as Status, cudaDataType_t as DataType,
};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaStream, result as driver};
use cuemu::driver::library::built_library;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Loads the emulated driver and cuBLASLt, and makes a context of the test's own.
fn context() -> Arc<CudaContext> {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        for file in ["libcuemu.so", "libcublaslt_emulated.so"] {
            // SAFETY: the libraries' initialisers run no code of their own.
            std::mem::forget(unsafe { libloading::Library::new(built_library(file)) }.expect(file));
        }
        // SAFETY: opens and closes the library that was just loaded.
        assert!(unsafe { sys::is_culib_present() });
    });
    let context = CudaContext::new_non_primary(0, 0).unwrap();
    // SAFETY: each test works on one stream.
    unsafe { context.disable_event_tracking() };
    context
}

/// One product in full.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Of A and B; of C and D.
    kinds: (DataType, DataType),
    compute: Compute,
    /// m, n, k.
    sizes: (usize, usize, usize),
    transposed: [bool; 2],
    /// Elements between columns of A, B, C and D.
    gap: usize,
    scalars: (f32, f32),
    relu: bool,
    bias: bool,
}

const PLAIN: Case = Case {
    kinds: (DataType::CUDA_R_32F, DataType::CUDA_R_32F),
    compute: Compute::CUBLAS_COMPUTE_32F,
    sizes: (5, 3, 4),
    transposed: [false, false],
    gap: 0,
    scalars: (1.0, 0.0),
    relu: false,
    bias: false,
};

fn bytes_of(kind: DataType) -> usize {
    if kind == DataType::CUDA_R_32F { 4 } else { 2 }
}

fn encode(values: &[f32], kind: DataType) -> Vec<u8> {
    let encode = |value: &f32| match kind {
        DataType::CUDA_R_32F => value.to_le_bytes().to_vec(),
        DataType::CUDA_R_16F => f16::from_f32(*value).to_le_bytes().to_vec(),
        _ => bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(encode).collect()
}

fn decode(bytes: &[u8], kind: DataType) -> Vec<f32> {
    match kind {
        DataType::CUDA_R_32F => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DataType::CUDA_R_16F => bytes.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        _ => bytes.chunks(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
    }
}

/// A stored matrix: its values, rows, columns and column step; what lies in gaps is never written.
struct Stored {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    step: usize,
    address: u64,
    kind: DataType,
}

impl Stored {
    fn new(random: &mut ChaCha8Rng, kind: DataType, (rows, columns): (usize, usize), step: usize) -> Stored {
        let values: Vec<f32> = (0..rows * columns).map(|_| random.random_range(-1.0..1.0)).collect();
        let values = decode(&encode(&values, kind), kind);
        let bytes = ((columns - 1) * step + rows) * bytes_of(kind);
        let address = unsafe { driver::malloc_sync(bytes) }.unwrap();
        let stored = Stored { values, rows, columns, step, address, kind };
        for i in 0..columns {
            let column = encode(&stored.values[i * rows..][..rows], kind);
            unsafe { driver::memcpy_htod_sync(stored.column(i), &column) }.unwrap();
        }
        stored
    }

    fn column(&self, i: usize) -> u64 {
        self.address + (i * self.step * bytes_of(self.kind)) as u64
    }

    fn at(&self, row: usize, column: usize, transposed: bool) -> f64 {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        f64::from(self.values[column * self.rows + row])
    }

    fn layout(&self) -> sys::cublasLtMatrixLayout_t {
        lt::create_matrix_layout(self.kind, self.rows as u64, self.columns as u64, self.step as i64).unwrap()
    }

    fn download(&self) -> Vec<f32> {
        let mut values = vec![];
        for i in 0..self.columns {
            let mut bytes = vec![0u8; self.rows * bytes_of(self.kind)];
            unsafe { driver::memcpy_dtoh_sync(&mut bytes, self.column(i)) }.unwrap();
            values.extend(decode(&bytes, self.kind));
        }
        values
    }
}

/// A product that is set up and can be run.
struct Setup {
    case: Case,
    matrices: [Stored; 4],
    layouts: [sys::cublasLtMatrixLayout_t; 4],
    bias: Stored,
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    preference: sys::cublasLtMatmulPreference_t,
    stream: Arc<CudaStream>,
}

fn set<T>(operation: sys::cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), CublasError> {
    let value: *const T = value;
    unsafe { lt::set_matmul_desc_attribute(operation, attribute, value.cast::<c_void>(), size_of::<T>()) }
}

impl Setup {
    fn new(context: &Arc<CudaContext>, case: Case, seed: u64) -> Setup {
        context.bind_to_thread().unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (m, n, k) = case.sizes;
        let shape = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let (a, b) = (shape(m, k, case.transposed[0]), shape(k, n, case.transposed[1]));
        let (inner, outer) = case.kinds;
        let shapes = [(a, inner), (b, inner), ((m, n), outer), ((m, n), outer)];
        let matrices = shapes.map(|(shape, kind)| Stored::new(&mut random, kind, shape, shape.0 + case.gap));
        let bias = Stored::new(&mut random, outer, (m, 1), m);
        let operation = lt::create_matmul_desc(case.compute, DataType::CUDA_R_32F).unwrap();
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &u32::from(case.transposed[0])).unwrap();
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &u32::from(case.transposed[1])).unwrap();
        let epilogue = match (case.relu, case.bias) {
            (false, false) => 1u32,
            (relu, bias) => 2 * u32::from(relu) + 4 * u32::from(bias),
        };
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue).unwrap();
        if case.bias {
            set(operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address).unwrap();
            set(operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(outer as u32)).unwrap();
        }
        let layouts = [0, 1, 2, 3].map(|i| matrices[i].layout());
        let (handle, preference) = (lt::create_handle().unwrap(), lt::create_matmul_pref().unwrap());
        let stream = context.new_stream().unwrap();
        Setup { case, matrices, layouts, bias, handle, operation, preference, stream }
    }

    fn prefer<T>(&self, attribute: Preference, value: T) {
        let value: *const T = &value;
        unsafe { lt::set_matmul_pref_attribute(self.preference, attribute, value.cast(), size_of::<T>()) }.unwrap();
    }

    fn heuristic(&self) -> Result<Heuristic, CublasError> {
        let [a, b, c, d] = self.layouts;
        unsafe { lt::get_matmul_algo_heuristic(self.handle, self.operation, a, b, c, d, self.preference) }
    }

    /// With these addresses of A, B, C and D, and this workspace.
    fn run_with(&self, found: &Heuristic, at: [u64; 4], workspace: (u64, usize)) -> Result<(), CublasError> {
        let [a, b, c, d] = self.layouts;
        let (alpha, beta) = self.case.scalars;
        let pointer = |address: u64| address as *mut c_void;
        unsafe {
            lt::matmul(
                self.handle,
                self.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(at[0]),
                a,
                pointer(at[1]),
                b,
                pointer(at[2]),
                c,
                pointer(at[3]),
                d,
                &found.algo,
                pointer(workspace.0),
                workspace.1,
                self.stream.cu_stream().cast(),
            )
        }
    }

    fn addresses(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|i| self.matrices[i].address)
    }

    fn run(&self) -> Result<Vec<f32>, CublasError> {
        self.run_with(&self.heuristic()?, self.addresses(), (0, 0))?;
        self.stream.synchronize().unwrap();
        Ok(self.matrices[3].download())
    }

    /// Compares D with the product in f64 of the same rounded inputs.
    fn check(&self, found: &[f32], seed: u64) {
        let (m, n, k) = self.case.sizes;
        let [a, b, c, _] = &self.matrices;
        let [ta, tb] = self.case.transposed;
        let (alpha, beta) = (f64::from(self.case.scalars.0), f64::from(self.case.scalars.1));
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let products = (0..k).map(|i| a.at(row, i, ta) * b.at(i, column, tb));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + f64::abs(p)));
            let old = if beta == 0.0 { 0.0 } else { beta * c.at(row, column, false) };
            let bias = if self.case.bias { self.bias.at(row, 0, false) } else { 0.0 };
            let mut expected = alpha * sum + old + bias;
            if self.case.relu {
                expected = expected.max(0.0);
            }
            let of_inputs = if self.case.compute == Compute::CUBLAS_COMPUTE_32F { 0.0 } else { 1.0 / 1024.0 };
            let of_output = match self.case.kinds.1 {
                DataType::CUDA_R_32F => 2f64.powi(-24),
                DataType::CUDA_R_16F => 2f64.powi(-11),
                _ => 2f64.powi(-8),
            };
            let f32s = (k + 4) as f64 * 2f64.powi(-24);
            let limit = alpha.abs() * size * (f32s + of_inputs) + (expected.abs() + old.abs() + bias.abs()) * of_output;
            let value = f64::from(found[column * m + row]);
            assert!((value - expected).abs() <= limit + 1e-7, "{:?}, seed {seed}: {value}, not {expected}", self.case);
        }
    }
}

#[test]
fn against_f64() {
    let context = context();
    let (f32, f16, bf16) = (DataType::CUDA_R_32F, DataType::CUDA_R_16F, DataType::CUDA_R_16BF);
    let plain = Compute::CUBLAS_COMPUTE_32F;
    let types = [
        (f32, f32, plain),
        (f32, f32, Compute::CUBLAS_COMPUTE_32F_FAST_TF32),
        (f16, f16, plain),
        (f16, f32, plain),
        (bf16, bf16, plain),
        (bf16, f32, plain),
    ];
    let mut seed = 0;
    for (inner, outer, compute) in types {
        for bits in 0..32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            seed += 1;
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut size = || random.random_range(1..40);
            let case = Case {
                kinds: (inner, outer),
                compute,
                sizes: (size(), size(), 2 * size()),
                transposed: [bit(0), bit(1)],
                gap: 3 * usize::from(bit(2)),
                scalars: if bit(2) { (-0.75, 2.0) } else { (1.0, 0.0) },
                relu: bit(3),
                bias: bit(4),
            };
            let setup = Setup::new(&context, case, seed);
            setup.check(&setup.run().unwrap(), seed);
        }
    }
}

/// The order of k: the small values after the large one are lost, and in no other order.
#[test]
fn sums_in_order() {
    let context = context();
    let setup = Setup::new(&context, Case { sizes: (1, 1, 4), ..PLAIN }, 0);
    let values = encode(&[2f32.powi(24), 1.0, 1.0, -(2f32.powi(24))], DataType::CUDA_R_32F);
    unsafe { driver::memcpy_htod_sync(setup.matrices[0].address, &values).unwrap() };
    unsafe { driver::memcpy_htod_sync(setup.matrices[1].address, &[1.0f32; 4]).unwrap() };
    assert_eq!(setup.run().unwrap(), [0.0]);
}

/// tf32 keeps 10 bits of the mantissa; a tie goes away from zero.
#[test]
fn tf32_rounds() {
    let context = context();
    let (sizes, fast) = ((1, 1, 1), Compute::CUBLAS_COMPUTE_32F_FAST_TF32);
    let tie = -(1.0 + 2f32.powi(-11));
    for (compute, value, expected) in [
        (Compute::CUBLAS_COMPUTE_32F, tie, tie),
        (fast, tie, -(1.0 + 2f32.powi(-10))),
        (fast, 1.0 + 2f32.powi(-12), 1.0),
        (fast, f32::INFINITY, f32::INFINITY),
    ] {
        let setup = Setup::new(&context, Case { sizes, compute, ..PLAIN }, 0);
        unsafe { driver::memcpy_htod_sync(setup.matrices[0].address, &[1.0f32]).unwrap() };
        unsafe { driver::memcpy_htod_sync(setup.matrices[1].address, &[value]).unwrap() };
        assert_eq!(setup.run().unwrap(), [expected], "{compute:?} {value}");
    }
    let setup = Setup::new(&context, Case { sizes, relu: true, ..PLAIN }, 0);
    unsafe { driver::memcpy_htod_sync(setup.matrices[0].address, &[f32::NAN]).unwrap() };
    assert!(setup.run().unwrap()[0].is_nan(), "a NaN survives the epilogue");
}

#[test]
fn workspaces_and_alignment() {
    let context = context();
    let setup = Setup::new(&context, PLAIN, 1);
    assert_eq!(setup.heuristic().unwrap().workspaceSize, 0, "no workspace unless the preference allows it");
    setup.prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 255u64);
    assert_eq!(setup.heuristic().unwrap().workspaceSize, 0);
    setup.prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1u64 << 20);
    let found = setup.heuristic().unwrap();
    assert_eq!(found.workspaceSize, 256);
    let workspace = unsafe { driver::malloc_sync(512) }.unwrap();
    let at = setup.addresses();
    let invalid = Err(CublasError(Status::CUBLAS_STATUS_INVALID_VALUE));
    for wrong in [(0, 0), (workspace, 255), (workspace + 8, 256), (0, 256)] {
        assert_eq!(setup.run_with(&found, at, wrong), invalid, "{wrong:?}");
    }
    for i in [0, 1, 3] {
        for wrong in [0, at[i] + 16] {
            let mut at = at;
            at[i] = wrong;
            assert_eq!(setup.run_with(&found, at, (workspace, 256)), invalid, "matrix {i} at {wrong:#x}");
        }
    }
    let mut foreign = found;
    foreign.algo.data = [0; 8];
    assert_eq!(setup.run_with(&foreign, at, (workspace, 256)), invalid);
    // C isn't read where beta is 0, and the preference says what alignment there is.
    setup.prefer(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 4u32);
    let lower = setup.heuristic().unwrap();
    setup.run_with(&lower, [at[0], at[1], 0, at[3]], (workspace, 256)).unwrap();
    setup.stream.synchronize().unwrap();
    setup.check(&setup.matrices[3].download(), 1);
    // What is in the workspace doesn't survive, also where it is larger than needed.
    setup.run_with(&found, at, (workspace, 512)).unwrap();
    let mut left = [0u8; 512];
    unsafe { driver::memset_d8_sync(workspace, 7, 512).unwrap() };
    unsafe { driver::memcpy_dtoh_sync(&mut left, workspace).unwrap() };
    assert_eq!(left, [7; 512]);
    setup.run_with(&found, at, (workspace, 512)).unwrap();
    setup.stream.synchronize().unwrap();
    unsafe { driver::memcpy_dtoh_sync(&mut left, workspace).unwrap() };
    assert!(left.iter().all(|byte| *byte != 7), "{left:?}");
    // Neither does A in the workspace, nor D.
    let a = encode(&setup.matrices[0].values, DataType::CUDA_R_32F);
    unsafe { driver::memcpy_htod_sync(workspace, &a).unwrap() };
    setup.run_with(&found, [workspace, at[1], 0, at[3]], (workspace, 512)).unwrap();
    setup.stream.synchronize().unwrap();
    let spoilt = setup.matrices[3].download();
    assert!(spoilt.iter().all(|value| value.abs() < 1e-10), "{spoilt:?}");
    setup.run_with(&found, [at[0], at[1], 0, workspace], (workspace, 512)).unwrap();
    setup.stream.synchronize().unwrap();
    unsafe { driver::memcpy_dtoh_sync(&mut left, workspace).unwrap() };
    assert!(left.iter().all(|byte| *byte == left[0]), "{left:?}");
}

#[test]
fn what_is_refused() {
    let context = context();
    let (f32, f16, bf16) = (DataType::CUDA_R_32F, DataType::CUDA_R_16F, DataType::CUDA_R_16BF);
    let unsupported = Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED));
    let invalid = Err(CublasError(Status::CUBLAS_STATUS_INVALID_VALUE));
    let status = |setup: &Setup| setup.heuristic().map(|_| ());
    for (kinds, compute) in [
        ((f32, f16), Compute::CUBLAS_COMPUTE_32F),
        ((f16, bf16), Compute::CUBLAS_COMPUTE_32F),
        ((f16, f16), Compute::CUBLAS_COMPUTE_16F),
        ((f16, f16), Compute::CUBLAS_COMPUTE_32F_FAST_TF32),
    ] {
        let setup = Setup::new(&context, Case { kinds, compute, ..PLAIN }, 2);
        assert_eq!(status(&setup), unsupported, "{kinds:?} {compute:?}");
    }
    let setup = Setup::new(&context, Case { bias: true, ..PLAIN }, 3);
    assert_eq!(status(&setup), Ok(()));
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &32u32).unwrap();
    assert_eq!(status(&setup), unsupported, "GELU");
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &4u32).unwrap();
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &2u32).unwrap();
    assert_eq!(status(&setup), unsupported, "an f16 bias for f32");
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &0u32).unwrap();
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &0u64).unwrap();
    assert_eq!(setup.run_with(&setup.heuristic().unwrap(), setup.addresses(), (0, 0)), invalid);
    set(setup.operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1u32).unwrap();
    assert_eq!(status(&setup), invalid, "sizes that don't fit");
    let batch = 2i32;
    let layout = setup.layouts[0];
    let attribute = sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
    unsafe { lt::set_matrix_layout_attribute(layout, attribute, (&raw const batch).cast(), 4).unwrap() };
    assert_eq!(status(&setup), unsupported, "a batch");
    unsafe {
        lt::destroy_matrix_layout(layout).unwrap();
        assert_eq!(lt::destroy_matrix_layout(layout), invalid);
        assert_eq!(lt::destroy_matmul_desc(setup.preference.cast()), invalid);
        lt::destroy_matmul_pref(setup.preference).unwrap();
        lt::destroy_matmul_desc(setup.operation).unwrap();
        lt::destroy_handle(setup.handle).unwrap();
        assert!(sys::cublasLtGetVersion() >= 120_000);
    }
    assert_eq!(status(&setup), invalid);
}

/// A product is work like a kernel: captured, replayed, and checked as it runs.
#[test]
fn in_streams_and_graphs() {
    let context = context();
    let setup = Setup::new(&context, Case { relu: true, bias: true, ..PLAIN }, 4);
    let found = setup.heuristic().unwrap();
    let untouched = setup.matrices[3].download();
    setup.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    setup.run_with(&found, setup.addresses(), (0, 0)).unwrap();
    let graph = setup.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    assert_eq!(setup.matrices[3].download(), untouched);
    for _ in 0..2 {
        graph.launch().unwrap();
        setup.stream.synchronize().unwrap();
        setup.check(&setup.matrices[3].download(), 4);
    }
    let fault = |setup: &Setup, at: [u64; 4]| {
        setup.run_with(&setup.heuristic().unwrap(), at, (0, 0)).unwrap();
        setup.stream.synchronize().unwrap_err().0
    };
    let unwritten = unsafe { driver::malloc_sync(1 << 10) }.unwrap();
    let at = setup.addresses();
    assert_eq!(fault(&setup, [unwritten, at[1], 0, at[3]]), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    let other = self::context();
    let setup = Setup::new(&other, PLAIN, 5);
    let short = unsafe { driver::malloc_sync(59) }.unwrap();
    let at = setup.addresses();
    assert_eq!(fault(&setup, [at[0], at[1], 0, short]), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}
