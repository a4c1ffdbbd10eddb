//! Deferred streams: what a program has not waited for has not happened.

use cudarc::driver::sys::{self, CUevent_flags};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, PushKernelArg, result};

use super::*;

const DEFERRED: [(&str, &str); 1] = [("CUEMU_STREAMS", "deferred")];

/// A context whose memory doesn't wait by itself.
pub fn untracked() -> Arc<CudaContext> {
    let context = own_context();
    // SAFETY: the tests order what uses memory, or mean not to.
    unsafe { context.disable_event_tracking() };
    context
}

/// Page-locked memory without cudarc's own waits, kept until the process ends.
pub struct Pinned(*mut f32, usize);

impl Pinned {
    pub fn new(context: &Arc<CudaContext>, values: &[f32]) -> Pinned {
        context.bind_to_thread().unwrap();
        // SAFETY: written in full below.
        let pinned = Pinned(unsafe { result::malloc_host(size_of_val(values), 0) }.unwrap().cast(), values.len());
        (0..values.len()).for_each(|i| pinned.set(i, values[i]));
        pinned
    }

    pub fn set(&self, i: usize, value: f32) {
        assert!(i < self.1);
        // SAFETY: in bounds; the emulator touches it only while the test is in a call.
        unsafe { self.0.add(i).write_volatile(value) };
    }

    pub fn get(&self, i: usize) -> f32 {
        assert!(i < self.1);
        // SAFETY: as for writing.
        unsafe { self.0.add(i).read_volatile() }
    }

    /// For the arguments of a copy.
    pub fn slice(&self) -> &'static mut [f32] {
        // SAFETY: live for good; the slice lives as long as a call.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

/// Queues `values[i] += step`.
pub fn queue_add(stream: &Arc<CudaStream>, add: &CudaFunction, values: &CudaSlice<f32>, step: f32) {
    let count = values.len() as u32;
    let config = LaunchConfig { grid_dim: (count.div_ceil(32), 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel stays within `count` values.
    unsafe { stream.launch_builder(add).arg(values).arg(&count).arg(&step).launch(config) }.unwrap();
}

/// The device's values now, without waiting for anything that this doesn't come after by itself.
fn now(context: &Arc<CudaContext>, values: &CudaSlice<f32>) -> Vec<f32> {
    context.new_stream().unwrap().clone_dtoh(values).unwrap()
}

#[test]
fn a_missing_wait_shows() {
    let run = |wait: bool| {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        // SAFETY: whether it is written before it is read is what the test is about.
        let mut values = unsafe { first.alloc::<f32>(3) }.unwrap();
        first.memcpy_htod(&[1.0, 2.0, 3.0], &mut values).unwrap();
        if wait {
            second.join(&first).unwrap();
        }
        queue_add(&second, &add, &values, 0.5);
        let read = second.clone_dtoh(&values);
        let _ = context.synchronize();
        read
    };
    if std::env::var_os(CHILD).is_none() {
        load();
        assert_eq!(run(false).unwrap(), [1.5, 2.5, 3.5], "eager streams can't show it");
    }
    in_child("driver::deferred::a_missing_wait_shows", &DEFERRED, || {
        assert_eq!(run(true).unwrap(), [1.5, 2.5, 3.5]);
        assert_eq!(code(run(false)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("UninitialisedGlobal"), "{}", last_fault());
    });
}

/// A stream that runs ahead of the one that is waited for, which should have kept it back.
#[test]
fn overtaking() {
    in_child("driver::deferred::overtaking", &[("CUEMU_STREAMS", "overtaking")], || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let filled = |wait: bool| {
            let mut values = first.clone_htod(&[9.0f32]).unwrap();
            first.synchronize().unwrap();
            first.memset_zeros(&mut values).unwrap();
            if wait {
                second.join(&first).unwrap();
            }
            let address = values.device_ptr(&first).0;
            // SAFETY: room for one value.
            unsafe { result::memcpy_htod_async(address, &[1.0f32], second.cu_stream()).unwrap() };
            first.join(&second).unwrap();
            first.clone_dtoh(&values).unwrap()[0]
        };
        assert_eq!((filled(true), filled(false)), (1.0, 0.0), "the fill came last");
    });
}

#[test]
fn host_memory() {
    in_child("driver::deferred::host_memory", &DEFERRED, || {
        let context = untracked();
        let stream = context.new_stream().unwrap();
        let mut values = stream.alloc_zeros::<f32>(2).unwrap();
        // Pinned memory is read when the copy is done.
        let staging = Pinned::new(&context, &[1.0, 2.0]);
        stream.memcpy_htod(staging.slice(), &mut values).unwrap();
        staging.set(0, 9.0);
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [9.0, 2.0]);
        // Part of a page-locked range is page-locked too.
        let mut part = values.slice_mut(1..);
        stream.memcpy_htod(&staging.slice()[1..], &mut part).unwrap();
        staging.set(1, 8.0);
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [9.0, 8.0]);
        // Pageable memory is read at the call.
        let mut pageable = vec![3.0, 4.0];
        stream.memcpy_htod(&pageable, &mut values).unwrap();
        pageable[0] = 9.0;
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [3.0, 4.0]);
        // What was registered is pinned until it no longer is; taking it back waits.
        let mut words = vec![5.0f32, 6.0];
        let address = words.as_mut_ptr();
        unsafe {
            sys::cuMemHostRegister_v2(address.cast(), 8, 0).result().unwrap();
            let again = sys::cuMemHostRegister_v2(address.add(1).cast(), 8, 0);
            assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            stream.memcpy_htod(&words, &mut values).unwrap();
            address.write(7.0);
            let foreign = sys::cuMemFreeHost(address.cast());
            assert_eq!(foreign, CUresult::CUDA_ERROR_INVALID_VALUE);
            sys::cuMemHostUnregister(address.cast()).result().unwrap();
            assert_eq!(now(&context, &values), [7.0, 6.0]);
            let again = sys::cuMemHostUnregister(address.cast());
            assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
            let mut allocated = std::ptr::null_mut();
            sys::cuMemAllocHost_v2(&mut allocated, 64).result().unwrap();
            sys::cuMemFreeHost(allocated).result().unwrap();
        }
    });
}

