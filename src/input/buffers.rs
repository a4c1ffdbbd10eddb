//! The round of the buffers: workers take places in them one after the other, the consumer gives them back in parts.

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::pixels::Pixels;

/// Sends `buffers`, at least one and all of one length, on their round.
pub(super) fn circulate(buffers: Vec<Pixels>) -> (Places, Returns) {
    let len = buffers[0].len();
    let (sender, free) = unbounded();
    let (mut parts, mut memory) = (Vec::new(), Vec::new());
    for mut buffer in buffers {
        parts.push((buffer.as_ptr().addr(), Vec::new()));
        memory.push(buffer.split_to(0));
        sender.send(buffer).expect("its receiver is here");
    }
    (Places { free, rest: None }, Returns { len, parts, free: sender, _memory: memory })
}

/// Where the next rows go.
pub(super) struct Places {
    free: Receiver<Pixels>,
    /// What is left of the buffer that is being filled, at least a byte.
    rest: Option<Pixels>,
}

impl Places {
    /// Bytes left in the buffer that is being filled, at least one: waits for a free buffer where it is full. `None`
    /// once there is neither a buffer nor a consumer.
    pub(super) fn room(&mut self) -> Option<usize> {
        if self.rest.is_none() {
            self.rest = Some(self.free.recv().ok()?);
        }
        self.rest.as_ref().map(|rest| rest.len())
    }

    /// The next `bytes` of the [`room`](Self::room), and whether they fill the buffer.
    pub(super) fn take(&mut self, bytes: usize) -> (Pixels, bool) {
        let rest = self.rest.as_mut().expect("there is room");
        let place = rest.split_to(bytes);
        // An empty rest would keep the memory.
        self.rest.take_if(|rest| rest.is_empty());
        (place, self.rest.is_none())
    }
}

/// The way back.
#[derive(Debug)]
pub(super) struct Returns {
    /// Bytes of each buffer.
    len: usize,
    /// Of each buffer its address and what is back of it. Addresses, since two buffers may be parts of one memory.
    parts: Vec<(usize, Vec<Pixels>)>,
    free: Sender<Pixels>,
    /// Empty parts, which keep the buffers' memory once workers have ended: to free what is page-locked is to wait for the
    /// device, and there may still be batches on it.
    _memory: Vec<Pixels>,
}

impl Returns {
    /// Takes a part back; when all of its buffer is, that goes on its next round.
    ///
    /// # Panics
    /// If it is no part of one of the buffers.
    pub(super) fn give_back(&mut self, part: Pixels) {
        let address = part.as_ptr().addr();
        let mut homes = self.parts.iter_mut();
        let home = homes.find(|(begin, _)| (*begin..begin + self.len).contains(&address));
        let (_, parts) = home.expect("pixels that are not of this feed");
        parts.push(part);
        if parts.iter().map(|part| part.len()).sum::<usize>() < self.len {
            return;
        }
        parts.sort_by_key(|part| part.as_ptr().addr());
        let whole = parts.drain(..).reduce(|mut whole, part| {
            whole.join(part);
            whole
        });
        // Fails once all workers have ended; nobody needs it then.
        let _ = self.free.send(whole.expect("a part was just put there"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four parts of one buffer, beside another in the same memory, come back in every order.
    #[test]
    fn parts_in_any_order_make_a_free_buffer() {
        let orders = (0..256).map(|code| [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6]);
        for order in orders.filter(|order| (0..4).all(|n| order.contains(&n))) {
            let mut second = Pixels::zeroed(14).unwrap();
            let first = second.split_to(7);
            let begin = first.as_ptr();
            let (mut places, mut returns) = circulate(vec![first, second]);
            let mut parts = Vec::new();
            let mut left = 7;
            for bytes in [1, 3, 2, 1] {
                assert_eq!(places.room(), Some(left));
                left -= bytes;
                let (part, full) = places.take(bytes);
                assert_eq!(full, left == 0);
                parts.push(Some(part));
            }
            assert_eq!(places.room(), Some(7), "the second");
            let (other, full) = places.take(7);
            assert!(full);
            returns.give_back(parts[order[0]].take().unwrap());
            returns.give_back(other);
            for n in &order[1..] {
                assert_eq!(places.free.len(), 1, "{order:?}: the other alone");
                returns.give_back(parts[*n].take().unwrap());
            }
            for expected in [begin.wrapping_add(7), begin] {
                assert_eq!(places.room(), Some(7), "{order:?}");
                assert_eq!(places.take(7).0.as_ptr(), expected, "{order:?}");
            }
            drop(returns);
            assert_eq!(places.room(), None, "no buffer and no consumer");
        }
    }

    #[test]
    #[should_panic(expected = "not of this feed")]
    fn foreign_pixels_are_refused() {
        let [mine, foreign] = [0, 1].map(|_| Pixels::zeroed(4).unwrap());
        let (_places, mut returns) = circulate(vec![mine]);
        returns.give_back(foreign);
    }
}
