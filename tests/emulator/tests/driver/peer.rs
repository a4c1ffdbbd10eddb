//! Two devices: whose memory is whose, and who may access it.

use cudarc::driver::sys::{self, CUmemAccess_flags as Access, CUmemLocationType as Location};
use cudarc::driver::{CudaStream, PushKernelArg, result};

use super::*;

pub const TWO: (&str, &str) = ("CUEMU_DEVICES", "2");

/// A context of the test's own on each device, whose memory doesn't wait by itself.
pub fn two() -> [Arc<CudaContext>; 2] {
    [0, 1].map(on_device)
}

pub fn on_device(ordinal: usize) -> Arc<CudaContext> {
    let context = CudaContext::new_non_primary(ordinal, 0).expect("a context");
    // SAFETY: the tests order what uses memory, or mean not to.
    unsafe { context.disable_event_tracking() };
    context
}

/// `bytes` bytes of the context's own, not of a pool.
pub fn allocate(context: &Arc<CudaContext>, bytes: usize) -> u64 {
    context.bind_to_thread().unwrap();
    // SAFETY: unwritten memory is what it says.
    unsafe { result::malloc_sync(bytes) }.unwrap()
}

/// As [`allocate`], with bytes in it.
pub fn filled(context: &Arc<CudaContext>, bytes: &[u8]) -> u64 {
    let address = allocate(context, bytes.len());
    // SAFETY: as long as the allocation.
    unsafe { result::memcpy_htod_sync(address, bytes) }.unwrap();
    context.synchronize().unwrap();
    address
}

pub fn read(context: &Arc<CudaContext>, address: u64, count: usize) -> Result<Vec<u8>, DriverError> {
    context.bind_to_thread().unwrap();
    let mut bytes = vec![0; count];
    // SAFETY: the emulator checks the address.
    unsafe { result::memcpy_dtoh_sync(&mut bytes, address) }.map(|()| bytes)
}

pub fn enable(context: &Arc<CudaContext>, peer: &Arc<CudaContext>) -> Result<(), DriverError> {
    context.bind_to_thread().unwrap();
    // SAFETY: a live context.
    unsafe { sys::cuCtxEnablePeerAccess(peer.cu_ctx(), 0) }.result()
}

fn disable(context: &Arc<CudaContext>, peer: &Arc<CudaContext>) -> Result<(), DriverError> {
    context.bind_to_thread().unwrap();
    // SAFETY: a live context.
    unsafe { sys::cuCtxDisablePeerAccess(peer.cu_ctx()) }.result()
}

/// Launches the kernel that adds to the one float at an address.
pub fn add_at(stream: &Arc<CudaStream>, address: u64, step: f32) -> Result<(), DriverError> {
    // Unloading its module would wait.
    let add = std::mem::ManuallyDrop::new(function(stream.context(), "add"));
    // SAFETY: the emulator checks the address.
    unsafe { stream.launch_builder(&add).arg(&address).arg(&1u32).arg(&step).launch(one_thread()) }.map(|_| ())
}

/// Adds 1 to the float at an address in a kernel of a new context on a device, with access as `open` makes it.
fn add_from(ordinal: usize, address: u64, open: impl Fn(&Arc<CudaContext>)) -> Result<(), DriverError> {
    let context = on_device(ordinal);
    open(&context);
    add_at(&context.default_stream(), address, 1.0).expect("launches are accepted");
    context.synchronize()
}

fn can_access(device: i32, peer: i32) -> Result<i32, DriverError> {
    let mut can = -1;
    // SAFETY: an output argument.
    unsafe { sys::cuDeviceCanAccessPeer(&mut can, device, peer) }.result().map(|()| can)
}