#[test]
fn results_arrive_when_waited_for() {
    in_child("driver::deferred::results_arrive_when_waited_for", &DEFERRED, || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        let values = first.clone_htod(&[1.0f32]).unwrap();
        let (seen, other) = (Pinned::new(&context, &[0.0]), Pinned::new(&context, &[0.0]));
        first.memcpy_dtoh(&values, seen.slice()).unwrap();
        first.record_event(None).unwrap();
        queue_add(&first, &add, &values, 1.0);
        second.join(&first).unwrap();
        second.memcpy_dtoh(&values, other.slice()).unwrap();
        queue_add(&second, &add, &values, 10.0);
        assert_eq!((seen.get(0), other.get(0)), (0.0, 0.0));
        first.synchronize().unwrap();
        assert_eq!((seen.get(0), other.get(0)), (1.0, 0.0), "the other stream is not forced");
        assert_eq!(now(&context, &values), [2.0]);
        // The destroyed stream's work is still to be done.
        drop(second);
        assert_eq!(now(&context, &values), [2.0]);
        context.synchronize().unwrap();
        assert_eq!((other.get(0), now(&context, &values)[0]), (2.0, 12.0));
    });
}

/// A wait is for the work before the record, not for what follows it.
#[test]
fn events_stand_for_points() {
    in_child("driver::deferred::events_stand_for_points", &DEFERRED, || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let values = first.clone_htod(&[1.0f32]).unwrap();
        let start = first.record_event(timed).unwrap();
        queue_add(&first, &add, &values, 1.0);
        let end = first.record_event(timed).unwrap();
        queue_add(&first, &add, &values, 10.0);
        // cudarc's own elapsed_ms waits.
        let elapsed = || unsafe { result::event::elapsed(start.cu_event(), end.cu_event()) };
        assert_eq!(code(elapsed()), CUresult::CUDA_ERROR_NOT_READY);
        second.wait(&end).unwrap();
        // Recorded again, the event stands for a later point; the wait above doesn't.
        end.record(&first).unwrap();
        assert_eq!(second.clone_dtoh(&values).unwrap(), [2.0]);
        assert_eq!(code(elapsed()), CUresult::CUDA_ERROR_NOT_READY);
        end.synchronize().unwrap();
        assert_eq!(now(&context, &values), [12.0]);
        assert!(elapsed().unwrap() >= 0.0);

        // Polling: not ready at first, one more piece of work each time after that.
        queue_add(&first, &add, &values, 1.0);
        queue_add(&first, &add, &values, 1.0);
        end.record(&first).unwrap();
        let mut seen = Vec::new();
        while !end.is_complete() {
            seen.push(now(&context, &values)[0]);
        }
        assert_eq!(seen, [12.0, 13.0, 14.0]);
        queue_add(&first, &add, &values, 1.0);
        second.join(&first).unwrap();
        let query = || unsafe { sys::cuStreamQuery(second.cu_stream()) };
        let polls = std::iter::repeat_with(query).take_while(|found| *found == CUresult::CUDA_ERROR_NOT_READY).count();
        assert!((2..9).contains(&polls), "{polls}");
        assert_eq!(now(&context, &values), [15.0]);
    });
}

