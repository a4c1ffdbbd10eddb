//! `alexnet report`: the page and the pictures of records that earlier runs left.

use std::path::PathBuf;

use alexnet::Result;
use alexnet::record::Record;

use super::{Outcome, note, page, pictures};

#[derive(clap::Args)]
pub struct Args {
    /// Records: files that --json, or a script in benches/peers, wrote, or of benches/record; speeds are set against the first benchmark's of the same network.
    #[arg(value_name = "RECORD.json", required = true)]
    records: Vec<PathBuf>,
    /// The page to write: tables and pictures in one file that opens offline.
    #[arg(short, long, value_name = "FILE.html", value_parser = page::file)]
    output: PathBuf,
    /// Draw the figures into files of this folder as well, each as SVG and as PNG.
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let records = args.records.iter().map(|file| Record::read_all(file)).collect::<Result<Vec<_>>>()?.concat();
    page::check(&args.output)?;
    if let Some(folder) = &args.pictures {
        pictures::check(folder)?;
        pictures::write(folder, &records)?;
    }
    page::write(&args.output, &records)?;
    note(&format!("wrote {}", args.output.display()));
    Ok(Outcome::Done)
}
