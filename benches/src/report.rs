//! What a scenario found: a table for people, JSON for programs.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::{Serialize, Serializer};

/// Everything one run of a scenario found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// The machine, as its processor calls itself, and how many processors were used.
    pub host: String,
    /// The commit that was measured; `-dirty` follows where files differed from it.
    pub commit: String,
    /// One comparison each.
    pub rows: Vec<Row>,
    /// What a reader of the table wants to know beside it; no part of the JSON.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What was found wrong: figures of wrong answers are no figures. No part of the JSON.
    #[serde(skip)]
    pub faults: Vec<String>,
}

/// Ours beside one rival.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// Unit of both values.
    pub unit: &'static str,
    /// Our value; larger is better.
    pub ours: Spread,
    /// Who else was measured.
    pub rival: String,
    /// The rival's value.
    pub rival_value: Spread,
    /// Ours divided by the rival's, pass by pass.
    pub ratio: Spread,
    /// The ratio that is asked for; `None` where none is.
    pub target: Option<f64>,
}

/// Median, smallest and largest of repeated measurements. JSON has the median, to 4 significant digits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        Self { median: f64::midpoint(sorted[lower], sorted[upper]), min, max }
    }
}

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(significant(self.median))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = *self;
        write!(f, "{} ({}…{})", Short(median), Short(min), Short(max))
    }
}

impl fmt::Display for Report {
    /// Host, commit, the rows as a Markdown table, the notes and the faults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, host, commit, rows, notes, faults } = self;
        writeln!(f, "{scenario} on {host}, commit {commit}\n")?;
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["case", "unit", "ours", "rival", "rival's", "ratio", "target"]);
        for row in rows {
            table.add_row([
                row.case.clone(),
                row.unit.to_owned(),
                row.ours.to_string(),
                row.rival.clone(),
                row.rival_value.to_string(),
                row.ratio.to_string(),
                row.target.map_or_else(String::new, |target| significant(target).to_string()),
            ]);
        }
        for column in [2, 4, 5, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{table}\n")?;
        writeln!(f, "Median (smallest…largest) of the passes; a ratio above 1 means that ours is faster.")?;
        notes.iter().try_for_each(|note| writeln!(f, "- {note}"))?;
        faults.iter().try_for_each(|fault| writeln!(f, "- WRONG: {fault}"))
    }
}

/// Three significant digits, without an exponent.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0.abs() {
            value if value >= 100.0 => 0,
            value if value >= 10.0 => 1,
            value if value >= 1.0 => 2,
            _ => 3,
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

/// Rounded to 4 significant digits: what is beyond them is noise, and would make every baseline differ.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Report {
        let row = Row {
            case: "dense/natural".to_owned(),
            unit: "documents/s",
            ours: Spread::of([41.0, 40.0]),
            rival: "onnxruntime f32".to_owned(),
            rival_value: Spread::of([123.456_78]),
            ratio: Spread::of([0.3, 0.2, 0.25]),
            target: Some(0.8),
        };
        let untargeted = Row { target: None, ..row.clone() };
        Report {
            scenario: "encoder",
            host: "a processor, 2 threads".to_owned(),
            commit: "0123456".to_owned(),
            rows: vec![row, untargeted],
            notes: vec!["texts were made up".to_owned()],
            faults: vec!["a score differs".to_owned()],
        }
    }

    #[test]
    fn json_has_the_agreed_keys_and_no_others() {
        let expected = json!({
            "scenario": "encoder",
            "host": "a processor, 2 threads",
            "commit": "0123456",
            "rows": [
                {"case": "dense/natural", "unit": "documents/s", "ours": 40.5, "rival": "onnxruntime f32",
                 "rival_value": 123.5, "ratio": 0.25, "target": 0.8},
                {"case": "dense/natural", "unit": "documents/s", "ours": 40.5, "rival": "onnxruntime f32",
                 "rival_value": 123.5, "ratio": 0.25, "target": null},
            ],
        });
        assert_eq!(serde_json::to_value(report()).unwrap(), expected);
    }

    #[test]
    fn the_table_shows_every_row_with_its_spread() {
        let text = report().to_string();
        for part in
            ["encoder on a processor, 2 threads, commit 0123456", "- texts were made up", "- WRONG: a score differs"]
        {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("dense/natural")).collect();
        assert_eq!(rows.len(), 2, "{text}");
        for part in ["40.5 (40.0…41.0)", "123 (123…123)", "0.250 (0.200…0.300)", " 0.8 |"] {
            assert!(rows[0].contains(part), "{part:?} is missing: {}", rows[0]);
        }
    }

    #[test]
    fn medians() {
        for (values, median) in [(&[3.0][..], 3.0), (&[4.0, 1.0], 2.5), (&[9.0, 1.0, 2.0], 2.0)] {
            assert_eq!(Spread::of(values.iter().copied()).median, median, "{values:?}");
        }
    }

    #[test]
    fn four_significant_digits() {
        for (value, expected) in [(0.0, 0.0), (0.123_456, 0.1235), (98_765.4, 98_770.0), (-1.000_04, -1.0)] {
            assert!((significant(value) - expected).abs() < 1e-9, "{value}");
        }
    }
}
