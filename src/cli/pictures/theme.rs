//! Colours and sizes.

use plotters::style::RGBColor;

/// Colours of a picture on a light or a dark page.
pub struct Theme {
    pub background: RGBColor,
    pub text: RGBColor,
    /// Second to the text, still legible.
    pub muted: RGBColor,
    pub grid: RGBColor,
    /// What is no data of its own: idle time, the lane behind a tower's boxes.
    pub lane: RGBColor,
    /// Hatching.
    pub hatch: RGBColor,
    /// Okabe and Ito's colours, which people with any colour vision tell apart, shaded for their background.
    pub palette: [RGBColor; 7],
    /// Text on the palette's colours.
    pub inside: RGBColor,
}

pub static LIGHT: Theme = Theme {
    background: RGBColor(0xff, 0xff, 0xff),
    text: RGBColor(0x1c, 0x24, 0x30),
    muted: RGBColor(0x51, 0x5b, 0x69),
    grid: RGBColor(0xdd, 0xe2, 0xe9),
    lane: RGBColor(0xee, 0xf1, 0xf5),
    hatch: RGBColor(0x8a, 0x94, 0xa3),
    palette: [
        RGBColor(0x00, 0x72, 0xb2),
        RGBColor(0xc2, 0x4f, 0x00),
        RGBColor(0x00, 0x7f, 0x5c),
        RGBColor(0xb0, 0x4e, 0x85),
        RGBColor(0x96, 0x6a, 0x00),
        RGBColor(0x2a, 0x8f, 0xc7),
        RGBColor(0x5b, 0x65, 0x73),
    ],
    inside: RGBColor(0xff, 0xff, 0xff),
};

pub static DARK: Theme = Theme {
    background: RGBColor(0x14, 0x18, 0x1e),
    text: RGBColor(0xe4, 0xe8, 0xee),
    muted: RGBColor(0xa8, 0xb2, 0xbf),
    grid: RGBColor(0x33, 0x3b, 0x46),
    lane: RGBColor(0x25, 0x2b, 0x34),
    hatch: RGBColor(0x7d, 0x88, 0x96),
    palette: [
        RGBColor(0x4d, 0xa9, 0xe6),
        RGBColor(0xf2, 0x84, 0x3a),
        RGBColor(0x2d, 0xbd, 0x8f),
        RGBColor(0xdf, 0x8f, 0xbb),
        RGBColor(0xe6, 0xb4, 0x2e),
        RGBColor(0x9b, 0xd4, 0xf7),
        RGBColor(0x9a, 0xa4, 0xb1),
    ],
    inside: RGBColor(0x10, 0x13, 0x18),
};

/// Of every picture, in pixels at its natural size.
pub const WIDTH: i32 = 960;
pub const MARGIN: i32 = 20;
/// From a line of text to the next.
pub const LINE: i32 = 20;
/// Heights of letters, as a browser counts them.
pub const TITLE: f64 = 18.0;
pub const BODY: f64 = 13.0;
pub const SMALL: f64 = 12.0;
