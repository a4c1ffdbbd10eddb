//! Scales with round ticks, and the frame of a chart between two of them.

use std::ops::Range;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::style::Color;

use super::canvas::{Canvas, Edges, IN_MEMORY, style, width};
use super::surface::Surface;
use super::theme::{BODY, MARGIN, SMALL, WIDTH};
use crate::cli::words::grouped;

pub type Chart<'a> = ChartContext<'a, Surface<'a>, Cartesian2d<Axis, Axis>>;

/// What is measured along one side of a chart.
#[derive(Clone)]
pub struct Axis {
    /// With its unit.
    pub name: String,
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    logarithmic: bool,
}

impl Axis {
    /// From zero to a little more than `high`.
    pub fn linear(name: &str, high: f64) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        Axis { name: name.into(), low: 0.0, high: 1.05 * high, ticks: ticks(1.05 * high, 8.0), logarithmic: false }
    }

    /// Powers of two around positive values.
    pub fn powers_of_two(name: &str, low: f64, high: f64) -> Self {
        let [low, high] = positive([low, high]);
        let [first, last] = [low.log2().floor() as i32, high.log2().ceil() as i32];
        let step = 1 + (last - first) / 14;
        let ticks = (first..=last).step_by(step as usize).map(|power| 2f64.powi(power)).collect();
        Axis { name: name.into(), low: low / 1.15, high: high * 1.15, ticks, logarithmic: true }.within()
    }

    /// Powers of ten around positive values, with 2 and 5 between them where there are few.
    pub fn powers_of_ten(name: &str, low: f64, high: f64) -> Self {
        let [low, high] = positive([low, high]);
        let [first, last] = [low.log10().floor() as i32, high.log10().ceil() as i32];
        let between: &[f64] = if last - first <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let step = 1 + (last - first) / 14;
        let powers = (first..=last).step_by(step as usize).map(|power| 10f64.powi(power));
        let ticks = powers.flat_map(|power| between.iter().map(move |n| n * power)).collect();
        Axis { name: name.into(), low: low / 1.3, high: high * 1.3, ticks, logarithmic: true }.within()
    }

    /// Logarithmic where values lie far apart, else from zero.
    pub fn fitting(name: &str, low: f64, high: f64) -> Self {
        if low > 0.0 && high / low > 12.0 { Axis::powers_of_ten(name, low, high) } else { Axis::linear(name, high) }
    }

    fn within(mut self) -> Self {
        self.ticks.retain(|tick| (self.low..=self.high).contains(tick));
        self
    }

    /// `tick` with as many digits as it has: alone where they differ by powers, else as all of them.
    pub fn label(&self, tick: f64) -> String {
        let step = if self.logarithmic { tick } else { self.ticks.get(1).copied().unwrap_or(1.0) };
        grouped(tick, decimals(step))
    }

    /// `value` in the axis's own measure.
    fn measure(&self, value: f64) -> f64 {
        if self.logarithmic { value.ln() } else { value }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        let [low, high, value] = [self.low, self.high, *value].map(|value| self.measure(value));
        // What a hostile record holds stays near the chart.
        let share = ((value - low) / (high - low)).clamp(-1.0, 2.0);
        begin + (share * f64::from(end - begin)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// Ends of a logarithmic axis, whatever a record says.
fn positive(ends: [f64; 2]) -> [f64; 2] {
    let [low, high] = ends.map(|end| end.clamp(1e-12, 1e24));
    [low.min(high), high]
}

/// Round values from zero up to `high`, at most `count` steps of them.
pub fn ticks(high: f64, count: f64) -> Vec<f64> {
    let high = drawable(high);
    let step = step(high, count);
    (0..=(high / step * (1.0 + 1e-9)) as usize).map(|tick| tick as f64 * step).collect()
}

/// Digits after the point that multiples of a round `step` have.
pub fn decimals(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize
}

/// One, two or five times a power of ten.
pub fn step(high: f64, count: f64) -> f64 {
    let high = drawable(high);
    let power = 10f64.powf((high / count).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| high / step <= count).unwrap_or(10.0 * power)
}

/// `high`, whatever a record says: of less no step is left, of more no sum.
fn drawable(high: f64) -> f64 {
    high.clamp(1e-300, 1e300)
}

/// Draws grid, ticks and names into the canvas from `top` on, `height` pixels high, across the whole width.
pub fn chart<'a>(
    canvas: &Canvas<'a>,
    [top, height]: [i32; 2],
    [x, y]: [&Axis; 2],
    [x_label, y_label]: [&dyn Fn(f64) -> String; 2],
) -> Chart<'a> {
    let theme = canvas.theme;
    let area = canvas.area.clone().shrink((MARGIN, top), (WIDTH - 2 * MARGIN, height));
    let room = y.ticks.iter().map(|&tick| width(&y_label(tick), SMALL)).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(48)
        .y_label_area_size(room + 36)
        .margin_top(8)
        .margin_right(16)
        .build_cartesian_2d(x.clone(), y.clone())
        .expect(IN_MEMORY);
    chart
        .configure_mesh()
        .bold_line_style(theme.grid.stroke_width(1))
        .light_line_style(theme.grid.stroke_width(1))
        .axis_style(theme.muted.stroke_width(1))
        .label_style(style(SMALL, theme.muted))
        .axis_desc_style(style(BODY, theme.text))
        .x_label_formatter(&|tick| x_label(*tick))
        .y_label_formatter(&|tick| y_label(*tick))
        .x_desc(&*x.name)
        .y_desc(&*y.name)
        .draw()
        .expect(IN_MEMORY);
    chart
}

/// A chart's plotting area in the picture's pixels.
pub fn inside(chart: &Chart) -> Edges {
    let (x, y) = chart.plotting_area().get_pixel_range();
    Edges { left: x.start, top: y.start, right: x.end, bottom: y.end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_fit_any_range() {
        for high in [1e-4, 0.0123, 1.0, 7.9, 8.1, 99.0, 12345.0] {
            let ticks = ticks(high, 8.0);
            assert!((4..=9).contains(&ticks.len()), "{ticks:?} for {high}");
            assert!(ticks[0] == 0.0 && *ticks.last().unwrap() <= high * 1.000_001, "{ticks:?} for {high}");
        }
        for high in [0.0, 5e-324, 1e-310, 1e305, f64::INFINITY] {
            assert!(ticks(high, 8.0).len() <= 10, "{:?}", ticks(high, 8.0));
        }
        for (low, high) in [(1.0, 256.0), (1.0, 1.0), (3.0, 65536.0), (1e-3, 2e9)] {
            for axis in [Axis::powers_of_two("", low, high), Axis::powers_of_ten("", low, high)] {
                assert!(axis.low < low && high < axis.high && (1..=16).contains(&axis.ticks.len()), "{:?}", axis.ticks);
            }
        }
    }

    #[test]
    fn decades_are_equally_long() {
        let axis = Axis { name: String::new(), low: 1.0, high: 1000.0, ticks: vec![], logarithmic: true };
        assert_eq!([1.0, 10.0, 100.0, 1000.0].map(|value| axis.map(&value, (600, 0))), [600, 400, 200, 0]);
    }

    #[test]
    fn values_far_apart_get_a_logarithmic_axis() {
        assert!(Axis::fitting("", 1.0, 100.0).logarithmic);
        let near = Axis::fitting("", 90.0, 100.0);
        assert!(!near.logarithmic && near.low == 0.0 && near.high > 100.0);
    }
}
