//! Faults on demand: the n-th call of a kind fails, does nothing, or starts work that never ends.

use std::sync::Arc;

use super::abi::{Out, Text};
use super::context::{Context, current_if_live};
use super::errors::{Code, Outcome, exports};
use super::stream::PER_THREAD;
use super::{Handle, any_driver};

/// Kinds of calls, counted over all threads and contexts from the first on, whatever comes of them.
#[derive(Clone, Copy, PartialEq)]
pub enum Call {
    /// Of device memory and of page-locked host memory.
    Alloc,
    /// Copies, but not fills.
    Copy,
    /// Kernels, and what a library enqueues.
    Launch,
    /// Waits for a stream, an event or a context, and queries.
    Sync,
    /// Begin and end of captures, instantiation, upload and launch of graphs.
    Graph,
    /// Fills.
    Fill,
    /// Waits of a stream for an event.
    Wait,
    /// Records of an event.
    Record,
}

pub const CALLS: [(Call, &str); 8] = [
    (Call::Alloc, "alloc"),
    (Call::Copy, "copy"),
    (Call::Launch, "launch"),
    (Call::Sync, "sync"),
    (Call::Graph, "graph"),
    (Call::Fill, "fill"),
    (Call::Wait, "wait"),
    (Call::Record, "record"),
];

/// What a call acts on.
#[derive(Clone, Copy)]
pub enum On {
    /// The calling thread's context.
    Current,
    /// A stream's context.
    Stream(Handle),
    /// An event's context.
    Event(Handle),
}

impl On {
    /// The context, if there is one.
    fn context(self) -> Option<Arc<Context>> {
        let driver = any_driver();
        let handle = match self {
            On::Stream(stream) if stream > PER_THREAD => driver.streams.get(stream).ok()?.context,
            On::Event(event) => driver.events.get(event).ok()?.context,
            _ => {
                drop(driver);
                return current_if_live();
            }
        };
        driver.contexts.get(handle).ok()
    }
}

/// Most devices there are.
const DEVICES: usize = 2;

/// Calls of each kind so far.
#[derive(Default)]
pub struct Counts {
    all: [u64; CALLS.len()],
    /// Those that act on a context of a device.
    of_device: [[u64; CALLS.len()]; DEVICES],
}

impl Counts {
    /// Of all devices, or of one.
    fn get(&self, call: Call, device: Option<usize>) -> u64 {
        device.map_or(self.all, |device| self.of_device[device])[call as usize]
    }
}

