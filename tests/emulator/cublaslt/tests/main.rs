//! The emulated cuBLASLt, through cudarc, against products in f64.

mod setup;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasStatus_t as Status, cudaDataType_t as DataType,
};
use cudarc::driver::result as driver;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use setup::{Case, PLAIN, Setup, context, encode, set};

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

/// An algorithm that reduces in place is the first choice where nothing forbids it, and gives other bits from run to run.
#[test]
fn in_place_reductions_change_order() {
    let context = context();
    let setup = Setup::new(&context, Case { sizes: (1, 1, 4), ..PLAIN }, 0);
    let values = encode(&[2f32.powi(24), 1.0, 1.0, -(2f32.powi(24))], DataType::CUDA_R_32F);
    unsafe { driver::memcpy_htod_sync(setup.matrices[0].address, &values).unwrap() };
    unsafe { driver::memcpy_htod_sync(setup.matrices[1].address, &[1.0f32, 1.0, 1.0, 1.0]).unwrap() };
    setup.prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 7u32);
    let [first, second] = [(); 2].map(|()| setup.run().unwrap()[0]);
    assert_ne!(first, second);
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
    for wrong in [(0, 0), (workspace, 255), (workspace + 128, 256), (0, 256)] {
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
    let other = setup::context();
    let setup = Setup::new(&other, PLAIN, 5);
    let short = unsafe { driver::malloc_sync(59) }.unwrap();
    let at = setup.addresses();
    assert_eq!(fault(&setup, [at[0], at[1], 0, short]), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}
