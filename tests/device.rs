//! What tests run on: the CPU, and a CUDA device, real or emulated, in each precision.
//!
//! `ALEXNET_TEST_DEVICE=emulated|cuda` chooses the CUDA device; unset, it is a real GPU where one passes preflight, else
//! the emulated one. Which one it is, is printed once.

use std::ffi::c_char;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Once, OnceLock};

use alexnet::backend::Backend;
use alexnet::cpu::{self, CpuBackend, Isa};
use alexnet::cuda::{CudaBackend, CudaDevice, Element, Rules, Settings, round_to_tf32};
use alexnet::weights::Weights;
use alexnet::{Device, Fc, Options, Precision};
use half::{bf16, f16};

/// For processes that run whole networks on the emulated device: races lie within a kernel, whose own tests look for them, and
/// that takes a third of the time.
pub const WITHOUT_RACES: [(&str, &str); 1] = [("CUEMU_CHECKS", "memory,initialised")];
/// Threads of the CPU backend in tests.
const THREADS: usize = 2;

/// A device, a precision, and what computes fully connected layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    pub cuda: bool,
    /// On the CPU, without the instructions that not every one has.
    pub portable: bool,
    pub precision: Precision,
    pub fc: Option<Fc>,
}

pub const CPU: Target = Target { cuda: false, portable: false, precision: Precision::Float32, fc: None };
pub const CPU_PORTABLE: Target = Target { portable: true, ..CPU };
pub const CUDA: Target = Target { cuda: true, portable: false, precision: Precision::Float32, fc: Some(Fc::Own) };
pub const CUDA_TF32: Target = Target { precision: Precision::Tf32, ..CUDA };
pub const CUDA_F16: Target = Target { precision: Precision::Float16, ..CUDA };
pub const CUDA_BF16: Target = Target { precision: Precision::Bfloat16, ..CUDA };

impl Target {
    /// Type of activations and filters.
    pub fn element(self) -> Element {
        Element::of(self.precision)
    }

    /// What the device's selection follows.
    pub fn rules(self) -> Rules {
        let multiprocessors = cuda().multiprocessors();
        Rules { precision: self.precision, multiprocessors, deterministic: false, fc: self.fc }
    }

    /// The value as this target computes with it. Oracles get inputs and weights that went through this.
    pub fn round(self, value: f32) -> f32 {
        match self.precision {
            Precision::Tf32 => round_to_tf32(value),
            _ => self.store(value),
        }
    }

    /// The most that storing `value` in this target's type moves it by, beyond what float32 does.
    pub fn rounding(self, value: f64) -> f64 {
        match self.element() {
            Element::F32 => 0.0,
            Element::F16 => value.abs() * 2f64.powi(-11) + 2f64.powi(-25),
            Element::Bf16 => value.abs() * 2f64.powi(-8),
        }
    }

    /// Images of a random case, at most: an emulated device takes its time.
    pub fn images(self) -> usize {
        if self.cuda { 3 } else { 9 }
    }

