//! Modules and their functions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::abi::{Out, Text};
use super::capture;
use super::context::{Context, current};
use super::device::SHARED_PER_BLOCK;
use super::errors::{Code, Outcome, exports, say};
use super::{Handle, driver, explain, lock};
use crate::{Kernel, Module};

/// A module of a context.
pub struct LoadedModule {
    pub context: Handle,
    module: Module,
    /// 10 * major + minor of the text's `.version`.
    ptx_version: u32,
    /// Handles given out, by kernel name: one function is always the same handle.
    functions: Mutex<HashMap<String, Handle>>,
}

/// A kernel of a loaded module and its attributes.
pub struct Function {
    pub context: Handle,
    module_handle: Handle,
    module: Arc<LoadedModule>,
    name: String,
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES`: dynamic shared memory a launch may ask for.
    dynamic_shared_limit: AtomicU32,
}

impl Function {
    pub fn kernel(&self) -> Outcome<&Kernel> {
        self.module.module.kernel(&self.name).ok_or(Code::NOT_FOUND)
    }

    pub fn dynamic_shared_limit(&self) -> u32 {
        self.dynamic_shared_limit.load(Ordering::Relaxed)
    }
}

/// A live function and the current context, which must be its own.
///
/// # Errors
/// `INVALID_HANDLE` for what isn't a live function of the current context; what [`current`] returns.
pub fn function(handle: Handle) -> Outcome<(Arc<Function>, Arc<Context>)> {
    let context = current()?;
    let function = driver()?.functions.get(handle)?;
    if function.context == context.handle { Ok((function, context)) } else { Err(Code::INVALID_HANDLE) }
}

/// What the head of a PTX text asks for.
struct Header {
    /// `.version`: major, minor.
    version: (u32, u32),
    /// `.target sm_XY`: 10 * X + Y, and the letter of a specific ('a') or family ('f') target.
    target: (u32, Option<char>),
}

impl Header {
    /// `None` where a line is missing or malformed: loading will say which.
    fn read(ptx: &str) -> Option<Header> {
        let value = |directive: &str| {
            let line = ptx.lines().map(str::trim).find(|line| line.starts_with(directive))?;
            line.split([' ', '\t', ',']).filter(|word| !word.is_empty()).nth(1)
        };
        let (major, minor) = value(".version")?.split_once('.')?;
        let target = value(".target")?.strip_prefix("sm_")?;
        let digits = target.trim_end_matches(['a', 'f']);
        Some(Header {
            version: (major.parse().ok()?, minor.parse().ok()?),
            target: (digits.parse().ok()?, target[digits.len()..].chars().next()),
        })
    }

    /// Whether a driver of `driver_version` and a device of `capability` take the text.
    fn check(&self, driver_version: i32, capability: (u32, u32)) -> Outcome {
        if self.version > newest_ptx(driver_version) {
            return Err(Code::UNSUPPORTED_PTX_VERSION);
        }
        let (target, kind) = self.target;
        let device = capability.0 * 10 + capability.1;
        let runs = match kind {
            None => target <= device,
            Some('f') => target <= device && target / 10 == device / 10,
            Some(_) => target == device,
        };
        if runs { Ok(()) } else { Err(Code::NO_BINARY_FOR_GPU) }
    }
}

/// The newest PTX version a driver takes (PTX ISA, 'Release History').
fn newest_ptx(driver_version: i32) -> (u32, u32) {
    let minor = (driver_version % 1000 / 10) as u32;
    match driver_version / 1000 {
        ..=10 => (6, 5),
        11 => (7, minor.min(8)),
        12 => (8, [0, 1, 2, 3, 4, 5, 5, 6, 7, 8][minor.min(9) as usize]),
        _ => (9, minor),
    }
}

/// Says what is wrong with a module: a driver's own words would be in its compiler's log.
fn refuse(code: Code, reason: String) -> Code {
    say(&reason);
    explain(code, reason)
}

/// The text of the module with the same kernels in the folder of the setting `ptx`, else the text itself.
fn replaced(ptx: &str) -> Outcome<Cow<'_, str>> {
    let Some(folder) = driver()?.settings.ptx.clone() else { return Ok(Cow::Borrowed(ptx)) };
    let unreadable = |error| refuse(Code::FILE_NOT_FOUND, format!("{}: {error}", folder.display()));
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            if kernels(&text).eq(kernels(ptx)) {
                return Ok(Cow::Owned(text));
            }
        }
    }
    Ok(Cow::Borrowed(ptx))
}

/// Names of the kernels that a text defines, in order.
fn kernels(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.lines().filter_map(|line| line.split_once(".entry ")?.1.split('(').next())
}

fn load(handle: &Out<Handle>, image: &Text) -> Outcome {
    capture::forbid_unsafe()?;
    let context = current()?;
    // A cubin or a fatbin holds machine code alone as far as an emulator is concerned.
    if image.starts_with(b"\x7fELF") || image.starts_with(&0xba55_ed50_u32.to_le_bytes()) {
        return Err(refuse(Code::NO_BINARY_FOR_GPU, "the module is binary: only PTX text can be emulated".into()));
    }
    let ptx = replaced(image.get()?)?;
    let header = Header::read(&ptx);
    if let Some(header) = &header {
        let driver_version = driver()?.settings.driver_version;
        let capability = context.device.compute_capability;
        header.check(driver_version, capability).map_err(|code| {
            let ((major, minor), (sm, kind)) = (header.version, header.target);
            let kind = kind.map(String::from).unwrap_or_default();
            refuse(
                code,
                format!(
                    "the module is PTX {major}.{minor} for sm_{sm}{kind}: driver {driver_version} takes up to \
                     {:?}, the device is {capability:?}",
                    newest_ptx(driver_version)
                ),
            )
        })?;
    }
    let module = Module::load(&ptx)
        .map_err(|error| refuse(Code::INVALID_PTX, format!("PTX line {}: {}", error.line, error.message)))?;
    let ptx_version = header.map_or(0, |header| header.version.0 * 10 + header.version.1);
    let context = context.handle;
    let module = LoadedModule { context, module, ptx_version, functions: Mutex::default() };
    let added = driver()?.modules.add(module);
    handle.set(added)
}

exports! {
    fn cuModuleLoadData(module: Out<Handle>, image: Text) {
        load(&module, &image)
    }

    /// The options tune a compiler that isn't there.
    fn cuModuleLoadDataEx(module: Out<Handle>, image: Text, _count: u32, _options: Handle, _values: Handle) {
        load(&module, &image)
    }

    /// Waits for the context, then unloads the module, even where it reports its context's fault.
    fn cuModuleUnload(module: Handle) {
        capture::forbid_unsafe()?;
        let context = {
            let driver = driver()?;
            driver.contexts.get(driver.modules.get(module)?.context)?
        };
        context.finish();
        let mut driver = driver()?;
        let unloaded = driver.modules.remove(module)?;
        driver.functions.0.retain(|_, function| function.module_handle != module);
        drop(driver);
        drop(unloaded);
        context.check()
    }

    fn cuModuleGetFunction(handle: Out<Handle>, module_handle: Handle, name: Text) {
        let (context, name) = (current()?.handle, name.get()?);
        let driver = &mut *driver()?;
        let module = driver.modules.get(module_handle)?;
        if module.context != context {
            return Err(Code::INVALID_HANDLE);
        }
        let kernel = module.module.kernel(name).ok_or(Code::NOT_FOUND)?;
        let mut functions = lock(&module.functions);
        if let Some(known) = functions.get(name) {
            return handle.set(*known);
        }
        let added = driver.functions.add(Function {
            context,
            module_handle,
            module: Arc::clone(&module),
            name: name.to_owned(),
            dynamic_shared_limit: AtomicU32::new(SHARED_PER_BLOCK.saturating_sub(kernel.static_shared())),
        });
        functions.insert(name.to_owned(), added);
        handle.set(added)
    }

    fn cuFuncGetModule(module: Out<Handle>, handle: Handle) {
        module.set(function(handle)?.0.module_handle)
    }

    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, handle: Handle) {
        let (function, context) = function(handle)?;
        let kernel = function.kernel()?;
        let capability = context.device.compute_capability;
        let found = match attribute {
            0 => kernel.max_threads(),
            1 => kernel.static_shared(),
            2 | 7 => 0, // CONST_SIZE_BYTES, CACHE_MODE_CA: not modelled
            3 => kernel.local_bytes(),
            4 => kernel.registers(),
            5 => function.module.ptx_version,
            6 => capability.0 * 10 + capability.1,
            8 => function.dynamic_shared_limit(),
            9 => return value.set(-1), // PREFERRED_SHARED_MEMORY_CARVEOUT: no preference
            _ => return Err(Code::INVALID_VALUE),
        };
        value.set(found as i32)
    }

    fn cuFuncSetAttribute(handle: Handle, attribute: u32, value: i32) {
        let (function, context) = function(handle)?;
        match attribute {
            8 => {
                let most = context.device.limits.shared_opt_in.saturating_sub(function.kernel()?.static_shared());
                let wanted = u32::try_from(value).ok().filter(|wanted| *wanted <= most);
                function.dynamic_shared_limit.store(wanted.ok_or(Code::INVALID_VALUE)?, Ordering::Relaxed);
                Ok(())
            }
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// A preference without effect on results.
    fn cuFuncSetCacheConfig(handle: Handle, _config: u32) {
        function(handle).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, driver_version: i32, capability: (u32, u32)) -> Outcome {
        Header::read(head).expect("a header").check(driver_version, capability)
    }

    #[test]
    fn version_and_target() {
        let head = "//\n// .version 1.0 in a comment\n.version 8.0\n.target sm_80\n.address_size 64\n";
        assert_eq!(check(head, 12000, (8, 0)), Ok(()));
        assert_eq!(check(head, 11080, (9, 0)), Err(Code::UNSUPPORTED_PTX_VERSION));
        assert_eq!(check(head, 13000, (7, 5)), Err(Code::NO_BINARY_FOR_GPU));
        let specific = ".version 8.0\n\t.target\tsm_90a, debug\n";
        assert_eq!(check(specific, 12000, (9, 0)), Ok(()));
        assert_eq!(check(specific, 12000, (10, 0)), Err(Code::NO_BINARY_FOR_GPU));
        let family = ".version 8.8\n.target sm_100f\n";
        assert_eq!(check(family, 12090, (10, 3)), Ok(()));
        assert_eq!(check(family, 12090, (12, 0)), Err(Code::NO_BINARY_FOR_GPU));
        assert!(Header::read(".version 8.x\n.target sm_80").is_none());
        assert!(Header::read("").is_none());
    }

    #[test]
    fn newest_versions() {
        for (driver, ptx) in [(11080, (7, 8)), (12000, (8, 0)), (12060, (8, 5)), (12090, (8, 8)), (13000, (9, 0))] {
            assert_eq!(newest_ptx(driver), ptx, "driver {driver}");
        }
    }
}
