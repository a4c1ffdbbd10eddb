//! The pointers that cross the C interface, each kind with its one way of being used.
//!
//! All but null are trusted, as a driver trusts them: the driver API makes the caller promise that an
//! output argument may be written, that text ends with a zero byte, that a host buffer holds as many
//! bytes as the call names. Values of these types come from such callers only, as pointers or as
//! addresses: their fields are private.

use std::ffi::{CStr, c_char, c_void};

use super::errors::{Code, Outcome};

/// An output argument.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    ///
    /// # Errors
    /// `INVALID_VALUE` for null.
    pub fn set(&self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null; the caller of the driver API promised room for one aligned `T`, and
        // `write` doesn't read what was there.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the result unless the caller passed null, where the API allows that.
    pub fn set_if_wanted(&self, value: T) {
        let _ = self.set(value);
    }
}

impl Out<u8> {
    /// Writes `text`, cut to fit, and a zero byte into a buffer of `length` bytes.
    pub fn set_text(&self, text: &str, length: usize) {
        if self.0.is_null() || length == 0 {
            return;
        }
        let kept = text.len().min(length - 1);
        // SAFETY: not null; the caller promised `length` writable bytes, and `kept + 1 <= length`;
        // `text` is the crate's own and can't overlap them.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.0, kept);
            self.0.add(kept).write(0);
        }
    }
}

/// Text ending with a zero byte.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// # Errors
    /// `INVALID_VALUE` for null or text that isn't UTF-8.
    pub fn get(&self) -> Outcome<&str> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null; the caller promised a zero-terminated string that stays unchanged during
        // the call, which the returned borrow of an argument can't outlive.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Code::INVALID_VALUE)
    }

    /// Whether the first bytes are `magic` (which holds no zero byte).
    pub fn starts_with(&self, magic: &[u8]) -> bool {
        // SAFETY: not null; bytes are read in order and reading stops at the first that differs, so
        // at the latest at the promised terminator.
        !self.0.is_null()
            && magic.iter().enumerate().all(|(i, byte)| unsafe { self.0.cast::<u8>().add(i).read() } == *byte)
    }
}

/// A host buffer that a copy reads.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct HostSource(*const c_void);

impl HostSource {
    /// # Errors
    /// `INVALID_VALUE` for null, or for a size no buffer can have.
    pub fn bytes(&self, count: usize) -> Outcome<&[u8]> {
        if self.0.is_null() || isize::try_from(count).is_err() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, `count` fits isize; the caller promised `count` readable bytes that
        // nothing writes until the copy is done.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), count) })
    }

    /// The address, to tell pinned memory from pageable.
    pub fn address(&self) -> usize {
        self.0.addr()
    }

    /// A host address that a call names as a number.
    pub fn of_address(address: u64) -> HostSource {
        HostSource(std::ptr::with_exposed_provenance(address as usize))
    }

    /// The buffer from a byte of it on.
    pub fn at(&self, offset: usize) -> HostSource {
        HostSource(self.0.wrapping_byte_add(offset))
    }

    /// A value of plain type `T` at index `index`; kernel arguments and launch attributes.
    ///
    /// # Errors
    /// `INVALID_VALUE` for null.
    pub fn read<T: Copy>(&self, index: usize) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null; the caller promised an array of `T` longer than `index`; it may be
        // unaligned.
        Ok(unsafe { self.0.cast::<T>().add(index).read_unaligned() })
    }
}

// SAFETY: an address that work carries to the thread that does it; the caller's promise holds on every thread.
unsafe impl Send for HostSource {}
// SAFETY: as above; only ever read through.
unsafe impl Sync for HostSource {}

/// A host buffer that a copy writes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct HostTarget(*mut c_void);

// SAFETY: an address that work carries to the thread that does it; the caller's promise holds on every thread.
unsafe impl Send for HostTarget {}
// SAFETY: as above: nothing else touches the buffer, two copies that write it neither.
unsafe impl Sync for HostTarget {}

impl HostTarget {
    /// # Errors
    /// `INVALID_VALUE` for null, or for a size no buffer can have.
    pub fn bytes(&mut self, count: usize) -> Outcome<&mut [u8]> {
        if self.0.is_null() || isize::try_from(count).is_err() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, `count` fits isize; the caller promised `count` writable bytes that
        // nothing else touches until the copy is done. They may be uninitialised: callees only write.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.cast(), count) })
    }

    /// A host address that a call names as a number.
    pub fn of_address(address: u64) -> HostTarget {
        HostTarget(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    /// The buffer from a byte of it on.
    pub fn at(&self, offset: usize) -> HostTarget {
        HostTarget(self.0.wrapping_byte_add(offset))
    }

    /// The address, to tell pinned memory from pageable.
    pub fn address(&self) -> usize {
        self.0.addr()
    }
}
