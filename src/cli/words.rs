//! Numbers and names for people: thousands separated, as many digits as tell something.

use alexnet::record::{Bound, Mode, TowerWork};

/// `value` with `decimals` digits after the point and commas between thousands.
pub fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_once('.').map_or((&*text, None), |(whole, rest)| (whole, Some(rest)));
    let mut out = String::new();
    // A value that rounds to zero has no sign.
    if value < 0.0 && text.contains(|c: char| c.is_ascii_digit() && c != '0') {
        out.push('-');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    rest.map_or(out.clone(), |rest| format!("{out}.{rest}"))
}

/// `value` with four significant digits, and all of those before the point; less than a millionth is nothing.
pub fn short(value: f64) -> String {
    let magnitude = if value.abs() < 1e-6 { 0 } else { value.abs().log10().floor() as i32 };
    grouped(value, (3 - magnitude).clamp(0, 9) as usize)
}

/// `value` with three significant digits and a prefix before `unit`: `3.35 TB/s`.
pub fn prefixed(value: f64, unit: &str) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (scale, prefix) = prefixes.into_iter().find(|(scale, _)| value.abs() >= *scale).unwrap_or((1.0, ""));
    let value = value / scale;
    let decimals = if value.abs() >= 100.0 { 0 } else { 2 - usize::from(value.abs() >= 10.0) };
    format!("{} {prefix}{unit}", grouped(value, decimals))
}

/// What a measurement is of.
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Latency => "latency",
        Mode::Compute => "compute",
        Mode::Copied => "copied",
        Mode::Decode => "decode",
        Mode::EndToEnd => "end to end",
    }
}

/// What limits a step.
pub fn bound(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "compute",
        Bound::Memory => "memory",
    }
}

/// `conv1 + relu1`, `join conv3`.
pub fn work(work: &TowerWork) -> String {
    match work {
        TowerWork::Layers { layers } => layers.join(" + "),
        TowerWork::Join { layer, .. } => format!("join {layer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (value, decimals, expected) in [
            (0.0, 0, "0"),
            (999.0, 0, "999"),
            (1000.0, 0, "1,000"),
            (61_100_840.0, 0, "61,100,840"),
            (-1234.56, 1, "-1,234.6"),
            (-0.001, 2, "0.00"),
            (f64::INFINITY, 0, "inf"),
        ] {
            assert_eq!(grouped(value, decimals), expected);
        }
    }

    #[test]
    fn digits_follow_the_magnitude() {
        assert_eq!(
            [0.0, 0.01234567, 1.5, 12.3456, 123.456, 12345.6].map(short).join(" "),
            "0.000 0.01235 1.500 12.35 123.5 12,346"
        );
        assert_eq!(prefixed(3.35e12, "B/s"), "3.35 TB/s");
        assert_eq!(prefixed(812.4e12, "FLOP/s"), "812 TFLOP/s");
        assert_eq!(prefixed(45.67e9, "B/s"), "45.7 GB/s");
        assert_eq!(prefixed(12.0, "B"), "12.0 B");
    }
}
