//! Steps under the device's roof: what they reach against how much they compute for each byte.

use alexnet::record::{Ceilings, Profile};

use super::axes::{Axis, chart, inside};
use super::canvas::{Anchor, Canvas, Edges, shorten, width};
use super::labels;
use super::legend::{self, Entry, Sample};
use super::profile::{kind, kinds};
use super::theme::{LINE, MARGIN, SMALL, WIDTH};
use crate::cli::words::prefixed;

const PLOT: i32 = 560;

pub struct Roofline {
    ceilings: Ceilings,
    points: Vec<Point>,
    /// Names of steps without arithmetic, which have no place here.
    without: Vec<String>,
    legend: Vec<Entry>,
}

struct Point {
    layer: String,
    /// Where there are several.
    tower: Option<usize>,
    /// FLOP a byte.
    intensity: f64,
    flops_per_sec: f64,
    kind: usize,
}

impl Roofline {
    pub fn of(profile: &Profile) -> Self {
        let several = profile.tracks.len() > 1;
        let (mut points, mut without, mut found) = (vec![], vec![], vec![]);
        for (index, track) in profile.tracks.iter().enumerate() {
            for step in track.steps.iter().filter(|step| step.kind != "join") {
                // A step's first layer tells which one it is.
                let layer = step.name.split(" + ").next().unwrap_or_default().to_string();
                let tower = several.then_some(index);
                if step.flops > 0.0 && step.bytes > 0.0 && step.flops_per_sec > 0.0 {
                    let intensity = step.flops / step.bytes;
                    found.push(step);
                    points.push(Point {
                        layer,
                        tower,
                        intensity,
                        flops_per_sec: step.flops_per_sec,
                        kind: kind(&step.kind),
                    });
                } else {
                    without.push(name(&layer, tower.as_slice()));
                }
            }
        }
        let legend = kinds(&found).into_iter().map(|(kind, name)| (Sample::Point(kind, kind), name)).collect();
        Roofline { ceilings: profile.ceilings.clone(), points, without, legend }
    }

    pub fn height(&self) -> i32 {
        legend::height(&self.legend) + PLOT + if self.without.is_empty() { 0 } else { LINE + 4 }
    }

    pub fn draw(&self, canvas: &Canvas, top: i32) {
        let theme = canvas.theme;
        legend::draw(canvas, top, &self.legend);
        let top = top + legend::height(&self.legend);
        let Ceilings { flops_per_sec: peak, bytes_per_sec: memory, product, copy } = &self.ceilings;
        let ridge = peak / memory;
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold([f64::INFINITY, 0.0], |[low, high], value| [value.min(low), value.max(high)])
        };
        let [left, right] =
            ends(&mut self.points.iter().map(|point| point.intensity).chain([ridge / 8.0, ridge * 8.0]));
        let [low, _] = ends(&mut self.points.iter().map(|point| point.flops_per_sec).chain([left * memory]));
        let x = Axis::powers_of_ten("arithmetic intensity, FLOP per byte", left / 1.5, right * 1.5);
        let y = Axis::powers_of_ten("reached, FLOP/s", low, *peak * 1.8);
        let chart = chart(canvas, [top, PLOT], [&x, &y], [&|tick| x.label(tick), &|tick| round_prefixed(tick)]);
        let place = |intensity: f64, rate: f64| chart.backend_coord(&(intensity, rate));
        let bounds = inside(&chart);
        let begin = x.low.max(y.low / memory);
        let roof = [place(begin, begin * memory), place(ridge, *peak), place(x.high, *peak)];
        canvas.line(&roof, theme.text, 2);
        // Both figures stand above the roof, where no point can be.
        let room = bounds.right - bounds.left - 40;
        let peak_text = shorten(&format!("{}: {product}", prefixed(*peak, "FLOP/s")), SMALL, room);
        let memory_text = shorten(&format!("{}: {copy}", prefixed(*memory, "B/s")), SMALL, room);
        canvas.text(&peak_text, (bounds.right - 6, roof[1].1 - 12), SMALL, theme.text, Anchor::Right);
        // To the left of the slope, or as far right as it must to begin within the chart.
        let long = width(&memory_text, SMALL);
        let at = ((roof[0].0 + roof[1].0) / 2).max(bounds.left + long + 14).min(roof[1].0);
        let share = f64::from(at - roof[0].0) / f64::from((roof[1].0 - roof[0].0).max(1));
        let height = roof[0].1 + (share * f64::from(roof[1].1 - roof[0].1)) as i32;
        canvas.text(&memory_text, (at - 8, height - 8), SMALL, theme.text, Anchor::Right);
        let mut taken = vec![
            Edges::new(at - 8 - long, height - 16, long, 16),
            Edges::new(bounds.right - 6 - width(&peak_text, SMALL), roof[1].1 - 20, width(&peak_text, SMALL), 16),
        ];
        for pair in roof.windows(2) {
            taken.extend((0..=200).map(|part| {
                let along = |from: i32, to: i32| from + (to - from) * part / 200;
                Edges::new(along(pair[0].0, pair[1].0) - 3, along(pair[0].1, pair[1].1) - 3, 6, 6)
            }));
        }
        let places: Vec<_> = self.points.iter().map(|point| place(point.intensity, point.flops_per_sec)).collect();
        // One name for a layer of several towers where its points are one.
        let (mut texts, mut named): (Vec<String>, Vec<(i32, i32)>) = (vec![], vec![]);
        for (index, (point, &at)) in self.points.iter().zip(&places).enumerate() {
            let near = |other: usize| {
                let (x, y) = places[other];
                self.points[other].layer == point.layer && (x - at.0).abs().max((y - at.1).abs()) <= 8
            };
            if (0..index).any(near) {
                continue;
            }
            let towers =
                (index..places.len()).filter(|&other| near(other)).filter_map(|other| self.points[other].tower);
            texts.push(name(&point.layer, &towers.collect::<Vec<_>>()));
            named.push(at);
        }
        // Points that have no name of their own are kept clear too.
        taken.extend(places.iter().map(|&(x, y)| Edges::new(x - 6, y - 6, 12, 12)));
        let sizes: Vec<_> = texts.iter().map(|text| (width(text, SMALL) + 4, 16)).collect();
        let names = labels::place(&named, &sizes, &taken, bounds);
        for ((label, &at), name) in texts.iter().zip(&named).zip(&names) {
            if let Some(leader) = labels::leader(at, name) {
                canvas.line(&leader, theme.muted, 1);
            }
            let middle = ((name.left + name.right) / 2, (name.top + name.bottom) / 2);
            canvas.text(label, middle, SMALL, theme.text, Anchor::Middle);
        }
        for (point, &at) in self.points.iter().zip(&places) {
            canvas.marker(point.kind, at, theme.palette[point.kind % theme.palette.len()]);
        }
        if !self.without.is_empty() {
            let text = format!("without arithmetic, not shown: {}", self.without.join(", "));
            let text = shorten(&text, SMALL, WIDTH - 2 * MARGIN);
            canvas.text(&text, (MARGIN, top + PLOT + LINE / 2), SMALL, theme.muted, Anchor::Left);
        }
    }
}

/// A layer, and which towers' it is.
fn name(layer: &str, towers: &[usize]) -> String {
    let numbers: Vec<String> = towers.iter().map(ToString::to_string).collect();
    if numbers.is_empty() { layer.into() } else { format!("{layer} ({})", numbers.join(", ")) }
}

/// `100 G`, `10 T`: a power of ten without digits after the point.
fn round_prefixed(value: f64) -> String {
    prefixed(value, "").trim_end().replace(".00", "").replace(".0", "")
}
