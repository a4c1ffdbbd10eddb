//! The devices that tests run on: the CPU, and a CUDA device, real or emulated.
//!
//! `ALEXNET_TEST_DEVICE=emulated|cuda` chooses the CUDA device; unset, it is a real GPU where one passes preflight, else
//! the emulated one. Which one it is, is printed once.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use alexnet::backend::Backend;
use alexnet::cpu::CpuBackend;
use alexnet::cuda::{CudaBackend, CudaDevice};
use alexnet::weights::Weights;
use alexnet::{Device, Options};

/// Threads of the CPU backend in tests.
const THREADS: usize = 2;

/// Default options on `device`: never `Device::Auto`, which would take whatever device another test has opened.
pub fn options(device: Device) -> Options {
    if device != Device::Cpu {
        cuda();
    }
    Options { device, ..Options::default() }
}

/// `weights` on `device`.
pub fn backend(device: Device, weights: Weights) -> Box<dyn Backend> {
    match device {
        Device::Cuda(_) => Box::new(CudaBackend::new(weights, cuda()).unwrap()),
        _ => Box::new(CpuBackend::new(weights, THREADS).unwrap()),
    }
}

/// The CUDA device of this test process.
pub fn cuda() -> &'static CudaDevice {
    static DEVICE: OnceLock<CudaDevice> = OnceLock::new();
    DEVICE.get_or_init(|| {
        if is_emulated() {
            // From here on cudarc finds this library when it asks for libcuda.so. It is never unloaded.
            // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
            let library = unsafe { libloading::Library::new(library()) };
            std::mem::forget(library.expect("the emulated driver loads"));
        }
        let device = CudaDevice::open(0).unwrap_or_else(|e| panic!("the CUDA device under test: {e}"));
        // Not eprintln, which the test harness captures.
        let _ = writeln!(std::io::stderr(), "CUDA tests run on {device}");
        device
    })
}

/// The emulated driver, for a child process's LD_PRELOAD; `None` where tests run on a real GPU.
pub fn preload() -> Option<PathBuf> {
    is_emulated().then(library)
}

/// The emulated driver's library.
pub fn library() -> PathBuf {
    match std::env::var_os("ALEXNET_TEST_ROOT") {
        Some(root) => PathBuf::from(root).join("libcuemu.so"),
        None => cuemu::driver::library::library_path(),
    }
}

fn is_emulated() -> bool {
    static EMULATED: OnceLock<bool> = OnceLock::new();
    *EMULATED.get_or_init(|| match std::env::var("ALEXNET_TEST_DEVICE").as_deref() {
        Ok("emulated") => true,
        Ok("cuda") => false,
        Ok(other) => panic!("ALEXNET_TEST_DEVICE is '{other}'; say emulated or cuda"),
        // Opening the driver here would keep it open: the question is asked of another process.
        Err(_) => !has_gpu(),
    })
}

/// Whether a GPU passes preflight. Whatever goes wrong after that is a failure of the tests, not a reason to emulate.
fn has_gpu() -> bool {
    let mut probe = std::process::Command::new(std::env::current_exe().expect("the running executable has a path"));
    let output =
        probe.args(["device::probe", "--exact", "--ignored", "--nocapture"]).output().expect("it starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    match (text.contains("preflight passed"), text.contains("preflight refused")) {
        (true, false) => true,
        (false, true) => false,
        _ => panic!("the probe for a GPU failed:\n{text}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
#[ignore = "asked by the other tests, in a process of its own"]
fn probe() {
    match CudaDevice::open(0) {
        Ok(device) => println!("preflight passed: {device}"),
        Err(error) => println!("preflight refused: {error}"),
    }
}

/// Stamps every named function, which takes a [`Device`], as a test of each device.
#[macro_export]
macro_rules! on_every_device {
    ($($test:ident)*) => {
        mod cpu {
            $(#[test] fn $test() { super::$test(alexnet::Device::Cpu) })*
        }
        mod cuda {
            $(#[test] fn $test() { super::$test(alexnet::Device::Cuda(0)) })*
        }
    };
}
