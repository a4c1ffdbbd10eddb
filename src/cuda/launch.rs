//! The one place that starts kernels.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, result};
use cudarc::nvrtc::Ptx;

use super::args::KernelArgs;
use super::failed;
use super::select::{Kernel, Launch};
use crate::Result;

/// The loaded kernels and the stream they run on.
pub struct Launcher {
    stream: Arc<CudaStream>,
    /// By the kernel's number.
    functions: Vec<CudaFunction>,
}

impl Launcher {
    /// Loads every kernel into `context` and makes a stream.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the driver refuses a module.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let stream = context.new_stream().map_err(|e| failed("making a stream", e))?;
        let functions = Kernel::ALL.map(|kernel| {
            let doing = format!("loading {}", kernel.name());
            let module = context.load_module(Ptx::from_src(kernel.ptx())).map_err(|e| failed(&doing, e))?;
            module.load_function(kernel.name()).map_err(|e| failed(&doing, e))
        });
        Ok(Launcher { stream, functions: functions.into_iter().collect::<Result<_>>()? })
    }

    /// The stream that everything runs on, in order.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Starts a kernel and returns at once.
    ///
    /// # Safety
    /// `args` is the struct of `launch.kernel`. Every address in it is of memory on this stream's device that stays
    /// allocated until the stream has run the kernel, with room for all elements that the extents in `args` imply, and no
    /// output overlaps an input.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) naming the kernel.
    pub unsafe fn launch<A: KernelArgs>(&self, launch: &Launch, mut args: A) -> Result<()> {
        let function = &self.functions[launch.kernel as usize];
        let [x, y, z] = launch.grid;
        let mut parameters = [(&raw mut args).cast::<c_void>()];
        let context = self.stream.context();
        // SAFETY: the function belongs to this context, which is current on this thread after bind_to_thread; it takes one
        // struct by value, which the driver copies before the call returns; the rest is the caller's promise.
        let started = context.bind_to_thread().and_then(|()| unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (launch.threads, 1, 1),
                0,
                self.stream.cu_stream(),
                &mut parameters,
            )
        });
        started.map_err(|e| failed(&format!("starting {} with {launch:?}", launch.kernel.name()), e))
    }
}