#[test]
fn of_streams_polled_in_turn_one_goes_on_alone() {
    in_child("driver::deferred::of_streams_polled_in_turn_one_goes_on_alone", &DEFERRED, || {
        let context = untracked();
        let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
        let add = function(&context, "add");
        let values = [0, 1].map(|at: usize| streams[at].clone_htod(&[1.0f32]).unwrap());
        streams.iter().for_each(|stream| stream.synchronize().unwrap());
        for (stream, values) in streams.iter().zip(&values) {
            queue_add(stream, &add, values, 1.0);
            queue_add(stream, &add, values, 1.0);
        }
        let is_done = |at: usize| unsafe { sys::cuStreamQuery(streams[at].cu_stream()) } == CUresult::CUDA_SUCCESS;
        while !is_done(0) {
            assert!(!is_done(1));
        }
        assert_eq!([now(&context, &values[0]), now(&context, &values[1])], [[3.0], [1.0]]);
        while !is_done(1) {}
        assert_eq!(now(&context, &values[1]), [3.0]);
    });
}

#[test]
fn default_stream() {
    in_child("driver::deferred::default_stream", &DEFERRED, || {
        let context = untracked();
        let add = function(&context, "add");
        let values = context.default_stream().clone_htod(&[1.0f32]).unwrap();
        let address = values.device_ptr(values.stream()).0;
        let (count, step) = (1u32, 1.0f32);
        let mut blocking = std::ptr::null_mut();
        unsafe { sys::cuStreamCreate(&mut blocking, 0).result().unwrap() };
        // By its raw handle: cudarc makes non-blocking streams alone.
        let add_there = || unsafe {
            let mut arguments = [
                (&raw const address).cast_mut().cast(),
                (&raw const count).cast_mut().cast(),
                (&raw const step).cast_mut().cast::<std::ffi::c_void>(),
            ];
            let function = add_raw(&context);
            result::launch_kernel(function, (1, 1, 1), (32, 1, 1), 0, blocking, &mut arguments).unwrap();
        };
        add_there();
        // The default stream comes after the blocking stream, which comes after the default stream.
        queue_add(&context.default_stream(), &add, &values, 10.0);
        add_there();
        unsafe { result::stream::synchronize(blocking).unwrap() };
        assert_eq!(now(&context, &values), [13.0]);
        // It doesn't come after a non-blocking stream.
        let free = context.new_stream().unwrap();
        queue_add(&free, &add, &values, 100.0);
        add_there();
        context.default_stream().synchronize().unwrap();
        assert_eq!(now(&context, &values), [14.0]);
        context.synchronize().unwrap();
        assert_eq!(now(&context, &values), [114.0]);
        // A synchronous copy of pageable memory returns once that is staged.
        unsafe { result::memcpy_htod_sync(address, &[5.0f32]).unwrap() };
        assert_eq!(now(&context, &values), [114.0]);
        let mut back = [0.0f32];
        unsafe { result::memcpy_dtoh_sync(&mut back, address).unwrap() };
        assert_eq!(back, [5.0]);
        let page_locked = Pinned::new(&context, &[6.0]);
        unsafe { result::memcpy_htod_sync(address, page_locked.slice()).unwrap() };
        assert_eq!(now(&context, &values), [6.0]);
        unsafe { result::stream::destroy(blocking).unwrap() };
    });
}

