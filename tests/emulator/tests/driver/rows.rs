//! Copies of rows: within a device, between two, and between a device and the host.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUDA_MEMCPY3D_PEER, CUmemorytype as Type};
use cudarc::driver::{CudaStream, result};
use rand::{RngExt, SeedableRng};

use super::peer::{TWO, add_at, allocate, filled, read, two};
use super::*;

/// One side of a copy of rows.
#[derive(Clone, Copy, Debug)]
struct Side {
    offset: [usize; 3],
    pitch: usize,
    height: usize,
}

impl Side {
    fn first(&self) -> usize {
        let [x, y, z] = self.offset;
        (z * self.height + y) * self.pitch + x
    }
}

/// What a copy of rows makes of the target's bytes.
fn expected(target: &[u8], to: Side, source: &[u8], from: Side, [width, height, depth]: [usize; 3]) -> Vec<u8> {
    let mut bytes = target.to_vec();
    for (z, y) in (0..depth).flat_map(|z| (0..height).map(move |y| (z, y))) {
        let at = |side: Side| side.first() + (z * side.height + y) * side.pitch;
        bytes[at(to)..][..width].copy_from_slice(&source[at(from)..][..width]);
    }
    bytes
}

type Place<'a> = (&'a Arc<CudaContext>, u64, Side);

fn peer_rows(stream: &CudaStream, to: Place, from: Place, extent: [usize; 3]) -> Result<(), DriverError> {
    let (memory, null) = (Type::CU_MEMORYTYPE_DEVICE, std::ptr::null_mut::<c_void>());
    let [width, height, depth] = extent;
    let ([from_x, from_y, from_z], [to_x, to_y, to_z]) = (from.2.offset, to.2.offset);
    let copy = CUDA_MEMCPY3D_PEER {
        srcXInBytes: from_x,
        srcY: from_y,
        srcZ: from_z,
        srcLOD: 0,
        srcMemoryType: memory,
        srcHost: null,
        srcDevice: from.1,
        srcArray: null.cast(),
        srcContext: from.0.cu_ctx(),
        srcPitch: from.2.pitch,
        srcHeight: from.2.height,
        dstXInBytes: to_x,
        dstY: to_y,
        dstZ: to_z,
        dstLOD: 0,
        dstMemoryType: memory,
        dstHost: null,
        dstDevice: to.1,
        dstArray: null.cast(),
        dstContext: to.0.cu_ctx(),
        dstPitch: to.2.pitch,
        dstHeight: to.2.height,
        WidthInBytes: width,
        Height: height,
        Depth: depth,
    };
    // SAFETY: the emulator checks addresses.
    unsafe { sys::cuMemcpy3DPeerAsync(&copy, stream.cu_stream()) }.result()
}

/// A base of a copy in two dimensions.
#[derive(Clone, Copy, Debug)]
enum Base {
    Host(*mut c_void),
    Device(u64),
    /// An address of either.
    Unified(u64),
}

fn rows(stream: &CudaStream, to: (Base, Side), from: (Base, Side), width: usize, height: usize) -> CUresult {
    let parts = |base| match base {
        Base::Host(host) => (Type::CU_MEMORYTYPE_HOST, host, 0),
        Base::Device(device) => (Type::CU_MEMORYTYPE_DEVICE, std::ptr::null_mut(), device),
        Base::Unified(address) => (Type::CU_MEMORYTYPE_UNIFIED, std::ptr::null_mut(), address),
    };
    let ((to, target), (from, source)) = ((parts(to.0), to.1), (parts(from.0), from.1));
    let copy = CUDA_MEMCPY2D {
        srcXInBytes: source.offset[0],
        srcY: source.offset[1],
        srcMemoryType: from.0,
        srcHost: from.1,
        srcDevice: from.2,
        srcArray: std::ptr::null_mut(),
        srcPitch: source.pitch,
        dstXInBytes: target.offset[0],
        dstY: target.offset[1],
        dstMemoryType: to.0,
        dstHost: to.1,
        dstDevice: to.2,
        dstArray: std::ptr::null_mut(),
        dstPitch: target.pitch,
        WidthInBytes: width,
        Height: height,
    };
    // SAFETY: host buffers are as large as the copies of these tests; the emulator checks device addresses.
    unsafe { sys::cuMemcpy2DAsync_v2(&copy, stream.cu_stream()) }
}

