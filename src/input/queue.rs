//! The sources as tasks, one after the other.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::vec;

use super::npy::{Pack, check_size};
use super::sources::{Entry, List, Sources, is_pack};

/// Most rows of a pack that one task reads.
const MAX_ROWS: usize = 64;

/// What a worker does at a time.
pub(super) enum Task {
    Picture(PathBuf),
    Rows(Arc<Pack>, Range<u64>),
    Failed(PathBuf, String),
}

impl Task {
    /// Number of rows it answers.
    pub(super) fn rows(&self) -> usize {
        match self {
            Task::Rows(_, rows) => (rows.end - rows.start) as usize,
            Task::Picture(_) | Task::Failed(..) => 1,
        }
    }
}

/// What is left of the sources.
pub(super) struct Queue {
    entries: vec::IntoIter<Entry>,
    list: Option<List>,
    /// The pack that is being read and its rows to come.
    pack: Option<(Arc<Pack>, Range<u64>)>,
    input_size: usize,
    /// Most rows in a task.
    most: u64,
}

impl Queue {
    /// `most`: rows in a task, at least 1 and at most [`MAX_ROWS`] whatever is asked.
    pub(super) fn new(sources: Sources, input_size: usize, most: usize) -> Queue {
        let most = most.clamp(1, MAX_ROWS) as u64;
        Queue { entries: sources.entries.into_iter(), list: None, pack: None, input_size, most }
    }

    /// The next task, of at most `room` rows, at least 1; waits for a list's next line.
    pub(super) fn next(&mut self, room: usize) -> Option<Task> {
        loop {
            if let Some((pack, left)) = self.pack.as_mut().filter(|(_, left)| !left.is_empty()) {
                let end = left.end.min(left.start + self.most.min(room as u64));
                let rows = left.start..end;
                left.start = end;
                return Some(Task::Rows(pack.clone(), rows));
            }
            self.pack = None;
            let pack = match self.next_entry()? {
                Entry::Pack { path, .. } => path,
                Entry::File(path) if is_pack(&path) => path,
                Entry::File(path) => return Some(Task::Picture(path)),
                Entry::Broken { path, reason } => return Some(Task::Failed(path, reason)),
                Entry::List(list) => {
                    self.list = Some(list);
                    continue;
                }
            };
            if let Some(failed) = self.open_pack(pack) {
                return Some(failed);
            }
        }
    }

    fn next_entry(&mut self) -> Option<Entry> {
        if let Some(entry) = self.list.as_mut().and_then(List::next) {
            return Some(entry);
        }
        self.list = None;
        self.entries.next()
    }

    /// Makes `path` the pack to read, or returns the row that says why it cannot be.
    fn open_pack(&mut self, path: PathBuf) -> Option<Task> {
        let opened = Pack::open(&path).and_then(|pack| {
            check_size(&path, pack.height(), pack.width(), self.input_size)?;
            Ok(pack)
        });
        match opened {
            Ok(pack) => {
                let rows = 0..pack.rows();
                self.pack = Some((Arc::new(pack), rows));
                None
            }
            Err(e) => Some(Task::Failed(path, e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::PackWriter;

    #[test]
    fn rows_of_a_pack_come_in_tasks_that_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.npy");
        let mut writer = PackWriter::create(&path, 1).unwrap();
        (0..150).for_each(|_| writer.push("", &[0; 3]).unwrap());
        writer.finish().unwrap();
        for (most, room, sizes) in [
            (0, 9, vec![1; 150]),
            (100, 1, vec![1; 150]),
            (40, 41, vec![40, 40, 40, 30]),
            (41, 40, vec![40, 40, 40, 30]),
            (1000, 1000, vec![64, 64, 22]),
        ] {
            let mut queue = Queue::new(Sources::expand(&[&path]).unwrap(), 1, most);
            let tasks: Vec<_> = std::iter::from_fn(|| queue.next(room)).map(|task| task.rows()).collect();
            assert_eq!(tasks, sizes, "at most {most}, room for {room}");
        }
    }
}
