//! One product, set up through cudarc, with its matrices on the device and on the host.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulHeuristicResult_t as Heuristic, cublasLtMatmulPreferenceAttributes_t as Preference,
    cudaDataType_t as DataType,
};
use cudarc::driver::{CudaContext, CudaStream, result as driver};
use cuemu::driver::library::built_library;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Loads the emulated driver and cuBLASLt, and makes a context of the test's own.
pub fn context() -> Arc<CudaContext> {
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
pub struct Case {
    /// Of A and B; of C and D.
    pub kinds: (DataType, DataType),
    pub compute: Compute,
    /// m, n, k.
    pub sizes: (usize, usize, usize),
    pub transposed: [bool; 2],
    /// Elements between the end of a column and the next one, in A, B, C and D.
    pub gap: usize,
    pub scalars: (f32, f32),
    pub relu: bool,
    pub bias: bool,
}

pub const PLAIN: Case = Case {
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

pub fn encode(values: &[f32], kind: DataType) -> Vec<u8> {
    let encode = |value: &f32| match kind {
        DataType::CUDA_R_32F => value.to_le_bytes().to_vec(),
        DataType::CUDA_R_16F => f16::from_f32(*value).to_le_bytes().to_vec(),
        _ => bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(encode).collect()
}

pub fn decode(bytes: &[u8], kind: DataType) -> Vec<f32> {
    match kind {
        DataType::CUDA_R_32F => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DataType::CUDA_R_16F => bytes.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        _ => bytes.chunks(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
    }
}

/// A stored matrix: its values, rows, columns and column step; what lies in gaps is never written.
pub struct Stored {
    pub values: Vec<f32>,
    rows: usize,
    columns: usize,
    step: usize,
    pub address: u64,
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

    pub fn download(&self) -> Vec<f32> {
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
pub struct Setup {
    case: Case,
    pub matrices: [Stored; 4],
    pub layouts: [sys::cublasLtMatrixLayout_t; 4],
    pub bias: Stored,
    pub handle: sys::cublasLtHandle_t,
    pub operation: sys::cublasLtMatmulDesc_t,
    pub preference: sys::cublasLtMatmulPreference_t,
    pub stream: Arc<CudaStream>,
}

pub fn set<T>(operation: sys::cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), CublasError> {
    let value: *const T = value;
    unsafe { lt::set_matmul_desc_attribute(operation, attribute, value.cast::<c_void>(), size_of::<T>()) }
}

impl Setup {
    pub fn new(context: &Arc<CudaContext>, case: Case, seed: u64) -> Setup {
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
        let setup = Setup { case, matrices, layouts, bias, handle, operation, preference, stream };
        setup.prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 2u32);
        setup
    }

    pub fn prefer<T>(&self, attribute: Preference, value: T) {
        let value: *const T = &value;
        unsafe { lt::set_matmul_pref_attribute(self.preference, attribute, value.cast(), size_of::<T>()) }.unwrap();
    }

    pub fn heuristic(&self) -> Result<Heuristic, CublasError> {
        let [a, b, c, d] = self.layouts;
        unsafe { lt::get_matmul_algo_heuristic(self.handle, self.operation, a, b, c, d, self.preference) }
    }

    /// With these addresses of A, B, C and D, and this workspace.
    pub fn run_with(&self, found: &Heuristic, at: [u64; 4], workspace: (u64, usize)) -> Result<(), CublasError> {
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

    pub fn addresses(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|i| self.matrices[i].address)
    }

    pub fn run(&self) -> Result<Vec<f32>, CublasError> {
        self.run_with(&self.heuristic()?, self.addresses(), (0, 0))?;
        self.stream.synchronize().unwrap();
        Ok(self.matrices[3].download())
    }

    /// Compares D with the product in f64 of the same rounded inputs.
    pub fn check(&self, found: &[f32], seed: u64) {
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
