//! Throughput and latency of several pipelines in one interleaved run.
//!
//! In every round each has its turn, a short slice of work, so that what changes with time (clocks, heat, others on the
//! machine) meets all of them alike, and the figures of a round make a pair.

use std::time::{Duration, Instant};

use alexnet::record::Round;
use alexnet::{Pipeline, Pixels, Result};

/// Run before anything is counted, and at most as long as is measured.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a slice lasts at most, unless a single batch takes longer.
const SLICE: Duration = Duration::from_millis(75);
/// Batches a slice has at most: a pipeline that does nothing ends as well.
const MOST_BATCHES: usize = 1_000_000;
/// Rounds there are at least, an even number, since every other one goes backwards.
const ROUNDS: usize = 10;
/// The same for less than [`SHORT`] of measuring, which only shows that everything works.
const FEW_ROUNDS: usize = 4;
const SHORT: Duration = Duration::from_secs(1);

/// A pipeline to be measured, with pixels for each of its places.
pub struct Contender {
    pipeline: Box<dyn Pipeline>,
    free: Vec<Pixels>,
    /// Images a batch.
    images: usize,
}

/// What came out for a contender.
#[derive(Default)]
pub struct Rates {
    /// One a round.
    pub rounds: Vec<Round>,
    /// Of single batches, from host memory to classes.
    pub latencies_ms: Vec<f64>,
}

/// How a batch gets to the device.
#[derive(Clone, Copy, PartialEq)]
enum Supply {
    /// From the host's memory.
    Copied,
    /// It is there already.
    Resident,
}

impl Contender {
    /// For batches of `images`; `pixels` has an entry for each place of the pipeline, all with the same content.
    pub fn new(mut pipeline: Box<dyn Pipeline>, pixels: Vec<Pixels>, images: usize) -> Result<Self> {
        let mut free = vec![];
        for pixels in pixels {
            // The device has them from now on.
            pipeline.submit(pixels)?;
            free.extend(pipeline.collect()?.map(|done| done.pixels));
        }
        Ok(Contender { pipeline, free, images })
    }

    /// Runs `batches`, up to `depth` under way at once, and gives the time from one's results to the next one's. The first ones,
    /// before as many are under way, do not count; nothing is under way before or after.
    fn slice(&mut self, batches: usize, depth: usize, supply: Supply) -> Result<Vec<Duration>> {
        let (mut submitted, mut times) = (0, vec![]);
        let mut last = Instant::now();
        for index in 0..batches + depth - 1 {
            while submitted < (index + depth).min(batches + depth - 1) {
                let pixels = self.free.pop().expect("one for each place");
                match supply {
                    Supply::Copied => self.pipeline.submit(pixels)?,
                    Supply::Resident => self.pipeline.resubmit(pixels)?,
                }
                submitted += 1;
            }
            self.free.extend(self.pipeline.collect()?.map(|done| done.pixels));
            let now = Instant::now();
            times.push(now - std::mem::replace(&mut last, now));
        }
        Ok(times.split_off(depth - 1))
    }

    /// Warms up, and tells how many batches of one way of running fill a slice of `slice`.
    fn batches_a_slice(&mut self, depth: usize, supply: Supply, slice: Duration, warm_up: Duration) -> Result<usize> {
        // Where several are under way they may end in bunches: a turn or two of all of them tell the pace.
        let least = if depth == 1 { 1 } else { 2 * depth };
        let begin = Instant::now();
        let mut fastest = Duration::MAX;
        while fastest == Duration::MAX || begin.elapsed() < warm_up {
            fastest = fastest.min(self.slice(least, depth, supply)?.iter().sum());
        }
        let batches = (least as f64 * slice.as_secs_f64() / fastest.as_secs_f64().max(1e-9)).round();
        // Whole turns: a bunch that is counted in part would be too many or too few in its time.
        Ok((batches as usize).clamp(least, MOST_BATCHES).next_multiple_of(depth))
    }
}

/// Measures `contenders` for `duration` each, or for the least number of rounds.
pub fn measure(contenders: &mut [Contender], duration: Duration) -> Result<Vec<Rates>> {
    let least = if duration < SHORT { FEW_ROUNDS } else { ROUNDS };
    let slice = SLICE.min(duration / least as u32);
    let warm_up = WARM_UP.min(duration);
    let mut batches = vec![];
    for contender in contenders.iter_mut() {
        let depth = contender.pipeline.depth();
        let many = contender.batches_a_slice(depth, Supply::Resident, slice, warm_up)?;
        // Where no more than one batch is under way, the two ways are the same.
        let single = if depth == 1 { 0 } else { contender.batches_a_slice(1, Supply::Copied, slice, warm_up)? };
        batches.push([many, single]);
    }
    let mut rates: Vec<Rates> = contenders.iter().map(|_| Rates::default()).collect();
    let total = duration.saturating_mul(contenders.len() as u32);
    let begin = Instant::now();
    let mut round = 0;
    while round < least || round % 2 == 1 || begin.elapsed() < total {
        for index in order(round, contenders.len()) {
            let (contender, rates) = (&mut contenders[index], &mut rates[index]);
            let [many, single] = batches[index];
            let depth = contender.pipeline.depth();
            let times = contender.slice(many, depth, Supply::Resident)?;
            let seconds = times.iter().sum::<Duration>().as_secs_f64();
            rates.rounds.push(Round { images: times.len() * contender.images, seconds });
            let times = if depth == 1 { times } else { contender.slice(single, 1, Supply::Copied)? };
            rates.latencies_ms.extend(times.iter().map(|time| time.as_secs_f64() * 1e3));
        }
        round += 1;
    }
    Ok(rates)
}

