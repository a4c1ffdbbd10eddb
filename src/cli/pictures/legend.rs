//! What colours, dashes, markers and hatching stand for: entries in rows across the picture, clear of its data.

use super::canvas::{Anchor, Canvas, Edges, shorten, width};
use super::theme::{LINE, MARGIN, SMALL, WIDTH};

const SAMPLE: i32 = 30;
const GAP: i32 = 22;

/// How a box is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// A colour of the palette.
    Solid(usize),
    Hatched,
    /// Nothing happens.
    Idle,
}

/// How a line looks: its colour in the palette, its dashes and its markers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stroke {
    pub color: usize,
    pub dash: [i32; 2],
    pub marker: usize,
}

#[derive(Clone, Debug)]
pub enum Sample {
    Box(Fill),
    Line(Stroke),
    /// A marker of a colour.
    Point(usize, usize),
}

pub type Entry = (Sample, String);

/// Fills `edges`.
pub fn fill(canvas: &Canvas, edges: Edges, fill: Fill) {
    let theme = canvas.theme;
    match fill {
        Fill::Solid(color) => canvas.fill(edges, theme.palette[color % theme.palette.len()]),
        Fill::Hatched => {
            canvas.fill(edges, theme.background);
            canvas.hatch(edges, theme.hatch);
        }
        Fill::Idle => {
            canvas.fill(edges, theme.lane);
            canvas.frame(edges, theme.grid);
        }
    }
}

/// Where each entry's sample begins.
fn places(entries: &[Entry]) -> Vec<(i32, i32)> {
    let (mut x, mut y, mut places) = (MARGIN, 0, vec![]);
    for (_, name) in entries {
        let length = SAMPLE + 8 + width(&cut(name), SMALL);
        if x > MARGIN && x + length > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + LINE);
        }
        places.push((x, y));
        x += length + GAP;
    }
    places
}

fn cut(name: &str) -> String {
    shorten(name, SMALL, WIDTH - 2 * MARGIN - SAMPLE - 8)
}

/// Pixels that it takes, with a gap below.
pub fn height(entries: &[Entry]) -> i32 {
    places(entries).last().map_or(0, |(_, y)| y + LINE + 8)
}

/// Draws it from `top` on.
pub fn draw(canvas: &Canvas, top: i32, entries: &[Entry]) {
    let theme = canvas.theme;
    for ((sample, name), (x, y)) in entries.iter().zip(places(entries)) {
        let middle = top + y + LINE / 2;
        match *sample {
            Sample::Box(filled) => fill(canvas, Edges::new(x, middle - 7, SAMPLE, 14), filled),
            Sample::Line(stroke) => line(canvas, &[(x, middle), (x + SAMPLE, middle)], stroke),
            Sample::Point(marker, color) => {
                canvas.marker(marker, (x + SAMPLE - 10, middle), theme.palette[color % theme.palette.len()]);
            }
        }
        if let Sample::Line(stroke) = *sample {
            canvas.marker(stroke.marker, (x + SAMPLE / 2, middle), theme.palette[stroke.color % theme.palette.len()]);
        }
        canvas.text(&cut(name), (x + SAMPLE + 8, middle), SMALL, theme.text, Anchor::Left);
    }
}

/// A line without its markers.
pub fn line(canvas: &Canvas, points: &[(i32, i32)], stroke: Stroke) {
    let theme = canvas.theme;
    canvas.dashed(points, theme.palette[stroke.color % theme.palette.len()], 2, stroke.dash);
}
