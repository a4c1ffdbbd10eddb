//! Capture and replay.

use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode, CUstreamCaptureStatus,
};
use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, PushKernelArg, result};

use super::deferred::{Pinned, queue_add, untracked};
use super::*;

const EAGER: [(&str, &str); 1] = [("CUEMU_STREAMS", "eager")];
const DEFERRED: [(&str, &str); 1] = [("CUEMU_STREAMS", "deferred")];
const LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;

/// Runs the test with eager streams and with deferred ones, each in a process of its own.
fn in_both(name: &str, body: impl Fn()) {
    in_child(name, &EAGER, &body);
    if std::env::var_os(CHILD).is_none() {
        in_child(name, &DEFERRED, &body);
    }
}

fn end(stream: &Arc<CudaStream>) -> Result<CudaGraph, DriverError> {
    stream.end_capture(Flags(0)).map(|graph| graph.expect("a graph"))
}

/// The number of nodes of a graph.
fn nodes(graph: &CudaGraph) -> usize {
    let mut count = 0;
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count).result().unwrap() };
    count
}

#[test]
fn replayed() {
    in_both("driver::graphs::replayed", || {
        let context = untracked();
        let stream = context.new_stream().unwrap();
        let add = function(&context, "add");
        let (staging, seen) = (Pinned::new(&context, &[1.0, 2.0]), Pinned::new(&context, &[0.0, 0.0]));
        let mut values = stream.clone_htod(&[7.0f32, 7.0]).unwrap();
        let mut copy = stream.alloc_zeros::<f32>(2).unwrap();
        assert_eq!(stream.capture_status(), Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));
        stream.begin_capture(GLOBAL).unwrap();
        assert_eq!(stream.capture_status(), Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE));
        stream.memcpy_htod(staging.slice(), &mut values).unwrap();
        {
            // The parameters are taken at the capture.
            let mut step = 0.5f32;
            // SAFETY: the kernel stays within two values.
            let mut launch = stream.launch_builder(&add);
            launch.arg(&values).arg(&2u32).arg(&step);
            unsafe { launch.launch(LaunchConfig { block_dim: (2, 1, 1), ..one_thread() }) }.unwrap();
            drop(launch);
            step += 1.0;
            std::hint::black_box(&step);
        }
        stream.memcpy_dtod(&values, &mut copy).unwrap();
        stream.memset_zeros(&mut values.slice_mut(1..)).unwrap();
        stream.memcpy_dtoh(&copy, seen.slice()).unwrap();
        let graph = end(&stream).unwrap();
        assert_eq!(nodes(&graph), 5);
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [7.0, 7.0], "nothing was done");
        graph.upload().unwrap();
        for first in [1.0, 4.0] {
            staging.set(0, first);
            graph.launch().unwrap();
            assert_eq!(stream.clone_dtoh(&values).unwrap(), [first + 0.5, 0.0]);
            assert_eq!((seen.get(0), seen.get(1)), (first + 0.5, 2.5));
        }
        // A graph launched in a capture becomes a node of that one.
        stream.begin_capture(LOCAL).unwrap();
        graph.launch().unwrap();
        let outer = end(&stream).unwrap();
        assert_eq!(nodes(&outer), 1);
        staging.set(0, 6.0);
        outer.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [6.5, 0.0]);
        // Nothing to do, and flags that don't fit.
        stream.begin_capture(LOCAL).unwrap();
        let refused = stream.end_capture(Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH);
        assert_eq!(refused.map(|_| ()), Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
        stream.begin_capture(LOCAL).unwrap();
        let empty = stream.end_capture(Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).unwrap().unwrap();
        assert_eq!(nodes(&empty), 0);
        empty.launch().unwrap();
        stream.synchronize().unwrap();
    });
}

/// Each launch of a graph comes after the one before, and after the stream's earlier work.
#[test]
fn launches_in_order() {
    in_both("driver::graphs::launches_in_order", || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        let values = first.clone_htod(&[1.0f32]).unwrap();
        first.synchronize().unwrap();
        first.begin_capture(LOCAL).unwrap();
        queue_add(&first, &add, &values, 1.0);
        let graph = end(&first).unwrap();
        queue_add(&first, &add, &values, 10.0);
        graph.launch().unwrap();
        unsafe { result::graph::launch(graph.cu_graph_exec(), second.cu_stream()).unwrap() };
        assert_eq!(second.clone_dtoh(&values).unwrap(), [13.0]);
        drop(graph);
        context.synchronize().unwrap();
    });
}

