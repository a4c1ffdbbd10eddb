//! Records as one HTML page that needs nothing else: facts, tables, and pictures for light and for dark screens.

mod facts;
mod sections;
mod table;

use std::path::{Path, PathBuf};

use alexnet::record::Record;
use alexnet::{Result, file};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::pictures::{self, Picture, theme};

/// A file named .html: browsers go by the name, and no checkpoint is overwritten by mistake.
pub fn file(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "html") {
        Ok(path)
    } else {
        Err("a page's name ends in .html".into())
    }
}

/// Finds out whether the page can be written; a file that is there stays as it is.
///
/// # Errors
/// [`Error::Output`](alexnet::Error::Output) with its name.
pub fn check(file: &Path) -> Result<()> {
    file::check(file)
}

/// Writes a page of `records`.
///
/// # Errors
/// [`Error::Output`](alexnet::Error::Output) with its name.
pub fn write(file: &Path, records: &[Record]) -> Result<()> {
    file::write(file, page(records).into_string().as_bytes())
}

fn page(records: &[Record]) -> Markup {
    let title = "AlexNet: measurements";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                main {
                    h1 { (title) }
                    (facts::machines(records))
                    (sections::all(records))
                }
            }
        }
    }
}

/// A picture in both themes, the fitting one of which is shown, in a box that scrolls where the screen is narrow.
fn figure(picture: &Picture) -> Markup {
    let drawn = |theme| PreEscaped(picture.svg(theme));
    html! {
        figure role="img" aria-label=(picture.title) {
            div.wide tabindex="0" {
                div.light { (drawn(&theme::LIGHT)) }
                div.dark { (drawn(&theme::DARK)) }
            }
        }
    }
}

fn figures(records: &[&Record]) -> Markup {
    html! { @for picture in pictures::of(records) { (figure(&picture)) } }
}

#[cfg(test)]
mod tests;
