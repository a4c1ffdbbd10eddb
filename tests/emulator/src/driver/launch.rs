//! Kernel launches and occupancy.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::abi::{HostSource, Out};
use super::device::{MAX_BLOCK_THREADS, SHARED_RESERVED};
use super::errors::{Code, Outcome, exports, say};
use super::inject::{Call, On, count};
use super::module::function;
use super::stream::Lane;
use super::{Handle, driver, explain, lock};
use crate::launch::{launch_with, validate};
use crate::{Checks, Counters, FaultKind, Kernel, Launch};

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Handle,
    attributes: HostSource,
    attribute_count: u32,
}

/// `CUlaunchAttribute`: the value is a union of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct LaunchAttribute {
    id: u32,
    pad: [u8; 4],
    value: [u32; 16],
}

impl LaunchAttribute {
    /// Whether leaving the attribute out changes nothing here.
    fn is_harmless(&self) -> bool {
        match self.id {
            0 | 8 => true,                     // IGNORE, PRIORITY
            2 => self.value[0] == 0,           // COOPERATIVE
            4 => self.value[..3] == [1, 1, 1], // CLUSTER_DIMENSION
            6 => true,                         // PROGRAMMATIC_STREAM_SERIALIZATION allows an overlap and demands none
            _ => false,
        }
    }
}

/// Lays the arguments out as the kernel's parameters are.
fn gather(kernel: &Kernel, arguments: HostSource) -> Outcome<Vec<u8>> {
    let layout = kernel.params();
    let size = layout.last().map_or(0, |last| last.offset + last.size);
    let mut params = vec![0; size];
    for (i, param) in layout.iter().enumerate() {
        let argument: HostSource = arguments.read(i)?;
        params[param.offset..][..param.size].copy_from_slice(argument.bytes(param.size)?);
    }
    Ok(params)
}

/// The code of a fault, as hardware would report it, or for what hardware lets pass unseen, the
/// general failure.
fn fault_code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::Trap => Code::ILLEGAL_INSTRUCTION,
        FaultKind::InvalidLaunch => Code::INVALID_VALUE,
        _ => Code::LAUNCH_FAILED,
    }
}

fn submit(handle: Handle, stream: Handle, shape: ([u32; 3], [u32; 3], u32), arguments: HostSource) -> Outcome {
    let hangs = count(Call::Launch, On::Stream(stream))?;
    let (function, _) = function(handle)?;
    let lane = Lane::of(stream)?;
    if lane.context.handle != function.context {
        return Err(Code::INVALID_HANDLE);
    }
    let kernel = function.kernel()?;
    let (grid, block, dynamic_shared) = shape;
    let allowed = function.dynamic_shared_limit();
    if dynamic_shared > allowed {
        let kernel = kernel.name();
        let reason =
            format!("{kernel}: {dynamic_shared} bytes of dynamic shared memory, its attribute allows {allowed}");
        return Err(explain(Code::INVALID_VALUE, reason));
    }
    let work = Launch { grid, block, dynamic_shared, params: gather(kernel, arguments)? };
    let (checks, file) = {
        let settings = &driver()?.settings;
        (Checks { traffic: settings.counters.is_some(), ..settings.checks }, settings.counters.clone())
    };
    // A driver refuses such a launch at the call, and its context stays sound.
    let refusal = validate(kernel, &work).map_err(|fault| explain(fault_code(fault.kind), fault));
    if hangs {
        return lane.add(Vec::new(), None).map(|_| ());
    }
    let context = Arc::clone(&lane.context);
    lane.submit(
        || refusal,
        move || {
            if driver()?.functions.get(handle).is_err() {
                let reason = format!("a graph launches a kernel of an unloaded module, handle {handle:#x}");
                return Err(explain(Code::LAUNCH_FAILED, reason));
            }
            let kernel = function.kernel()?;
            match launch_with(kernel, &work, &context.device.memory, context.opened(), checks) {
                Ok(counters) => {
                    if let Some(path) = &file
                        && let Err(error) = record(path, kernel.name(), &work, &counters)
                    {
                        let name = kernel.name();
                        say(&format!("the counters of {name} are not written to {}: {error}", path.display()));
                    }
                    Ok(())
                }
                Err(mut fault) => {
                    if fault.kind == FaultKind::OutOfBounds
                        && let Some(reason) = fault.address.and_then(|address| context.explain_foreign(address))
                    {
                        fault.detail = reason;
                    }
                    say(&fault.to_string());
                    Err(explain(fault_code(fault.kind), &fault))
                }
            }
        },
    )
}

/// Adds a line of comma-separated values to the file, after a line of their names if it is the first.
fn record(path: &Path, kernel: &str, work: &Launch, counters: &Counters) -> std::io::Result<()> {
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = lock(&WRITING);
    let mut file = File::options().create(true).append(true).open(path)?;
    let table = counters.table();
    let mut text = String::new();
    if file.metadata()?.len() == 0 {
        text = format!("kernel,grid,block,{}\n", table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(","));
    }
    let shape = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let values: Vec<String> = table.iter().map(|(_, value)| value.to_string()).collect();
    text += &format!("{kernel},{},{},{}\n", shape(work.grid), shape(work.block), values.join(","));
    file.write_all(text.as_bytes())
}

/// How many blocks of `threads` threads a multiprocessor holds at once, registers aside: PTX doesn't say
/// how many a kernel will need.
fn occupancy(handle: Handle, threads: i32, dynamic_shared: usize) -> Outcome<u32> {
    let (function, context) = function(handle)?;
    let kernel = function.kernel()?;
    let limits = &context.device.limits;
    let threads = u32::try_from(threads).ok().filter(|threads| (1..=MAX_BLOCK_THREADS).contains(threads));
    let threads = threads.ok_or(Code::INVALID_VALUE)?.next_multiple_of(32);
    let dynamic_shared = u32::try_from(dynamic_shared).map_err(|_| Code::INVALID_VALUE)?;
    let shared = dynamic_shared.saturating_add(kernel.static_shared() + SHARED_RESERVED);
    let by_shared = (limits.shared_opt_in + SHARED_RESERVED) / shared;
    Ok(limits.blocks.min(limits.threads / threads).min(by_shared))
}

exports! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        arguments: HostSource,
        extra: Handle,
    ) {
        if extra != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        submit(function, stream, ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], dynamic_shared), arguments)
    }

    fn cuLaunchKernelEx(config: HostSource, function: Handle, arguments: HostSource, extra: Handle) {
        let config: LaunchConfig = config.read(0)?;
        for i in 0..config.attribute_count as usize {
            if !config.attributes.read::<LaunchAttribute>(i)?.is_harmless() {
                return Err(Code::NOT_SUPPORTED);
            }
        }
        if extra != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        submit(function, config.stream, (config.grid, config.block, config.dynamic_shared), arguments)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic_shared: usize,
    ) {
        blocks.set(occupancy(function, threads, dynamic_shared)? as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic_shared: usize,
        _flags: u32,
    ) {
        blocks.set(occupancy(function, threads, dynamic_shared)? as i32)
    }
}
