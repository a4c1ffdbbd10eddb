//! Lines, boxes, markers and text in pixels of a picture.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontDesc, FontFamily, FontStyle, FontTransform, RGBColor, ShapeStyle, TextStyle, register_font,
};

use super::surface::Surface;
use super::theme::Theme;

pub type Area<'a> = DrawingArea<Surface<'a>, Shift>;

/// Memory is all that is drawn into.
pub const IN_MEMORY: &str = "drawing into memory";

/// A picture while it is drawn.
pub struct Canvas<'a> {
    pub area: Area<'a>,
    pub theme: &'static Theme,
}

/// Where a text's anchor is.
#[derive(Clone, Copy)]
pub enum Anchor {
    Left,
    Middle,
    Right,
}

/// Shapes that differ without colour.
pub const MARKERS: usize = 8;

/// A box by its edges, the right and lower ones outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edges {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Edges {
    pub fn new(left: i32, top: i32, width: i32, height: i32) -> Self {
        Edges { left, top, right: left + width, bottom: top + height }
    }

    pub fn meets(&self, other: &Edges) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    pub fn holds(&self, other: &Edges) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }
}

impl<'a> Canvas<'a> {
    pub fn new(surface: Surface<'a>, theme: &'static Theme) -> Self {
        let canvas = Canvas { area: surface.into_drawing_area(), theme };
        let (width, height) = canvas.area.dim_in_pixel();
        canvas.fill(Edges::new(0, 0, width as i32, height as i32), theme.background);
        canvas
    }

    /// `content` with its letters' middle at `y`.
    pub fn text(&self, content: &str, (x, y): (i32, i32), size: f64, color: RGBColor, anchor: Anchor) {
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = style(size, color).pos(Pos::new(horizontal, VPos::Center));
        self.area.draw_text(&printable(content), &style, (x, y)).expect(IN_MEMORY);
    }