fn linear(pitch: usize) -> Side {
    Side { offset: [0; 3], pitch, height: 0 }
}

/// Bytes that tell their place.
fn pattern(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 + seed + i / 251) as u8).collect()
}

/// Page-locked memory with `bytes` in it.
fn page_locked(context: &Arc<CudaContext>, bytes: &[u8]) -> &'static mut [u8] {
    context.bind_to_thread().unwrap();
    // SAFETY: written in full, and never freed.
    unsafe {
        let start = result::malloc_host(bytes.len(), 0).unwrap().cast::<u8>();
        start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        std::slice::from_raw_parts_mut(start, bytes.len())
    }
}

/// In every stream mode, with and without peer access between the devices.
fn in_modes(name: &str, body: impl Fn()) {
    for (streams, peer) in [("eager", "1"), ("deferred", "0"), ("overtaking", "1")] {
        in_child(name, &[TWO, ("CUEMU_STREAMS", streams), ("CUEMU_PEER", peer)], &body);
        if std::env::var_os(CHILD).is_some() {
            return;
        }
    }
}

#[test]
fn between_devices() {
    in_modes("driver::rows::between_devices", || {
        let [a, b] = two();
        let streams = [&a, &b].map(|context| context.new_stream().unwrap());
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for case in 0..60 {
            let extent @ [width, height, _] =
                [random.random_range(1..20), random.random_range(1..6), random.random_range(1..4)];
            let mut side = || {
                let offset = std::array::from_fn(|_| random.random_range(0..3));
                let pitch = offset[0] + width + random.random_range(0..4);
                Side { offset, pitch, height: offset[1] + height + random.random_range(0..2) }
            };
            let (to, from) = (side(), side());
            // Not a byte more than the last row's end.
            let last = |side: Side| side.first() + ((extent[2] - 1) * side.height + height - 1) * side.pitch + width;
            let (target, source) = (pattern(last(to), 1), pattern(last(from), 2));
            let sender = if case % 3 == 0 { &a } else { &b };
            let (receiving, sending) = (filled(&a, &target), filled(sender, &source));
            let stream = &streams[case % 2];
            peer_rows(stream, (&a, receiving, to), (sender, sending, from), extent).unwrap();
            stream.synchronize().unwrap();
            let found = read(&a, receiving, target.len()).unwrap();
            assert_eq!(found, expected(&target, to, &source, from, extent), "{extent:?} {to:?} {from:?}");
        }
        let (to, from) = (filled(&a, &[0; 8]), filled(&b, &pattern(8, 3)));
        let raw = streams[0].cu_stream();
        // SAFETY: live contexts and a live stream.
        unsafe { result::memcpy_peer_async(a.cu_ctx(), to + 1, b.cu_ctx(), from + 2, 5, raw).unwrap() };
        streams[0].synchronize().unwrap();
        assert_eq!(read(&a, to, 8).unwrap()[1..6], pattern(8, 3)[2..7]);
    });
}

