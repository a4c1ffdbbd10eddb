//! Status codes and the pointers that cross the C interface.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A `cublasStatus_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    pub const NOT_INITIALIZED: Status = Status(1);
    pub const INVALID_VALUE: Status = Status(7);
    pub const EXECUTION_FAILED: Status = Status(13);
    pub const INTERNAL_ERROR: Status = Status(14);
    pub const NOT_SUPPORTED: Status = Status(15);
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

/// An argument that a call reads: null, or a pointer to what the call names, as the caller promises.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct In(*const c_void);

impl In {
    /// # Errors
    /// `INVALID_VALUE` for null.
    pub fn get<T: Copy>(self) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the caller promised a `T` of plain numbers, perhaps unaligned.
        Ok(unsafe { self.0.cast::<T>().read_unaligned() })
    }

    /// The value of an attribute, of which `size` bytes are given.
    ///
    /// # Errors
    /// `INVALID_VALUE` for null or too few bytes.
    pub fn attribute<T: Copy>(self, size: usize) -> Outcome<T> {
        if size < size_of::<T>() { Err(Status::INVALID_VALUE) } else { self.get() }
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// An argument that a call writes: null, or room for an array of `T`, as the caller promises.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Errors
    /// `INVALID_VALUE` for null.
    pub fn set(&self, index: usize, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the caller promised room for more than `index` aligned `T`.
        unsafe { self.0.add(index).write(value) };
        Ok(())
    }
}
