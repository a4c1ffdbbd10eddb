//! What kind of driver and devices to imitate: environment variables, read by the first `cuInit`,
//! and `cuemu_*` functions that a test reaches through the loaded library.
//!
//! | variable | key of `cuemu_configure` | meaning |
//! |---|---|---|
//! | `CUEMU_COMPUTE_CAPABILITY` | `compute_capability` | of each device, like `8.6`; default 9.0 |
//! | `CUEMU_DRIVER_VERSION` | `driver_version` | of `cuDriverGetVersion`, like `12000`; default 13000 |
//! | `CUEMU_DEVICES` | `devices` | 0, 1 (default) or 2 |
//! | `CUEMU_MEMORY` | `memory` | bytes per device; default 8 GiB |
//! | `CUEMU_POOLS` | `pools` | `0`: devices without memory pools, on which memory is not allocated in stream order; default `1` |
//! | `CUEMU_PEER` | `peer` | `0`: no device can access the memory of another; default `1` |
//! | `CUEMU_CHECKS` | `checks` | `all` (default), `none`, or some of `memory,initialised,races`, see [`Checks`] |
//! | `CUEMU_COUNTERS` | `counters` | a file; each launch that ends well adds a line of its counters |
//! | `CUEMU_PTX` | `ptx` | a folder; a module is replaced by the `.ptx` file there that has the same kernels |
//! | `CUEMU_STREAMS` | `streams` | `eager` (default): work is done at the call; `deferred`: as late as the API allows; `overtaking`: as late, but once something is waited for, first what other streams have to do that waits for nothing |
//! | `CUEMU_FAULT` | `fault` | `KIND:N:EFFECT`: what becomes of the N-th call (from 1) of a kind, `alloc`, `copy`, `launch`, `sync`, `graph`, `fill`, `wait` (of a stream for an event) or `record` (of an event); `KIND:N+:EFFECT`: of all later ones too; `KIND:N:EFFECT@DEVICE`: of those that act on a context of one device, 0 or 1, counted alone; empty (default): nothing |
//! | | | a code: it fails. Codes of device faults (214, 220, 226, 700, 702, 710, 714 to 719) stay with the context, others don't |
//! | | | `skip`: it succeeds and does nothing; not of `alloc` and `graph` |
//! | | | `hang`: the work of a `launch`, or of a `graph` call that launches, never ends: queries say so for ever, whatever waits for it waits for ever, and later work in the stream is not done |
//! | `CUEMU_CALLS` | `calls` | a file; as the process ends it gets a line `KIND COUNT` for each kind of call, and where there are two devices `KIND@DEVICE COUNT` for each device |
//! | `CUEMU_STUB` | `stub` | `1`: every call fails as in the toolkit's stub library; default `0` |

use std::path::Path;
use std::sync::Arc;

use super::abi::{Out, Text};
use super::device::Device;
use super::errors::{Code, Outcome, exports, say};
use super::inject::{Injection, write_counts_at_exit};
use super::{Driver, any_driver, lock};
use crate::Checks;

const KEYS: [&str; 13] = [
    "compute_capability",
    "driver_version",
    "devices",
    "memory",
    "pools",
    "peer",
    "checks",
    "counters",
    "ptx",
    "streams",
    "fault",
    "calls",
    "stub",
];

/// The driver and devices to imitate.
#[derive(Clone)]
pub struct Settings {
    pub compute_capability: (u32, u32),
    /// 1000 * major + 10 * minor, as `cuDriverGetVersion` counts.
    pub driver_version: i32,
    pub devices: usize,
    /// Bytes per device.
    pub memory: u64,
    pub pools: bool,
    /// Devices can access each other's memory.
    pub peer: bool,
    pub checks: Checks,
    /// Where launches write what they counted.
    pub counters: Option<Arc<Path>>,
    /// Modules that take the place of those with the same kernels.
    pub ptx: Option<Arc<Path>>,
    /// Streams do their work as late as possible.
    pub deferred: bool,
    /// And before it that of other streams.
    pub overtaking: bool,
    /// A call that is to go wrong.
    pub fault: Option<Injection>,
    /// Where the numbers of calls go in the end.
    pub calls: Option<Arc<Path>>,
    pub stub: bool,
    /// Keys set by `cuemu_configure`, which the environment doesn't override.
    configured: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            compute_capability: (9, 0),
            driver_version: 13000,
            devices: 1,
            memory: 8 << 30,
            pools: true,
            peer: true,
            checks: Checks::ALL,
            counters: None,
            ptx: None,
            deferred: false,
            overtaking: false,
            fault: None,
            calls: None,
            stub: false,
            configured: Vec::new(),
        }
    }
}

