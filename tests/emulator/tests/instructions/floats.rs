//! f32 in exact integer arithmetic: a number is a sign and `m * 2^e`.

use super::model::{Expected, to_integer};

const NAN: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy)]
enum Number {
    Nan,
    Infinite(bool),
    Finite(bool, u128, i32),
}
use Number::{Finite, Infinite, Nan};

fn number(bits: u32) -> Number {
    let (negative, exponent, fraction) = (bits >> 31 == 1, bits >> 23 & 255, u128::from(bits & 0x7F_FFFF));
    match (exponent, fraction) {
        (255, 0) => Infinite(negative),
        (255, _) => Nan,
        (0, _) => Finite(negative, fraction, -149),
        _ => Finite(negative, fraction | 1 << 23, exponent as i32 - 150),
    }
}

fn signed(negative: bool, magnitude: u32) -> u32 {
    magnitude | u32::from(negative) << 31
}

/// `m * 2^e` to f32. The lowest bit of `m` may stand for everything below it, if `m` is long.
fn rounded(negative: bool, m: u128, e: i32, round: Round) -> u32 {
    if m == 0 {
        return signed(negative, 0);
    }
    let length = 128 - m.leading_zeros() as i32;
    // The exponent of the last place kept.
    let last = (e + length - 24).max(-149);
    let kept = to_integer(false, m, e - last, if negative { mirrored(round) } else { round }) as u128;
    let (kept, last) = if kept == 1 << 24 { (1 << 23, last + 1) } else { (kept, last) };
    let bits = if kept < 1 << 23 { kept as u32 } else { ((last + 150) as u32) << 23 | kept as u32 & 0x7F_FFFF };
    if last + 150 > 254 {
        let away = match round {
            Round::Nearest => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        return signed(negative, if away { INFINITY } else { INFINITY - 1 });
    }
    signed(negative, bits)
}

fn mirrored(round: Round) -> Round {
    match round {
        Round::Down => Round::Up,
        Round::Up => Round::Down,
        other => other,
    }
}

/// The exact sum, rounded.
fn sum(a: Number, b: Number, round: Round) -> u32 {
    let (Finite(sa, ma, ea), Finite(sb, mb, eb)) = (a, b) else {
        return match (a, b) {
            (Nan, _) | (_, Nan) => NAN,
            (Infinite(x), Infinite(y)) if x != y => NAN,
            (Infinite(x), _) | (_, Infinite(x)) => signed(x, INFINITY),
            _ => unreachable!(),
        };
    };
    if ma == 0 && mb == 0 {
        return signed(if sa == sb { sa } else { round == Round::Down }, 0);
    }
    if ma == 0 || mb == 0 {
        let (s, m, e) = if ma == 0 { (sb, mb, eb) } else { (sa, ma, ea) };
        return rounded(s, m, e, round);
    }
    // The one with the higher exponent goes to the left as far as there is room; the other to the right, with a sticky
    // last bit.
    let ((sh, mh, eh), (sl, ml, el)) =
        if ea >= eb { ((sa, ma, ea), (sb, mb, eb)) } else { ((sb, mb, eb), (sa, ma, ea)) };
    let gap = (eh - el) as u32;
    let left = gap.min(mh.leading_zeros() - 4);
    let right = (gap - left).min(100);
    let high = mh << left << 1;
    let low = ml >> right << 1 | u128::from(ml & ((1 << right) - 1) != 0);
    let e = eh - left as i32 - 1;
    if sh == sl {
        return rounded(sh, high + low, e, round);
    }
    match high.cmp(&low) {
        std::cmp::Ordering::Equal => signed(round == Round::Down, 0),
        std::cmp::Ordering::Greater => rounded(sh, high - low, e, round),
        std::cmp::Ordering::Less => rounded(sl, low - high, e, round),
    }
}

fn product(a: Number, b: Number) -> Number {
    match (a, b) {
        (Finite(sa, ma, ea), Finite(sb, mb, eb)) => Finite(sa != sb, ma * mb, ea + eb),
        (Nan, _) | (_, Nan) | (Infinite(_), Finite(_, 0, _)) | (Finite(_, 0, _), Infinite(_)) => Nan,
        (Infinite(x), Infinite(y) | Finite(y, ..)) | (Finite(y, ..), Infinite(x)) => Infinite(x != y),
    }
}

fn bits(n: Number, round: Round) -> u32 {
    match n {
        Nan => NAN,
        Infinite(s) => signed(s, INFINITY),
        Finite(s, m, e) => rounded(s, m, e, round),
    }
}

fn quotient(a: Number, b: Number) -> u32 {
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinite(_), Infinite(_)) | (Finite(_, 0, _), Finite(_, 0, _)) => NAN,
        (Infinite(x), Finite(y, ..)) | (Finite(x, ..), Finite(y, 0, _)) => signed(x != y, INFINITY),
        (Finite(x, ..), Infinite(y)) => signed(x != y, 0),
        (Finite(x, ma, ea), Finite(y, mb, eb)) => {
            let (q, rest) = ((ma << 80) / mb, (ma << 80) % mb);
            rounded(x != y, q << 1 | u128::from(rest != 0), ea - eb - 81, Round::Nearest)
        }
    }
}

