//! Other drivers and devices, each in a process of its own through `LD_PRELOAD`.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{PushKernelArg, result};
use cuemu::driver::library::{NEWER_THAN_12_0, library_without};

use super::*;

fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: an output argument.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
    version
}

/// `cuemu_restart` of the loaded emulator.
fn restart() {
    assert_eq!(hook::<extern "C" fn() -> u32>("cuemu_restart")(), 0);
}

#[test]
fn preloaded() {
    in_child("driver::settings::preloaded", &[], || {
        assert!(unsafe { sys::is_culib_present() });
        assert_eq!(CudaContext::new(0).unwrap().name().unwrap(), "Emulated CUDA device (sm_90)");
    });
}

#[test]
fn stub_driver() {
    in_child("driver::settings::stub_driver", &[("CUEMU_STUB", "1")], || {
        assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_STUB_LIBRARY);
        assert_eq!(code(result::device::get_count()), CUresult::CUDA_ERROR_STUB_LIBRARY);
        assert_eq!(unsafe { sys::cuDriverGetVersion(&mut 0) }, CUresult::CUDA_ERROR_STUB_LIBRARY);
    });
}

#[test]
fn no_device() {
    in_child("driver::settings::no_device", &[("CUEMU_DEVICES", "0")], || {
        assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_NO_DEVICE);
        assert_eq!(code(result::device::get_count()), CUresult::CUDA_ERROR_NOT_INITIALIZED);
    });
}

#[test]
fn two_devices() {
    in_child("driver::settings::two_devices", &[("CUEMU_DEVICES", "2")], || {
        let (a, b) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        assert_ne!(a.uuid().unwrap().bytes, b.uuid().unwrap().bytes);
        assert_ne!(a.cu_ctx(), b.cu_ctx());
        let kept = a.default_stream().alloc_zeros::<u8>(1 << 20).unwrap();
        assert_eq!(a.mem_get_info().unwrap(), ((8 << 30) - (1 << 20), 8 << 30));
        assert_eq!(b.mem_get_info().unwrap(), (8 << 30, 8 << 30));
        drop(kept);
    });
}

