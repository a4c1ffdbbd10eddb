//! Where a measurement's record goes: stdout as a table, JSON or CSV, pictures into a folder, a page into a file.

use std::path::PathBuf;

use alexnet::Result;
use alexnet::record::Record;

use super::{page, pictures, print};

/// The forms that every measuring command can write.
#[derive(clap::Args)]
pub struct Outputs {
    /// Print JSON instead of a table.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV instead of a table.
    #[arg(long)]
    csv: bool,
    /// Draw the figures into files of this folder, each as SVG and as PNG.
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// Write tables and pictures as one page that opens offline.
    #[arg(long, value_name = "FILE.html", value_parser = page::file)]
    report: Option<PathBuf>,
}

impl Outputs {
    /// Finds out before anything is measured whether files can be written.
    ///
    /// # Errors
    /// [`Error::Output`](alexnet::Error::Output) with the file's name.
    pub fn check(&self) -> Result<()> {
        self.pictures.as_deref().map_or(Ok(()), pictures::check)?;
        self.report.as_deref().map_or(Ok(()), page::check)
    }

    /// Writes `records`, the first of which is this run's; `table` and `csv` give its other forms.
    ///
    /// # Errors
    /// [`Error::Output`](alexnet::Error::Output) with the file's name. What could be written stays.
    pub fn write(&self, records: &[Record], table: impl Fn() -> String, csv: impl Fn() -> String) -> Result<()> {
        print(&match () {
            () if self.json => records[0].json(),
            () if self.csv => csv(),
            () => table(),
        })?;
        self.pictures.as_deref().map_or(Ok(()), |folder| pictures::write(folder, records))?;
        self.report.as_deref().map_or(Ok(()), |file| page::write(file, records))
    }
}