#[test]
fn stale_pointers() {
    in_both("driver::graphs::stale_pointers", || {
        for pinned in [false, true] {
            let context = untracked();
            let stream = context.new_stream().unwrap();
            let add = function(&context, "add");
            let mut values = stream.clone_htod(&[1.0f32]).unwrap();
            let staging = Pinned::new(&context, &[2.0]);
            stream.begin_capture(LOCAL).unwrap();
            stream.memcpy_htod(staging.slice(), &mut values).unwrap();
            queue_add(&stream, &add, &values, 1.0);
            let graph = end(&stream).unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            if pinned {
                unsafe { result::free_host(staging.slice().as_mut_ptr().cast()).unwrap() };
            } else {
                drop(values);
            }
            graph.launch().unwrap();
            assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            assert!(last_fault().contains("freed"), "{}", last_fault());
        }
        // A kernel whose module is gone.
        let context = untracked();
        let stream = context.new_stream().unwrap();
        let module = load_module(&context, PTX).unwrap();
        let small = module.load_function("small_blocks").unwrap();
        stream.begin_capture(LOCAL).unwrap();
        // SAFETY: the kernel does nothing.
        unsafe { stream.launch_builder(&small).launch(one_thread()) }.unwrap();
        let graph = end(&stream).unwrap();
        drop((small, module));
        graph.launch().unwrap();
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("unloaded"), "{}", last_fault());
    });
}

