//! Everything a driver refuses, and faults.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{PushKernelArg, result};

use super::*;

fn store(context: &Arc<CudaContext>, address: u64) -> Result<(), DriverError> {
    let (stream, function) = (context.default_stream(), function(context, "store"));
    // SAFETY: the emulator checks the address.
    unsafe { stream.launch_builder(&function).arg(&address).launch(one_thread()) }.map(|_| ())
}

/// A fault shows at the next synchronising call, and from then on everywhere in its context alone.
fn check_fault(context: &Arc<CudaContext>, fault: impl FnOnce() -> Result<(), DriverError>, expected: CUresult) {
    let stream = context.default_stream();
    let kept = stream.clone_htod(&[1u32, 2, 3]).unwrap();
    // SAFETY: read after the copy alone.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(3) }.unwrap();
    let event = context.new_event(None).unwrap();
    let loaded = function(context, "small_blocks");
    fault().expect("the launch itself is accepted");
    stream.memcpy_htod(&[4u32, 5, 6], &mut stream.alloc_zeros::<u32>(3).unwrap()).expect("so is later work");
    stream.memcpy_dtoh(&kept, &mut pinned).expect("and a copy that nobody waits for");
    event.record(&stream).unwrap();
    assert_eq!(code(event.synchronize()), expected);
    assert_eq!(code(stream.synchronize()), expected);
    assert_eq!(code(context.synchronize()), expected);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), expected);
    assert_eq!(code(load_module(context, PTX)), expected);
    // SAFETY: the kernel has no parameters.
    assert_eq!(code(unsafe { stream.launch_builder(&loaded).launch(one_thread()) }), expected);
    assert_eq!(shared_context().synchronize(), Ok(()));
}

