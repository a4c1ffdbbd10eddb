//! Memory, streams, events and launches that go well.

use cudarc::driver::sys::{self, CUevent_flags};
use cudarc::driver::{PushKernelArg, result};

use super::*;

/// Adds `step` to every value on `context`, in blocks of 32.
fn add(context: &Arc<CudaContext>, values: &[f32], step: f32) -> Vec<f32> {
    let stream = context.new_stream().unwrap();
    let mut device = stream.clone_htod(values).unwrap();
    let function = function(context, "add");
    let count = values.len() as u32;
    let config = LaunchConfig { grid_dim: (count.div_ceil(32), 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel stays within `count` values.
    unsafe { stream.launch_builder(&function).arg(&mut device).arg(&count).arg(&step).launch(config) }.unwrap();
    stream.clone_dtoh(&device).unwrap()
}

#[test]
fn copies_and_launches() {
    let context = shared_context();
    let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let expected: Vec<f32> = values.iter().map(|value| value + 0.5).collect();
    assert_eq!(add(&context, &values, 0.5), expected);
}

#[test]
fn eight_threads() {
    let context = shared_context();
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let context = &context;
            scope.spawn(move || {
                context.bind_to_thread().unwrap();
                for round in 0..20 {
                    let values = vec![(seed * 100 + round) as f32; 1 + (seed * 37 + round) as usize];
                    let expected = vec![values[0] + 1.0; values.len()];
                    assert_eq!(add(context, &values, 1.0), expected, "seed {seed}, round {round}");
                }
            });
        }
    });
    context.synchronize().unwrap();
}

#[test]
fn fills_and_device_copies() {
    let context = shared_context();
    let stream = context.default_stream();
    let mut zeros = stream.alloc_zeros::<u32>(100_000).unwrap();
    let source = stream.clone_htod(&[7u32, 8, 9]).unwrap();
    stream.memcpy_dtod(&source, &mut zeros.slice_mut(5..8)).unwrap();
    let host = stream.clone_dtoh(&zeros).unwrap();
    assert_eq!(host[4..9], [0, 7, 8, 9, 0]);
    assert!(host[9..].iter().all(|value| *value == 0));
    unsafe {
        let address = result::malloc_sync(400_000).unwrap();
        result::memset_d8_sync(address, 0xee, 400_000).unwrap();
        sys::cuMemsetD32_v2(address + 4, 0x0102_0304, 99_998).result().unwrap();
        let mut words = vec![0u32; 100_000];
        result::memcpy_dtoh_sync(&mut words, address).unwrap();
        assert_eq!((words[0], words[99_999]), (0xeeee_eeee, 0xeeee_eeee));
        assert!(words[1..99_999].iter().all(|word| *word == 0x0102_0304));
        result::memcpy_htod_sync(address, &[1u32, 2]).unwrap();
        result::memcpy_dtod_sync(address + 8, address, 8).unwrap();
        result::memcpy_dtoh_sync(&mut words, address).unwrap();
        assert_eq!(words[..5], [1, 2, 1, 2, 0x0102_0304]);
        result::free_sync(address).unwrap();
    }
}

#[test]
fn pinned_memory() {
    let context = shared_context();
    let stream = context.new_stream().unwrap();
    // SAFETY: written in full before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(1000) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(3);
    let device = stream.clone_htod(&pinned).unwrap();
    pinned.as_mut_slice().unwrap().fill(0);
    stream.memcpy_dtoh(&device, &mut pinned).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice().unwrap(), [3; 1000]);
}

#[test]
fn events_and_streams() {
    let context = shared_context();
    let low = context.new_stream().unwrap();
    let high = context.new_stream_with_priority(-5).unwrap();
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let start = low.record_event(timed).unwrap();
    let unrecorded = context.new_event(timed).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let end = low.record_event(timed).unwrap();
    high.wait(&end).unwrap();
    high.synchronize().unwrap();
    assert!(end.is_complete() && unrecorded.is_complete());
    let forward = start.elapsed_ms(&end).unwrap();
    assert!(forward >= 2.0, "{forward} ms over a sleep of 2 ms");
    assert_eq!(end.elapsed_ms(&start).unwrap(), -forward);
    assert_eq!(code(start.elapsed_ms(&unrecorded)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    let untimed = low.record_event(None).unwrap();
    assert_eq!(code(start.elapsed_ms(&untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    let mut older = f32::NAN;
    let elapsed = hook::<extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> u32>("cuEventElapsedTime");
    assert_eq!(elapsed(&mut older, start.cu_event(), end.cu_event()), 0);
    assert_eq!(older, forward);
    unsafe {
        assert_eq!(sys::cuStreamQuery(high.cu_stream()), CUresult::CUDA_SUCCESS);
        let (mut least, mut greatest) = (1, 1);
        assert_eq!(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest), CUresult::CUDA_SUCCESS);
        assert_eq!((least, greatest), (0, -5));
    }
}

#[test]
fn launch_with_a_config() {
    let context = shared_context();
    let stream = context.new_stream().unwrap();
    let function = result_function("add");
    let mut values = stream.clone_htod(&[1.0f32; 5]).unwrap();
    let launch = |attributes: &mut [sys::CUlaunchAttribute], address: u64| {
        let (mut address, mut count, mut step) = (address, 5u32, 2.0f32);
        let mut arguments =
            [(&raw mut address).cast(), (&raw mut count).cast(), (&raw mut step).cast::<std::ffi::c_void>()];
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 5,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the arguments match the kernel's parameters.
        unsafe { sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
    };
    // SAFETY: all-zero bytes are valid for this plain union.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    let address = {
        use cudarc::driver::DevicePtrMut;
        values.device_ptr_mut(&stream).0
    };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    assert_eq!(launch(&mut [attribute, attribute], address), CUresult::CUDA_SUCCESS);
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [3.0; 5]);
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attribute.value.cooperative = 1;
    assert_eq!(launch(&mut [attribute], address), CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

/// A function of the current context by its raw handle; its module stays loaded.
fn result_function(name: &str) -> sys::CUfunction {
    // SAFETY: the text ends with a zero byte; the module isn't unloaded.
    unsafe {
        let module = result::module::load_data(CString::new(PTX).unwrap().as_ptr().cast()).unwrap();
        result::module::get_function(module, CString::new(name).unwrap()).unwrap()
    }
}
