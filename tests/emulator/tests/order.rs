//! Random programs of a few warps on a little shared memory: the race checker and a naive oracle agree.

use std::fmt::Write;

use cuemu::{Checks, FaultKind};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const LANES: usize = 32;
const BYTES: u32 = 24;
const NOWHERE: u32 = u32::MAX;

/// What happens to memory. `Copy` is a `cp.async` in a group of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Read,
    /// Whether all lanes write the same value.
    Write(bool),
    Atomic,
    Copy,
}

/// In the order of a legal execution.
#[derive(Clone, Debug)]
enum Event {
    /// Offsets by lane, or `NOWHERE`.
    Access {
        warp: usize,
        kind: Kind,
        size: u32,
        offsets: [u32; LANES],
    },
    Wait {
        warp: usize,
        left: usize,
    },
    /// Of these warps; the number 0 is the block's own.
    Barrier {
        id: usize,
        warps: Vec<usize>,
    },
    Lanes {
        warp: usize,
        mask: u32,
    },
}

fn program(rng: &mut ChaCha8Rng, warps: usize) -> Vec<Event> {
    let sizes = *[&[4][..], &[4, 4, 2], &[4, 2, 1]].choose(rng).unwrap();
    let copies = rng.random_bool(0.4);
    let lanes = rng.random_range(1..4);
    // Some programs have few bytes, much synchronisation in warps, or mostly one kind of access.
    let bytes = *[4, 8, BYTES].choose(rng).unwrap();
    let in_warps = rng.random_range(1..14);
    let reads = rng.random_range(1..10);
    let events = rng.random_range(4..30);
    let event = |rng: &mut ChaCha8Rng| {
        let warp = rng.random_range(0..warps);
        match rng.random_range(0..9 + in_warps) {
            0..4 => {
                let kind = match rng.random_range(0..reads + 6) {
                    0..3 => Kind::Write(rng.random()),
                    3 => Kind::Atomic,
                    4 | 5 if copies => Kind::Copy,
                    _ => Kind::Read,
                };
                let size = if matches!(kind, Kind::Atomic | Kind::Copy) { 4 } else { *sizes.choose(rng).unwrap() };
                let mut offsets = [NOWHERE; LANES];
                for _ in 0..rng.random_range(1..=lanes) {
                    offsets[rng.random_range(0..4)] = rng.random_range(0..bytes / size) * size;
                }
                Event::Access { warp, kind, size, offsets }
            }
            4 | 5 if copies => Event::Wait { warp, left: rng.random_range(0..3) },
            9.. => Event::Lanes { warp, mask: if rng.random_bool(0.8) { rng.random_range(1..16) } else { u32::MAX } },
            7 if warps > 2 => {
                // Named barriers of fixed members.
                let id = rng.random_range(1..=warps);
                Event::Barrier { id, warps: (0..warps).filter(|other| other + 1 != id).collect() }
            }
            _ => Event::Barrier { id: 0, warps: (0..warps).collect() },
        }
    };
    (0..events).map(|_| event(rng)).collect()
}