impl Settings {
    /// Applies one setting; the error says what would be valid.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let expected = |what: &str| format!("{key} is '{value}': expected {what}");
        match key {
            "compute_capability" => {
                let parts = value.split_once('.').map(|(major, minor)| (major.parse(), minor.parse()));
                let Some((Ok(major @ 1..=20), Ok(minor @ 0..=9))) = parts else {
                    return Err(expected("MAJOR.MINOR, like 8.6"));
                };
                self.compute_capability = (major, minor);
            }
            "driver_version" => {
                self.driver_version = value.parse().map_err(|_| expected("a number like 12000"))?;
            }
            "devices" => match value.parse() {
                Ok(devices @ 0..=2) => self.devices = devices,
                _ => return Err(expected("0, 1 or 2")),
            },
            "memory" => self.memory = value.parse().map_err(|_| expected("a number of bytes"))?,
            "pools" => self.pools = flag(value).ok_or_else(|| expected("0 or 1"))?,
            "peer" => self.peer = flag(value).ok_or_else(|| expected("0 or 1"))?,
            "checks" => {
                self.checks = match value {
                    "all" => Checks::ALL,
                    "none" => Checks::NONE,
                    list => list.split(',').try_fold(Checks::NONE, |checks, name| match name {
                        "memory" => Ok(Checks { memory: true, ..checks }),
                        "initialised" => Ok(Checks { initialised: true, ..checks }),
                        "races" => Ok(Checks { races: true, ..checks }),
                        _ => Err(expected("all, none or a list like memory,initialised,races")),
                    })?,
                }
            }
            "counters" if value.is_empty() => return Err(expected("the path of a file")),
            "counters" => self.counters = Some(Path::new(value).into()),
            "ptx" if !Path::new(value).is_dir() => return Err(expected("a folder of .ptx files")),
            "ptx" => self.ptx = Some(Path::new(value).into()),
            "streams" if !["eager", "deferred", "overtaking"].contains(&value) => {
                return Err(expected("eager, deferred or overtaking"));
            }
            "streams" => (self.deferred, self.overtaking) = (value != "eager", value == "overtaking"),
            "fault" if value.is_empty() => self.fault = None,
            "fault" => {
                let read = Injection::read(value);
                self.fault = Some(
                    read.ok_or_else(|| expected("KIND:N:EFFECT, like copy:3:700, wait:1:skip or launch:2+:hang@1"))?,
                );
            }
            "calls" if value.is_empty() => return Err(expected("the path of a file")),
            "calls" => self.calls = Some(Path::new(value).into()),
            "stub" => self.stub = flag(value).ok_or_else(|| expected("0 or 1"))?,
            _ => return Err(format!("there is no setting {key}; the settings are {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// Applies the environment to what `cuemu_configure` left open.
    fn read_environment(&mut self) -> Result<(), String> {
        for key in KEYS {
            let variable = format!("CUEMU_{}", key.to_uppercase());
            if let (Ok(value), false) = (std::env::var(&variable), self.configured.contains(&key)) {
                self.set(key, &value)?;
            }
        }
        Ok(())
    }
}

fn flag(value: &str) -> Option<bool> {
    ["0", "1"].iter().position(|flag| *flag == value).map(|flag| flag == 1)
}

/// The settings, with the environment applied; printed and refused when that is malformed.
fn settings_from_environment(driver: &mut Driver) -> Outcome {
    driver.settings.read_environment().map_err(|message| {
        say(&message);
        Code::INVALID_VALUE
    })
}

exports! {
    fn cuInit(flags: u32) {
        let driver = &mut *any_driver();
        if driver.initialised {
            return if flags == 0 { Ok(()) } else { Err(Code::INVALID_VALUE) };
        }
        settings_from_environment(driver)?;
        let settings = &driver.settings;
        if settings.stub {
            return Err(Code::STUB_LIBRARY);
        }
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if settings.devices == 0 {
            return Err(Code::NO_DEVICE);
        }
        driver.devices = (0..settings.devices).map(|ordinal| Arc::new(Device::new(ordinal, settings))).collect();
        if driver.settings.calls.is_some() {
            write_counts_at_exit();
        }
        driver.initialised = true;
        Ok(())
    }

    /// Works before `cuInit`, as a driver's does.
    fn cuDriverGetVersion(version: Out<i32>) {
        let driver = &mut *any_driver();
        if !driver.initialised {
            settings_from_environment(driver)?;
        }
        if driver.settings.stub {
            return Err(Code::STUB_LIBRARY);
        }
        version.set(driver.settings.driver_version)
    }

    /// `cuemu_configure(key, value)`: one setting, before `cuInit` or after `cuemu_restart`; `checks`
    /// and `fault` at any time, for the launches and calls that follow. `INVALID_VALUE` (the reason is printed) for an
    /// unknown key or value, `NOT_PERMITTED` when it's too late.
    fn cuemu_configure(key: Text, value: Text) {
        let (key, value) = (key.get()?, value.get()?);
        let mut driver = any_driver();
        if driver.initialised && !["checks", "fault"].contains(&key) {
            say(&format!("{key} can't change after cuInit: call cuemu_restart first"));
            return Err(Code::NOT_PERMITTED);
        }
        driver.settings.set(key, value).map_err(|message| {
            say(&message);
            Code::INVALID_VALUE
        })?;
        driver.settings.configured.extend(KEYS.iter().find(|known| **known == key));
        Ok(())
    }

    /// Forgets every setting, device, context and handle, as if the process had just begun. Frees
    /// page-locked host memory too: nothing may refer to it any more.
    fn cuemu_restart() {
        let old = std::mem::take(&mut *any_driver());
        // What is still to be done refers to its context, which refers to it.
        for context in old.contexts.0.values() {
            lock(&context.queues).iter().for_each(|queue| queue.abandon());
        }
        // Dropped after the lock is released: device memory may be large.
        drop(old);
        Ok(())
    }

    /// `cuemu_last_fault(buffer, length, needed)`: why something last went wrong (a device fault, or
    /// the refusal of a module, a launch or an address), empty for nothing yet, cut to `length` with its
    /// zero byte. `needed` (may be null) gets the whole length with the zero byte.
    fn cuemu_last_fault(buffer: Out<u8>, length: usize, needed: Out<usize>) {
        let driver = any_driver();
        buffer.set_text(&driver.last_fault, length);
        needed.set_if_wanted(driver.last_fault.len() + 1);
        Ok(())
    }
}
