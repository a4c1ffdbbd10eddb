//! Faults on demand.

use cudarc::driver::PushKernelArg;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::deferred::untracked;
use super::*;

fn calls(kind: &str) -> u64 {
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
        for malformed in ["alloc", "alloc:1", "alloc:0:2", "memory:1:2"] {
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
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!((lines[1], lines[2], lines[4]), ("copy 4", "launch 6", "graph 8"), "{text}");
    }
}
