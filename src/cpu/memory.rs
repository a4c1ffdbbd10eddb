//! Memory for what is read and written most: aligned to pages, in huge ones where the system has them, zero at first.

use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

use crate::{Error, Result};

/// f32 or other plain values, `T`.
pub struct Memory<T> {
    map: MmapMut,
    values: std::marker::PhantomData<T>,
}

impl<T: bytemuck::Pod> Memory<T> {
    /// `len` zeros for a layer's weights, which take memory only once they are written.
    ///
    /// # Errors
    /// [`Error::Device`] where the system refuses that much.
    pub fn of_weights(len: usize) -> Result<Self> {
        Self::zeroed(len).map_err(|error| {
            let size = megabytes(len, size_of::<T>());
            Error::Device(format!(
                "not enough memory for {size} of weights: {error}; end other programs, or take a smaller network"
            ))
        })
    }

    /// `len` zeros for what a batch takes, as for weights.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where the system refuses that much.
    pub fn of_batch(len: usize) -> Result<Self> {
        Self::zeroed(len).map_err(|error| refused(len, size_of::<T>(), &error))
    }

    fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.saturating_mul(size_of::<T>()).max(1))?;
        // Huge pages save misses of the address cache; where there are none nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory { map, values: std::marker::PhantomData })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }
}

impl<T: bytemuck::Pod> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let whole = self.map.len() / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice(&self.map[..whole])
    }
}

impl<T: bytemuck::Pod> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let whole = self.map.len() / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..whole])
    }
}

/// Memory that tasks work in and give back, to be taken again by whoever needs as much.
#[derive(Default)]
pub struct Scratch {
    free: Mutex<Vec<Memory<f32>>>,
}

impl Scratch {
    /// Calls `work` with `len` elements of any value. Where the system refuses them it unwinds, to [`unless_refused`].
    pub fn with<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut free = free();
            let fitting = free.iter().enumerate().filter(|(_, piece)| piece.len() >= len);
            let smallest = fitting.min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
            smallest.map(|index| free.swap_remove(index))
        };
        let mut piece =
            found.unwrap_or_else(|| Memory::of_batch(len).unwrap_or_else(|error| resume_unwind(Box::new(error))));
        let result = work(&mut piece[..len]);
        free().push(piece);
        result
    }
}

/// What `work` returns.
///
/// # Errors
/// [`Error::DeviceMemory`] where one of its tasks was refused [memory to work in](Scratch::with); what it was writing has any value
/// then.
pub fn unless_refused<R>(work: impl FnOnce() -> R) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast() {
        Ok(error) => *error,
        Err(panic) => resume_unwind(panic),
    })
}

/// The error of a batch that needs `len` values of `size` bytes.
pub fn refused(len: usize, size: usize, error: &dyn std::fmt::Display) -> Error {
    Error::DeviceMemory(format!("not enough memory for {}: {error}; lower --batch-size", megabytes(len, size)))
}

fn megabytes(len: usize, size: usize) -> String {
    format!("{} MB", len.saturating_mul(size).div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any system gives.
    const TOO_MUCH: usize = usize::MAX / 8;

    #[test]
    fn refused_memory_is_an_error() {
        let scratch = Scratch::default();
        let tasks =
            || rayon::join(|| scratch.with(8, |piece| piece.len()), || scratch.with(TOO_MUCH, |piece| piece.len()));
        let error = unless_refused(tasks).unwrap_err();
        assert!(matches!(&error, Error::DeviceMemory(text) if text.contains("lower --batch-size")), "{error}");
        assert_eq!(unless_refused(|| scratch.with(8, |piece| piece.len())).unwrap(), 8);
        assert!(matches!(Memory::<f32>::of_weights(TOO_MUCH), Err(Error::Device(_))));
    }

    #[test]
    #[should_panic(expected = "planted")]
    fn other_panics_go_on() {
        let _ = unless_refused(|| panic!("planted"));
    }
}
