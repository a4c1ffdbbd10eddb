//! Status codes, and pointers to descriptors.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A `cudnnStatus_t` of cuDNN 9, other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    pub const NOT_INITIALIZED: Status = Status(1001);
    pub const BAD_PARAM: Status = Status(2000);
    pub const NOT_SUPPORTED: Status = Status(3000);
    pub const INTERNAL_ERROR: Status = Status(4000);
    pub const EXECUTION_FAILED: Status = Status(5000);
}

/// What a call comes to.
pub type Outcome<T = ()> = Result<T, Status>;

/// Runs the body of an exported function: a panic becomes `INTERNAL_ERROR`.
pub fn guard(call: impl FnOnce() -> Outcome) -> u32 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.0,
        Err(panic) => {
            // A payload's own drop could panic again, and this time through `extern "C"`.
            std::mem::forget(panic);
            Status::INTERNAL_ERROR.0
        }
    }
}

/// Null, or a `T` that the caller promises is there.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pointer<T>(*mut T);

impl<T: Copy> Pointer<T> {
    /// Of a new descriptor, which [`free`](Self::free) takes back.
    pub fn new(value: T) -> Self {
        Pointer(Box::into_raw(Box::new(value)))
    }

    pub fn get(self) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Status::BAD_PARAM);
        }
        // SAFETY: not null; the caller's promise.
        Ok(unsafe { self.0.read() })
    }

    /// Sets element `index` of an array with more than that.
    pub fn set(self, index: usize, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Status::BAD_PARAM);
        }
        // SAFETY: not null; the caller's promise.
        unsafe { self.0.add(index).write(value) };
        Ok(())
    }

    pub fn free(self) -> Outcome {
        self.get()?;
        // SAFETY: from `new`, and freed once, as the caller promises.
        drop(unsafe { Box::from_raw(self.0) });
        Ok(())
    }
}