/// Whose turn it is when: each second round is the one before backwards, and each pair of rounds begins with another.
fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|place| (place + round / 2) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use alexnet::Done;

    use super::*;

    /// Takes its time for a batch, and writes down who computed one.
    struct Fake {
        name: usize,
        depth: usize,
        takes: Duration,
        under_way: Vec<Pixels>,
        most: Arc<Mutex<Vec<usize>>>,
        log: Arc<Mutex<Vec<usize>>>,
    }

    impl Pipeline for Fake {
        fn depth(&self) -> usize {
            self.depth
        }

        fn submit(&mut self, pixels: Pixels) -> Result<()> {
            self.under_way.push(pixels);
            let most = &mut self.most.lock().unwrap()[self.name];
            *most = self.under_way.len().max(*most);
            assert!(self.under_way.len() <= self.depth);
            Ok(())
        }

        fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
            self.submit(pixels)
        }

        fn collect(&mut self) -> Result<Option<Done>> {
            let begin = Instant::now();
            while begin.elapsed() < self.takes {}
            let mut log = self.log.lock().unwrap();
            if log.last() != Some(&self.name) {
                log.push(self.name);
            }
            Ok(Some(Done { pixels: self.under_way.remove(0), scored: vec![], times: None }))
        }

        fn time(&mut self) -> Result<()> {
            Ok(())
        }

        fn abandon(&mut self) -> Vec<Pixels> {
            std::mem::take(&mut self.under_way)
        }
    }

    #[test]
    fn pipelines_take_turns_and_both_ways() {
        let (most, log) = (Arc::new(Mutex::new(vec![0; 2])), Arc::default());
        let contender = |name: usize, depth: usize, micros: u64| {
            let (most, log) = (Arc::clone(&most), Arc::clone(&log));
            let fake = Fake { name, depth, takes: Duration::from_micros(micros), under_way: vec![], most, log };
            let pixels = (0..depth).map(|_| Pixels::zeroed(6).unwrap()).collect();
            Contender::new(Box::new(fake), pixels, 2).unwrap()
        };
        let mut contenders = [contender(0, 1, 1000), contender(1, 2, 100)];
        log.lock().unwrap().clear();
        let rates = measure(&mut contenders, Duration::from_millis(40)).unwrap();
        assert_eq!(*most.lock().unwrap(), [1, 2], "as many under way as there may be");
        // Warm-up, then 0 1, 1 0, 1 0, 0 1, ...
        assert!(log.lock().unwrap().starts_with(&[0, 1, 0, 1, 0, 1, 0, 1]), "{:?}", log.lock().unwrap());
        assert!(rates[0].rounds.len() >= FEW_ROUNDS && rates[0].rounds.len().is_multiple_of(2));
        assert_eq!(rates[0].rounds.len(), rates[1].rounds.len());
        for (rates, least_ms) in rates.iter().zip([1.0, 0.1]) {
            assert!(rates.latencies_ms.iter().all(|&ms| ms >= least_ms));
            for round in &rates.rounds {
                assert!(round.images_per_second() <= 2.0 * 1e3 / least_ms * 1.01, "{round:?}");
                assert_eq!(round.images, rates.rounds[0].images, "slices are fixed after the warm-up");
            }
        }
        assert!(contenders.iter().all(|contender| contender.free.len() == contender.pipeline.depth()));
    }

    /// Batches of several devices may end in bunches: what is counted are whole turns of all places.
    #[test]
    fn slices_are_whole_turns() {
        for slice in (1..20).map(Duration::from_millis) {
            let (most, log) = (Arc::new(Mutex::new(vec![0])), Arc::default());
            let fake = Fake { name: 0, depth: 4, takes: Duration::from_micros(150), under_way: vec![], most, log };
            let pixels = (0..4).map(|_| Pixels::zeroed(3).unwrap()).collect();
            let mut contender = Contender::new(Box::new(fake), pixels, 1).unwrap();
            let batches = contender.batches_a_slice(4, Supply::Resident, slice, Duration::ZERO).unwrap();
            assert!(batches >= 8 && batches.is_multiple_of(4), "{batches}");
        }
    }

    #[test]
    fn a_slice_counts_what_runs_at_full_depth() {
        let log = Arc::default();
        let fake = Fake {
            name: 0,
            depth: 3,
            takes: Duration::ZERO,
            under_way: vec![],
            most: Arc::new(Mutex::new(vec![0])),
            log,
        };
        let pixels = (0..3).map(|_| Pixels::zeroed(3).unwrap()).collect();
        let mut contender = Contender::new(Box::new(fake), pixels, 1).unwrap();
        for (batches, depth) in [(1, 1), (1, 3), (5, 1), (5, 2), (5, 3)] {
            assert_eq!(contender.slice(batches, depth, Supply::Resident).unwrap().len(), batches);
            assert_eq!(contender.free.len(), 3);
        }
    }

    #[test]
    fn every_layout_has_every_turn_equally_often() {
        for count in 1..=4 {
            let mut turns = vec![vec![0; count]; count];
            for round in 0..2 * count {
                for (turn, index) in order(round, count).into_iter().enumerate() {
                    turns[index][turn] += 1;
                }
            }
            assert!(turns.iter().flatten().all(|&times| times == 2), "{turns:?}");
        }
        assert_eq!((order(0, 2), order(1, 2), order(2, 2)), (vec![0, 1], vec![1, 0], vec![1, 0]));
    }
}
