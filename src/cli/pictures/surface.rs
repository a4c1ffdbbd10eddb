//! What pictures are drawn on: SVG, or pixels at several times the size, which are averaged at the end so that edges are
//! smooth.

use plotters::prelude::{BitMapBackend, SVGBackend};
use plotters::style::{FontDesc, TextStyle};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind};

/// Pixels of the bitmap to one of the picture.
pub const FINE: u32 = 4;

type Drawn<T = ()> = Result<T, DrawingErrorKind<std::io::Error>>;

/// A backend in coordinates of the picture.
pub enum Surface<'a> {
    Svg(SVGBackend<'a>),
    /// Of [`FINE`] times the picture's size.
    Fine(BitMapBackend<'a>),
}

/// A style at [`FINE`] times its stroke.
struct Wide {
    color: BackendColor,
    stroke: u32,
}

impl BackendStyle for Wide {
    fn color(&self) -> BackendColor {
        self.color
    }

    fn stroke_width(&self) -> u32 {
        self.stroke
    }
}

fn wide<S: BackendStyle>(style: &S) -> Wide {
    Wide { color: style.color(), stroke: style.stroke_width() * FINE }
}

/// The middle of the pixels that stand for one of the picture.
fn fine((x, y): BackendCoord) -> BackendCoord {
    let fine = FINE as i32;
    (x * fine + fine / 2, y * fine + fine / 2)
}

/// A backend's own errors do not occur in memory; they are told as one kind.
fn told<T, E: std::error::Error + Send + Sync + 'static>(result: Result<T, DrawingErrorKind<E>>) -> Drawn<T> {
    result.map_err(|error| match error {
        DrawingErrorKind::DrawingError(error) => {
            DrawingErrorKind::DrawingError(std::io::Error::other(error.to_string()))
        }
        DrawingErrorKind::FontError(error) => DrawingErrorKind::FontError(error),
    })
}

impl DrawingBackend for Surface<'_> {
    type ErrorType = std::io::Error;

    fn get_size(&self) -> (u32, u32) {
        match self {
            Surface::Svg(svg) => svg.get_size(),
            Surface::Fine(bitmap) => {
                let (width, height) = bitmap.get_size();
                (width / FINE, height / FINE)
            }
        }
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.present()),
            Surface::Fine(bitmap) => told(bitmap.present()),
        }
    }

    fn draw_pixel(&mut self, at: BackendCoord, color: BackendColor) -> Drawn {
        self.draw_rect(at, (at.0 + 1, at.1 + 1), &Wide { color, stroke: 1 }, true)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, fill: bool) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.draw_rect(from, to, style, fill)),
            Surface::Fine(bitmap) => {
                // Both corners are part of a bitmap's rectangle, but not of SVG's.
                let edge = |(x, y): BackendCoord, less: i32| (x * FINE as i32 - less, y * FINE as i32 - less);
                told(bitmap.draw_rect(edge(from, 0), edge(to, i32::from(fill)), &wide(style), fill))
            }
        }
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.draw_path(path, style)),
            Surface::Fine(bitmap) => told(bitmap.draw_path(path.into_iter().map(fine), &wide(style))),
        }
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.draw_circle(center, radius, style, fill)),
            Surface::Fine(bitmap) => told(bitmap.draw_circle(fine(center), radius * FINE, &wide(style), fill)),
        }
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.fill_polygon(corners, style)),
            Surface::Fine(bitmap) => told(bitmap.fill_polygon(corners.into_iter().map(fine), &wide(style))),
        }
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        match self {
            Surface::Svg(svg) => told(svg.draw_text(text, style, at)),
            Surface::Fine(bitmap) => {
                let size = style.size() * f64::from(FINE);
                let font = FontDesc::new(style.family(), size, style.style()).transform(style.transform());
                // A bitmap's text stands that much higher on its anchor than SVG's.
                let (dx, dy) = style.transform().transform(0, (0.13 * size) as i32);
                let (x, y) = fine(at);
                let style = TextStyle { font, color: style.color(), pos: style.anchor() };
                told(bitmap.draw_text(text, &style, (x + dx, y + dy)))
            }
        }
    }
}
