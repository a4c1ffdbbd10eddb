//! [`Pixels`]: memory that travels from the decoders to the device and back.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// A buffer of bytes, or a part of one that nobody else has: several threads fill a batch, each its own images. Parts join
/// again to what they were split from. The memory is whatever its maker took, on a GPU's behalf page-locked.
pub struct Pixels {
    /// Keeps the memory; nobody looks at it.
    owner: Arc<dyn Any + Send + Sync>,
    start: NonNull<u8>,
    len: usize,
}

/// Memory that [`Pixels`] can be made of.
///
/// # Safety
/// [`bytes`](Self::bytes) is initialised memory that stays where it is until the value is dropped, wherever that moves, and
/// that nothing else reads or writes.
pub(crate) unsafe trait Memory: Send + Sync + 'static {
    /// The memory.
    fn bytes(&self) -> NonNull<[u8]>;
}

/// Ordinary memory.
struct Heap(NonNull<[u8]>);

// SAFETY: it owns its bytes and does nothing with them.
unsafe impl Send for Heap {}
// SAFETY: likewise.
unsafe impl Sync for Heap {}

// SAFETY: the bytes of a box that was leaked, zeroed when it was made; no reference to them exists.
unsafe impl Memory for Heap {
    fn bytes(&self) -> NonNull<[u8]> {
        self.0
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and this is its end.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: a part is the only one to its bytes, as a `&mut [u8]` would be, or is shared and not written; the owner is Send and
// Sync.
unsafe impl Send for Pixels {}
// SAFETY: shared, it only gives `&[u8]`.
unsafe impl Sync for Pixels {}

impl Pixels {
    /// All of `memory`.
    pub(crate) fn new(memory: impl Memory) -> Self {
        let bytes = memory.bytes();
        Pixels { start: bytes.cast(), len: bytes.len(), owner: Arc::new(memory) }
    }

    /// `len` zeros in ordinary memory, which takes room only once it is written; `None` where the system refuses that much.
    pub fn zeroed(len: usize) -> Option<Self> {
        let zeros = bytemuck::allocation::try_zeroed_slice_box::<u8>(len).ok()?;
        Some(Pixels::new(Heap(NonNull::from(Box::leak(zeros)))))
    }

    /// Takes the first `len` bytes off.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, len: usize) -> Pixels {
        assert!(len <= self.len, "{len} of {} bytes", self.len);
        let first = Pixels { owner: Arc::clone(&self.owner), start: self.start, len };
        // SAFETY: no further than one past the end of the same memory.
        self.start = unsafe { self.start.add(len) };
        self.len -= len;
        first
    }

    /// Another handle to the same bytes, which keeps their memory as well.
    ///
    /// # Safety
    /// As long as somebody may look at one of the two, the other is not written to.
    pub(crate) unsafe fn share(&self) -> Pixels {
        Pixels { owner: Arc::clone(&self.owner), start: self.start, len: self.len }
    }

    /// Puts `next` back at the end.
    ///
    /// # Panics
    /// If it is not what follows in the same memory.
    pub fn join(&mut self, next: Pixels) {
        assert!(self.precedes(&next), "parts that do not meet");
        self.len += next.len;
    }

    /// Whether `next` is what follows in the same memory.
    pub fn precedes(&self, next: &Pixels) -> bool {
        // SAFETY: no further than one past the end of the same memory.
        Arc::ptr_eq(&self.owner, &next.owner) && unsafe { self.start.add(self.len) } == next.start
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised memory that the owner keeps, of which this part alone has these bytes, or shares them with one
        // that is not written to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref; this borrow is the only one, and who shared the bytes sees to it that nobody looks at the others.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn parts_are_filled_apart_and_join_again() {
        let mut rest = Pixels::zeroed(100).unwrap();
        let begin = rest.as_ptr();
        let parts: Vec<Pixels> = (0..10).map(|_| rest.split_to(10)).collect();
        assert!(rest.is_empty());
        let fill = |(value, mut part): (usize, Pixels)| {
            thread::spawn(move || {
                part.fill(value as u8);
                part
            })
        };
        let threads: Vec<_> = parts.into_iter().enumerate().map(fill).collect();
        let mut parts = threads.into_iter().map(|thread| thread.join().unwrap());
        let mut whole = parts.next().unwrap();
        for part in parts {
            assert!(whole.precedes(&part) && !part.precedes(&whole));
            whole.join(part);
        }
        whole.join(rest);
        assert_eq!((whole.as_ptr(), whole.len()), (begin, 100));
        assert!(whole.iter().enumerate().all(|(index, value)| usize::from(*value) == index / 10));
    }

    #[test]
    #[should_panic(expected = "parts that do not meet")]
    fn parts_of_different_memory_do_not_join() {
        let mut first = Pixels::zeroed(10).unwrap();
        first.join(Pixels::zeroed(10).unwrap());
    }

    #[test]
    #[should_panic(expected = "11 of 10 bytes")]
    fn a_part_is_no_longer_than_the_whole() {
        Pixels::zeroed(10).unwrap().split_to(11);
    }
}