#[test]
fn older_device() {
    let variables = [("CUEMU_COMPUTE_CAPABILITY", "7.5"), ("CUEMU_DRIVER_VERSION", "11040")];
    in_child("driver::settings::older_device", &variables, || {
        assert_eq!(driver_version(), 11040);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.compute_capability().unwrap(), (7, 5));
        assert_eq!(context.name().unwrap(), "Emulated CUDA device (sm_75)");
        assert_eq!(code(load_module(&context, PTX)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let newer = PTX.replace(".version 7.0", ".version 7.5").replace("sm_80", "sm_75");
        assert_eq!(code(load_module(&context, &newer)), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert!(last_fault().contains("7.5"), "{}", last_fault());
    });
}

#[test]
fn out_of_memory() {
    in_child("driver::settings::out_of_memory", &[("CUEMU_MEMORY", "1048576")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        assert_eq!(context.total_mem().unwrap(), 1 << 20);
        let half = stream.alloc_zeros::<u8>(1 << 19).unwrap();
        assert_eq!(code(stream.alloc_zeros::<u8>((1 << 19) + 1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let other = stream.alloc_zeros::<u8>(1 << 19).unwrap();
        assert_eq!(context.mem_get_info().unwrap(), (0, 1 << 20));
        drop((half, other));
        assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
        // What a context leaves behind goes with it.
        std::mem::forget(stream.alloc_zeros::<u8>(1 << 20).unwrap());
        unsafe { result::primary_ctx::release(context.cu_device()) }.unwrap();
        let again = CudaContext::new(0).unwrap();
        assert_eq!(again.mem_get_info().unwrap(), (1 << 20, 1 << 20));
        std::mem::forget(context);
    });
}

#[test]
fn no_memory_pools() {
    in_child("driver::settings::no_memory_pools", &[("CUEMU_POOLS", "0")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        assert!(!context.has_async_alloc());
        // SAFETY: nothing is allocated.
        let refused = unsafe { result::malloc_async(stream.cu_stream(), 4) };
        assert_eq!(code(refused), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(stream.clone_dtoh(&stream.clone_htod(&[1u32]).unwrap()).unwrap(), [1]);
    });
}

/// What hardware would let pass is a fault while `checks` is `all`.
#[test]
fn checks_reach_the_machine() {
    let run = || {
        let context = own_context();
        let stream = context.default_stream();
        let add = function(&context, "add");
        // SAFETY: reading it unwritten is what the test is about; any bits are a float.
        let mut unwritten = unsafe { stream.alloc::<f32>(1) }.unwrap();
        // SAFETY: the kernel stays within one value.
        unsafe { stream.launch_builder(&add).arg(&mut unwritten).arg(&1u32).arg(&1f32).launch(one_thread()) }.unwrap();
        context.synchronize()
    };
    in_child("driver::settings::checks_reach_the_machine", &[], || {
        assert_eq!(code(run()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("UninitialisedGlobal"), "{}", last_fault());
        assert_eq!(configure("checks", "memory"), 0);
        run().unwrap();
        assert_eq!(configure("checks", "all"), 0);
        assert_eq!(code(run()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    });
}

/// Every block writes one value: a race between blocks, and only that.
#[test]
fn races_are_checked() {
    let run = || {
        let context = own_context();
        let stream = context.default_stream();
        let mut value = stream.clone_htod(&[0f32]).unwrap();
        let config = LaunchConfig { grid_dim: (2, 1, 1), ..one_thread() };
        let same = function(&context, "same");
        // SAFETY: the kernel writes one value.
        unsafe { stream.launch_builder(&same).arg(&mut value).launch(config) }.unwrap();
        context.synchronize()
    };
    in_child("driver::settings::races_are_checked", &[], || {
        assert_eq!(code(run()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("GlobalRace"), "{}", last_fault());
        for checks in ["memory,initialised", "memory", "none"] {
            assert_eq!(configure("checks", checks), 0);
            run().unwrap();
        }
        for checks in ["races", "races,memory"] {
            assert_eq!(configure("checks", checks), 0);
            assert_eq!(code(run()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        }
        for checks in ["", "memory,", "all,memory", "traffic"] {
            assert_eq!(configure("checks", checks), 1, "{checks}");
        }
    });
}

#[test]
fn counters_of_each_launch() {
    let name = "driver::settings::counters_of_each_launch";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counters.csv");
    let run = |threads: u32, blocks: u32| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let add = function(&context, "add");
        let count = threads * blocks;
        let mut values = stream.alloc_zeros::<f32>(count as usize).unwrap();
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel stays within `count` values.
        unsafe { stream.launch_builder(&add).arg(&mut values).arg(&count).arg(&1f32).launch(config) }.unwrap();
        context.synchronize().unwrap();
    };
    let process = || {
        in_child(name, &[("CUEMU_COUNTERS", path.to_str().unwrap())], || {
            run(64, 3);
            run(32, 1);
        });
    };
    process();
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    // Another process goes on where the first has ended.
    process();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| lines[0].iter().position(|found| *found == name).unwrap();
    assert_eq!((lines.len(), lines[0][0]), (5, "kernel"), "{text}");
    for (line, (block, grid, loads)) in
        lines[1..].iter().zip([("64x1x1", "3x1x1", 6), ("32x1x1", "1x1x1", 1)].repeat(2))
    {
        assert_eq!((line.len(), line[0], line[1], line[2]), (lines[0].len(), "add", grid, block), "{text}");
        assert_eq!(line[column("global_load_requests")], loads.to_string(), "{text}");
        assert_eq!(line[column("global_load_sectors")], (4 * loads).to_string(), "{text}");
        assert_eq!(line[column("global_store_bytes")], (128 * loads).to_string(), "{text}");
        let sum: u64 =
            line[column("integer")..=column("synchronise")].iter().map(|value| value.parse::<u64>().unwrap()).sum();
        assert_eq!(line[column("warp_instructions")], sum.to_string(), "{text}");
    }
}

#[test]
fn counters_that_cannot_be_written() {
    let variables = [("CUEMU_COUNTERS", ".")];
    in_child("driver::settings::counters_that_cannot_be_written", &variables, || {
        assert_eq!(configure("counters", ""), 1);
        let context = CudaContext::new(0).unwrap();
        let nothing = function(&context, "small_blocks");
        // SAFETY: the kernel does nothing.
        unsafe { context.default_stream().launch_builder(&nothing).launch(one_thread()) }.unwrap();
        context.synchronize().unwrap();
    });
}

#[test]
fn malformed_setting() {
    in_child("driver::settings::malformed_setting", &[("CUEMU_DEVICES", "many")], || {
        assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(configure("devices", "3"), 1);
        assert_eq!(configure("peer", "2"), 1);
        assert_eq!(configure("unknown", "3"), 1);
        assert_eq!(configure("devices", "2"), 0, "what is configured goes before the environment");
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        assert_eq!(configure("devices", "1"), CUresult::CUDA_ERROR_NOT_PERMITTED as u32);
        assert_eq!(configure("checks", "none"), 0);
    });
}

#[test]
fn restarted() {
    in_child("driver::settings::restarted", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        restart();
        assert_eq!(code(context.name()), CUresult::CUDA_ERROR_NOT_INITIALIZED);
        assert_eq!(configure("compute_capability", "8.6"), 0);
        let fresh = CudaContext::new(0).unwrap();
        assert_eq!(fresh.compute_capability().unwrap(), (8, 6));
        assert_eq!(
            code(unsafe { result::stream::synchronize(stream.cu_stream()) }),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        std::mem::forget((context, stream));
    });
}

#[test]
fn older_driver_lacks_symbols() {
    let name = "driver::settings::older_driver_lacks_symbols";
    let folder = tempfile::tempdir().unwrap();
    let older = library_without(&library_path(), &NEWER_THAN_12_0, folder.path()).unwrap();
    assert!(library_without(&library_path(), &["cuNone"], folder.path()).is_err());
    in_child_with(&older, name, &[("CUEMU_DRIVER_VERSION", "12000")], || {
        assert_eq!(driver_version(), 12000);
        let lacks = |name: &str| unsafe { sys::culib().get::<*const ()>(name.as_bytes()) }.is_err();
        for name in NEWER_THAN_12_0 {
            assert!(lacks(name), "{name}");
        }
        assert!(!lacks("cuEventElapsedTime"));
        let context = CudaContext::new(0).unwrap();
        let start = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        start.record(&context.default_stream()).unwrap();
        let missing =
            std::panic::catch_unwind(|| unsafe { result::event::elapsed(start.cu_event(), start.cu_event()) });
        assert!(missing.is_err(), "cudarc can only panic without cuEventElapsedTime_v2");
    });
}

/// A module with the same kernels takes a module's place; one with others does not.
#[test]
fn modules_are_replaced() {
    let name = "driver::settings::modules_are_replaced";
    let folder = tempfile::tempdir().unwrap();
    if std::env::var_os(CHILD).is_none() {
        // In the child the folder is the parent's.
        let (add, subtract) = ("add.f32", "sub.f32");
        assert!(PTX.contains(add));
        std::fs::write(folder.path().join("same.ptx"), PTX.replace(add, subtract)).unwrap();
        std::fs::write(folder.path().join("other.ptx"), PTX.replace(".entry add(", ".entry other(")).unwrap();
    }
    in_child(name, &[("CUEMU_PTX", folder.path().to_str().unwrap())], || {
        assert_eq!(configure("ptx", "no/such/folder"), 1);
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let mut value = stream.clone_htod(&[5f32]).unwrap();
        let add = function(&context, "add");
        // SAFETY: the kernel stays within one value.
        unsafe { stream.launch_builder(&add).arg(&mut value).arg(&1u32).arg(&2f32).launch(one_thread()) }.unwrap();
        assert_eq!(stream.clone_dtoh(&value).unwrap(), [3.0]);
    });
}
