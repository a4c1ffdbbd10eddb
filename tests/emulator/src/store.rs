//! Bytes that several threads may touch at once, and which of them have been written.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Zeroed words with a 'written' bit for each byte. Every access is a relaxed atomic, so that blocks that race on the
/// device are not undefined behaviour here. Accesses must be aligned to their size; the caller checks.
pub struct Store {
    words: Box<[AtomicU32]>,
    /// Four bits a word, one for each byte.
    written: Box<[AtomicU8]>,
}

impl Store {
    /// `bytes` zeroed, unwritten bytes, rounded up to a whole word; `None` when the host has no room for them.
    pub fn new(bytes: usize) -> Option<Store> {
        let words = bytes.div_ceil(4);
        let written = bytemuck::allocation::try_zeroed_slice_box(words).ok()?;
        Some(Store { words: bytemuck::allocation::try_zeroed_slice_box(words).ok()?, written })
    }

    #[inline(always)]
    pub fn load_word(&self, offset: usize) -> u32 {
        self.words[offset / 4].load(Relaxed)
    }

    #[inline(always)]
    pub fn store_word(&self, offset: usize, value: u32) {
        self.words[offset / 4].store(value, Relaxed);
    }

    /// The `size` (1, 2 or 4) bytes at `offset`, zero-extended.
    #[inline(always)]
    pub fn load(&self, offset: usize, size: usize) -> u32 {
        let word = self.load_word(offset) >> (offset % 4 * 8);
        if size == 4 { word } else { word & ((1 << (size * 8)) - 1) }
    }

    /// Replaces the `size` (1, 2 or 4) bytes at `offset`.
    #[inline(always)]
    pub fn store(&self, offset: usize, size: usize, value: u32) {
        if size == 4 {
            return self.store_word(offset, value);
        }
        let shift = offset % 4 * 8;
        let mask = ((1u32 << (size * 8)) - 1) << shift;
        self.update_word(offset, |old| (old & !mask) | (value << shift & mask));
    }

    /// Applies `change` to the word at `offset` in one atomic step; returns the old word.
    pub fn update_word(&self, offset: usize, change: impl Fn(u32) -> u32) -> u32 {
        match self.words[offset / 4].fetch_update(Relaxed, Relaxed, |old| Some(change(old))) {
            Ok(old) | Err(old) => old,
        }
    }

    /// Whether all `size` (1, 2 or 4) bytes at `offset` have been written.
    #[inline(always)]
    pub fn is_written(&self, offset: usize, size: usize) -> bool {
        let bits = bits(offset, size);
        self.written[offset / 4].load(Relaxed) & bits == bits
    }

    /// Marks the `size` (1, 2 or 4) bytes at `offset` as written.
    #[inline(always)]
    pub fn mark(&self, offset: usize, size: usize) {
        if size == 4 {
            self.written[offset / 4].store(0xF, Relaxed);
        } else {
            self.written[offset / 4].fetch_or(bits(offset, size), Relaxed);
        }
    }

    /// Whether all `bytes` at `offset` have been written.
    pub fn is_all_written(&self, offset: usize, bytes: usize) -> bool {
        let end = offset + bytes;
        let first = offset.next_multiple_of(4).min(end);
        let last = (end / 4 * 4).max(first);
        (offset..first).chain(last..end).all(|at| self.is_written(at, 1))
            && self.written[first / 4..last / 4].iter().all(|bits| bits.load(Relaxed) == 0xF)
    }

    /// Forgets what has been written and overwrites it.
    pub fn scramble(&self) {
        for (word, written) in self.words.iter().zip(&self.written) {
            // Untouched memory stays untouched: the host may not have it yet.
            if written.load(Relaxed) != 0 {
                word.store(0xA5A5_A5A5, Relaxed);
                written.store(0, Relaxed);
            }
        }
    }

    /// Forgets what has been written.
    pub fn clear_written(&self) {
        self.written.iter().for_each(|bits| bits.store(0, Relaxed));
    }

    /// Writes and marks `bytes` from `offset` on.
    pub fn write(&self, mut offset: usize, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(offset.wrapping_neg() % 4));
        let (words, tail) = rest.as_chunks::<4>();
        for byte in head {
            self.put_byte(&mut offset, *byte);
        }
        for word in words {
            self.store_word(offset, u32::from_le_bytes(*word));
            self.mark(offset, 4);
            offset += 4;
        }
        for byte in tail {
            self.put_byte(&mut offset, *byte);
        }
    }

    fn put_byte(&self, offset: &mut usize, byte: u8) {
        self.store(*offset, 1, byte.into());
        self.mark(*offset, 1);
        *offset += 1;
    }

    /// Reads the bytes from `offset` on, written or not.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let head = bytes.len().min(offset.wrapping_neg() % 4);
        let (first, rest) = bytes.split_at_mut(head);
        for (i, byte) in first.iter_mut().enumerate() {
            *byte = self.load(offset + i, 1) as u8;
        }
        for (i, chunk) in rest.chunks_mut(4).enumerate() {
            let word = self.load_word(offset + head + i * 4).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Copies `bytes` from `other`, with their 'written' bits.
    pub fn copy(&self, offset: usize, other: &Store, from: usize, bytes: usize) {
        let aligned = offset.is_multiple_of(4) && from.is_multiple_of(4);
        let whole = if aligned { bytes / 4 * 4 } else { 0 };
        for i in (0..whole).step_by(4) {
            self.store_word(offset + i, other.load_word(from + i));
            self.written[(offset + i) / 4].store(other.written[(from + i) / 4].load(Relaxed), Relaxed);
        }
        for i in whole..bytes {
            self.store(offset + i, 1, other.load(from + i, 1));
            if other.is_written(from + i, 1) {
                self.mark(offset + i, 1);
            } else {
                self.written[(offset + i) / 4].fetch_and(!bits(offset + i, 1), Relaxed);
            }
        }
    }
}

fn bits(offset: usize, size: usize) -> u8 {
    ((1u8 << size) - 1) << (offset % 4)
}
