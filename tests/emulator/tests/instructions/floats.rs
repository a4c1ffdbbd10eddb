//! f32, f16, bf16 and tf32 in exact integer arithmetic: a number is a sign and `m * 2^e`.

use super::model::{Expected, to_integer};

/// Bits of the fraction and of the exponent.
#[derive(Clone, Copy)]
pub struct Format {
    fraction: u32,
    exponent: u32,
}

pub const SINGLE: Format = Format { fraction: 23, exponent: 8 };
pub const HALF: Format = Format { fraction: 10, exponent: 5 };
pub const BFLOAT: Format = Format { fraction: 7, exponent: 8 };
/// The upper 19 bits of a register.
pub const TENSOR: Format = Format { fraction: 10, exponent: 8 };

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Round {
    Nearest,
    /// To nearest, ties away from zero.
    Away,
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

impl Format {
    fn sign(self) -> u32 {
        1 << (self.fraction + self.exponent)
    }

    fn infinity(self) -> u32 {
        self.sign() - (1 << self.fraction)
    }

    fn nan(self) -> u32 {
        self.sign() - 1
    }

    fn one(self) -> u32 {
        (self.infinity() / 2) & self.infinity()
    }

    /// Exponent of the smallest number.
    fn least(self) -> i32 {
        2 - (1 << (self.exponent - 1)) - self.fraction as i32
    }

    fn number(self, bits: u32) -> Number {
        let negative = bits & self.sign() != 0;
        let exponent = (bits & self.infinity()) >> self.fraction;
        let fraction = u128::from(bits & ((1 << self.fraction) - 1));
        match (exponent, fraction) {
            (0, _) => Finite(negative, fraction, self.least()),
            _ if bits & self.nan() == self.infinity() => Infinite(negative),
            _ if self.is_nan(bits) => Nan,
            _ => Finite(negative, fraction | 1 << self.fraction, self.least() + exponent as i32 - 1),
        }
    }

    fn signed(self, negative: bool, magnitude: u32) -> u32 {
        magnitude | if negative { self.sign() } else { 0 }
    }

    /// `m * 2^e` in this format. The lowest bit of `m` may stand for everything below it, if `m` is long.
    pub fn rounded(self, negative: bool, m: u128, e: i32, round: Round) -> u32 {
        if m == 0 {
            return self.signed(negative, 0);
        }
        let length = 128 - m.leading_zeros() as i32;
        // The exponent of the last place kept.
        let last = (e + length - 1 - self.fraction as i32).max(self.least());
        let kept = to_integer(false, m, e - last, if negative { mirrored(round) } else { round }) as u128;
        // A carry out of the fraction goes on into the exponent, to infinity at last.
        let bits = kept as i64 + (i64::from(last - self.least()) << self.fraction);
        if bits >= i64::from(self.infinity()) {
            let away = match round {
                Round::Nearest | Round::Away => true,
                Round::Zero => false,
                Round::Down => negative,
                Round::Up => !negative,
            };
            return self.signed(negative, if away { self.infinity() } else { self.infinity() - 1 });
        }
        self.signed(negative, bits as u32)
    }

    fn bits(self, n: Number, round: Round) -> u32 {
        match n {
            Nan => self.nan(),
            Infinite(s) => self.signed(s, self.infinity()),
            Finite(s, m, e) => self.rounded(s, m, e, round),
        }
    }

    /// Orders numbers that are not NaN; both zeros are 0.
    fn key(self, bits: u32) -> i64 {
        let magnitude = i64::from(bits & self.nan());
        if bits & self.sign() != 0 { -magnitude } else { magnitude }
    }

    fn is_nan(self, bits: u32) -> bool {
        bits & self.nan() > self.infinity()
    }

    fn extreme(self, a: u32, b: u32, max: bool) -> u32 {
        match (self.is_nan(a), self.is_nan(b)) {
            (true, true) => self.nan(),
            (true, false) => b,
            (false, true) => a,
            // -0 is below +0.
            _ if self.key(a) == self.key(b) => {
                if (a & self.sign() != 0) == max {
                    b
                } else {
                    a
                }
            }
            _ => {
                if (self.key(a) > self.key(b)) == max {
                    a
                } else {
                    b
                }
            }
        }
    }
}

fn mirrored(round: Round) -> Round {
    match round {
        Round::Down => Round::Up,
        Round::Up => Round::Down,
        other => other,
    }
}

/// The exact sum, but for a last bit that may stand for what is below it.
fn sum(a: Number, b: Number, round: Round) -> Number {
    let (Finite(sa, ma, ea), Finite(sb, mb, eb)) = (a, b) else {
        return match (a, b) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite(x), Infinite(y)) if x != y => Nan,
            (Infinite(x), _) | (_, Infinite(x)) => Infinite(x),
            _ => unreachable!(),
        };
    };
    if ma == 0 && mb == 0 {
        return Finite(if sa == sb { sa } else { round == Round::Down }, 0, 0);
    }
    if ma == 0 || mb == 0 {
        return if ma == 0 { b } else { a };
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
        return Finite(sh, high + low, e);
    }
    match high.cmp(&low) {
        std::cmp::Ordering::Equal => Finite(round == Round::Down, 0, 0),
        std::cmp::Ordering::Greater => Finite(sh, high - low, e),
        std::cmp::Ordering::Less => Finite(sl, low - high, e),
    }
}

