//! What happened before what in a block: which accesses of the others each thread has been ordered after.

use crate::alu::LANES;

/// The latest time there is.
pub const LAST: u32 = (1 << 20) - 2;

/// Accesses of lanes of one warp at one time.
#[derive(Clone, Copy)]
pub struct Group {
    pub warp: usize,
    pub time: u32,
    pub lanes: u32,
}

/// A time for the whole block, which every synchronisation moves on, and how far each warp knows the others.
///
/// `bar.sync` takes whole warps, so what it orders is kept by warp. Among the lanes of a warp whatever names all of its live
/// lanes is one number too; only what names some of them needs lanes.
pub struct Clocks {
    now: u32,
    /// Accesses up to this time come before everything from now on.
    base: u32,
    warps: Vec<Clock>,
}

struct Clock {
    /// Accesses of each warp up to these times come before what this one does from now on; its own entry is about its lanes
    /// among one another.
    seen: Vec<u32>,
    /// The smallest of them, or the base.
    safe: u32,
    /// Whether the warp has accessed shared memory since all its lanes met.
    touched: bool,
    /// Whether some of its lanes have met since then.
    partial: bool,
    /// By lane: the times up to which it comes after each other lane.
    known: Box<[[u32; LANES]; LANES]>,
}

impl Clocks {
    pub fn new(warps: usize) -> Clocks {
        let clock = || Clock {
            seen: vec![0; warps],
            safe: 0,
            touched: false,
            partial: false,
            known: Box::new([[0; LANES]; LANES]),
        };
        Clocks { now: 1, base: 0, warps: (0..warps).map(|_| clock()).collect() }
    }

    #[inline(always)]
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Accesses up to this time come before whatever any lane of the warp does next.
    #[inline(always)]
    pub fn safe(&self, warp: usize) -> u32 {
        self.warps[warp].safe
    }

    #[inline(always)]
    pub fn touch(&mut self, warp: usize) {
        self.warps[warp].touched = true;
    }

    /// How far all lanes of `warp` come after those of `other`.
    pub fn seen(&self, warp: usize, other: usize) -> u32 {
        self.warps[warp].seen[other].max(self.base)
    }

    /// Whether some lanes of the warp have met since all did.
    pub fn partial(&self, warp: usize) -> bool {
        self.warps[warp].partial
    }

    /// One of `lanes` of `warp` that does not come after one of the group, and that one. A lane comes after itself.
    pub fn unordered(&self, group: Group, warp: usize, lanes: u32) -> Option<(usize, usize)> {
        let Group { warp: other, time, lanes: others } = group;
        if time <= self.seen(warp, other) {
            return None;
        }
        let set = |mask: u32| (0..LANES).filter(move |lane| mask >> lane & 1 == 1);
        if warp != other {
            return set(lanes).next().zip(set(others).next());
        }
        let known = &self.warps[warp].known;
        set(lanes).find_map(|a| set(others).find(|b| *b != a && time > known[a][*b]).map(|b| (a, b)))
    }

    /// Orders everything so far before everything from now on.
    pub fn sync_all(&mut self) {
        self.base = self.now;
        self.now += 1;
        for clock in &mut self.warps {
            (clock.safe, clock.touched, clock.partial) = (self.base, false, false);
        }
    }

    /// Whole warps meet.
    pub fn sync_warps(&mut self, members: &[usize]) {
        let mut joined: Vec<u32> = (0..self.warps.len())
            .map(|other| members.iter().map(|member| self.warps[*member].seen[other]).max().unwrap_or(0))
            .collect();
        for member in members {
            joined[*member] = self.now;
        }
        let safe = joined.iter().min().map_or(self.base, |least| self.base.max(*least));
        for member in members {
            let clock = &mut self.warps[*member];
            clock.seen.copy_from_slice(&joined);
            (clock.safe, clock.touched, clock.partial) = (safe, false, false);
        }
        self.now += 1;
    }

    /// Lanes of a warp meet; `all` of the live ones or only some. Whether that changes anything.
    pub fn sync_lanes(&mut self, warp: usize, lanes: u32, all: bool) -> bool {
        if !self.warps[warp].touched {
            return false;
        }
        if all {
            self.sync_warps(&[warp]);
            return true;
        }
        let clock = &mut self.warps[warp];
        let met = |lane: usize| lanes >> lane & 1 == 1;
        let joined: [u32; LANES] = std::array::from_fn(|other| match other {
            other if met(other) => self.now,
            other => (0..LANES).filter(|lane| met(*lane)).map(|lane| clock.known[lane][other]).max().unwrap_or(0),
        });
        (0..LANES).filter(|lane| met(*lane)).for_each(|lane| clock.known[lane] = joined);
        clock.partial = true;
        self.now += 1;
        true
    }
}