    /// The value as this target stores it.
    pub fn store(self, value: f32) -> f32 {
        match self.element() {
            Element::F32 => value,
            Element::F16 => f16::from_f32(value).to_f32(),
            Element::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Limit of a layer's sum of squared errors over its sum of squares, against f64 on the same rounded inputs; `stored`
    /// where the output is of the target's type, and not float32. f32's floor is 4e-12, what rounding of an f16 output costs
    /// is 4e-8; a dropped last k of fc6 costs 1.5e-5.
    pub fn layer_nmse(self, stored: bool) -> f64 {
        match self.precision {
            Precision::Float16 if stored => 3e-7,
            Precision::Bfloat16 if stored => 2e-5,
            Precision::Tf32 => 3e-7, // a GEMV rounds filters alone
            _ => 1e-10,
        }
    }

    /// Limit of a whole network's errors, in parts of the logits' rms.
    pub fn network_error(self) -> f64 {
        match self.precision {
            Precision::Float32 => 1e-4,
            Precision::Tf32 | Precision::Float16 => 1e-2,
            Precision::Bfloat16 => 5e-2,
        }
    }
}

/// Default options on `target`: never `Device::Auto`, which would take whatever device another test has opened.
pub fn options(target: Target) -> Options {
    if target.cuda {
        cuda();
    }
    let device = if target.cuda { Device::Cuda(vec![0]) } else { Device::Cpu };
    Options { device, precision: target.precision, fc: target.fc, ..Options::default() }
}

/// `weights` on `target`.
pub fn backend(target: Target, weights: Weights) -> Box<dyn Backend> {
    if !target.cuda {
        static TOLD: Once = Once::new();
        let best = cpu::Settings::new(THREADS);
        if best.isa == Isa::PORTABLE {
            TOLD.call_once(|| {
                let _ = writeln!(std::io::stderr(), "tests of AVX2 pass unseen: this CPU lacks it, FMA or F16C");
            });
        }
        let isa = if target.portable { Isa::PORTABLE } else { best.isa };
        return Box::new(CpuBackend::new(weights, cpu::Settings { isa, ..best }).unwrap());
    }
    let settings = Settings { precision: target.precision, fc: target.fc, ..Settings::default() };
    Box::new(CudaBackend::new(weights, cuda(), settings).unwrap())
}

/// The CUDA device of this test process.
pub fn cuda() -> &'static CudaDevice {
    static DEVICE: OnceLock<CudaDevice> = OnceLock::new();
    DEVICE.get_or_init(|| {
        if is_emulated() {
            // From here on cudarc finds this library when it asks for libcuda.so. It is never unloaded.
            // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
            let library = unsafe { libloading::Library::new(library()) };
            let library = library.expect("the emulated driver loads");
            type Configure = unsafe extern "C" fn(*const c_char, *const c_char) -> i32;
            // SAFETY: the function has this type; it reads two texts that end in zero.
            let configured = unsafe {
                let configure = library.get::<Configure>(b"cuemu_configure").expect("the emulated driver has it");
                configure(c"devices".as_ptr(), c"2".as_ptr())
            };
            assert_eq!(configured, 0, "the emulated driver has two devices");
            std::mem::forget(library);
        }
        let device = CudaDevice::open(0).unwrap_or_else(|e| panic!("the CUDA device under test: {e}"));
        // Not eprintln, which the test harness captures.
        let _ = writeln!(std::io::stderr(), "CUDA tests run on {device}");
        device
    })
}

/// Another CUDA device, which the emulated driver always has; `None`, which is said, on a machine with one GPU.
pub fn second() -> Option<CudaDevice> {
    cuda();
    match CudaDevice::open(1) {
        Ok(device) => Some(device),
        Err(error) if !is_emulated() => {
            let _ = writeln!(std::io::stderr(), "tests of two devices pass unseen: {error}");
            None
        }
        Err(error) => panic!("the second emulated device: {error}"),
    }
}

/// Whether this process has a cuBLASLt to test with: the emulated one over the emulated device, on a GPU the machine's.
pub fn has_cublaslt() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        cuda();
        if is_emulated() {
            // As the driver: cudarc finds it when it asks for libcublasLt.so.
            // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
            let library = unsafe { libloading::Library::new(cublaslt_library()) };
            std::mem::forget(library.expect("the emulated cuBLASLt loads"));
        }
        // SAFETY: opens and closes a library whose initialisers are sound to run at any time.
        let has = unsafe { cudarc::cublaslt::sys::is_culib_present() };
        let found = if has { "with cuBLASLt" } else { "without a cuBLASLt, whose tests pass unseen" };
        let _ = writeln!(std::io::stderr(), "CUDA tests run {found}");
        has
    })
}

/// Has cudarc find the imitated cuDNN over the emulated device; on a GPU it finds the machine's, or none.
pub fn load_cudnn() {
    cuda();
    if is_emulated() {
        // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
        let library = unsafe { libloading::Library::new(emulated("libcudnn_emulated.so")) };
        std::mem::forget(library.expect("the imitated cuDNN loads"));
    }
}

/// The emulated driver, for a child process's LD_PRELOAD; `None` where tests run on a real GPU.
pub fn preload() -> Option<PathBuf> {
    is_emulated().then(library)
}

/// The emulated driver's library.
pub fn library() -> PathBuf {
    emulated("libcuemu.so")
}

/// The emulated cuBLASLt's library, which works over the emulated driver alone.
pub fn cublaslt_library() -> PathBuf {
    emulated("libcublaslt_emulated.so")
}

fn emulated(file: &str) -> PathBuf {
    match std::env::var_os("ALEXNET_TEST_ROOT") {
        Some(root) => PathBuf::from(root).join(file),
        None => cuemu::driver::library::built_library(file),
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

/// Stamps every named function, which takes a [`Target`], as a test of each target.
#[macro_export]
macro_rules! on_every_device {
    ($($test:ident)*) => {
        mod cpu {
            $(#[test] fn $test() { super::$test($crate::device::CPU) })*
        }
        mod cuda {
            $(#[test] fn $test() { super::$test($crate::device::CUDA) })*
        }
        mod cuda_f16 {
            $(#[test] fn $test() { super::$test($crate::device::CUDA_F16) })*
        }
    };
}

/// On the CPU and in every precision of the CUDA device, of which .ci/run alone runs those whose kernels are other instances of
/// f16's, and float32.
#[macro_export]
macro_rules! on_every_target {
    ($($test:ident)*) => {
        mod cpu {
            $(#[test] fn $test() { super::$test($crate::device::CPU) })*
        }
        mod cpu_portable {
            $(#[test] fn $test() { super::$test($crate::device::CPU_PORTABLE) })*
        }
        $crate::on_every_precision! { $($test)* }
    };
}

/// The CUDA device's part of [`on_every_target`].
#[macro_export]
macro_rules! on_every_precision {
    ($($test:ident)*) => {
        mod cuda {
            $(#[test] #[ignore = "half a minute for all of float32, run by .ci/run"] fn $test() {
                super::$test($crate::device::CUDA)
            })*
        }
        mod cuda_f16 {
            $(#[test] fn $test() { super::$test($crate::device::CUDA_F16) })*
        }
        mod cuda_tf32 {
            $(#[test] #[ignore = "half a minute for all of tf32, run by .ci/run"] fn $test() {
                super::$test($crate::device::CUDA_TF32)
            })*
        }
        mod cuda_bf16 {
            $(#[test] #[ignore = "half a minute for all of bf16, run by .ci/run"] fn $test() {
                super::$test($crate::device::CUDA_BF16)
            })*
        }
    };
}
