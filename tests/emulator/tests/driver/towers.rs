//! Streams of two devices that wait for each other, and faults on demand in one of them.

use cudarc::driver::sys::{self, CUevent_flags, CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaStream, result};

use super::inject::calls;
use super::peer::{TWO, add_at, allocate, enable, filled, on_device, read, two};
use super::*;

/// Copies one float between devices in a stream.
fn copy(stream: &CudaStream, to: (&Arc<CudaContext>, u64), from: (&Arc<CudaContext>, u64)) -> Result<(), DriverError> {
    // SAFETY: live contexts and a live stream; the emulator checks addresses.
    unsafe { result::memcpy_peer_async(to.0.cu_ctx(), to.1, from.0.cu_ctx(), from.1, 4, stream.cu_stream()) }
}

fn float(context: &Arc<CudaContext>, address: u64) -> f32 {
    f32::from_le_bytes(read(context, address, 4).unwrap().try_into().unwrap())
}

/// A value goes to the other device and comes back, each step waiting for the one before unless it is `forgotten`.
fn there_and_back(forgotten: usize) -> f32 {
    let [a, b] = two();
    let [first, second] = [&a, &b].map(|context| context.new_stream().unwrap());
    let (mine, other) = (filled(&a, &1f32.to_le_bytes()), filled(&b, &0f32.to_le_bytes()));
    let step = |number: usize, stream: &Arc<CudaStream>, after: &Arc<CudaStream>| {
        let event = after.record_event(None).unwrap();
        if number != forgotten {
            stream.wait(&event).unwrap();
        }
    };
    add_at(&first, mine, 1.0).unwrap();
    step(1, &second, &first);
    copy(&second, (&b, other), (&a, mine)).unwrap();
    add_at(&second, other, 10.0).unwrap();
    // Not before it has been copied.
    step(2, &first, &second);
    add_at(&first, mine, 100.0).unwrap();
    copy(&first, (&a, mine), (&b, other)).unwrap();
    first.synchronize().unwrap();
    let found = float(&a, mine);
    a.synchronize().unwrap();
    b.synchronize().unwrap();
    found
}

/// Of the stream that the host waits for in both modes; of the one that runs ahead where streams overtake.
#[test]
fn a_missing_wait_shows() {
    for (streams, found) in [("eager", [12.0; 3]), ("deferred", [12.0, 12.0, 0.0]), ("overtaking", [12.0, 11.0, 0.0])] {
        let variables = [TWO, ("CUEMU_STREAMS", streams), ("CUEMU_TEST_FOUND", &format!("{found:?}"))];
        in_child("driver::towers::a_missing_wait_shows", &variables, || {
            let found = format!("{:?}", [0, 1, 2].map(there_and_back));
            assert_eq!(found, std::env::var("CUEMU_TEST_FOUND").unwrap());
        });
        if std::env::var_os(CHILD).is_some() {
            return;
        }
    }
}

/// Where the host waits for one device, streams of the other run ahead as far as nothing keeps them back, one after the other.
#[test]
fn the_other_device_overtakes() {
    in_child("driver::towers::the_other_device_overtakes", &[TWO, ("CUEMU_STREAMS", "overtaking")], || {
        let [a, b] = two();
        let (early, late) = (b.new_stream().unwrap(), b.new_stream().unwrap());
        let (mine, other) = (filled(&a, &[1; 4]), filled(&b, &[2; 4]));
        // The older stream waits for the newer one.
        // SAFETY: within the allocation.
        unsafe { result::memset_d8_async(other, 3, 4, late.cu_stream()).unwrap() };
        early.wait(&late.record_event(None).unwrap()).unwrap();
        copy(&early, (&a, mine), (&b, other)).unwrap();
        assert_eq!(read(&a, mine, 4).unwrap(), [3; 4]);
        // Any way of waiting lets the others go first.
        for wait in ["context", "stream", "event", "free"] {
            let [a, b] = two();
            let (stream, other) = (a.new_stream().unwrap(), b.new_stream().unwrap());
            let (mine, theirs) = (filled(&a, &0f32.to_le_bytes()), filled(&b, &5f32.to_le_bytes()));
            let unused = allocate(&a, 4);
            copy(&other, (&a, mine), (&b, theirs)).unwrap();
            add_at(&stream, mine, 1.0).unwrap();
            let event = stream.record_event(None).unwrap();
            a.bind_to_thread().unwrap();
            match wait {
                "context" => a.synchronize().unwrap(),
                "stream" => stream.synchronize().unwrap(),
                "event" => event.synchronize().unwrap(),
                // SAFETY: allocated above.
                _ => unsafe { result::free_sync(unused).unwrap() },
            }
            assert_eq!(float(&a, mine), 6.0, "{wait}");
        }
    });
}

