//! Faults on demand.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, PushKernelArg, result};

use super::deferred::{Pinned, queue_add, untracked};
use super::*;

pub fn calls(kind: &str) -> u64 {
    let calls = hook::<extern "C" fn(*const std::ffi::c_char, *mut u64) -> u32>("cuemu_calls");
    let (kind, mut count) = (CString::new(kind).unwrap(), 0);
    assert_eq!(calls(kind.as_ptr(), &mut count), 0);
    count
}

/// A program with a few calls of each kind.
fn work() -> Result<Vec<f32>, DriverError> {
    let context = untracked();
    let done = (|| {
        let stream = context.new_stream()?;
        let add = load_module(&context, PTX)?.load_function("add")?;
        let mut values = stream.clone_htod(&[1.0f32, 2.0])?;
        for _ in 0..2 {
            // SAFETY: the kernel stays within two values.
            unsafe { stream.launch_builder(&add).arg(&mut values).arg(&2u32).arg(&1f32).launch(one_thread_each()) }?;
        }
        context.synchronize()?;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
        // SAFETY: as above.
        unsafe { stream.launch_builder(&add).arg(&mut values).arg(&2u32).arg(&1f32).launch(one_thread_each()) }?;
        let graph = stream.end_capture(CUgraphInstantiate_flags(0))?.expect("a graph");
        graph.launch()?;
        stream.clone_dtoh(&values)
    })();
    // cudarc keeps errors of drops for the next call.
    let _ = context.check_err();
    done
}

fn one_thread_each() -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (2, 1, 1), shared_mem_bytes: 0 }
}

#[test]
fn every_call_of_a_program() {
    let body = || {
        load();
        let kinds = ["alloc", "copy", "launch", "sync", "graph"];
        let before = kinds.map(calls);
        assert_eq!(work(), Ok(vec![4.0, 5.0]));
        let counts: Vec<u64> = kinds.iter().zip(before).map(|(kind, before)| calls(kind) - before).collect();
        assert!(counts[0] >= 1 && counts[1..] == [2, 3, 1, 4], "{counts:?}");
        for (kind, count) in kinds.iter().zip(&counts) {
            for number in 1..=*count {
                for (name, found) in
                    [("2", CUresult::CUDA_ERROR_OUT_OF_MEMORY), ("700", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)]
                {
                    assert_eq!(configure("fault", &format!("{kind}:{}:{name}", calls(kind) + number)), 0);
                    assert_eq!(code(work()), found, "{kind} {number}");
                    assert_eq!(work(), Ok(vec![4.0, 5.0]), "once, and in one context");
                }
            }
        }
    };
    for streams in ["eager", "deferred"] {
        in_child("driver::inject::every_call_of_a_program", &[("CUEMU_STREAMS", streams)], body);
        if std::env::var_os(CHILD).is_some() {
            return;
        }
    }
}

#[test]
fn what_sticks() {
    in_child("driver::inject::what_sticks", &[("CUEMU_FAULT", "sync:1:716")], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(code(context.synchronize()), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
        assert_eq!(code(context.new_stream()), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
        // Without sticking, from a number on.
        let other = own_context();
        assert_eq!(configure("fault", &format!("alloc:{}+:2", calls("alloc") + 2)), 0);
        let stream = other.default_stream();
        let kept = stream.alloc_zeros::<u8>(1).unwrap();
        for _ in 0..3 {
            assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        stream.synchronize().unwrap();
        assert_eq!(configure("fault", ""), 0);
        stream.alloc_zeros::<u8>(1).unwrap();
        drop(kept);
        for (code, sticks) in [(214, true), (717, true), (719, true), (1, false), (701, false), (999, false)] {
            let context = own_context();
            assert_eq!(configure("fault", &format!("sync:{}:{code}", calls("sync") + 1)), 0);
            assert_eq!(context.synchronize().unwrap_err().0 as u32, code);
            assert_eq!(context.synchronize().is_err(), sticks, "{code}");
        }
        for malformed in ["alloc", "alloc:1", "alloc:0:2", "memory:1:2", "alloc:1:skip", "copy:1:hang"] {
            assert_eq!(configure("fault", malformed), 1, "{malformed}");
        }
        assert_eq!(configure("streams", "late"), CUresult::CUDA_ERROR_NOT_PERMITTED as u32);
        assert_eq!(configure("calls", ""), CUresult::CUDA_ERROR_NOT_PERMITTED as u32);
    });
}

#[test]
fn calls_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls");
    in_child("driver::inject::calls_in_a_file", &[("CUEMU_CALLS", path.to_str().unwrap())], || {
        work().unwrap();
        work().unwrap();
    });
    if std::env::var_os(CHILD).is_none() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert_eq!((lines[1], lines[2], lines[4]), ("copy 4", "launch 6", "graph 8"), "{text}");
    }
}

/// Makes the next call of a kind go wrong.
fn next(kind: &str, effect: &str) {
    assert_eq!(configure("fault", &format!("{kind}:{}:{effect}", calls(kind) + 1)), 0);
}