fn square_root(a: Number) -> u32 {
    match a {
        Finite(s, 0, _) => signed(s, 0),
        Infinite(false) => INFINITY,
        Finite(false, m, e) => {
            let (m, e) = if e % 2 == 0 { (m << 90, e - 90) } else { (m << 91, e - 91) };
            let mut root = 0u128;
            for i in (0..60).rev() {
                let next = root | 1 << i;
                root = if next * next <= m { next } else { root };
            }
            rounded(false, root << 1 | u128::from(root * root != m), e / 2 - 1, Round::Nearest)
        }
        _ => NAN,
    }
}

/// Orders numbers that are not NaN; both zeros are 0.
fn key(bits: u32) -> i64 {
    let magnitude = i64::from(bits & 0x7FFF_FFFF);
    if bits >> 31 == 1 { -magnitude } else { magnitude }
}

fn is_nan(bits: u32) -> bool {
    bits & 0x7FFF_FFFF > INFINITY
}

fn extreme(a: u32, b: u32, max: bool) -> u32 {
    match (is_nan(a), is_nan(b)) {
        (true, true) => NAN,
        (true, false) => b,
        (false, true) => a,
        // -0 is below +0.
        _ if key(a) == key(b) => {
            if (a >> 31 == 1) == max {
                b
            } else {
                a
            }
        }
        _ => {
            if (key(a) > key(b)) == max {
                a
            } else {
                b
            }
        }
    }
}

fn flushed(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0 { bits & 1 << 31 } else { bits }
}

/// Whether an f32 is within two units in the last place of a value, or is the same special value.
pub fn near(found: u32, value: f64) -> bool {
    let expected = value as f32;
    if expected.is_nan() {
        return found == NAN;
    }
    (key(found) - key(expected.to_bits())).abs() <= 2 && !is_nan(found)
}