#[test]
fn access_is_enabled_once_and_one_way() {
    in_child("driver::peer::access_is_enabled_once_and_one_way", &[TWO], || {
        let [a, b] = two();
        assert_eq!([can_access(0, 1), can_access(1, 0), can_access(0, 0)], [Ok(1), Ok(1), Ok(0)]);
        assert_eq!(code(can_access(0, 2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(code(disable(&a, &b)), CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        enable(&a, &b).unwrap();
        assert_eq!(code(enable(&a, &b)), CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        assert_eq!(code(disable(&b, &a)), CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        disable(&a, &b).unwrap();
        assert_eq!(code(disable(&a, &b)), CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        enable(&a, &b).unwrap();
        assert_eq!(code(enable(&a, &a)), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        assert_eq!(code(enable(&a, &on_device(0))), CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
        a.bind_to_thread().unwrap();
        let none = std::ptr::null_mut();
        // SAFETY: handles are looked up.
        unsafe {
            assert_eq!(sys::cuCtxEnablePeerAccess(none, 0), CUresult::CUDA_ERROR_INVALID_CONTEXT);
            assert_eq!(sys::cuCtxDisablePeerAccess(none), CUresult::CUDA_ERROR_INVALID_CONTEXT);
            assert_eq!(sys::cuCtxEnablePeerAccess(b.cu_ctx(), 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn devices_without_peer_access() {
    in_child("driver::peer::devices_without_peer_access", &[TWO, ("CUEMU_PEER", "0")], || {
        let [a, b] = two();
        assert_eq!([can_access(0, 1), can_access(1, 0)], [Ok(0), Ok(0)]);
        assert_eq!(code(enable(&a, &b)), CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
        assert_eq!(code(open_pool(1, 0, READ_WRITE)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

#[test]
fn each_device_has_its_own_memory() {
    let variables = [TWO, ("CUEMU_MEMORY", "1048576")];
    in_child("driver::peer::each_device_has_its_own_memory", &variables, || {
        let [a, b] = two();
        let half = allocate(&a, 1 << 19);
        assert_eq!((a.mem_get_info(), b.mem_get_info()), (Ok((1 << 19, 1 << 20)), Ok((1 << 20, 1 << 20))));
        let whole = allocate(&b, 1 << 20);
        assert!(half.abs_diff(whole) > 1 << 40, "{half:#x} {whole:#x}");
        // SAFETY: nothing is allocated.
        assert_eq!(code(unsafe { result::malloc_sync(1) }), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        allocate(&a, 1 << 19);
        // Neither frees, copies from nor fills the other's.
        b.bind_to_thread().unwrap();
        // SAFETY: the emulator checks the address.
        unsafe {
            assert_eq!(code(result::free_sync(half)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memcpy_dtod_sync(whole, half, 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert!(
                last_fault().contains("memory of device 0, accessed from a context of device 1"),
                "{}",
                last_fault()
            );
            assert_eq!(code(result::memset_d8_sync(half, 0, 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        assert_eq!(code(read(&b, half, 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        enable(&b, &a).unwrap();
        // SAFETY: as above.
        unsafe { result::memset_d8_sync(half, 7, 4).unwrap() };
        b.synchronize().unwrap();
        assert_eq!(read(&b, half, 4).unwrap(), [7; 4]);
        assert_eq!(read(&a, half, 4).unwrap(), [7; 4]);
    });
}

#[test]
fn kernels_need_access() {
    in_child("driver::peer::kernels_need_access", &[TWO], || {
        let [a, b] = two();
        let (mine, other) = (filled(&a, &1f32.to_le_bytes()), filled(&b, &2f32.to_le_bytes()));
        let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        assert_eq!(code(add_from(0, other, |_| ())), illegal);
        for part in ["add", "memory of device 1, accessed from a context of device 0", "cuCtxEnablePeerAccess"] {
            assert!(last_fault().contains(part), "{part} isn't in: {}", last_fault());
        }
        // Of both devices other contexts go on.
        assert_eq!((a.synchronize(), b.synchronize()), (Ok(()), Ok(())));
        assert_eq!(read(&b, other, 4).unwrap(), 2f32.to_le_bytes());
        add_from(0, other, |context| enable(context, &b).unwrap()).unwrap();
        assert_eq!(read(&b, other, 4).unwrap(), 3f32.to_le_bytes(), "read and written by the other device");
        add_from(1, mine, |context| enable(context, &a).unwrap()).unwrap();
        assert_eq!(read(&a, mine, 4).unwrap(), 2f32.to_le_bytes());
        // One way: the peer gets nothing.
        enable(&b, &a).unwrap();
        assert_eq!(code(add_from(0, other, |_| ())), illegal);
        let disabled = |context: &_| {
            enable(context, &b).unwrap();
            disable(context, &b).unwrap();
        };
        assert_eq!(code(add_from(0, other, disabled)), illegal);
        // To one context's memory, not to that of others on its device.
        let third = on_device(1);
        assert_eq!(code(add_from(0, other, |context| enable(context, &third).unwrap())), illegal);
        // What runs over the end of accessible memory, or has been freed, is named.
        assert_eq!(code(add_from(0, other + 4, |context| enable(context, &b).unwrap())), illegal);
        assert!(last_fault().contains(&format!("4 bytes allocated at {other:#x}")), "{}", last_fault());
        b.bind_to_thread().unwrap();
        // SAFETY: allocated above.
        unsafe { result::free_sync(other).unwrap() };
        assert_eq!(code(add_from(0, other, |context| enable(context, &b).unwrap())), illegal);
        assert!(last_fault().contains("freed"), "{}", last_fault());
    });
}

const READ_WRITE: Access = Access::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

/// Sets what a device may do with the pool of another.
fn open_pool(owner: i32, device: i32, flags: Access) -> Result<(), DriverError> {
    let mut pool = std::ptr::null_mut();
    let location = sys::CUmemLocation { type_: Location::CU_MEM_LOCATION_TYPE_DEVICE, id: device };
    let description = sys::CUmemAccessDesc { location, flags };
    // SAFETY: an output argument; one description.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, owner).result().unwrap();
        sys::cuMemPoolSetAccess(pool, &description, 1).result()
    }
}

/// Enabling access to a context doesn't open what is allocated in stream order.
#[test]
fn pools_are_opened_on_their_own() {
    in_child("driver::peer::pools_are_opened_on_their_own", &[TWO], || {
        let [_, b] = two();
        let stream = b.new_stream().unwrap();
        // SAFETY: a live stream; filled below.
        let pooled = unsafe { result::malloc_async(stream.cu_stream(), 4) }.unwrap();
        // SAFETY: as long as the allocation.
        unsafe { result::memset_d8_async(pooled, 0, 4, stream.cu_stream()).unwrap() };
        stream.synchronize().unwrap();
        let enabled = |context: &_| enable(context, &b).unwrap();
        assert_eq!(code(add_from(0, pooled, enabled)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(last_fault().contains("cuMemPoolSetAccess"), "{}", last_fault());
        open_pool(1, 0, READ_WRITE).unwrap();
        add_from(0, pooled, |_| ()).unwrap();
        assert_eq!(read(&b, pooled, 4).unwrap(), 1f32.to_le_bytes());
        open_pool(1, 0, Access::CU_MEM_ACCESS_FLAGS_PROT_NONE).unwrap();
        assert_eq!(code(add_from(0, pooled, enabled)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        open_pool(1, 1, READ_WRITE).unwrap();
        for (device, flags) in [(1, Access::CU_MEM_ACCESS_FLAGS_PROT_NONE), (0, Access::CU_MEM_ACCESS_FLAGS_PROT_READ)]
        {
            assert_eq!(code(open_pool(1, device, flags)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        assert_eq!(code(open_pool(1, 2, READ_WRITE)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

/// Every kind of call at the other device's context is left alone by a fault of one device.
#[test]
fn a_fault_of_one_device() {
    in_child("driver::peer::a_fault_of_one_device", &[TWO], || {
        let [a, b] = two();
        let (streams, memory) = ([&a, &b].map(|context| context.new_stream().unwrap()), allocate(&a, 4));
        let source = filled(&b, &[5; 4]);
        let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        add_at(&streams[1], 0x100, 1.0).unwrap();
        let event = streams[1].record_event(None).unwrap();
        // Work of the one may come after the other's, but not read what that would have written.
        streams[0].wait(&event).unwrap();
        let raw = streams[0].cu_stream();
        let copy = || unsafe { result::memcpy_peer_async(a.cu_ctx(), memory, b.cu_ctx(), source, 4, raw) };
        copy().expect("nobody has noticed");
        a.synchronize().unwrap();
        add_at(&streams[0], memory, 1.0).unwrap();
        assert_eq!(code(a.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert!(last_fault().contains("UninitialisedGlobal"), "{}", last_fault());
        assert_eq!(code(b.synchronize()), illegal);
        let a = on_device(0);
        let (stream, memory) = (a.new_stream().unwrap(), filled(&a, &1f32.to_le_bytes()));
        stream.wait(&event).unwrap();
        add_at(&stream, memory, 1.0).unwrap();
        // SAFETY: live contexts and a live stream.
        let refused =
            unsafe { result::memcpy_peer_async(a.cu_ctx(), memory, b.cu_ctx(), source, 4, stream.cu_stream()) };
        assert_eq!(code(refused), illegal);
        a.synchronize().unwrap();
        assert_eq!(read(&a, memory, 4).unwrap(), 2f32.to_le_bytes());
        // A new context of the faulty device is sound.
        filled(&on_device(1), &[1]);
    });
}