    /// `content` from below to above, around (x, y).
    pub fn upright(&self, content: &str, at: (i32, i32), size: f64, color: RGBColor) {
        let style = style(size, color).transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Center));
        self.area.draw_text(&printable(content), &style, at).expect(IN_MEMORY);
    }

    pub fn line(&self, points: &[(i32, i32)], color: RGBColor, width: u32) {
        self.area.draw(&PathElement::new(points, color.stroke_width(width))).expect(IN_MEMORY);
    }

    /// A line of dashes; `dash` zero is a solid one.
    pub fn dashed(&self, points: &[(i32, i32)], color: RGBColor, width: u32, [dash, gap]: [i32; 2]) {
        if dash == 0 {
            return self.line(points, color, width);
        }
        let style = color.stroke_width(width);
        self.area.draw(&DashedPathElement::new(points.iter().copied(), dash, gap, style)).expect(IN_MEMORY);
    }

    pub fn fill(&self, edges: Edges, color: RGBColor) {
        self.rectangle(edges, color.filled());
    }

    pub fn frame(&self, edges: Edges, color: RGBColor) {
        self.rectangle(edges, color.stroke_width(1));
    }

    fn rectangle(&self, edges: Edges, style: ShapeStyle) {
        if edges.left < edges.right && edges.top < edges.bottom {
            let corners = [(edges.left, edges.top), (edges.right, edges.bottom)];
            self.area.draw(&Rectangle::new(corners, style)).expect(IN_MEMORY);
        }
    }

    /// Slanting lines within a box, and its outline.
    pub fn hatch(&self, edges: Edges, color: RGBColor) {
        let Edges { left, top, right, bottom } = edges;
        // Along each line x + y is constant.
        for sum in (left + top..right + bottom).step_by(6) {
            let upper = (sum - top).min(right);
            let lower = (sum - bottom).max(left);
            if lower < upper {
                self.line(&[(lower, sum - lower), (upper, sum - upper)], color, 1);
            }
        }
        self.frame(edges, color);
    }

    pub fn polygon(&self, corners: &[(i32, i32)], color: RGBColor) {
        self.area.draw(&Polygon::new(corners, color.filled())).expect(IN_MEMORY);
    }

    /// Shape `index` of [`MARKERS`], about 10 pixels wide, outlined by the background so that neighbours stay apart.
    pub fn marker(&self, index: usize, (x, y): (i32, i32), color: RGBColor) {
        let shape = |reach: i32, color: RGBColor| {
            let corners = |points: &[(i32, i32)]| {
                let points: Vec<_> = points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
                self.polygon(&points, color);
            };
            let (r, thin) = (reach, (reach - 3).max(1));
            match index % MARKERS {
                0 => self.area.draw(&Circle::new((x, y), r, color.filled())).expect(IN_MEMORY),
                1 => corners(&[(-r + 1, -r + 1), (r - 1, -r + 1), (r - 1, r - 1), (-r + 1, r - 1)]),
                2 => corners(&[(0, -r - 1), (r + 1, r - 1), (-r - 1, r - 1)]),
                3 => corners(&[(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)]),
                4 => corners(&[(0, r + 1), (r + 1, -r + 1), (-r - 1, -r + 1)]),
                5 => {
                    corners(&[(-thin, -r), (thin, -r), (thin, r), (-thin, r)]);
                    corners(&[(-r, -thin), (r, -thin), (r, thin), (-r, thin)]);
                }
                6 => {
                    let (far, near) = (r + 1 - thin, r);
                    corners(&[(-near, -far), (-far, -near), (near, far), (far, near)]);
                    corners(&[(near, -far), (far, -near), (-near, far), (-far, near)]);
                }
                _ => corners(&[(-r, -r / 2), (0, -r), (r, -r / 2), (r, r / 2), (0, r), (-r, r / 2)]),
            }
        };
        shape(6, self.theme.background);
        shape(5, color);
    }

    /// An arrow with its head at `to`.
    pub fn arrow(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) {
        self.line(&[from, to], color, 1);
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy).max(1.0);
        let at = |back: f64, side: f64| {
            let (ux, uy) = (dx / length, dy / length);
            let (x, y) = (f64::from(to.0) - back * ux - side * uy, f64::from(to.1) - back * uy + side * ux);
            (x.round() as i32, y.round() as i32)
        };
        self.polygon(&[to, at(8.0, 4.0), at(8.0, -4.0)], color);
    }
}

/// Text of letters `size` high. plotters counts a line's height instead, 1.24 times as much.
pub fn style(size: f64, color: RGBColor) -> TextStyle<'static> {
    TextStyle { font: font(size), color: color.to_backend_color(), pos: Pos::default() }
}

fn font(size: f64) -> FontDesc<'static> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let data = dejavu::sans::regular();
        assert!(register_font("sans-serif", FontStyle::Normal, data).is_ok(), "the crate's font is one");
    });
    FontDesc::new(FontFamily::SansSerif, 1.24 * size, FontStyle::Normal)
}

/// Pixels that `content` takes in the font that ships, which is a wide one: in a reader's own font it takes hardly more.
pub fn width(content: &str, size: f64) -> i32 {
    let (width, _) = font(size).box_size(&printable(content)).expect("the font is there");
    width as i32
}

/// `content` without what XML has no way to write.
fn printable(content: &str) -> String {
    content.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
}

/// `content` in lines of at most `room` pixels, broken between words; a longer word is cut.
pub fn wrap(content: &str, size: f64, room: i32) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in content.split_whitespace() {
        let word = shorten(word, size, room);
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= room => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

/// `content`, cut to `room` pixels with an ellipsis where it is longer.
pub fn shorten(content: &str, size: f64, room: i32) -> String {
    let whole = printable(content);
    if width(&whole, size) <= room {
        return whole;
    }
    let ends: Vec<usize> = whole.char_indices().map(|(end, _)| end).collect();
    let cut = |end: usize| format!("{}…", &whole[..end]);
    // By halves: a figure of a hostile record has hundreds of digits.
    let fitting = ends.partition_point(|&end| width(&cut(end), size) <= room);
    cut(ends[fitting.saturating_sub(1)])
}
