//! Order between blocks: a fence and an atomic release what a block has done, an atomic and a fence acquire it.
//!
//! The pattern is that of a reduction whose last block adds up what the others have written: each writes, executes
//! `membar.gl` and counts atomically; who finds that all have counted executes `membar.gl` and reads. Order is kept between
//! whole blocks: what a block does after its release, or another of its threads without a barrier, is taken as released.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A running block, and which others it comes after.
#[derive(Default)]
pub struct BlockOrder {
    /// The block's number in the grid.
    pub number: u32,
    /// Whether it has not stored since its last fence.
    fenced: bool,
    /// Blocks whose release it has seen, but not fenced.
    seen: BTreeSet<u32>,
    known: BTreeSet<u32>,
}

impl BlockOrder {
    /// Block `number`, at its start.
    pub fn new(number: u32) -> BlockOrder {
        BlockOrder { number, ..BlockOrder::default() }
    }

    pub fn fence(&mut self) {
        self.fenced = true;
        self.known.append(&mut self.seen);
    }

    pub fn store(&mut self) {
        self.fenced = false;
    }

    /// Whether it comes after what that block has released.
    pub fn knows(&self, block: u32) -> bool {
        self.known.contains(&block)
    }
}

/// What has been released through each word, and by which blocks it has been updated.
#[derive(Default)]
pub struct Releases(Mutex<HashMap<Word, Blocks>>);

/// Allocation and cell.
type Word = (usize, usize);

#[derive(Default)]
struct Blocks {
    released: BTreeSet<u32>,
    users: BTreeSet<u32>,
}

impl Releases {
    /// Before the block updates the word.
    pub fn release(&self, word: Word, block: &BlockOrder) {
        let mut words = self.words();
        let found = words.entry(word).or_default();
        found.users.insert(block.number);
        if block.fenced {
            found.released.insert(block.number);
            found.released.extend(&block.known);
        }
    }

    /// After the block has updated the word: whoever did so before has released before.
    pub fn acquire(&self, word: Word, block: &mut BlockOrder) {
        if let Some(found) = self.words().get(&word) {
            block.seen.extend(&found.released);
        }
    }

    /// Whether the block comes after all others that have updated the word.
    pub fn last(&self, word: Word, block: &BlockOrder) -> bool {
        let words = self.words();
        let mut others = words.get(&word).into_iter().flat_map(|found| &found.users);
        others.all(|other| *other == block.number || block.knows(*other))
    }

    fn words(&self) -> MutexGuard<'_, HashMap<Word, Blocks>> {
        // Nothing panics between two related updates.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
