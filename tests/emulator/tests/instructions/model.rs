//! What each form should give, from the PTX manual.

use super::floats::{self, Round};
use super::halves;

#[derive(Clone, Copy, Debug)]
pub enum Expected {
    Bits(u64),
    /// An f32 within two units in the last place of this.
    Near(f64),
}

/// The value that a type gives to bits.
fn value(ty: &str, raw: u64) -> i128 {
    let bits: u32 = ty[1..].parse().unwrap();
    let low = i128::from(raw) & ((1 << bits) - 1);
    if ty.starts_with('s') && low >> (bits - 1) == 1 { low - (1 << bits) } else { low }
}

fn wrap(bits: u32, value: i128) -> u64 {
    (value & ((1 << bits) - 1)) as u64
}

fn bit(raw: u64, i: u32) -> u64 {
    raw >> i & 1
}

/// `None` for a form without a model.
pub fn expected(form: &str, args: &[u64]) -> Option<Expected> {
    let parts: Vec<&str> = form.split('.').collect();
    let ty = *parts.last()?;
    let float = parts.iter().any(|part| matches!(*part, "f32" | "f16" | "f16x2" | "bf16" | "bf16x2"));
    match parts[0] {
        "mov" | "selp" => {}
        _ if parts.contains(&"f16x2") => return halves::expected(&parts, "f16", args),
        _ if parts.contains(&"bf16x2") => return halves::expected(&parts, "bf16", args),
        "cvt" if float => return floats::convert(&parts, args[0]),
        _ if float => return floats::expected(&parts, ty, args),
        _ => {}
    }
    if ty == "pred" {
        return Some(Expected::Bits(match (parts[0], args) {
            ("and", [1, 1]) | ("or", [1, _] | [_, 1]) | ("xor", [1, 0] | [0, 1]) | ("not", [0]) | ("mov", [1]) => 1,
            ("and" | "or" | "xor" | "not" | "mov", _) => 0,
            _ => return None,
        }));
    }
    Some(Expected::Bits(integer(&parts, ty, args)?))
}