/// Reads what is before an `@`, if there is one, and the device after it.
fn split_device(text: &str) -> Option<(&str, Option<usize>)> {
    match text.split_once('@') {
        None => Some((text, None)),
        Some((rest, device)) => Some((rest, Some(device.parse().ok().filter(|device| *device < DEVICES)?))),
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Effect {
    Fails(Code),
    /// It succeeds and does nothing, as if the program had forgotten it.
    Skipped,
    /// The work that it submits never ends.
    Hangs,
}

/// Which call goes wrong and how.
#[derive(Clone)]
pub struct Injection {
    call: Call,
    /// From 1.
    number: u64,
    /// All later ones too.
    onwards: bool,
    effect: Effect,
    /// Of the calls that act on this device alone.
    device: Option<usize>,
}

impl Injection {
    /// Reads `KIND:N:EFFECT` or `KIND:N+:EFFECT`, the effect being a code, `skip` or `hang`, and then perhaps `@DEVICE`.
    pub fn read(text: &str) -> Option<Injection> {
        let (text, device) = split_device(text)?;
        let [kind, number, effect] = text.split(':').collect::<Vec<_>>()[..] else { return None };
        let (call, _) = *CALLS.iter().find(|(_, name)| *name == kind)?;
        let (digits, onwards) = number.strip_suffix('+').map_or((number, false), |digits| (digits, true));
        let number = digits.parse().ok().filter(|number| *number > 0)?;
        let effect = match (effect, call) {
            // The others give back what a program could not go on without.
            ("skip", Call::Alloc | Call::Graph) => return None,
            ("skip", _) => Effect::Skipped,
            ("hang", Call::Launch | Call::Graph) => Effect::Hangs,
            (code, _) => Effect::Fails(Code(code.parse().ok().filter(|code| *code > 0)?)),
        };
        Some(Injection { call, number, onwards, effect, device })
    }
}

/// Whether the code is of a fault that a context doesn't survive.
fn is_sticky(code: Code) -> bool {
    matches!(code.0, 214 | 220 | 226 | 700 | 702 | 710 | 714..=719)
}

/// Counts a call; whether the work that it submits is to hang, which matters to launches alone.
///
/// # Errors
/// The setting's code when it is this call's turn, 0 for a call that is skipped: it must do nothing. A sticky code becomes
/// the fault of the context that the call acts on too, reported by every later call in it.
pub fn count(call: Call, on: On) -> Outcome<bool> {
    let context = on.context();
    let ordinal = context.as_ref().map(|context| context.device.ordinal);
    let effect = {
        let mut driver = any_driver();
        driver.calls.all[call as usize] += 1;
        if let Some(ordinal) = ordinal {
            driver.calls.of_device[ordinal][call as usize] += 1;
        }
        let hit = |injection: &Injection| {
            let number = driver.calls.get(call, injection.device);
            injection.call == call
                && (injection.device.is_none() || injection.device == ordinal)
                && (number == injection.number || injection.onwards && number > injection.number)
        };
        driver.settings.fault.as_ref().filter(|injection| hit(injection)).map(|injection| injection.effect)
    };
    let code = match effect {
        None => return Ok(false),
        Some(Effect::Hangs) => return Ok(true),
        Some(Effect::Skipped) => return Err(Code(0)),
        Some(Effect::Fails(code)) => code,
    };
    if is_sticky(code)
        && let Some(context) = context
        && context.check().is_ok()
    {
        context.fault(code);
        context.synchronise()?;
    }
    Err(code)
}

/// Writes `KIND COUNT` lines for the `calls` setting as the process ends.
extern "C" fn write_counts() {
    let driver = any_driver();
    let Some(path) = &driver.settings.calls else { return };
    let mut lines = String::new();
    for (call, name) in CALLS {
        lines += &format!("{name} {}\n", driver.calls.get(call, None));
    }
    for device in (0..driver.devices.len()).filter(|_| driver.devices.len() > 1) {
        for (call, name) in CALLS {
            lines += &format!("{name}@{device} {}\n", driver.calls.get(call, Some(device)));
        }
    }
    if let Err(error) = std::fs::write(path, lines) {
        super::errors::say(&format!("the calls are not written to {}: {error}", path.display()));
    }
}

/// Has the counts written as the process ends, once.
pub fn write_counts_at_exit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    unsafe extern "C" {
        fn atexit(callback: extern "C" fn()) -> i32;
    }
    // SAFETY: the callback doesn't unwind (it neither indexes past its tables nor prints with a panicking macro), and this
    // library is never unloaded.
    ONCE.call_once(|| unsafe {
        atexit(write_counts);
    });
}

exports! {
    /// `cuemu_calls(kind, count)`: calls of a kind (`alloc`, `copy`, .., see `CUEMU_FAULT`) so far; `KIND@DEVICE`: of those
    /// that act on one device.
    fn cuemu_calls(kind: Text, calls: Out<u64>) {
        let (kind, device) = split_device(kind.get()?).ok_or(Code::INVALID_VALUE)?;
        let (call, _) = *CALLS.iter().find(|(_, name)| *name == kind).ok_or(Code::INVALID_VALUE)?;
        let counted = any_driver().calls.get(call, device);
        calls.set(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let found = Injection::read("copy:12+:700").unwrap();
        let effect = Effect::Fails(Code(700));
        assert_eq!((found.call as usize, found.number, found.onwards, found.effect), (1, 12, true, effect));
        assert!(!Injection::read("alloc:1:2").unwrap().onwards);
        let found = Injection::read("copy:1+:skip@1").unwrap();
        assert_eq!((found.onwards, found.effect, found.device), (true, Effect::Skipped, Some(1)));
        assert_eq!(Injection::read("copy:1:700").unwrap().device, None);
        assert_eq!(Injection::read("wait:1:skip").unwrap().effect, Effect::Skipped);
        assert_eq!(Injection::read("launch:2:hang").unwrap().effect, Effect::Hangs);
        let numbers =
            ["", "copy", "copy:1", "copy:0:2", "copy:1:0", "copies:1:2", "copy:1:2:3", "copy:+:2", "copy:1:x"];
        for text in numbers.iter().chain(&[
            "alloc:1:skip",
            "graph:1:skip",
            "copy:1:hang",
            "launch:1:skip:hang",
            "copy:1:2@2",
            "copy:1:2@",
            "copy@1:1:2",
        ]) {
            assert!(Injection::read(text).is_none(), "{text}");
        }
    }
}
