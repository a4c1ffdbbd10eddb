//! A tool that listens to NVTX, as a profiler does: where `NVTX_INJECTION64_PATH` names this library, it writes the name of every
//! range, and its end, to the file that `CUEMU_RANGES` names.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

/// NVTX_ETID_CALLBACKS.
const CALLBACKS: u32 = 1;
/// NVTX_CB_MODULE_CORE.
const CORE: u32 = 1;
/// NVTX_CBID_CORE_RangePushA and RangePop.
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

type GetExportTable = unsafe extern "C" fn(u32) -> *const c_void;

/// NvtxExportTableCallbacks.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    get_module_function_table: unsafe extern "C" fn(u32, *mut *const *mut *const c_void, *mut c_uint) -> c_int,
}

static RANGES: OnceLock<Mutex<File>> = OnceLock::new();

fn write(line: &str) {
    if let Some(file) = RANGES.get() {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{line}");
    }
}

unsafe extern "C" fn push(name: *const c_char) -> c_int {
    // SAFETY: NVTX's caller promises text that ends in zero.
    write(&format!("push {}", unsafe { CStr::from_ptr(name) }.to_string_lossy()));
    0
}

unsafe extern "C" fn pop() -> c_int {
    write("pop");
    0
}

/// Called by NVTX in the program once, before its first range.
///
/// # Safety
/// `get_export_table` is NVTX's function of that name, and nothing else uses its tables meanwhile.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn InitializeInjectionNvtx2(get_export_table: GetExportTable) -> c_int {
    let Some(file) = std::env::var_os("CUEMU_RANGES").and_then(|path| File::create(path).ok()) else { return 0 };
    let _ = RANGES.set(Mutex::new(file));
    let (mut table, mut size) = (std::ptr::null(), 0);
    // SAFETY: NVTX gives its table of callbacks, or null; that gives a module's table of `size` places, each null or that of a
    // function, which this library may write and whose types are those of NVTX's functions.
    unsafe {
        let callbacks = get_export_table(CALLBACKS).cast::<Callbacks>();
        if callbacks.is_null() || ((*callbacks).get_module_function_table)(CORE, &mut table, &mut size) == 0 {
            return 0;
        }
        let functions: [(usize, *const c_void); 2] = [
            (RANGE_PUSH, push as unsafe extern "C" fn(*const c_char) -> c_int as *const c_void),
            (RANGE_POP, pop as unsafe extern "C" fn() -> c_int as *const c_void),
        ];
        for (place, function) in functions {
            if place >= size as usize || (*table.add(place)).is_null() {
                return 0;
            }
            (*table.add(place)).write(function);
        }
    }
    1
}
