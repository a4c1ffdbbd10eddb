use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use alexnet::Pixels;
use alexnet::input::{Batch, Fed, Feed};

use super::feed::{IMAGE, SIZE, addresses, batch, check_in, feed, options, pictures, shown};
use super::{buffers, expand, folder, next_batch, numbered_pack};

/// A row that failed has a place that nobody wrote to.
#[test]
fn a_failed_row_leaves_a_hole() {
    let dir = folder();
    pictures(dir.path(), 6);
    for threads in [1, 3] {
        let mut buffers = buffers(1, 6 * IMAGE);
        buffers[0].fill(0xAB);
        let mut feed = Feed::new(expand(&[dir.path()]).unwrap(), options(threads), buffers).unwrap();
        let batch = batch(&mut feed);
        let failed: Vec<_> = batch.rows.iter().map(|row| row.error.is_some()).collect();
        assert_eq!(failed, [false, false, false, true, false, false]);
        assert_eq!(shown(&batch.pixels[..3 * IMAGE]), [0, 1, 2]);
        assert_eq!(batch.pixels[3 * IMAGE..4 * IMAGE], [0xAB; IMAGE]);
        assert_eq!(shown(&batch.pixels[4 * IMAGE..]), [4, 5]);
    }
}

/// Buffers side by side in one memory are kept apart.
#[test]
fn buffers_may_be_parts_of_one_memory() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 100);
    let expected: Vec<_> = (0..100).map(|row| (format!("p.npy#{row}"), Some(row))).collect();
    let mut memory = Pixels::zeroed(30 * IMAGE).unwrap();
    let parts = (0..3).map(|_| memory.split_to(10 * IMAGE)).collect();
    check_in(expand(&[dir.path().join("p.npy")]).unwrap(), 2, parts, dir.path(), &expected);
}

/// The consumer that holds all buffers is told to do something else; what it holds stays as it is; and what it gives
/// back, in whatever order, is filled again in that order.
#[test]
fn buffers_come_back_in_any_order() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 48);
    for threads in [1, 4] {
        let mut feed = feed(expand(&[dir.path().join("p.npy")]).unwrap(), threads, 3, 4);
        let mut next = 0;
        let mut expected = || {
            next += 4;
            (next - 4..next).collect::<Vec<_>>()
        };
        let mut held: Vec<_> = (0..3).map(|_| (batch(&mut feed), expected())).collect();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            for _ in 0..3 {
                assert!(matches!(feed.next_batch(), Fed::Pause), "{order:?}");
            }
            let mut places = Vec::new();
            let mut kept: Vec<_> = held.drain(..).map(Some).collect();
            for n in order {
                let (batch, indices) = kept[n].take().unwrap();
                assert_eq!(shown(&batch.pixels), indices, "{order:?}");
                places.push(addresses(&batch.pixels));
                feed.give_back(batch.pixels);
                // One at a time, so that the rest is seen to be left alone.
                let again = batch_in(&mut feed, &places[places.len() - 1]);
                held.push((again, expected()));
            }
        }
        // All rows are out, but the workers learn that there is no more only when they have a place for it.
        assert!(matches!(feed.next_batch(), Fed::Pause));
        for (batch, indices) in held {
            assert_eq!(shown(&batch.pixels), indices);
            feed.give_back(batch.pixels);
        }
        assert!(next_batch(&mut feed).is_none());
    }
}

/// The next batch, which must lie at `place`.
fn batch_in(feed: &mut Feed, place: &Range<usize>) -> Batch {
    let batch = batch(feed);
    assert_eq!(addresses(&batch.pixels), *place);
    batch
}

/// A batch that is given back in pieces frees its buffer with the last one.
#[test]
fn a_batch_comes_back_in_pieces() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 9);
    let mut feed = feed(expand(&[dir.path().join("p.npy")]).unwrap(), 2, 1, 3);
    for first in [0, 3, 6] {
        let Batch { mut pixels, .. } = batch(&mut feed);
        assert_eq!(shown(&pixels), [first, first + 1, first + 2]);
        let begin = pixels.split_to(IMAGE);
        let middle = pixels.split_to(IMAGE);
        feed.give_back(pixels);
        feed.give_back(begin);
        assert!(matches!(feed.next_batch(), Fed::Pause));
        feed.give_back(middle);
    }
    assert!(next_batch(&mut feed).is_none());
}

#[test]
fn all_but_one_buffer_may_be_held() {
    let dir = folder();
    pictures(dir.path(), 40);
    let mut feed = feed(expand(&[dir.path()]).unwrap(), 3, 4, 5);
    let held: Vec<_> = (0..3).map(|_| batch(&mut feed)).collect();
    let mut rows = 15;
    while let Some(batch) = next_batch(&mut feed) {
        rows += batch.rows.len();
        feed.give_back(batch.pixels);
    }
    assert_eq!(rows, 40);
    assert!(held.iter().flat_map(|batch| &batch.rows).map(|row| row.error.is_some()).eq((0..15).map(|n| n % 7 == 3)));
}

#[test]
fn buffers_that_hold_no_whole_images_are_refused() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 1);
    let sources = || expand(&[dir.path().join("p.npy")]).unwrap();
    let refused = |lengths: &[usize]| {
        let buffers = lengths.iter().map(|bytes| Pixels::zeroed(*bytes).unwrap()).collect();
        catch_unwind(AssertUnwindSafe(|| Feed::new(sources(), options(1), buffers))).is_err()
    };
    for lengths in [&[][..], &[0], &[IMAGE - 1], &[IMAGE + 1], &[IMAGE, 2 * IMAGE], &[2 * IMAGE, 2 * IMAGE, 0]] {
        assert!(refused(lengths), "{lengths:?}");
    }
    assert!(!refused(&[IMAGE, IMAGE]));
}
