//! Lines over batch sizes.

use super::axes::{Axis, chart, inside};
use super::canvas::Canvas;
use super::legend::{self, Entry, Sample, Stroke};

const PLOT: i32 = 440;

pub struct Lines {
    /// What they tell, with its unit.
    pub axis: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub stroke: Stroke,
    /// By batch size.
    pub points: Vec<Point>,
}

pub struct Point {
    pub batch_size: usize,
    pub value: f64,
    /// Where a whisker from it ends.
    pub reach: Option<f64>,
}

impl Lines {
    fn legend(&self) -> Vec<Entry> {
        self.lines.iter().map(|line| (Sample::Line(line.stroke), line.name.clone())).collect()
    }

    pub fn height(&self) -> i32 {
        legend::height(&self.legend()) + PLOT
    }

    pub fn draw(&self, canvas: &Canvas, top: i32) {
        let theme = canvas.theme;
        let entries = self.legend();
        legend::draw(canvas, top, &entries);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let batches = points().map(|point| point.batch_size as f64);
        let values = points().flat_map(|point| [Some(point.value), point.reach]).flatten();
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold([f64::INFINITY, 0.0], |[low, high], value| [value.min(low), value.max(high)])
        };
        let ([first, last], [low, high]) = (ends(&mut batches.into_iter()), ends(&mut values.into_iter()));
        let x = Axis::powers_of_two("batch size, images", first, last);
        let y = Axis::fitting(&self.axis, low, high);
        let labels: [&dyn Fn(f64) -> String; 2] = [&|tick| x.label(tick), &|tick| y.label(tick)];
        let chart = chart(canvas, [top + legend::height(&entries), PLOT], [&x, &y], labels);
        let place = |batch_size: usize, value: f64| chart.backend_coord(&(batch_size as f64, value));
        let bottom = inside(&chart).bottom;
        for line in &self.lines {
            let color = theme.palette[line.stroke.color % theme.palette.len()];
            let places: Vec<_> = line.points.iter().map(|point| place(point.batch_size, point.value)).collect();
            legend::line(canvas, &places, line.stroke);
            for (point, &(x, y)) in line.points.iter().zip(&places) {
                if let Some(reach) = point.reach {
                    let (_, end) = place(point.batch_size, reach);
                    canvas.line(&[(x, y.min(bottom)), (x, end)], color, 1);
                    canvas.line(&[(x - 4, end), (x + 4, end)], color, 1);
                }
            }
        }
        // Above every line.
        for line in &self.lines {
            let color = theme.palette[line.stroke.color % theme.palette.len()];
            for point in &line.points {
                canvas.marker(line.stroke.marker, place(point.batch_size, point.value), color);
            }
        }
    }
}