fn integer(parts: &[&str], ty: &str, args: &[u64]) -> Option<u64> {
    let bits: u32 = ty[1..].parse().ok()?;
    let v = |i: usize| value(ty, args[i]);
    let all = wrap(bits, -1);
    Some(match (parts[0], parts[1]) {
        ("add", _) => wrap(bits, v(0) + v(1)),
        ("sub", _) => wrap(bits, v(0) - v(1)),
        ("mul", "lo") => wrap(bits, v(0).wrapping_mul(v(1))),
        ("mul", "hi") if bits == 64 => high(ty, args),
        ("mul", "hi") => wrap(bits, (v(0) * v(1)) >> bits),
        ("mul", "wide") => wrap(2 * bits, v(0) * v(1)),
        ("mad", "lo") => wrap(bits, v(0).wrapping_mul(v(1)).wrapping_add(v(2))),
        ("mad", "wide") => wrap(2 * bits, v(0) * v(1) + i128::from(args[2])),
        ("div", _) if v(1) == 0 => all,
        ("div", _) => wrap(bits, v(0) / v(1)),
        ("rem", _) if v(1) == 0 => args[0],
        ("rem", _) => wrap(bits, v(0) % v(1)),
        ("min", _) => wrap(bits, if v(1) < v(0) { v(1) } else { v(0) }),
        ("max", _) => wrap(bits, if v(1) > v(0) { v(1) } else { v(0) }),
        ("neg", _) => wrap(bits, -v(0)),
        ("abs", _) => wrap(bits, if v(0) < 0 { -v(0) } else { v(0) }),
        ("shl", _) => wrap(bits, v(0) << args[1].min(bits.into())),
        ("shr", _) => wrap(bits, v(0) >> args[1].min(bits.into())),
        ("and", _) => (0..bits).map(|i| (bit(args[0], i) * bit(args[1], i)) << i).sum(),
        ("or", _) => (0..bits).map(|i| bit(args[0], i).max(bit(args[1], i)) << i).sum(),
        ("xor", _) => (0..bits).map(|i| ((bit(args[0], i) + bit(args[1], i)) % 2) << i).sum(),
        ("not", _) => all - args[0],
        ("mov", _) => args[0],
        ("cvta", "shared") => wrap(64, v(0) + (1 << 32)),
        ("cvta", "to") => wrap(64, v(0) - (1 << 32)),
        ("selp", _) => args[if args[2] == 1 { 0 } else { 1 }],
        ("popc", _) => (0..bits).map(|i| bit(args[0], i)).sum(),
        ("clz", _) => (0..bits).rev().take_while(|i| bit(args[0], *i) == 0).count() as u64,
        ("brev", _) => (0..bits).map(|i| bit(args[0], i) << (bits - 1 - i)).sum(),
        ("bfind", what) => {
            let sign = if ty == "s32" { bit(args[0], 31) } else { 0 };
            match (0..32).rev().find(|i| bit(args[0], *i) != sign) {
                Some(top) => u64::from(if what == "shiftamt" { 31 - top } else { top }),
                None => 0xFFFF_FFFF,
            }
        }
        ("bfe", _) => {
            let (position, length) = (args[1] as u32 & 255, args[2] as u32 & 255);
            let sign = match (ty, length) {
                ("u32", _) | (_, 0) => 0,
                _ => bit(args[0], (position + length - 1).min(31)),
            };
            let pick = |i| if i < length && position + i <= 31 { bit(args[0], position + i) } else { sign };
            (0..32).map(|i| pick(i) << i).sum()
        }
        ("bfi", _) => {
            let (position, length) = (args[2] as u32 & 255, args[3] as u32 & 255);
            let inside = |i| i >= position && i - position < length;
            (0..bits).map(|i| (if inside(i) { bit(args[0], i - position) } else { bit(args[1], i) }) << i).sum()
        }
        ("shf", direction) => {
            let n = if parts[2] == "wrap" { args[2] % 32 } else { args[2].min(32) } as i128;
            let (low, high) = (i128::from(args[0]), i128::from(args[1]));
            wrap(32, if direction == "l" { high << n | low >> (32 - n) } else { high << (32 - n) | low >> n })
        }
        ("prmt", _) => {
            let bytes = [args[0].to_le_bytes()[..4].to_vec(), args[1].to_le_bytes()[..4].to_vec()].concat();
            let pick = |i: u32| {
                let selector = args[2] >> (4 * i) & 15;
                let byte = bytes[selector as usize % 8];
                u64::from(if selector < 8 {
                    byte
                } else if byte >= 128 {
                    255
                } else {
                    0
                }) << (8 * i)
            };
            (0..4).map(pick).sum()
        }
        ("lop3", _) => {
            let index = |i| bit(args[0], i) * 4 + bit(args[1], i) * 2 + bit(args[2], i);
            (0..32).map(|i| bit(args[3], index(i) as u32) << i).sum()
        }
        ("setp", compare) => match compare {
            "eq" => v(0) == v(1),
            "ne" => v(0) != v(1),
            "lt" => v(0) < v(1),
            "le" => v(0) <= v(1),
            "gt" => v(0) > v(1),
            "ge" => v(0) >= v(1),
            _ => return None,
        }
        .into(),
        ("cvt", to) => wrap(to[1..].parse().ok()?, v(0)),
        _ => return None,
    })
}

/// The upper half of a 64-bit product, by 32-bit digits.
fn high(ty: &str, args: &[u64]) -> u64 {
    let digits = |a: u64| [a & 0xFFFF_FFFF, a >> 32];
    let ([a0, a1], [b0, b1]) = (digits(args[0]), digits(args[1]));
    let carry = ((a0 * b0) >> 32) + ((a0 * b1) & 0xFFFF_FFFF) + ((a1 * b0) & 0xFFFF_FFFF);
    let unsigned = a1 * b1 + ((a0 * b1) >> 32) + ((a1 * b0) >> 32) + (carry >> 32);
    if ty == "u64" {
        return unsigned;
    }
    let correction = |a: u64, b: u64| if a >> 63 == 1 { b } else { 0 };
    unsigned.wrapping_sub(correction(args[0], args[1])).wrapping_sub(correction(args[1], args[0]))
}

/// The integer nearest to `m * 2^e` in the direction, where it fits an i128.
pub fn to_integer(negative: bool, m: u128, e: i32, round: Round) -> i128 {
    let magnitude = if e >= 0 {
        (m as i128) << e.min(90)
    } else {
        let shift = (-e).min(127) as u32;
        let (whole, rest, half) = ((m >> shift) as i128, m & ((1 << shift) - 1), 1u128 << (shift - 1));
        let up = match round {
            Round::Nearest => rest > half || rest == half && whole % 2 == 1,
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest > 0,
            Round::Up => !negative && rest > 0,
        };
        whole + i128::from(up)
    };
    if negative { -magnitude } else { magnitude }
}
