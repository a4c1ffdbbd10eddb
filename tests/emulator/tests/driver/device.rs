//! What devices say about themselves, and contexts.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute, CUresult};

use super::*;

#[test]
fn answers() {
    let context = shared_context();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(context.name().unwrap(), "Emulated CUDA device (sm_90)");
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert_eq!(context.total_mem().unwrap(), 8 << 30);
    assert_eq!(context.uuid().unwrap().bytes.map(|byte| byte as u8), *b"emulated-device0");
    assert!(context.has_async_alloc());
    for (attribute, value) in [
        (Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132),
        (Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, i32::MAX),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472),
    ] {
        assert_eq!(context.attribute(attribute).unwrap(), value, "{attribute:?}");
    }
    assert_eq!(
        code(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn function_attributes_and_occupancy() {
    let context = shared_context();
    let small = function(&context, "small_blocks");
    let shared = function(&context, "big_shared");
    let get = |function: &CudaFunction, attribute| function.get_attribute(attribute).unwrap();
    assert_eq!(get(&small, FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 64);
    assert_eq!(get(&shared, FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(get(&shared, FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 1024);
    assert_eq!(get(&shared, FunctionAttribute::CU_FUNC_ATTRIBUTE_PTX_VERSION), 70);
    assert_eq!(get(&shared, FunctionAttribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION), 90);
    let limit = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(get(&shared, limit), 47 << 10);
    assert_eq!(code(shared.set_attribute(limit, 227 << 10)), CUresult::CUDA_ERROR_INVALID_VALUE);
    shared.set_attribute(limit, 226 << 10).unwrap();
    assert_eq!(get(&shared, limit), 226 << 10);
    // 2048 threads a multiprocessor; 228 KiB of shared memory, of which each block costs 1 KiB more.
    let blocks =
        |threads, dynamic| small.occupancy_max_active_blocks_per_multiprocessor(threads, dynamic, None).unwrap();
    assert_eq!((blocks(1024, 0), blocks(64, 75 << 10), blocks(64, 113 << 10), blocks(64, 227 << 10)), (2, 3, 2, 1));
    assert_eq!(blocks(32, 0), 32);
    assert!(small.occupancy_max_active_blocks_per_multiprocessor(1025, 0, None).is_err());
}

/// The same function is the same handle and keeps its attributes; it dies with its module.
#[test]
fn functions_belong_to_modules() {
    let context = shared_context();
    unsafe {
        let module = result::module::load_data(CString::new(PTX).unwrap().as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, c"add".to_owned()).unwrap();
        assert_eq!(result::module::get_function(module, c"add".to_owned()).unwrap(), function);
        assert_eq!(code(result::module::get_function(module, c"sub".to_owned())), CUresult::CUDA_ERROR_NOT_FOUND);
        let mut owner = std::ptr::null_mut();
        sys::cuFuncGetModule(&mut owner, function).result().unwrap();
        assert_eq!(owner, module);
        result::module::unload(module).unwrap();
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
        assert_eq!(
            code(result::function::get_function_attribute(function, attribute)),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(code(result::module::unload(module)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    drop(context);
}

#[test]
fn current_context_per_thread() {
    load();
    result::init().unwrap();
    std::thread::spawn(|| {
        assert_eq!(result::ctx::get_current().unwrap(), None);
        assert_eq!(code(result::ctx::synchronize()), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        let (a, b) = (own_context(), own_context());
        let mut popped = std::ptr::null_mut();
        unsafe {
            assert_eq!(result::ctx::get_current().unwrap(), Some(b.cu_ctx()));
            sys::cuCtxPushCurrent_v2(a.cu_ctx()).result().unwrap();
            assert_eq!(result::ctx::get_current().unwrap(), Some(a.cu_ctx()));
            sys::cuCtxPopCurrent_v2(&mut popped).result().unwrap();
            assert_eq!(popped, a.cu_ctx());
            assert_eq!(result::ctx::get_current().unwrap(), Some(b.cu_ctx()));
            let stale = b.cu_ctx();
            drop(b);
            assert_eq!(code(result::ctx::set_current(stale)), CUresult::CUDA_ERROR_INVALID_CONTEXT);
            result::ctx::set_current(a.cu_ctx()).unwrap();
        }
        let raw = a.cu_ctx();
        std::thread::spawn(move || drop(a)).join().unwrap();
        assert_eq!(result::ctx::get_current().unwrap(), Some(raw), "the stack names the context it had");
        assert_eq!(code(result::ctx::synchronize()), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
    })
    .join()
    .unwrap();
}