fn product(a: Number, b: Number) -> Number {
    match (a, b) {
        (Finite(sa, ma, ea), Finite(sb, mb, eb)) => Finite(sa != sb, ma * mb, ea + eb),
        (Nan, _) | (_, Nan) | (Infinite(_), Finite(_, 0, _)) | (Finite(_, 0, _), Infinite(_)) => Nan,
        (Infinite(x), Infinite(y) | Finite(y, ..)) | (Finite(y, ..), Infinite(x)) => Infinite(x != y),
    }
}

fn quotient(a: Number, b: Number) -> Number {
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinite(_), Infinite(_)) | (Finite(_, 0, _), Finite(_, 0, _)) => Nan,
        (Infinite(x), Finite(y, ..)) | (Finite(x, ..), Finite(y, 0, _)) => Infinite(x != y),
        (Finite(x, ..), Infinite(y)) => Finite(x != y, 0, 0),
        (Finite(x, ma, ea), Finite(y, mb, eb)) => {
            let (q, rest) = ((ma << 80) / mb, (ma << 80) % mb);
            Finite(x != y, q << 1 | u128::from(rest != 0), ea - eb - 81)
        }
    }
}

fn square_root(a: Number) -> Number {
    match a {
        Finite(_, 0, _) | Infinite(false) => a,
        Finite(false, m, e) => {
            let (m, e) = if e % 2 == 0 { (m << 90, e - 90) } else { (m << 91, e - 91) };
            let mut root = 0u128;
            for i in (0..60).rev() {
                let next = root | 1 << i;
                root = if next * next <= m { next } else { root };
            }
            Finite(false, root << 1 | u128::from(root * root != m), e / 2 - 1)
        }
        _ => Nan,
    }
}

fn flushed(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0 { bits & 1 << 31 } else { bits }
}

/// Whether an f32 is within two units in the last place of a value, or is the same special value.
pub fn near(found: u32, value: f64) -> bool {
    let expected = value as f32;
    if expected.is_nan() {
        return found == SINGLE.nan();
    }
    (SINGLE.key(found) - SINGLE.key(expected.to_bits())).abs() <= 2 && !SINGLE.is_nan(found)
}

/// The model of a form whose operands are of one format, `ty` is its name; conversions may have others.
pub fn expected(parts: &[&str], ty: &str, args: &[u64]) -> Option<Expected> {
    let format = named(ty)?;
    let ftz = parts.contains(&"ftz");
    let f = |i: usize| if ftz { flushed(args[i] as u32) } else { args[i] as u32 };
    let n = |i: usize| format.number(f(i));
    let round = match parts[1] {
        "rz" => Round::Zero,
        "rm" => Round::Down,
        "rp" => Round::Up,
        _ => Round::Nearest,
    };
    let wide = |i: usize| f64::from(f32::from_bits(f(i)));
    let rounded = |number| format.bits(number, round);
    let result = match parts[0] {
        "add" => rounded(sum(n(0), n(1), round)),
        "sub" => rounded(sum(n(0), format.number(f(1) ^ format.sign()), round)),
        "mul" => rounded(product(n(0), n(1))),
        "fma" => rounded(sum(product(n(0), n(1)), n(2), round)),
        "div" => rounded(quotient(n(0), n(1))),
        "rcp" => rounded(quotient(format.number(format.one()), n(0))),
        "sqrt" => rounded(square_root(n(0))),
        "rsqrt" if !ftz => return Some(Expected::Near(wide(0).sqrt().recip())),
        "ex2" if !ftz => return Some(Expected::Near(2f64.powf(wide(0)))),
        "lg2" if !ftz => return Some(Expected::Near(wide(0).ln() / std::f64::consts::LN_2)),
        "rsqrt" => return Some(Expected::Near(flat(wide(0).sqrt().recip()))),
        "ex2" => return Some(Expected::Near(flat(2f64.powf(wide(0))))),
        "lg2" => return Some(Expected::Near(flat(wide(0).ln() / std::f64::consts::LN_2))),
        "min" | "max" if parts.contains(&"NaN") && (format.is_nan(f(0)) || format.is_nan(f(1))) => format.nan(),
        "min" => format.extreme(f(0), f(1), false),
        "max" => format.extreme(f(0), f(1), true),
        "abs" if format.is_nan(f(0)) => format.nan(),
        "abs" => f(0) & format.nan(),
        "neg" if format.is_nan(f(0)) => format.nan(),
        "neg" => f(0) ^ format.sign(),
        "copysign" if format.is_nan(f(1)) => format.nan(),
        "copysign" => f(1) & format.nan() | f(0) & format.sign(),
        "set" | "setp" => {
            let unordered = format.is_nan(f(0)) || format.is_nan(f(1));
            let order = format.key(f(0)).cmp(&format.key(f(1)));
            let name = parts[1];
            let holds = match name.trim_end_matches('u') {
                "num" => !unordered,
                "nan" => unordered,
                _ if unordered => name.len() == 3,
                "eq" => order.is_eq(),
                "ne" => order.is_ne(),
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                "ge" => order.is_ge(),
                _ => return None,
            };
            // A mask is wanted for each half of a pair.
            return Some(Expected::Bits(match (holds, parts[0], parts[2]) {
                (false, ..) => 0,
                (_, "setp", _) => 1,
                (.., "u32") => 0xFFFF,
                _ => format.one().into(),
            }));
        }
        _ => return None,
    };
    let result = if ftz { flushed(result) } else { result };
    let negative = result & format.sign() != 0;
    let result = match format.is_nan(result) {
        nan if parts.contains(&"sat") => {
            if nan || negative {
                0
            } else {
                result.min(format.one())
            }
        }
        false if parts.contains(&"relu") && negative => 0,
        _ => result,
    };
    Some(Expected::Bits(result.into()))
}