/// The program as PTX; `plan` holds each thread's offset for each event.
fn text(events: &[Event], warps: usize) -> String {
    let mut text = String::from(
        ".visible .entry run(.param .u64 plan)
{
    .reg .pred %p<3>;
    .reg .b32 %r<6>;
    .reg .b64 %d<4>;
    .shared .align 4 .b8 tile[24];
    ld.param.u64 %d1, [plan];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d2, %r1, 4;
    add.s64 %d2, %d1, %d2;
    shr.u32 %r4, %r1, 5;
",
    );
    for warp in 0..warps {
        writeln!(text, "setp.eq.u32 %p1, %r4, {warp};\n@%p1 bra $w{warp};").unwrap();
    }
    for warp in 0..warps {
        writeln!(text, "$w{warp}:").unwrap();
        for (i, event) in events.iter().enumerate() {
            let place = i * warps * LANES * 4;
            let active = format!("ld.global.u32 %r2, [%d2+{place}];\nsetp.ne.u32 %p2, %r2, -1;\n@%p2");
            match event {
                Event::Access { warp: mine, kind, size, .. } if *mine == warp => {
                    let bits = 8 * size;
                    let line = match kind {
                        Kind::Read => format!("ld.shared.u{bits} %r3, [%r2];"),
                        Kind::Write(true) => format!("st.shared.u{bits} [%r2], 5;"),
                        Kind::Write(false) => format!("st.shared.u{bits} [%r2], %r1;"),
                        Kind::Atomic => "red.shared.add.u32 [%r2], 1;".into(),
                        Kind::Copy => "cp.async.ca.shared.global [%r2], [%d1], 4;\ncp.async.commit_group;".into(),
                    };
                    writeln!(text, "{active} {line}").unwrap();
                }
                Event::Wait { warp: mine, left } if *mine == warp => {
                    writeln!(text, "cp.async.wait_group {left};").unwrap();
                }
                Event::Lanes { warp: mine, mask } if *mine == warp => {
                    writeln!(text, "{active} bar.warp.sync {mask};").unwrap();
                }
                Event::Barrier { id: 0, .. } => writeln!(text, "bar.sync 0;").unwrap(),
                Event::Barrier { id, warps } if warps.contains(&warp) => {
                    writeln!(text, "bar.sync {id}, {};", warps.len() * LANES).unwrap();
                }
                _ => {}
            }
        }
        writeln!(text, "ret;").unwrap();
    }
    module(&format!("{text}}}"))
}

fn plan(events: &[Event], warps: usize) -> Vec<u32> {
    let mut plan = Vec::new();
    for event in events {
        for thread in 0..warps * LANES {
            let lane = thread % LANES;
            plan.push(match event {
                Event::Access { warp, offsets, .. } if *warp == thread / LANES => offsets[lane],
                Event::Lanes { warp, mask } if *warp == thread / LANES && mask >> lane & 1 == 1 => 0,
                _ => NOWHERE,
            });
        }
    }
    plan
}

/// One thread's access, with the events in which it begins and ends.
struct Access {
    thread: usize,
    kind: Kind,
    from: u32,
    to: u32,
    begin: usize,
    /// `None`: never.
    end: Option<usize>,
}

fn accesses(events: &[Event]) -> Vec<Access> {
    let mut found = Vec::new();
    for (begin, event) in events.iter().enumerate() {
        let Event::Access { warp, kind, size, offsets } = event else { continue };
        // The first wait that leaves fewer groups than have been committed from this one on.
        let mut groups = 0;
        let mut end = Some(begin);
        if *kind == Kind::Copy {
            end = (begin..events.len()).find(|i| match &events[*i] {
                Event::Access { warp: other, kind: Kind::Copy, .. } if other == warp => {
                    groups += 1;
                    false
                }
                Event::Wait { warp: other, left } => other == warp && *left < groups,
                _ => false,
            });
        }
        for (lane, from) in offsets.iter().enumerate().filter(|(_, from)| **from != NOWHERE) {
            found.push(Access { thread: warp * LANES + lane, kind: *kind, from: *from, to: from + size, begin, end });
        }
    }
    found
}

/// Whether something that `thread` has done by event `from` comes before what `other` does in event `to`.
fn ordered(events: &[Event], thread: usize, from: usize, other: usize, to: usize) -> bool {
    let mut after: Vec<usize> = vec![thread];
    for event in &events[(from + 1).min(to)..to] {
        let members: Vec<usize> = match event {
            Event::Barrier { warps, .. } => warps.iter().flat_map(|warp| warp * LANES..(warp + 1) * LANES).collect(),
            Event::Lanes { warp, mask } => {
                (0..LANES).filter(|lane| mask >> lane & 1 == 1).map(|lane| warp * LANES + lane).collect()
            }
            _ => continue,
        };
        if members.iter().any(|member| after.contains(member)) {
            after.extend(members);
        }
    }
    after.contains(&other)
}

fn races(events: &[Event]) -> bool {
    let accesses = accesses(events);
    let writes = |kind: Kind| kind != Kind::Read;
    let pair = |a: &Access, b: &Access| {
        let apart = a.to <= b.from || b.to <= a.from;
        if apart || !writes(a.kind) && !writes(b.kind) || (a.kind, b.kind) == (Kind::Atomic, Kind::Atomic) {
            return false;
        }
        if a.begin == b.begin {
            // Lanes of one instruction.
            return a.thread != b.thread && a.kind != Kind::Write(true);
        }
        let (first, second) = if a.begin < b.begin { (a, b) } else { (b, a) };
        first
            .end
            .is_none_or(|end| end >= second.begin || !ordered(events, first.thread, end, second.thread, second.begin))
    };
    accesses.iter().enumerate().any(|(i, a)| accesses[..i].iter().any(|b| pair(a, b)))
}

#[test]
fn random_programs() {
    let (mut racy, total) = (0, 30_000);
    for seed in 0..total {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let warps = rng.random_range(1..=4);
        let events = program(rng, warps);
        let mut device = Device::new(&text(&events, warps));
        device.checks = Checks { races: true, ..Checks::NONE };
        let plan = device.put(&plan(&events, warps));
        let result = device.run("run", [1; 3], [(warps * LANES) as u32, 1, 1], 0, args![plan]);
        let expected = races(&events);
        racy += u64::from(expected);
        match result {
            Ok(_) => assert!(!expected, "seed {seed}: a race is missed\n{events:?}"),
            Err(fault) => {
                assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::PendingCopy), "seed {seed}: {fault}");
                assert!(expected, "seed {seed}: {fault}\n{events:?}");
            }
        }
    }
    assert!((total / 4..total * 3 / 4).contains(&racy), "{racy} of {total} programs race");
}
