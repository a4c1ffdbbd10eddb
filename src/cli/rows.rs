//! Result rows as a table, CSV or JSON lines, written as the run goes on.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use alexnet::{Error, Model, Prediction, Result, Score};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::output_error;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// filename,index,label,prob,error
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// What a row shows.
pub struct Columns {
    /// Classes a row, at most the network's.
    pub k: usize,
    pub score: Score,
    /// Characters of the table's first column.
    pub filename_width: usize,
}

/// Writes rows to stdout or a file. A row is complete or not there: output is flushed between batches.
pub struct RowWriter {
    format: Format,
    columns: Columns,
    path: PathBuf,
    out: BufWriter<Box<dyn Write>>,
}

impl RowWriter {
    /// Opens `file`, or stdout, and writes the heading. Without a format, a file named .jsonl gets JSON lines, a terminal
    /// a table, and everything else CSV.
    pub fn open(file: Option<&Path>, format: Option<Format>, columns: Columns) -> Result<Self> {
        let path = file.map_or_else(|| PathBuf::from("<stdout>"), Path::to_path_buf);
        let format = format.unwrap_or_else(|| match file {
            Some(file) if file.extension().is_some_and(|e| e == "jsonl") => Format::Jsonl,
            None if io::stdout().is_terminal() => Format::Table,
            _ => Format::Csv,
        });
        let out: Box<dyn Write> = match file {
            Some(file) => Box::new(File::create(file).map_err(output_error(file))?),
            None => Box::new(io::stdout()),
        };
        let mut writer = RowWriter { format, columns, path, out: BufWriter::new(out) };
        writer.heading()?;
        Ok(writer)
    }

    fn heading(&mut self) -> Result<()> {
        let score = self.score_name();
        match self.format {
            Format::Jsonl => Ok(()),
            Format::Table => {
                let width = self.columns.filename_width;
                let cells = format!("  {:>9}  label", score).repeat(self.columns.k.min(1));
                self.line(&format!("{:<width$}{cells}", "filename"))
            }
            Format::Csv => {
                let k = self.columns.k;
                let suffix = |i: usize| if k == 1 { String::new() } else { format!("_{i}") };
                let cells = (0..k).flat_map(|i| ["index", "label", score].map(|name| format!("{name}{}", suffix(i))));
                let cells: Vec<_> = ["filename".into()].into_iter().chain(cells).chain(["error".into()]).collect();
                self.csv(&cells)
            }
        }
    }

    /// One row: a picture's classes, or its error.
    pub fn write(&mut self, model: &Model, filename: &str, outcome: Result<&[Prediction], &Error>) -> Result<()> {
        match self.format {
            Format::Table => {
                let width = self.columns.filename_width;
                let cells = match outcome {
                    Ok(predictions) => {
                        let cell = |p: &Prediction| format!("  {:>9.6}  {}", p.score, model.label(p.index));
                        predictions.iter().map(cell).collect()
                    }
                    Err(error) => format!("  error: {error}"),
                };
                self.line(&format!("{filename:<width$}{cells}"))
            }
            Format::Csv => {
                let mut cells = vec![filename.to_string()];
                if let Ok(predictions) = outcome {
                    for p in predictions {
                        cells.extend([p.index.to_string(), model.label(p.index), p.score.to_string()]);
                    }
                }
                cells.resize(1 + 3 * self.columns.k, String::new());
                cells.push(outcome.err().map(ToString::to_string).unwrap_or_default());
                self.csv(&cells)
            }
            Format::Jsonl => {
                let score = self.score_name();
                let prediction =
                    |p: &Prediction| json!({"index": p.index, "label": model.label(p.index), score: p.score});
                let row = match outcome {
                    Ok(predictions) => {
                        let predictions: Vec<Value> = predictions.iter().map(prediction).collect();
                        json!({"filename": filename, "predictions": predictions})
                    }
                    Err(error) => json!({"filename": filename, "error": error.to_string()}),
                };
                self.line(&row.to_string())
            }
        }
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(output_error(&self.path))
    }

    fn score_name(&self) -> &'static str {
        match self.columns.score {
            Score::Prob => "prob",
            Score::Logit => "logit",
        }
    }

    fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{line}").map_err(output_error(&self.path))
    }

    fn csv(&mut self, cells: &[String]) -> Result<()> {
        let mut line = csv::Writer::from_writer(&mut self.out);
        let written = line.write_record(cells).map_err(io::Error::from).and_then(|()| line.flush());
        drop(line);
        written.map_err(output_error(&self.path))
    }
}
