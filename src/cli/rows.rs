//! Result rows as a table, CSV or JSON lines, written as the run goes on.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use alexnet::{Error, Model, Prediction, Result, Score, Scored};
use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// filename,index,label,prob,error, and precision where it may differ
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
    /// Whether to tell what each row was computed in: float32 where a narrower type overflowed.
    pub precision: bool,
}

/// Writes rows to stdout or a file. A row is complete or not there: output is flushed between batches.
pub struct RowWriter {
    sink: Sink,
    columns: Columns,
    path: PathBuf,
}

type Output = Box<dyn Write>;

enum Sink {
    Table(BufWriter<Output>),
    Csv(Box<csv::Writer<Output>>),
    Jsonl(BufWriter<Output>),
}

/// A line of JSON.
#[derive(Serialize)]
struct JsonRow<'a> {
    filename: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<JsonPrediction>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct JsonPrediction {
    index: usize,
    label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit: Option<f32>,
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
        let output: Output = match file {
            Some(file) => Box::new(File::create(file).map_err(Error::output(file))?),
            None => Box::new(io::stdout()),
        };
        let sink = match format {
            Format::Table => Sink::Table(BufWriter::new(output)),
            Format::Csv => Sink::Csv(Box::new(csv::Writer::from_writer(output))),
            Format::Jsonl => Sink::Jsonl(BufWriter::new(output)),
        };
        let mut writer = RowWriter { sink, columns, path };
        writer.heading().map_err(Error::output(&writer.path))?;
        Ok(writer)
    }

    fn heading(&mut self) -> io::Result<()> {
        let (k, width) = (self.columns.k, self.columns.filename_width);
        let score = match self.columns.score {
            Score::Prob => "prob",
            Score::Logit => "logit",
        };
        match &mut self.sink {
            Sink::Jsonl(_) => Ok(()),
            Sink::Table(out) => {
                let best = if k > 1 { format!(", {k} best classes") } else { String::new() };
                let precision = if self.columns.precision { "  precision" } else { "" };
                writeln!(out, "{:<width$}  {score:>9}  label{best}{precision}", "filename")
            }
            Sink::Csv(csv) => {
                let suffix = |i: usize| if k == 1 { String::new() } else { format!("_{i}") };
                let cells = (0..k).flat_map(|i| ["index", "label", score].map(|name| format!("{name}{}", suffix(i))));
                let mut record: Vec<_> = ["filename".into()].into_iter().chain(cells).chain(["error".into()]).collect();
                if self.columns.precision {
                    record.push("precision".into());
                }
                Ok(csv.write_record(record)?)
            }
        }
    }

    /// One row: a picture's classes, or its error.
    pub fn write(&mut self, model: &Model, filename: &str, outcome: Result<&Scored, &Error>) -> Result<()> {
        self.try_write(model, filename, outcome).map_err(Error::output(&self.path))
    }

    fn try_write(&mut self, model: &Model, filename: &str, outcome: Result<&Scored, &Error>) -> io::Result<()> {
        let Columns { k, score, filename_width: width, .. } = self.columns;
        let precision = outcome.ok().filter(|_| self.columns.precision).map(|scored| scored.precision.name());
        match &mut self.sink {
            Sink::Table(out) => {
                let filename = printable(filename);
                write!(out, "{filename:<width$}")?;
                match outcome {
                    Ok(scored) => scored
                        .predictions
                        .iter()
                        .try_for_each(|p| write!(out, "  {:>9.6}  {}", p.score, printable(&model.label(p.index))))?,
                    Err(error) => write!(out, "  error: {}", printable(&error.to_string()))?,
                }
                if let Some(precision) = precision {
                    write!(out, "  {precision}")?;
                }
                writeln!(out)
            }
            Sink::Csv(csv) => {
                let mut record = csv::StringRecord::from(vec![filename]);
                if let Ok(scored) = outcome {
                    for p in &scored.predictions {
                        record.push_field(&p.index.to_string());
                        record.push_field(&model.label(p.index));
                        record.push_field(&p.score.to_string());
                    }
                }
                while record.len() < 1 + 3 * k {
                    record.push_field("");
                }
                record.push_field(&outcome.err().map(ToString::to_string).unwrap_or_default());
                if self.columns.precision {
                    record.push_field(precision.unwrap_or_default());
                }
                Ok(csv.write_record(&record)?)
            }
            Sink::Jsonl(out) => {
                let prediction = |p: &Prediction| JsonPrediction {
                    index: p.index,
                    label: model.label(p.index),
                    prob: (score == Score::Prob).then_some(p.score),
                    logit: (score == Score::Logit).then_some(p.score),
                };
                let predictions = outcome.ok().map(|found| found.predictions.iter().map(prediction).collect());
                let row = JsonRow { filename, predictions, precision, error: outcome.err().map(ToString::to_string) };
                serde_json::to_writer(&mut *out, &row)?;
                writeln!(out)
            }
        }
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        let flushed = match &mut self.sink {
            Sink::Table(out) | Sink::Jsonl(out) => out.flush(),
            Sink::Csv(csv) => csv.flush(),
        };
        flushed.map_err(Error::output(&self.path))
    }
}

/// `text` with control characters escaped, so that a file's name cannot break the table or command the terminal.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}
