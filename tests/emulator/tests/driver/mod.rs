//! The driver, through unmodified cudarc.

mod deferred;
mod device;
mod errors;
mod graphs;
mod inject;
mod peer;
mod rows;
mod settings;
mod towers;
mod work;

use std::ffi::CString;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, LaunchConfig};
use cuemu::driver::library::library_path;
use libloading::{Library, Symbol};

const PTX: &str = include_str!("kernels.ptx");

/// Set in the children of [`in_child`].
const CHILD: &str = "CUEMU_TEST_CHILD";

/// Loads the emulator into this process, so that cudarc's later look-up of `libcuda.so` finds it.
/// In a child `LD_PRELOAD` has already done so.
fn load() {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: loading the emulator runs no code of its own.
        std::env::var_os(CHILD).is_none().then(|| unsafe { Library::new(library_path()) }.expect("the emulator loads"))
    });
}

/// The primary context of device 0, shared by all tests of the process: for what can't fault.
fn shared_context() -> Arc<CudaContext> {
    load();
    CudaContext::new(0).expect("a primary context")
}

/// A context of the test's own, for faults.
fn own_context() -> Arc<CudaContext> {
    load();
    CudaContext::new_non_primary(0, 0).expect("a context")
}

fn load_module(context: &Arc<CudaContext>, ptx: &str) -> Result<Arc<CudaModule>, DriverError> {
    context.load_module(cudarc::nvrtc::Ptx::from_src(ptx))
}

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    load_module(context, PTX).expect("the module loads").load_function(name).expect(name)
}

fn one_thread() -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 }
}

/// The code a call failed with.
#[track_caller]
fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().expect("the call must fail").0
}

/// A function of the loaded emulator that cudarc has no name for.
fn hook<T>(name: &str) -> Symbol<'static, T> {
    // SAFETY: each caller names the type that the emulator's documentation gives.
    unsafe { sys::culib().get(name.as_bytes()) }.expect(name)
}

fn configure(key: &str, value: &str) -> u32 {
    let configure = hook::<extern "C" fn(*const std::ffi::c_char, *const std::ffi::c_char) -> u32>("cuemu_configure");
    let (key, value) = (CString::new(key).unwrap(), CString::new(value).unwrap());
    configure(key.as_ptr(), value.as_ptr())
}

fn last_fault() -> String {
    let get = hook::<extern "C" fn(*mut u8, usize, *mut usize) -> u32>("cuemu_last_fault");
    let mut needed = 0;
    assert_eq!(get(std::ptr::null_mut(), 0, &mut needed), 0);
    let mut text = vec![0xff; needed];
    assert_eq!(get(text.as_mut_ptr(), needed, &mut needed), 0);
    assert_eq!(text.pop(), Some(0), "the text ends with a zero byte");
    String::from_utf8(text).unwrap()
}

/// Runs `body` in a process of its own with `variables` set and `library` preloaded: this test binary
/// again, the test `name` alone.
fn in_child_with(library: &std::path::Path, name: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .envs(variables.iter().copied())
        .env(CHILD, "1")
        .env("LD_PRELOAD", library)
        .output()
        .expect("the child starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name} in a child: {}\n{text}", output.status);
}

fn in_child(name: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    in_child_with(&library_path(), name, variables, body);
}