pub fn expected(parts: &[&str], args: &[u64]) -> Option<Expected> {
    let ftz = parts.contains(&"ftz");
    if parts[0] == "cvt" && *parts.last()? != "f32" {
        let ty = *parts.last()?;
        let value = match ty.split_at(1) {
            ("s", "8") => i128::from(args[0] as i8),
            ("s", "16") => i128::from(args[0] as i16),
            ("s", "32") => i128::from(args[0] as i32),
            ("s", _) => i128::from(args[0] as i64),
            ("u", "8") => i128::from(args[0] as u8),
            _ => i128::from(args[0]),
        };
        return Some(Expected::Bits(rounded(value < 0, value.unsigned_abs(), 0, Round::Nearest).into()));
    }
    let f = |i: usize| if ftz { flushed(args[i] as u32) } else { args[i] as u32 };
    let n = |i: usize| number(f(i));
    let round = match parts[1] {
        "rz" => Round::Zero,
        "rm" => Round::Down,
        "rp" => Round::Up,
        _ => Round::Nearest,
    };
    let wide = |i: usize| f64::from(f32::from_bits(f(i)));
    let result = match parts[0] {
        "add" => sum(n(0), n(1), round),
        "sub" => sum(n(0), number(f(1) ^ 1 << 31), round),
        "mul" => bits(product(n(0), n(1)), round),
        "fma" => sum(product(n(0), n(1)), n(2), round),
        "div" => quotient(n(0), n(1)),
        "rcp" => quotient(number(0x3F80_0000), n(0)),
        "sqrt" => square_root(n(0)),
        "rsqrt" if !ftz => return Some(Expected::Near(wide(0).sqrt().recip())),
        "ex2" if !ftz => return Some(Expected::Near(2f64.powf(wide(0)))),
        "lg2" if !ftz => return Some(Expected::Near(wide(0).ln() / std::f64::consts::LN_2)),
        "rsqrt" => return Some(Expected::Near(flat(wide(0).sqrt().recip()))),
        "ex2" => return Some(Expected::Near(flat(2f64.powf(wide(0))))),
        "lg2" => return Some(Expected::Near(flat(wide(0).ln() / std::f64::consts::LN_2))),
        "min" | "max" if parts.contains(&"NaN") && (is_nan(f(0)) || is_nan(f(1))) => NAN,
        "min" => extreme(f(0), f(1), false),
        "max" => extreme(f(0), f(1), true),
        "abs" if is_nan(f(0)) => NAN,
        "abs" => f(0) & 0x7FFF_FFFF,
        "neg" if is_nan(f(0)) => NAN,
        "neg" => f(0) ^ 1 << 31,
        "copysign" if is_nan(f(1)) => NAN,
        "copysign" => f(1) & 0x7FFF_FFFF | f(0) & 1 << 31,
        "setp" => {
            let unordered = is_nan(f(0)) || is_nan(f(1));
            let order = key(f(0)).cmp(&key(f(1)));
            let name = parts[1];
            let holds = match name.trim_end_matches('u') {
                "num" => return Some(Expected::Bits((!unordered).into())),
                "nan" => return Some(Expected::Bits(unordered.into())),
                "eq" => order.is_eq(),
                "ne" => order.is_ne(),
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                "ge" => order.is_ge(),
                _ => return None,
            };
            return Some(Expected::Bits(if unordered { name.len() == 3 } else { holds }.into()));
        }
        "cvt" => return convert(parts, f(0)),
        _ => return None,
    };
    let result = if ftz { flushed(result) } else { result };
    Some(Expected::Bits(result.into()))
}

/// A small f64 that is a subnormal f32 is a zero.
fn flat(value: f64) -> f64 {
    if value.abs() < f64::from(f32::MIN_POSITIVE) { 0f64.copysign(value) } else { value }
}

fn convert(parts: &[&str], a: u32) -> Option<Expected> {
    let to = parts[parts.len() - 2];
    let round = match parts[1] {
        "rzi" => Round::Zero,
        "rmi" => Round::Down,
        "rpi" => Round::Up,
        _ => Round::Nearest,
    };
    if to == "f32" {
        let integral = parts[1].ends_with('i');
        let result = match number(a) {
            Nan if parts.contains(&"sat") => 0,
            Nan => NAN,
            _ if parts.contains(&"sat") => match key(a) {
                ..=0 => 0,
                0x3F80_0000.. => 0x3F80_0000,
                _ => a,
            },
            Finite(s, m, e) if integral && e < 0 => {
                signed(s, rounded(false, to_integer(s, m, e, round).unsigned_abs(), 0, Round::Nearest))
            }
            _ => a,
        };
        return Some(Expected::Bits(result.into()));
    }
    let bits: u32 = to[1..].parse().ok()?;
    let (low, high) = match to.starts_with('s') {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    let value = match number(a) {
        Nan if bits == 64 => 1i128 << 63,
        Nan => 0,
        Infinite(true) => low,
        Infinite(false) => high,
        Finite(s, m, e) => to_integer(s, m, e, round).clamp(low, high),
    };
    Some(Expected::Bits((value as u128 & ((1 << bits) - 1)) as u64))
}