/// The `add` kernel by its raw handle; its module stays loaded.
fn add_raw(context: &Arc<CudaContext>) -> sys::CUfunction {
    context.bind_to_thread().unwrap();
    // SAFETY: the text ends with a zero byte; the module isn't unloaded.
    unsafe {
        let module = result::module::load_data(CString::new(PTX).unwrap().as_ptr().cast()).unwrap();
        result::module::get_function(module, c"add".to_owned()).unwrap()
    }
}

#[test]
fn memory_in_stream_order() {
    let variables = [DEFERRED[0], ("CUEMU_MEMORY", "1048576")];
    in_child("driver::deferred::memory_in_stream_order", &variables, || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let free = || context.mem_get_info().unwrap().0;
        let all = first.alloc_zeros::<u8>(1 << 20).unwrap();
        drop(all);
        assert_eq!(free(), 0, "freed when the stream gets there");
        // Nor does an allocation fail for memory that is about to be free.
        let half = second.alloc_zeros::<u8>(1 << 19).unwrap();
        assert_eq!(free(), 1 << 19);
        assert_eq!(code(second.alloc_zeros::<u8>(1 << 20)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(half);
        context.synchronize().unwrap();
        assert_eq!(free(), 1 << 20);
        // Written by a stream that didn't wait for the allocation: nothing is left of it.
        let add = function(&context, "add");
        // SAFETY: what the device finds in it is what the test is about.
        let target = unsafe { first.alloc::<f32>(1) }.unwrap();
        let address = target.device_ptr(&first).0;
        unsafe { result::memcpy_htod_async(address, &[1.0f32], second.cu_stream()).unwrap() };
        second.synchronize().unwrap();
        queue_add(&first, &add, &target, 1.0);
        assert_eq!(code(first.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("UninitialisedGlobal"), "{}", last_fault());
        std::mem::forget((target, first, second));
    });
}

#[test]
fn freed_too_early() {
    in_child("driver::deferred::freed_too_early", &DEFERRED, || {
        for copy in [false, true] {
            let context = untracked();
            let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let add = function(&context, "add");
            let values = second.clone_htod(&[1.0f32]).unwrap();
            first.join(&second).unwrap();
            if copy {
                let address = values.device_ptr(&first).0;
                unsafe { result::memset_d8_async(address, 0, 4, first.cu_stream()).unwrap() };
            } else {
                queue_add(&first, &add, &values, 1.0);
            }
            drop(values);
            second.synchronize().unwrap();
            assert_eq!(code(first.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "copy {copy}");
            assert!(last_fault().contains("freed"), "{}", last_fault());
        }
    });
}

/// The ordinary tests' work, from several threads, on deferred streams.
#[test]
fn eight_threads() {
    in_child("driver::deferred::eight_threads", &DEFERRED, || {
        let context = untracked();
        let joined = context.new_stream().unwrap();
        std::thread::scope(|scope| {
            for seed in 0..8u32 {
                let (context, joined) = (&context, &joined);
                scope.spawn(move || {
                    context.bind_to_thread().unwrap();
                    let add = function(context, "add");
                    let (one, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
                    let values = one.clone_htod(&vec![seed as f32; 40]).unwrap();
                    for _ in 0..20 {
                        queue_add(&one, &add, &values, 1.0);
                        other.join(&one).unwrap();
                        queue_add(&other, &add, &values, 1.0);
                        one.join(&other).unwrap();
                        joined.join(&one).unwrap();
                    }
                    if seed % 2 == 0 {
                        joined.synchronize().unwrap();
                    }
                    assert_eq!(one.clone_dtoh(&values).unwrap(), vec![seed as f32 + 40.0; 40], "seed {seed}");
                });
            }
        });
        context.synchronize().unwrap();
    });
}
