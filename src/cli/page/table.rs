//! Tables that scroll in a box of their own.

use maud::{Markup, html};

/// A column's heading, and whether it holds numbers, which stand to the right.
pub enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// A row has a cell a column; columns without a single cell filled are left out.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> Markup {
    let shown: Vec<usize> =
        (0..columns.len()).filter(|&column| rows.iter().any(|row| !row[column].is_empty())).collect();
    let class = |column: usize| matches!(columns[column], Column::Number(_)).then_some("number");
    let heading = |column: usize| match columns[column] {
        Column::Text(heading) | Column::Number(heading) => heading,
    };
    html! {
        div.wide tabindex="0" {
            table {
                thead { tr { @for &column in &shown { th class=[class(column)] { (heading(column)) } } } }
                tbody {
                    @for row in rows {
                        tr { @for &column in &shown { td class=[class(column)] { (row[column]) } } }
                    }
                }
            }
        }
    }
}

/// What a reader should know.
pub fn notes(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            ul { @for note in notes { li { (note) } } }
        }
    }
}
