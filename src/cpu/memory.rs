//! Memory for what is read and written most: aligned to pages, in huge ones where the system has them, zero at first.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

use crate::{Error, Result};

/// f32 or other plain values, `T`.
pub struct Memory<T> {
    map: MmapMut,
    values: std::marker::PhantomData<T>,
}

impl<T: bytemuck::Pod> Memory<T> {
    /// `len` zeros, which take memory only once they are written.
    ///
    /// # Errors
    /// [`Error::Device`] where the system refuses that much.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let map = MmapMut::map_anon(bytes).map_err(|error| {
            Error::Device(format!("not enough memory for {} MB: {error}; lower --batch-size", bytes >> 20))
        })?;
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
    /// Calls `work` with `len` elements of any value.
    ///
    /// # Panics
    /// If the system refuses the memory.
    pub fn with<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut free = free();
            let fitting = free.iter().enumerate().filter(|(_, piece)| piece.len() >= len);
            let smallest = fitting.min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
            smallest.map(|index| free.swap_remove(index))
        };
        let mut piece = found.unwrap_or_else(|| Memory::zeroed(len).unwrap_or_else(|error| panic!("{error}")));
        let result = work(&mut piece[..len]);
        free().push(piece);
        result
    }
}