#[test]
fn out_of_bounds_and_last_fault() {
    // Alone in its process: the last fault is the process's.
    in_child("driver::errors::out_of_bounds_and_last_fault", &[], || {
        let context = own_context();
        assert_eq!(last_fault(), "");
        check_fault(&context, || store(&context, 0x100), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let text = last_fault();
        let line = format!("line {}", 1 + PTX.lines().position(|line| line.contains("st.global.u32")).unwrap());
        for part in ["OutOfBounds", "store", "0x100", &line] {
            assert!(text.contains(part), "{part} isn't in: {text}");
        }
        drop(context);
        // A context made afterwards is sound.
        let context = own_context();
        context.synchronize().unwrap();
    });
}

#[test]
fn misaligned() {
    let context = own_context();
    let address = context.default_stream().alloc_zeros::<u32>(4).unwrap();
    let at = {
        use cudarc::driver::DevicePtr;
        address.device_ptr(address.stream()).0
    };
    store(&context, at + 4).unwrap();
    context.synchronize().unwrap();
    check_fault(&context, || store(&context, at + 2), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
}

#[test]
fn trap() {
    let context = own_context();
    let stop = function(&context, "stop");
    let stream = context.new_stream().unwrap();
    // SAFETY: the kernel has no parameters.
    let run = || unsafe { stream.launch_builder(&stop).launch(one_thread()) }.map(|_| ());
    check_fault(&context, run, CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION);
}

/// Eight contexts at once, every second one with a fault.
#[test]
fn faults_stay_in_their_contexts() {
    load();
    std::thread::scope(|scope| {
        for i in 0..8u64 {
            scope.spawn(move || {
                let context = own_context();
                let stream = context.default_stream();
                let mut value = stream.clone_htod(&[7u32]).unwrap();
                let at = {
                    use cudarc::driver::DevicePtrMut;
                    value.device_ptr_mut(&stream).0
                };
                if i % 2 == 0 {
                    let (address, expected) = match i % 4 {
                        0 => (0x100, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
                        _ => (at + 2, CUresult::CUDA_ERROR_MISALIGNED_ADDRESS),
                    };
                    store(&context, address).unwrap();
                    assert_eq!(code(context.synchronize()), expected, "context {i}");
                } else {
                    store(&context, at).unwrap();
                    assert_eq!(stream.clone_dtoh(&value).unwrap(), [42], "context {i}");
                }
            });
        }
    });
}

/// A copy to pageable memory waits, and so reports.
#[test]
fn fault_at_a_copy() {
    let context = own_context();
    let stream = context.default_stream();
    let values = stream.clone_htod(&[1u32]).unwrap();
    store(&context, 0x100).unwrap();
    assert_eq!(code(stream.clone_dtoh(&values)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn limits_of_a_launch() {
    let context = shared_context();
    let stream = context.new_stream().unwrap();
    let launch = |name: &str, grid_dim, block_dim, shared_mem_bytes| {
        let function = function(&context, name);
        // SAFETY: these kernels have no parameters and touch no memory but their own.
        unsafe { stream.launch_builder(&function).launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes }) }
            .map(|_| ())
    };
    let one = (1, 1, 1);
    for (name, grid, block, shared) in [
        ("big_shared", one, (1025, 1, 1), 0),
        ("big_shared", one, (1, 1, 65), 0),
        ("big_shared", one, (32, 32, 2), 0),
        ("big_shared", one, (0, 1, 1), 0),
        ("big_shared", (0, 1, 1), one, 0),
        ("big_shared", (1, 65536, 1), one, 0),
        ("big_shared", (1, 1, 65536), one, 0),
        ("big_shared", (0x8000_0000, 1, 1), one, 0),
        ("big_shared", one, one, (47 << 10) + 1),
        ("small_blocks", one, (65, 1, 1), 0),
    ] {
        let found = code(launch(name, grid, block, shared));
        assert_eq!(found, CUresult::CUDA_ERROR_INVALID_VALUE, "{name} {grid:?} {block:?} {shared}");
    }
    launch("big_shared", (3, 2, 2), (16, 2, 2), 47 << 10).unwrap();
    launch("small_blocks", one, (64, 1, 1), 48 << 10).unwrap();
    let more = function(&context, "big_shared");
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    more.set_attribute(attribute, 64 << 10).unwrap();
    let config = LaunchConfig { grid_dim: one, block_dim: one, shared_mem_bytes: 64 << 10 };
    // SAFETY: as above.
    unsafe { stream.launch_builder(&more).launch(config) }.unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn modules_refused() {
    let context = shared_context();
    let refused = |ptx: &str| code(load_module(&context, ptx));
    assert_eq!(refused(&PTX.replace("sm_80", "sm_100")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(refused(&PTX.replace("sm_80", "sm_80a")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(refused(&PTX.replace(".version 7.0", ".version 9.9")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert_eq!(refused(&PTX.replace("trap;", "frobnicate;")), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(refused(""), CUresult::CUDA_ERROR_INVALID_PTX);
    let binary = |bytes: &[u8]| code(unsafe { result::module::load_data(bytes.as_ptr().cast()) });
    assert_eq!(binary(b"\x7fELF\x02\x01\x01\0"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(binary(&[0x50, 0xed, 0x55, 0xba, 1, 0]), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(binary(b"\xff\xfe\0"), CUresult::CUDA_ERROR_INVALID_VALUE);
    let module = load_module(&context, PTX).unwrap();
    assert_eq!(code(module.load_function("none")), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn bad_handles_and_pointers() {
    let context = shared_context();
    let stream = context.new_stream().unwrap();
    unsafe {
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        assert_eq!(code(result::stream::synchronize(event.cast())), CUresult::CUDA_ERROR_INVALID_HANDLE);
        result::stream::destroy(raw).unwrap();
        assert_eq!(code(result::stream::synchronize(raw)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::stream::destroy(raw)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::event::record(event, raw)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        result::event::destroy(event).unwrap();
        assert_eq!(code(result::event::synchronize(event)), CUresult::CUDA_ERROR_INVALID_HANDLE);

        let address = result::malloc_async(stream.cu_stream(), 100).unwrap();
        let beyond = result::memcpy_htod_async(address + 90, &[0u8; 11], stream.cu_stream());
        assert_eq!(code(beyond), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_async(address + 1, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::free_async(address, stream.cu_stream()).unwrap();
        assert_eq!(code(result::free_async(address, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::memcpy_dtoh_sync(&mut [0u8], address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::memset_d8_sync(address, 0, 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let null = sys::cuMemAlloc_v2(std::ptr::null_mut(), 4);
        assert_eq!(null, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_host(8 as *mut _)), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    context.synchronize().unwrap();
}

/// A code is all a driver gives; the emulator knows more.
#[test]
fn refusals_are_explained() {
    in_child("driver::errors::refusals_are_explained", &[], || {
        let context = own_context();
        let stream = context.default_stream();
        let small = function(&context, "small_blocks");
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (5, 13, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel has no parameters.
        assert!(unsafe { stream.launch_builder(&small).launch(config) }.is_err());
        assert!(last_fault().contains("small_blocks: 65 threads in a block"), "{}", last_fault());
        unsafe {
            let address = result::malloc_sync(64).unwrap();
            result::memcpy_dtod_sync(address + 32, address, 32).unwrap();
            let overlapping = result::memcpy_dtod_sync(address + 31, address, 32);
            assert_eq!(code(overlapping), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert!(last_fault().contains("overlap"), "{}", last_fault());
            assert!(result::free_sync(address + 4).is_err());
            assert!(last_fault().contains(&format!("{:#x}", address + 4)), "{}", last_fault());
            result::free_sync(address).unwrap();
        }
        assert!(load_module(&context, &PTX.replace("trap;", "frobnicate;")).is_err());
        let line = 1 + PTX.lines().position(|line| line.contains("trap;")).unwrap();
        assert!(last_fault().contains(&format!("line {line}:")), "{}", last_fault());
        context.synchronize().unwrap();
    });
}

#[test]
fn another_context() {
    let (a, b) = (own_context(), own_context());
    let store = function(&a, "store");
    let stream = b.new_stream().unwrap();
    let event = a.new_event(None).unwrap();
    a.bind_to_thread().unwrap();
    let address = 0u64;
    unsafe {
        assert_eq!(
            code(result::event::record(event.cu_event(), stream.cu_stream())),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        // cudarc makes the stream's context current, which isn't the function's.
        let launched = stream.launch_builder(&store).arg(&address).launch(one_thread());
        assert_eq!(code(launched), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let allocated = result::malloc_sync(4).unwrap();
        a.bind_to_thread().unwrap();
        assert_eq!(code(result::free_sync(allocated)), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    a.synchronize().unwrap();
    b.synchronize().unwrap();
}

#[test]
fn error_names() {
    load();
    let error = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(error.error_string().unwrap(), c"an illegal memory access was encountered");
    let success = DriverError(CUresult::CUDA_SUCCESS);
    assert_eq!(success.error_name().unwrap(), c"CUDA_SUCCESS");
    let mut text = std::ptr::dangling();
    let name = hook::<extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32>("cuGetErrorName");
    assert_eq!((name(12345, &mut text), text.is_null()), (1, true));
}
