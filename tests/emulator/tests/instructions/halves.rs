//! Operands and the model of f16 forms, alone and in pairs.

use half::f16;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::floats;
use super::model::Expected;

/// A pair does in each half what the form for one f16 does.
pub fn expected(parts: &[&str], args: &[u64]) -> Option<Expected> {
    let half = |i: usize| {
        let result = if parts[0] == "cvt" {
            // The first source becomes the high half.
            floats::convert(&[parts[0], parts[1], "f16", "f32"], args[1 - i])
        } else {
            let args: Vec<u64> = args.iter().map(|pair| pair >> (16 * i) & 0xFFFF).collect();
            floats::expected(parts, "f16", &args)
        };
        match result? {
            Expected::Bits(bits) => Some(bits),
            Expected::Near(_) => None,
        }
    };
    Some(Expected::Bits(half(0)? | half(1)? << 16))
}

/// Zero, subnormal, near one, near the largest, infinite, NaN.
const EDGES: [u16; 24] = [
    0, 1, 2, 0x3FF, 0x400, 0x401, 0x1000, 0x1400, 0x37FF, 0x3800, 0x3BFF, 0x3C00, 0x3C01, 0x3E00, 0x4000, 0x5BFF,
    0x6400, 0x7000, 0x7800, 0x7BFE, 0x7BFF, 0x7C00, 0x7C01, 0x7FFF,
];

/// Operands for a form with f16 ones, or that results in f16; none for others.
pub fn rows(form: &str, rng: &mut ChaCha8Rng) -> Vec<Vec<u64>> {
    let parts: Vec<&str> = form.split('.').collect();
    match (parts[0], &parts[parts.len() - 2..]) {
        ("cvt", [_, "f16"]) | ("abs" | "neg", [_, "f16"]) => (0..=0xFFFF).map(|bits| vec![bits]).collect(),
        ("abs" | "neg", [_, "f16x2"]) => (0..=0xFFFF).map(|bits| vec![bits | (bits ^ 0x8421) << 16]).collect(),
        ("cvt", ["f16", "f32"]) => boundaries().map(|bits| vec![bits]).collect(),
        ("cvt", ["f16x2", "f32"]) => boundaries().zip(boundaries().skip(77)).map(|(a, b)| vec![a, b]).collect(),
        (_, [_, "f16"]) => triples(rng),
        (_, [_, "f16x2"]) => {
            let (low, high) = (triples(rng), triples(rng));
            let both = low.iter().zip(high.iter().rev());
            both.map(|(low, high)| low.iter().zip(high).map(|(low, high)| low | high << 16).collect()).collect()
        }
        _ => Vec::new(),
    }
}

/// f32 bits at, between and next to all f16.
fn boundaries() -> impl Iterator<Item = u64> {
    let near = |value: f32| [value.next_down(), value, value.next_up()];
    let each = (0..=u16::MAX).flat_map(move |bits| {
        let (value, next) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits.wrapping_add(1)).to_f32());
        [near(value), near((value + next) / 2.0)]
    });
    each.chain([near(65520.0), near(-65520.0)]).flatten().map(|value| value.to_bits().into())
}

/// All pairs of edges and some triples, sums just off the middle between two f16, any bits.
fn triples(rng: &mut ChaCha8Rng) -> Vec<Vec<u64>> {
    let edges: Vec<u64> = EDGES.iter().flat_map(|edge| [*edge, edge | 0x8000]).map(u64::from).collect();
    let edge = |rng: &mut ChaCha8Rng| edges[rng.random_range(0..edges.len())];
    let mut rows = Vec::new();
    for a in &edges {
        for b in &edges {
            rows.extend((0..4).map(|_| vec![*a, *b, edge(rng)]));
        }
    }
    for _ in 0..20_000 {
        let mut whole = |most: u16| u64::from(f16::from_f32(rng.random_range(1..most).into()).to_bits());
        rows.push(vec![whole(2049), whole(129), edge(rng)]);
        let mut any = || u64::from(rng.random::<u16>());
        rows.push(vec![any(), any(), any()]);
    }
    rows
}
