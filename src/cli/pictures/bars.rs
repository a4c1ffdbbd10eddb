//! Horizontal bars in groups, each with its name before and a note behind it.

use super::axes::{decimals, ticks};
use super::canvas::{Anchor, Canvas, Edges, shorten, width};
use super::legend::{self, Entry, Fill};
use super::theme::{BODY, LINE, MARGIN, SMALL, WIDTH};
use crate::cli::words::grouped;

const ROW: i32 = 24;
const BAR: i32 = 16;
/// The longest name that is not cut.
const LABEL: i32 = 330;
/// The longest note that is not cut.
const NOTE: i32 = 500;

pub struct Bars {
    /// What their length is, with the unit.
    pub axis: String,
    pub legend: Vec<Entry>,
    pub groups: Vec<Group>,
}

pub struct Group {
    /// Empty for a single group.
    pub heading: String,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub label: String,
    /// One after another.
    pub parts: Vec<(f64, Fill)>,
    pub note: String,
}

impl Row {
    fn length(&self) -> f64 {
        self.parts.iter().map(|(value, _)| value).sum()
    }
}

impl Bars {
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.groups.iter().flat_map(|group| &group.rows)
    }

    pub fn height(&self) -> i32 {
        let group = |group: &Group| heading(group) + ROW * group.rows.len() as i32 + 8;
        legend::height(&self.legend) + self.groups.iter().map(group).sum::<i32>() + 3 * LINE
    }

    pub fn draw(&self, canvas: &Canvas, top: i32) {
        let theme = canvas.theme;
        legend::draw(canvas, top, &self.legend);
        let top = top + legend::height(&self.legend);
        let bottom = top + self.height() - legend::height(&self.legend) - 3 * LINE;
        let labels = self.rows().map(|row| width(&row.label, SMALL)).max().unwrap_or(0).min(LABEL);
        let left = MARGIN + labels + 10;
        let right = WIDTH - MARGIN;
        let note = |row: &Row| shorten(&row.note, SMALL, NOTE);
        // Pixels to one of the axis: every bar leaves room for its note.
        let room = |row: &Row| f64::from(right - left - 12 - width(&note(row), SMALL)) / row.length();
        let scale = self.rows().filter(|row| row.length() > 0.0).map(room).fold(f64::INFINITY, f64::min);
        let scale = if scale.is_finite() { scale } else { f64::from(right - left) / 100.0 };
        let x = |value: f64| left + (value * scale).clamp(0.0, f64::from(right - left)).round() as i32;
        let mut ticks = ticks(f64::from(right - left) / scale, 10.0);
        // One beyond the longest bar shows where it ends.
        let longest = self.rows().map(Row::length).fold(0.0, f64::max);
        let beyond = ticks.iter().position(|tick| *tick >= longest * 0.999).unwrap_or(ticks.len());
        ticks.truncate(beyond + 1);
        let decimals = ticks.get(1).map_or(0, |&step| decimals(step));
        for &tick in &ticks {
            canvas.line(&[(x(tick), top), (x(tick), bottom)], theme.grid, 1);
            canvas.text(&grouped(tick, decimals), (x(tick), bottom + 12), SMALL, theme.muted, Anchor::Middle);
        }
        canvas.text(&self.axis, ((left + right) / 2, bottom + 34), BODY, theme.text, Anchor::Middle);
        let mut y = top;
        for group in &self.groups {
            if !group.heading.is_empty() {
                let text = shorten(&group.heading, BODY, WIDTH - 2 * MARGIN);
                // The grid stays out of the text.
                canvas.fill(Edges::new(MARGIN, y + 2, width(&text, BODY) + 6, LINE), theme.background);
                canvas.text(&text, (MARGIN, y + LINE / 2 + 2), BODY, theme.text, Anchor::Left);
            }
            y += heading(group);
            for row in &group.rows {
                let middle = y + ROW / 2;
                let label = shorten(&row.label, SMALL, LABEL);
                canvas.text(&label, (left - 8, middle), SMALL, theme.text, Anchor::Right);
                let mut from = 0.0;
                for &(value, fill) in &row.parts {
                    let (begin, end) = (x(from), x(from + value));
                    from += value;
                    let edges = Edges { left: begin, top: middle - BAR / 2, right: end, bottom: middle + BAR / 2 };
                    legend::fill(canvas, edges, fill);
                }
                let end = x(row.length()) + 6;
                let note = note(row);
                canvas.fill(Edges::new(end - 2, middle - 8, width(&note, SMALL) + 4, 16), theme.background);
                canvas.text(&note, (end, middle), SMALL, theme.text, Anchor::Left);
                y += ROW;
            }
            canvas.line(&[(left, y - ROW * group.rows.len() as i32), (left, y)], theme.muted, 1);
            y += 8;
        }
    }
}

fn heading(group: &Group) -> i32 {
    if group.heading.is_empty() { 0 } else { LINE + 4 }
}
