//! Operands and the model of f16 and bf16 forms, alone and in pairs; operands of conversions to tf32.

use half::{bf16, f16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::floats;
use super::model::Expected;

/// A pair does in each half what the form for one element, of type `ty`, does.
pub fn expected(parts: &[&str], ty: &str, args: &[u64]) -> Option<Expected> {
    let half = |i: usize| {
        let result = if parts[0] == "cvt" {
            // The first source becomes the high half.
            let form: Vec<&str> = parts.iter().map(|part| part.trim_end_matches("x2")).collect();
            floats::convert(&form, args[1 - i])
        } else {
            let args: Vec<u64> = args.iter().map(|pair| pair >> (16 * i) & 0xFFFF).collect();
            floats::expected(parts, ty, &args)
        };
        match result? {
            Expected::Bits(bits) => Some(bits),
            Expected::Near(_) => None,
        }
    };
    Some(Expected::Bits(half(0)? | half(1)? << 16))
}

/// A 16-bit format.
#[derive(Clone, Copy)]
struct Kind {
    /// Zero, subnormal, near one, near the largest, infinite, NaN.
    edges: [u16; 24],
    value: fn(u16) -> f32,
    bits: fn(f32) -> u16,
    /// Half a unit above the largest number.
    overflow: f32,
    /// Up to these, products of whole numbers often lie in the middle between two others.
    whole: [u16; 2],
}

const HALF: Kind = Kind {
    edges: [
        0, 1, 2, 0x3FF, 0x400, 0x401, 0x1000, 0x1400, 0x37FF, 0x3800, 0x3BFF, 0x3C00, 0x3C01, 0x3E00, 0x4000, 0x5BFF,
        0x6400, 0x7000, 0x7800, 0x7BFE, 0x7BFF, 0x7C00, 0x7C01, 0x7FFF,
    ],
    value: |bits| f16::from_bits(bits).to_f32(),
    bits: |value| f16::from_f32(value).to_bits(),
    overflow: 65520.0,
    whole: [2049, 129],
};

const BFLOAT: Kind = Kind {
    edges: [
        0, 1, 2, 0x7F, 0x80, 0x81, 0x1000, 0x2000, 0x3A80, 0x3F00, 0x3F7F, 0x3F80, 0x3F81, 0x3FC0, 0x4000, 0x4380,
        0x5F80, 0x6400, 0x7E80, 0x7F7E, 0x7F7F, 0x7F80, 0x7F81, 0x7FFF,
    ],
    value: |bits| bf16::from_bits(bits).to_f32(),
    bits: |value| bf16::from_f32(value).to_bits(),
    overflow: f32::from_bits(0x7F7F_8000),
    whole: [257, 257],
};

/// Operands for a form with 16-bit floats, or that results in them or in tf32; none for others.
pub fn rows(form: &str, rng: &mut ChaCha8Rng) -> Vec<Vec<u64>> {
    let parts: Vec<&str> = form.split('.').collect();
    let types = &parts[parts.len() - 2..];
    if types == ["tf32", "f32"] {
        // Around every seventh tf32, of either sign and NaN too, and around the middle to the next.
        let values = (0..1 << 19).step_by(7).flat_map(|bits: u64| [bits << 13, bits << 13 | 1 << 12]);
        return values.flat_map(|bits| [bits.wrapping_sub(1), bits, bits + 1]).map(|bits| vec![bits]).collect();
    }
    let kind = if types.iter().any(|ty| ty.starts_with("bf16")) { BFLOAT } else { HALF };
    match (parts[0], types) {
        ("cvt", [_, "f16"]) | ("abs" | "neg", [_, "f16" | "bf16"]) => (0..=0xFFFF).map(|bits| vec![bits]).collect(),
        ("abs" | "neg", [_, "f16x2" | "bf16x2"]) => {
            (0..=0xFFFF).map(|bits| vec![bits | (bits ^ 0x8421) << 16]).collect()
        }
        ("cvt", ["f16" | "bf16", "f32"]) => kind.boundaries().map(|bits| vec![bits]).collect(),
        ("cvt", ["f16x2" | "bf16x2", "f32"]) => {
            kind.boundaries().zip(kind.boundaries().skip(77)).map(|(a, b)| vec![a, b]).collect()
        }
        (_, [_, "f16" | "bf16"]) => kind.triples(rng),
        (_, [_, "f16x2" | "bf16x2"]) => {
            let (low, high) = (kind.triples(rng), kind.triples(rng));
            let both = low.iter().zip(high.iter().rev());
            both.map(|(low, high)| low.iter().zip(high).map(|(low, high)| low | high << 16).collect()).collect()
        }
        _ => Vec::new(),
    }
}

impl Kind {
    /// f32 bits at, between and next to all values.
    fn boundaries(self) -> impl Iterator<Item = u64> {
        let near = |value: f32| [value.next_down(), value, value.next_up()];
        let each = (0..=u16::MAX).flat_map(move |bits| {
            let (value, next) = ((self.value)(bits), (self.value)(bits.wrapping_add(1)));
            [near(value), near(value / 2.0 + next / 2.0)]
        });
        each.chain([near(self.overflow), near(-self.overflow)]).flatten().map(|value| value.to_bits().into())
    }

    /// All pairs of edges and some triples, sums just off the middle between two values, any bits.
    fn triples(self, rng: &mut ChaCha8Rng) -> Vec<Vec<u64>> {
        let edges: Vec<u64> = self.edges.iter().flat_map(|edge| [*edge, edge | 0x8000]).map(u64::from).collect();
        let edge = |rng: &mut ChaCha8Rng| edges[rng.random_range(0..edges.len())];
        let mut rows = Vec::new();
        for a in &edges {
            for b in &edges {
                rows.extend((0..4).map(|_| vec![*a, *b, edge(rng)]));
            }
        }
        for _ in 0..20_000 {
            let mut whole = |most: u16| u64::from((self.bits)(rng.random_range(1..most).into()));
            rows.push(vec![whole(self.whole[0]), whole(self.whole[1]), edge(rng)]);
            let mut any = || u64::from(rng.random::<u16>());
            rows.push(vec![any(), any(), any()]);
        }
        rows
    }
}