/// A call that is skipped succeeds, and is as if it were not there.
#[test]
fn skipped() {
    in_child("driver::inject::skipped", &[("CUEMU_STREAMS", "deferred")], || {
        let context = untracked();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        // What the second stream reads after the first has added 1 to 1 and recorded an event.
        let seen = |skipped: &str| {
            let mut values = first.clone_htod(&[9.0f32]).unwrap();
            first.synchronize().unwrap();
            let event = context.new_event(None).unwrap();
            if !skipped.is_empty() {
                next(skipped, "skip");
            }
            first.memset_zeros(&mut values).unwrap();
            queue_add(&first, &add, &values, 1.0);
            event.record(&first).unwrap();
            second.wait(&event).unwrap();
            let host = Pinned::new(&context, &[7.0]);
            second.memcpy_dtoh(&values, host.slice()).unwrap();
            second.synchronize().unwrap();
            let seen = host.get(0);
            context.synchronize().unwrap();
            seen
        };
        assert_eq!(seen(""), 1.0);
        for (kind, found) in
            [("fill", 10.0), ("launch", 0.0), ("record", 9.0), ("wait", 9.0), ("copy", 7.0), ("sync", 7.0)]
        {
            // The upload and its wait come before.
            assert_eq!(seen(kind), found, "{kind}");
        }
        assert_eq!(seen(""), 1.0, "once");
    });
}

/// Whether `call` does not come back while others do.
fn blocks(context: &Arc<CudaContext>, call: impl FnOnce() + Send + 'static) -> bool {
    let context = Arc::clone(context);
    let calling = std::thread::spawn(move || {
        context.bind_to_thread().unwrap();
        call();
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    !calling.is_finished()
}

/// Work that never ends: queries say so, what waits for it waits for ever, and everything else goes on.
#[test]
fn hanging() {
    let body = |by_graph: bool| {
        let context = untracked();
        let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let add = function(&context, "add");
        let values = stream.clone_htod(&[1.0f32]).unwrap();
        let before = stream.record_event(None).unwrap();
        let graph = by_graph.then(|| {
            stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            queue_add(&stream, &add, &values, 1.0);
            stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph")
        });
        match &graph {
            Some(graph) => {
                graph.launch().unwrap();
                stream.synchronize().unwrap();
                next("graph", "hang");
                graph.launch().unwrap();
            }
            None => {
                next("launch", "hang");
                queue_add(&stream, &add, &values, 1.0);
            }
        }
        // Later work is taken and not done, nor is another stream's that waits for it.
        queue_add(&stream, &add, &values, 1.0);
        let (after, joined) = (stream.record_event(None).unwrap(), context.new_event(None).unwrap());
        while !before.is_complete() {}
        let apart = other.clone_htod(&[5.0f32]).unwrap();
        queue_add(&other, &add, &apart, 1.0);
        assert_eq!(other.clone_dtoh(&apart).unwrap(), [6.0]);
        other.wait(&after).unwrap();
        joined.record(&other).unwrap();
        for _ in 0..100 {
            assert!(!after.is_complete() && !joined.is_complete());
            // SAFETY: a live stream.
            let found = unsafe { sys::cuStreamQuery(stream.cu_stream()) };
            assert_eq!(found, CUresult::CUDA_ERROR_NOT_READY);
        }
        let host = Pinned::new(&context, &[0.0]);
        let (event, raw) = (after.cu_event() as usize, stream.cu_stream() as usize);
        let (address, page_locked) = (raw_address(&apart, &other), host.slice().as_mut_ptr() as usize);
        // SAFETY (all calls): of live objects, none of which comes to an end.
        assert!(blocks(&context, || result::ctx::synchronize().unwrap()));
        assert!(blocks(&context, move || unsafe { result::event::synchronize(event as _) }.unwrap()));
        assert!(blocks(&context, move || unsafe { result::stream::synchronize(raw as _) }.unwrap()));
        assert!(blocks(&context, move || unsafe { result::free_sync(address) }.unwrap()));
        assert!(blocks(&context, move || unsafe { result::free_host(page_locked as _) }.unwrap()));
        let unloaded = load_module(&context, PTX).unwrap();
        assert!(blocks(&context, move || drop(unloaded)));
        let destroyed = context.cu_ctx() as usize;
        assert!(blocks(&context, move || unsafe { sys::cuCtxDestroy_v2(destroyed as _) }.result().unwrap()));
        // Freed and destroyed in stream order.
        drop((values, before, after, joined, graph, stream, other));
        context.check_err().unwrap();
        std::mem::forget((apart, add, context));
    };
    for (streams, by_graph) in [("eager", false), ("deferred", false), ("eager", true), ("deferred", true)] {
        let kind = if by_graph { "graph" } else { "launch" };
        in_child("driver::inject::hanging", &[("CUEMU_STREAMS", streams), ("CUEMU_TEST_KIND", kind)], || {
            body(std::env::var("CUEMU_TEST_KIND").unwrap() == "graph");
        });
        if std::env::var_os(CHILD).is_some() {
            return;
        }
    }
}

/// Page-locked memory is every device's: to free it is to wait for one that hangs, whichever that is.
#[test]
fn hanging_elsewhere() {
    in_child("driver::inject::hanging_elsewhere", &[("CUEMU_DEVICES", "2")], || {
        let (context, elsewhere) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        let free = |memory: &Pinned| {
            let address = memory.slice().as_mut_ptr() as usize;
            // SAFETY: nothing uses it any more.
            move || unsafe { result::free_host(address as _) }.unwrap()
        };
        let (first, second) = (Pinned::new(&context, &[0.0]), Pinned::new(&context, &[0.0]));
        assert!(!blocks(&context, free(&first)));
        let stream = elsewhere.new_stream().unwrap();
        let values = stream.clone_htod(&[1.0f32]).unwrap();
        let add = function(&elsewhere, "add");
        next("launch", "hang");
        queue_add(&stream, &add, &values, 1.0);
        assert!(!blocks(&context, || result::ctx::synchronize().unwrap()));
        assert!(blocks(&context, free(&second)));
        std::mem::forget((values, add, stream, elsewhere));
    });
}

fn raw_address(values: &CudaSlice<f32>, stream: &Arc<cudarc::driver::CudaStream>) -> u64 {
    cudarc::driver::DevicePtr::device_ptr(values, stream).0
}