fn named(ty: &str) -> Option<Format> {
    match ty {
        "f16" => Some(HALF),
        "bf16" => Some(BFLOAT),
        "f32" => Some(SINGLE),
        _ => None,
    }
}

/// A small f64 that is a subnormal f32 is a zero.
fn flat(value: f64) -> f64 {
    if value.abs() < f64::from(f32::MIN_POSITIVE) { 0f64.copysign(value) } else { value }
}

/// `cvt` from or to a float.
pub fn convert(parts: &[&str], arg: u64) -> Option<Expected> {
    let [.., to, from] = parts else { return None };
    let round = match &parts[1][1..2] {
        "z" => Round::Zero,
        "m" => Round::Down,
        "p" => Round::Up,
        _ => Round::Nearest,
    };
    let Some(source) = named(from) else {
        let value = match from.split_at(1) {
            ("s", "8") => i128::from(arg as i8),
            ("s", "16") => i128::from(arg as i16),
            ("s", "32") => i128::from(arg as i32),
            ("s", _) => i128::from(arg as i64),
            ("u", "8") => i128::from(arg as u8),
            _ => i128::from(arg),
        };
        let number = Finite(value < 0, value.unsigned_abs(), 0);
        return Some(Expected::Bits(named(to)?.bits(number, round).into()));
    };
    let a = if parts.contains(&"ftz") { flushed(arg as u32) } else { arg as u32 };
    if *to == "tf32" {
        let result = match source.number(a) {
            // What nvcc makes of it for compute capability 8.0 cuts NaN off.
            Nan => a >> 13,
            number => TENSOR.bits(number, Round::Away),
        };
        return Some(Expected::Bits(u64::from(result) << 13));
    }
    if let Some(target) = named(to) {
        let integral = parts[1].ends_with('i');
        let result = match source.number(a) {
            Nan if parts.contains(&"sat") => 0,
            _ if parts.contains(&"sat") => match source.key(a) {
                ..=0 => 0,
                key if key >= source.one().into() => source.one(),
                _ => a,
            },
            Finite(s, m, e) if integral && e < 0 => {
                target.bits(Finite(s, to_integer(s, m, e, round).unsigned_abs(), 0), Round::Nearest)
            }
            number => match target.bits(number, round) {
                bits if parts.contains(&"relu") && bits & target.sign() != 0 => 0,
                bits => bits,
            },
        };
        return Some(Expected::Bits(result.into()));
    }
    let bits: u32 = to[1..].parse().ok()?;
    let (low, high) = match to.starts_with('s') {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    let value = match source.number(a) {
        Nan if bits == 64 => 1i128 << 63,
        Nan => 0,
        Infinite(true) => low,
        Infinite(false) => high,
        Finite(s, m, e) => to_integer(s, m, e, round).clamp(low, high),
    };
    Some(Expected::Bits((value as u128 & ((1 << bits) - 1)) as u64))
}