#[test]
fn events_of_two_contexts() {
    in_child("driver::towers::events_of_two_contexts", &[TWO], || {
        let [a, b] = two();
        let [first, second] = [&a, &b].map(|context| context.new_stream().unwrap());
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let [start, end] = [&first, &second].map(|stream| stream.record_event(timed).unwrap());
        // SAFETY (all): live events and streams.
        unsafe {
            assert_eq!(
                code(result::event::elapsed(start.cu_event(), end.cu_event())),
                CUresult::CUDA_ERROR_INVALID_HANDLE
            );
            let foreign = result::event::record(start.cu_event(), second.cu_stream());
            assert_eq!(code(foreign), CUresult::CUDA_ERROR_INVALID_HANDLE);
            // The host waits for either whatever is current.
            a.bind_to_thread().unwrap();
            result::event::synchronize(end.cu_event()).unwrap();
        }
    });
}

/// A copy between devices is recorded and replayed; a stream of the other device doesn't join.
#[test]
fn captures_are_of_one_context() {
    for streams in ["eager", "deferred"] {
        let variables = [TWO, ("CUEMU_STREAMS", streams)];
        in_child("driver::towers::captures_are_of_one_context", &variables, || {
            let [a, b] = two();
            let [first, second] = [&a, &b].map(|context| context.new_stream().unwrap());
            let (mine, other) = (filled(&a, &0f32.to_le_bytes()), filled(&b, &0f32.to_le_bytes()));
            first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            copy(&first, (&a, mine), (&b, other)).unwrap();
            let graph = first.end_capture(Flags(0)).unwrap().expect("a graph");
            for value in [1.0, 2.0] {
                add_at(&second, other, 1.0).unwrap();
                second.synchronize().unwrap();
                graph.launch().unwrap();
                first.synchronize().unwrap();
                assert_eq!(float(&a, mine), value);
            }
            first.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            let event = first.record_event(None).unwrap();
            assert_eq!(code(second.wait(&event)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
            assert!(last_fault().contains("another context"), "{}", last_fault());
            let spoilt = first.end_capture(Flags(0)).map(|_| ());
            assert_eq!(code(spoilt), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            add_at(&second, other, 1.0).unwrap();
            second.synchronize().unwrap();
        });
        if std::env::var_os(CHILD).is_some() {
            return;
        }
    }
}

/// Disabled while work is still to be done, access is gone for it.
#[test]
fn access_ends_before_the_work() {
    in_child("driver::towers::access_ends_before_the_work", &[TWO, ("CUEMU_STREAMS", "deferred")], || {
        let [a, b] = two();
        let other = filled(&b, &1f32.to_le_bytes());
        enable(&a, &b).unwrap();
        let stream = a.new_stream().unwrap();
        add_at(&stream, other, 1.0).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(float(&b, other), 2.0);
        add_at(&stream, other, 1.0).unwrap();
        a.bind_to_thread().unwrap();
        // SAFETY: a live context.
        unsafe { sys::cuCtxDisablePeerAccess(b.cu_ctx()).result().unwrap() };
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        b.synchronize().unwrap();
    });
}

/// Makes the next call of a kind that acts on a device go wrong.
fn next(kind: &str, device: usize, effect: &str) {
    let number = calls(&format!("{kind}@{device}")) + 1;
    assert_eq!(configure("fault", &format!("{kind}:{number}:{effect}@{device}")), 0);
}

/// A call of a kind that acts on a context, by its stream or event where it has one, while another is current.
fn call_with(
    kind: &str,
    context: &Arc<CudaContext>,
    current: &Arc<CudaContext>,
    before: impl FnOnce(),
) -> Result<(), DriverError> {
    let (stream, event) = (context.new_stream().unwrap(), context.new_event(None).unwrap());
    let (raw, point) = (stream.cu_stream(), event.cu_event());
    let address = filled(context, &[0; 4]);
    current.bind_to_thread().unwrap();
    before();
    // SAFETY: live objects; the emulator checks addresses.
    unsafe {
        match kind {
            "alloc" => result::malloc_async(raw, 4).map(|_| ()),
            "copy" => result::memcpy_dtoh_async(&mut [0u8; 4], address, raw),
            "launch" => add_at(&stream, address, 1.0),
            "sync" => result::event::synchronize(point),
            "graph" => sys::cuStreamBeginCapture_v2(raw, Mode::CU_STREAM_CAPTURE_MODE_RELAXED).result(),
            "fill" => result::memset_d8_async(address, 0, 4, raw),
            "wait" => result::stream::wait_event(raw, point, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT),
            _ => result::event::record(point, raw),
        }
    }
}

#[test]
fn faults_of_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls");
    in_child("driver::towers::faults_of_one_device", &[TWO, ("CUEMU_CALLS", path.to_str().unwrap())], || {
        let [a, b] = two();
        let kinds = ["alloc", "copy", "launch", "sync", "graph", "fill", "wait", "record"];
        for kind in kinds {
            for (acted_on, current) in [(&a, &b), (&b, &b)] {
                let found = call_with(kind, acted_on, current, || next(kind, 1, "999"));
                let expected = if Arc::ptr_eq(acted_on, &b) { Err(CUresult::CUDA_ERROR_UNKNOWN) } else { Ok(()) };
                assert_eq!(found.map_err(|error| error.0), expected, "{kind}");
                assert_eq!(configure("fault", ""), 0);
            }
        }
        // The number is the device's: another's call after it isn't meant.
        assert_eq!(configure("fault", &format!("sync:{}:2@1", calls("sync@1"))), 0);
        a.synchronize().unwrap();
        // A fault that sticks is that of the context acted on.
        let stream = on_device(1).new_stream().unwrap();
        a.bind_to_thread().unwrap();
        next("sync", 1, "700");
        // SAFETY: a live stream.
        assert_eq!(
            code(unsafe { result::stream::synchronize(stream.cu_stream()) }),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        assert_eq!(code(stream.context().synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!((a.synchronize(), b.synchronize()), (Ok(()), Ok(())));
        // Of all devices, as ever.
        assert_eq!(configure("fault", &format!("sync:{}+:2", calls("sync") + 1)), 0);
        assert!(a.synchronize().is_err() && b.synchronize().is_err());
        for kind in kinds {
            assert_eq!(calls(kind), calls(&format!("{kind}@0")) + calls(&format!("{kind}@1")), "{kind}");
        }
        assert_eq!(configure("fault", "sync:1:2@2"), 1);
    });
    if std::env::var_os(CHILD).is_none() {
        let text = std::fs::read_to_string(&path).unwrap();
        let count = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("no {key} in: {text}")).parse::<u64>().unwrap()
        };
        assert_eq!((text.lines().count(), count("sync")), (24, count("sync@0") + count("sync@1")), "{text}");
    }
}
