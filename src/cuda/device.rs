//! Preflight: every reason why a CUDA device cannot be used, found before a call that would panic or fail obscurely.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use super::kernels::Kernel;
use super::{failed, failed_on};
use crate::backend::Gpu;
use crate::options::Precision;
use crate::{Error, Result};

/// The oldest driver API whose functions are all that this crate calls: CUDA 12.0, in driver 525.
const MIN_DRIVER_API: i32 = 12_000;
/// Compute capability that the kernels' PTX needs.
const MIN_COMPUTE: (i32, i32) = (8, 0);

/// Every function of the driver that is called, all of them in CUDA 12.0. cudarc looks a function up when it is first
/// called and panics where it is missing, so that all are looked up here first.
const FUNCTIONS: [&str; 50] = [
    "cuCtxEnablePeerAccess",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceCanAccessPeer",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventRecordWithFlags",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2", // on devices without memory pools
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemPoolSetAccess",
    "cuMemcpy2DAsync_v2",
    "cuMemcpy3DPeerAsync",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// Those loaded so far, by name.
type Modules = Vec<(&'static str, Arc<CudaModule>)>;

/// A CUDA device that this crate can use.
#[derive(Clone)]
pub struct CudaDevice {
    context: Arc<CudaContext>,
    modules: Arc<Mutex<Modules>>,
    ordinal: usize,
    name: String,
    multiprocessors: usize,
}

impl CudaDevice {
    /// Opens device `ordinal`, counted from 0 among the visible ones.
    ///
    /// # Errors
    /// [`Error::Device`] saying what was found, what is needed and what to do: no driver, the toolkit's stub, a driver that
    /// is too old, no such device, one without the kernels' instructions.
    pub fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: opens and closes the driver library, whose initialisers are sound to run at any time.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device(
                "no CUDA driver: found no libcuda.so.1; install NVIDIA driver 525 or later, or say --device cpu".into(),
            ));
        }
        // SAFETY: the library is there, by the check above; the addresses are looked up and not used.
        let is_missing = |name: &&&str| unsafe { sys::culib().get::<*const ()>(name.as_bytes()).is_err() };
        if let Some(missing) = FUNCTIONS.iter().find(is_missing) {
            return Err(Error::Device(format!(
                "the CUDA driver is too old, or no driver: found no {missing} in it, needed the functions of CUDA 12.0 (NVIDIA \
                 driver 525) or later; update it, or say --device cpu"
            )));
        }
        // Before cuInit, which an old driver may refuse for other reasons.
        let api = driver_api()?;
        if api < MIN_DRIVER_API {
            return Err(Error::Device(format!(
                "the CUDA driver is too old: found CUDA {}.{}, needed 12.0 (NVIDIA driver 525) or later; update it, or say \
                 --device cpu",
                api / 1000,
                api % 1000 / 10
            )));
        }
        result::init().map_err(no_device)?;
        let count = result::device::get_count().map_err(no_device)?;
        if ordinal >= count as usize {
            return Err(Error::Device(format!(
                "no CUDA device {ordinal}: found {count}, numbered from 0; check --device and CUDA_VISIBLE_DEVICES"
            )));
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed(&format!("opening cuda:{ordinal}"), e))?;
        let about = |e| failed(&format!("asking about cuda:{ordinal}"), e);
        let name = context.name().map_err(about)?;
        let compute = context.compute_capability().map_err(about)?;
        let count = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(count).map_err(about)? as usize;
        if compute < MIN_COMPUTE {
            return Err(Error::Device(format!(
                "cuda:{ordinal} ({name}) has compute capability {}.{}, needed 8.0 (A100, RTX 30) or later; say --device cpu",
                compute.0, compute.1
            )));
        }
        // Memory needs no events of its own: the streams that share some are ordered by events where they meet.
        // SAFETY: no allocation exists yet; each one is made and used on the one stream of its launcher, whose stream is
        // handed out under that condition alone, but for weights, whose upload is waited for, and pixels, whose copies a
        // pipeline orders itself.
        unsafe { context.disable_event_tracking() };
        Ok(CudaDevice { context, modules: Arc::default(), ordinal, name, multiprocessors })
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Its number.
    pub(super) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// What it is called, and where it is in the machine.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver said.
    pub fn gpu(&self) -> Result<Gpu> {
        use sys::CUdevice_attribute_enum::{
            CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
        };
        let asking = |e| failed_on(&self.context, "asking where the device is", e);
        let ask = |attribute| self.context.attribute(attribute).map_err(asking);
        let domain = ask(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let (bus, device) = (ask(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?, ask(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?);
        Ok(Gpu { name: self.name.clone(), pci_bus_id: format!("{domain:08x}:{bus:02x}:{device:02x}.0") })
    }

    /// Bytes of its memory: free, and in all.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver said.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| failed_on(&self.context, "asking for free memory", e))
    }

    /// The kernels that computing in `precision` takes, by number. Modules are translated for the device when they are first
    /// loaded, which may take seconds where the driver has not kept the result.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel that the driver refuses.
    pub fn load(&self, precision: Precision) -> Result<Vec<Option<CudaFunction>>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut load = |kernel: Kernel| {
            let refused = |e| failed_on(&self.context, &format!("loading {}", kernel.name()), e);
            let loaded =
                modules.iter().find(|(name, _)| *name == kernel.module()).map(|(_, module)| Arc::clone(module));
            let module = match loaded {
                Some(module) => module,
                None => {
                    let module = self.context.load_module(Ptx::from_src(kernel.ptx())).map_err(refused)?;
                    modules.push((kernel.module(), Arc::clone(&module)));
                    module
                }
            };
            module.load_function(kernel.name()).map_err(refused)
        };
        let kernels = Kernel::ALL.iter();
        kernels.map(|&kernel| kernel.serves(precision).then(|| load(kernel)).transpose()).collect()
    }
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

/// The version of CUDA that the driver offers, where it says so.
pub(super) fn version() -> Option<String> {
    driver_api().ok().map(|api| format!("{}.{}", api / 1000, api % 1000 / 10))
}

fn driver_api() -> Result<i32> {
    let mut version = 0;
    // SAFETY: writes one int to a valid pointer.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    result.result().map_err(no_device)?;
    Ok(version)
}

fn no_device(error: DriverError) -> Error {
    use sys::CUresult::{CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY};
    match error.0 {
        CUDA_ERROR_NO_DEVICE => Error::Device(
            "the CUDA driver found no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or say --device cpu".into(),
        ),
        CUDA_ERROR_STUB_LIBRARY => Error::Device(
            "libcuda.so.1 is the toolkit's stub, not a driver: take its folder out of LD_LIBRARY_PATH, or say --device cpu"
                .into(),
        ),
        _ => failed("starting the driver", error),
    }
}