/// Two branches that each add, one to `left` and one to `right`; then `right` is copied to `out`, after a join or before.
fn fork(context: &Arc<CudaContext>, join_first: bool) -> (CudaGraph, CudaSlice<f32>, Arc<CudaStream>) {
    let (main, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let add = function(context, "add");
    let left = main.clone_htod(&[1.0f32]).unwrap();
    let right = main.clone_htod(&[1.0f32]).unwrap();
    let mut out = main.alloc_zeros::<f32>(1).unwrap();
    main.synchronize().unwrap();
    main.begin_capture(LOCAL).unwrap();
    queue_add(&main, &add, &left, 1.0);
    side.join(&main).unwrap();
    queue_add(&main, &add, &left, 1.0);
    queue_add(&side, &add, &right, 1.0);
    queue_add(&side, &add, &right, 1.0);
    if join_first {
        main.join(&side).unwrap();
        main.memcpy_dtod(&right, &mut out).unwrap();
    } else {
        main.memcpy_dtod(&right, &mut out).unwrap();
        main.join(&side).unwrap();
    }
    let graph = end(&main).unwrap();
    assert_eq!(nodes(&graph), 5);
    // The graph refers to them.
    std::mem::forget((left, right, add));
    (graph, out, main)
}

#[test]
fn forks_and_joins() {
    let results = |join_first: bool| -> Vec<f32> {
        let context = untracked();
        let (graph, out, stream) = fork(&context, join_first);
        let launch = |_| {
            graph.launch().unwrap();
            stream.clone_dtoh(&out).unwrap()[0]
        };
        (0..4).map(launch).collect()
    };
    in_child("driver::graphs::forks_and_joins", &DEFERRED, || {
        assert_eq!(results(true), [3.0, 5.0, 7.0, 9.0]);
        // The last branch first, then the first branch first: a missing join shows in one of two launches.
        assert_eq!(results(false), [3.0, 3.0, 7.0, 7.0]);
    });
    if std::env::var_os(CHILD).is_none() {
        load();
        assert_eq!(results(true), [3.0, 5.0, 7.0, 9.0]);
        assert_eq!(results(false), [3.0, 5.0, 7.0, 9.0], "eager streams can't show it");
    }
}

#[test]
fn errors_of_a_capture() {
    in_both("driver::graphs::errors_of_a_capture", || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        let values = first.clone_htod(&[1.0f32]).unwrap();
        let outside = first.record_event(None).unwrap();
        first.synchronize().unwrap();
        let begin = || first.begin_capture(RELAXED).unwrap();
        let failed = |found: CUresult| assert_eq!(code(end(&first)), found);

        assert_eq!(code(end(&first)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
        begin();
        assert_eq!(code(first.begin_capture(RELAXED)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
        assert_eq!(code(end(&second)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
        end(&first).unwrap();
        let default = context.default_stream().begin_capture(RELAXED);
        assert_eq!(code(default), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);

        // Waiting for what is not done spoils the capture.
        let waits: [&dyn Fn() -> Result<(), DriverError>; 4] = [
            &|| first.synchronize(),
            &|| unsafe { sys::cuStreamQuery(first.cu_stream()).result() },
            &|| context.synchronize(),
            &|| first.clone_dtoh(&values).map(|_| ()),
        ];
        for (i, wait) in waits.iter().enumerate() {
            begin();
            assert_eq!(code(wait()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "{i}");
            let status = first.capture_status().unwrap();
            assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
            assert_eq!(code(first.record_event(None)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            first.synchronize().unwrap();
        }
        // Memory in a capture.
        begin();
        // SAFETY: there is no memory to read.
        let allocated = unsafe { first.alloc::<f32>(1) };
        assert_eq!(code(allocated), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        begin();
        let freed = unsafe { result::free_async(values.device_ptr(&first).0, first.cu_stream()) };
        assert_eq!(code(freed), CUresult::CUDA_ERROR_INVALID_VALUE);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        // Events from outside and from inside.
        begin();
        assert_eq!(code(first.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        begin();
        let inside = first.record_event(None).unwrap();
        assert_eq!(code(inside.synchronize()), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(code(second.wait(&inside)), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        assert_eq!(second.capture_status(), Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));

        // Other streams.
        begin();
        second.join(&first).unwrap();
        queue_add(&second, &add, &values, 1.0);
        assert_eq!(code(end(&second)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        second.synchronize().unwrap();
        begin();
        second.begin_capture(RELAXED).unwrap();
        let merged = second.wait(&first.record_event(None).unwrap());
        assert_eq!(code(merged), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!(code(end(&second)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        failed(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        // A stream that goes takes its capture with it.
        let third = context.new_stream().unwrap();
        third.begin_capture(GLOBAL).unwrap();
        drop(third);
        unsafe { result::free_sync(result::malloc_sync(1).unwrap()).unwrap() };
        assert_eq!(now(&second, &values), [1.0]);
    });
}

fn now(stream: &Arc<CudaStream>, values: &CudaSlice<f32>) -> Vec<f32> {
    stream.clone_dtoh(values).unwrap()
}

#[test]
fn default_stream_during_a_capture() {
    in_both("driver::graphs::default_stream_during_a_capture", || {
        let context = untracked();
        let default = context.default_stream();
        unsafe {
            for (flags, found) in [(0, CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT), (1, CUresult::CUDA_SUCCESS)] {
                let mut stream = std::ptr::null_mut();
                sys::cuStreamCreate(&mut stream, flags).result().unwrap();
                result::stream::begin_capture(stream, RELAXED).unwrap();
                assert_eq!(sys::cuStreamSynchronize(default.cu_stream()), found);
                assert_eq!(result::stream::end_capture(stream).is_ok(), flags == 1);
                result::stream::destroy(stream).unwrap();
            }
        }
    });
}

/// Which threads may allocate while a thread captures.
#[test]
fn modes() {
    in_both("driver::graphs::modes", || {
        let context = untracked();
        let stream = context.new_stream().unwrap();
        let event = context.new_event(None).unwrap();
        let calls = |call: u32| unsafe {
            context.bind_to_thread().unwrap();
            match call {
                0 => result::malloc_sync(4).and_then(|address| result::free_sync(address)),
                1 => result::malloc_host(4, 0).and_then(|address| result::free_host(address)),
                2 => result::event::query(event.cu_event()),
                _ => load_module(&context, PTX).map(|_| ()),
            }
        };
        for (mode, here, there) in [(GLOBAL, false, false), (LOCAL, false, true), (RELAXED, true, true)] {
            for call in 0..4 {
                for (elsewhere, allowed) in [(false, here), (true, there)] {
                    stream.begin_capture(mode).unwrap();
                    let result = if elsewhere {
                        std::thread::scope(|scope| scope.spawn(|| calls(call)).join().unwrap())
                    } else {
                        calls(call)
                    };
                    let found = match allowed {
                        true => Ok(()),
                        false => Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)),
                    };
                    assert_eq!(result, found, "{mode:?}, call {call}, elsewhere {elsewhere}");
                    assert_eq!(end(&stream).is_ok(), allowed, "{mode:?}, call {call}, elsewhere {elsewhere}");
                }
            }
            // Only a relaxed capture may be ended by another thread.
            stream.begin_capture(mode).unwrap();
            let ended = std::thread::scope(|scope| scope.spawn(|| end(&stream).map(|_| ())).join().unwrap());
            if mode == RELAXED {
                ended.unwrap();
            } else {
                assert_eq!(code(ended), CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
                end(&stream).unwrap();
            }
        }
    });
}

/// Each launch records an external event anew, at its place among the work.
#[test]
fn events_that_launches_record() {
    in_both("driver::graphs::events_that_launches_record", || {
        let context = untracked();
        let stream = context.new_stream().unwrap();
        let add = function(&context, "add");
        let values = stream.alloc_zeros::<f32>(1).unwrap();
        let [before, within, after] =
            [(); 3].map(|()| context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap());
        let record = |event: &CudaEvent, flags: u32| {
            // SAFETY: event and stream are alive.
            unsafe { sys::cuEventRecordWithFlags(event.cu_event(), stream.cu_stream(), flags) }.result()
        };
        // Neither outside of a capture nor with other flags.
        for flags in [1, 2] {
            assert_eq!(code(record(&within, flags)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        stream.begin_capture(LOCAL).unwrap();
        queue_add(&stream, &add, &values, 1.0);
        record(&within, 1).unwrap();
        queue_add(&stream, &add, &values, 1.0);
        let graph = end(&stream).unwrap();
        assert_eq!(nodes(&graph), 3);
        assert_eq!(code(within.elapsed_ms(&within)), CUresult::CUDA_ERROR_INVALID_HANDLE, "a capture records nothing");
        for launch in 1..=2 {
            record(&before, 0).unwrap();
            graph.launch().unwrap();
            record(&after, 0).unwrap();
            // Were it the last launch's, it would be before `before`.
            let parts = (before.elapsed_ms(&within).unwrap(), within.elapsed_ms(&after).unwrap());
            assert!(parts.0 > 0.0 && parts.1 > 0.0, "launch {launch}: {parts:?}");
            assert_eq!(stream.clone_dtoh(&values).unwrap(), [2.0 * launch as f32]);
        }
        drop(within);
        assert_eq!(code(graph.launch()), CUresult::CUDA_ERROR_INVALID_HANDLE, "the event is gone");
    });
}