#[test]
fn to_and_from_the_host() {
    in_modes("driver::rows::to_and_from_the_host", || {
        let [a, _] = two();
        let stream = a.new_stream().unwrap();
        let (wide, narrow) = (Side { offset: [3, 1, 0], pitch: 12, height: 0 }, linear(5));
        let (extent, table) = ([5, 4, 1], pattern(60, 1));
        let device = filled(&a, &table);
        let packed = expected(&[0; 20], narrow, &table, wide, extent);
        let mut pageable = vec![0; 20];
        let pinned = page_locked(&a, &[0; 20]);
        let host = |bytes: &mut [u8]| Base::Host(bytes.as_mut_ptr().cast());
        let unified = |bytes: &mut [u8]| Base::Unified(bytes.as_mut_ptr().expose_provenance() as u64);
        // To the host: pageable memory is waited for, page-locked memory not.
        for (to, from) in [
            (host(&mut pageable), Base::Device(device)),
            (unified(&mut pageable), Base::Unified(device)),
            (host(pinned), Base::Device(device)),
            (unified(pinned), Base::Device(device)),
        ] {
            pageable.fill(0);
            pinned.fill(0);
            rows(&stream, (to, narrow), (from, wide), 5, 4).result().unwrap();
            let late = std::env::var("CUEMU_STREAMS").unwrap() != "eager";
            let into_pinned = matches!(to, Base::Host(at) if at == pinned.as_mut_ptr().cast())
                || matches!(to, Base::Unified(at) if at == pinned.as_ptr().addr() as u64);
            let seen = if into_pinned { &*pinned } else { &pageable };
            assert_eq!(*seen == packed, !(into_pinned && late), "{to:?}");
            stream.synchronize().unwrap();
            assert_eq!(if into_pinned { &*pinned } else { &pageable }, packed, "{to:?}");
        }
        // From the host: pageable memory is read at the call, page-locked memory when the copy is done.
        let zeros = [0u8; 60];
        for pinned_source in [false, true] {
            let target = filled(&a, &zeros);
            let source = if pinned_source { &mut *pinned } else { &mut pageable[..] };
            source.copy_from_slice(&packed);
            rows(&stream, (Base::Device(target), wide), (host(source), narrow), 5, 4).result().unwrap();
            source.fill(9);
            stream.synchronize().unwrap();
            let late = pinned_source && std::env::var("CUEMU_STREAMS").unwrap() != "eager";
            let read_then = if late { vec![9; 20] } else { packed.clone() };
            assert_eq!(read(&a, target, 60).unwrap(), expected(&zeros, wide, &read_then, narrow, extent));
        }
        // Within the device: the halves of rows change places by a third buffer.
        let other = allocate(&a, 24);
        let left = Side { offset: [0; 3], ..linear(12) };
        let right = Side { offset: [6, 0, 0], ..linear(12) };
        let whole = filled(&a, &table[..24]);
        rows(&stream, (Base::Device(other), right), (Base::Device(whole), left), 6, 2).result().unwrap();
        rows(&stream, (Base::Unified(other), left), (Base::Device(whole), right), 6, 2).result().unwrap();
        stream.synchronize().unwrap();
        let swapped = [&table[6..12], &table[..6], &table[18..24], &table[12..18]].concat();
        assert_eq!(read(&a, other, 24).unwrap(), swapped);
    });
}

#[test]
fn refused() {
    in_child("driver::rows::refused", &[TWO], || {
        let [a, b] = two();
        let stream = a.new_stream().unwrap();
        let (mine, other) = (filled(&a, &[1; 40]), filled(&b, &[2; 40]));
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        let host = page_locked(&a, &[0; 40]);
        let host = Base::Host(host.as_mut_ptr().cast());
        let two_d = |to, from, width, height| rows(&stream, to, from, width, height);
        // Rows of 10 bytes at a pitch of 10, from byte 1 on: one more row runs over the end by a byte.
        let from_one = Side { offset: [1, 0, 0], ..linear(10) };
        assert_eq!(two_d((host, linear(9)), (Base::Device(mine), from_one), 9, 4), CUresult::CUDA_SUCCESS);
        assert_eq!(two_d((host, linear(9)), (Base::Device(mine + 1), from_one), 9, 4), invalid);
        assert!(last_fault().contains("run over the end of the 40 bytes"), "{}", last_fault());
        assert_eq!(two_d((Base::Device(mine + 1), from_one), (host, linear(9)), 9, 4), invalid);
        let place = |context, address, height| (context, address, Side { height, ..linear(10) });
        let peer = |to, from, extent| peer_rows(&stream, to, from, extent);
        peer(place(&a, mine, 4), place(&b, other, 4), [10, 4, 1]).unwrap();
        assert_eq!(code(peer(place(&a, mine + 1, 4), place(&b, other, 4), [10, 4, 1])), invalid);
        assert_eq!(code(peer(place(&a, mine, 4), place(&b, other + 1, 4), [10, 4, 1])), invalid);
        assert_eq!(code(peer(place(&a, mine, 2), place(&b, other, 2), [10, 2, 3])), invalid);
        // Addresses go with their contexts.
        assert_eq!(code(peer(place(&b, mine, 4), place(&a, other, 4), [10, 4, 1])), invalid);
        assert!(last_fault().contains("is memory of device 0"), "{}", last_fault());
        // SAFETY: handles are looked up, addresses checked.
        unsafe {
            let unknown =
                result::memcpy_peer_async(a.cu_ctx(), mine, std::ptr::null_mut(), other, 4, stream.cu_stream());
            assert_eq!(code(unknown), CUresult::CUDA_ERROR_INVALID_CONTEXT);
            let beyond = result::memcpy_peer_async(a.cu_ctx(), mine, b.cu_ctx(), other, 41, stream.cu_stream());
            assert_eq!(code(beyond), invalid);
        }
        // Without peer access a copy within the context doesn't reach the other device.
        assert_eq!(two_d((Base::Device(mine), linear(10)), (Base::Device(other), linear(10)), 10, 4), invalid);
        assert!(last_fault().contains("cuCtxEnablePeerAccess"), "{}", last_fault());
        // Rows that overlap, of one side or of both. Halves of the same rows don't.
        assert_eq!(two_d((host, linear(8)), (Base::Device(mine), linear(10)), 9, 2), invalid);
        assert!(last_fault().contains("a pitch of 8"), "{}", last_fault());
        assert_eq!(two_d((host, linear(0)), (Base::Device(mine), linear(0)), 9, 1), CUresult::CUDA_SUCCESS);
        assert_eq!(two_d((host, linear(1 << 31)), (Base::Device(mine), linear(10)), 9, 1), invalid);
        assert_eq!(code(peer(place(&a, mine, 1), place(&b, other, 2), [10, 2, 2])), invalid);
        let within = |to, width| two_d((Base::Device(to), linear(10)), (Base::Device(mine), linear(10)), width, 3);
        assert_eq!((within(mine + 5, 5), within(mine + 4, 5)), (CUresult::CUDA_SUCCESS, invalid));
        assert!(last_fault().contains("overlap"), "{}", last_fault());
        assert_eq!(within(mine, 5), invalid);
        // The third rows are the first that meet.
        let (long, short) = ((Base::Device(mine), linear(10)), (Base::Device(mine + 3), linear(9)));
        assert_eq!([2, 3].map(|rows| two_d(short, long, 2, rows)), [CUresult::CUDA_SUCCESS, invalid]);
        assert_eq!([2, 3].map(|rows| two_d(long, short, 2, rows)), [CUresult::CUDA_SUCCESS, invalid]);
        // Nothing is nothing; null isn't.
        assert_eq!(two_d((host, linear(0)), (Base::Device(0), linear(0)), 0, 4), CUresult::CUDA_SUCCESS);
        peer(place(&a, 0, 0), place(&b, 0, 0), [10, 4, 0]).unwrap();
        let null = (Base::Host(std::ptr::null_mut()), linear(10));
        assert_eq!(two_d(null, (Base::Device(mine), linear(10)), 10, 1), invalid);
        assert_eq!(two_d((host, linear(10)), (host, linear(10)), 10, 1), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        // What would be beyond all addresses is no arithmetic.
        let far = Side { offset: [0, usize::MAX / 4, 0], ..linear(10) };
        assert_eq!(two_d((host, linear(10)), (Base::Device(mine), far), 10, 1), invalid);
        stream.synchronize().unwrap();
        assert_eq!(read(&b, other, 40).unwrap(), [2; 40]);
    });
}

/// Bytes that nobody wrote stay so on the other device.
#[test]
fn unwritten_bytes_stay_unwritten() {
    in_child("driver::rows::unwritten_bytes_stay_unwritten", &[TWO], || {
        let [a, b] = two();
        let stream = b.new_stream().unwrap();
        let (source, target) = (allocate(&a, 16), filled(&b, &[0; 16]));
        a.bind_to_thread().unwrap();
        // SAFETY: within the allocation.
        unsafe { result::memcpy_htod_sync(source, &[0u8; 12]) }.unwrap();
        let pairs = |context, address| (context, address, Side { height: 2, ..linear(8) });
        peer_rows(&stream, pairs(&b, target), pairs(&a, source), [8, 2, 1]).unwrap();
        add_at(&stream, target + 8, 1.0).unwrap();
        stream.synchronize().unwrap();
        add_at(&stream, target + 12, 1.0).unwrap();
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("UninitialisedGlobal"), "{}", last_fault());
    });
}
