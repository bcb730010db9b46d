//! Tables for people.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};
use sluice_proto::rerank::v1::{DocumentSource, RerankResponse, RerankResult};

use crate::names;

/// Width of a table where there is no terminal to ask, in columns.
pub const WIDTH_DEFAULT: usize = 120;
/// Columns of the id at most: what is left belongs to the text.
const ID_WIDTH_MAX: u16 = 24;

/// A ranking as a table of rank, score, id and text, one line a document, best first.
///
/// `texts` are the request's documents in its order; a text that the answer brings along goes
/// before them. What does not fit into `width` columns is shortened, and control characters are
/// shown as spaces, so that no document can write to the terminal. The id column is left out where
/// no document has an id. Where a later stage scored some, a column says which stage. Where something else than the documents' texts was scored, a column says
/// what, and the text column is left out if no text is known. No line break ends the last line.
#[must_use]
pub fn ranking<T: AsRef<str>>(response: &RerankResponse, texts: &[T], width: usize) -> String {
    let given = |result: &RerankResult| texts.get(result.index as usize).map(AsRef::as_ref);
    let with_ids = response.results.iter().any(|result| !result.id.is_empty());
    let plain_source = |source| matches!(source, DocumentSource::Text | DocumentSource::Unspecified);
    let with_sources = response.results.iter().any(|result| !plain_source(result.source()));
    // One stage for all, as for a request without stages, is not worth a column.
    let with_stages = response.results.iter().any(|result| result.stage > 1);
    let known = |result| given(result).is_some_and(|text| !text.is_empty()) || result.text.is_some();
    let with_texts = !with_sources || response.results.iter().any(known);

    let mut table = plain(width);
    let columns = [
        ("#", true),
        ("score", true),
        ("stage", with_stages),
        ("id", with_ids),
        ("source", with_sources),
        ("text", with_texts),
    ];
    table.set_header(columns.iter().filter(|(_, shown)| *shown).map(|(name, _)| match *name {
        "#" | "score" | "stage" => right((*name).into()),
        name => Cell::new(name),
    }));
    for (rank, result) in (1..).zip(&response.results) {
        let text = result.text.as_deref().or_else(|| given(result)).unwrap_or_default();
        let score = if result.unscored { "unscored".to_owned() } else { format!("{:.4}", result.score) };
        let mut cells = vec![right(format!("{rank}")), right(score)];
        cells.extend(with_stages.then(|| right(result.stage.to_string())));
        cells.extend(with_ids.then(|| Cell::new_owned(one_line(&result.id, width))));
        cells.extend(with_sources.then(|| Cell::new_owned(names::document_source(result.source))));
        cells.extend(with_texts.then(|| Cell::new_owned(one_line(text, width))));
        let mut row = Row::from(cells);
        row.max_height(1);
        table.add_row(row);
    }
    let id_width = ColumnConstraint::UpperBoundary(Width::Fixed(ID_WIDTH_MAX));
    let own_width = std::iter::repeat_n(ColumnConstraint::ContentWidth, 2 + usize::from(with_stages));
    let widths = own_width.chain(with_ids.then_some(id_width));
    table.set_constraints(widths.chain(with_sources.then_some(ColumnConstraint::ContentWidth)));
    table.to_string()
}

/// An empty table `width` columns wide at most, in the style of all of ours.
#[must_use]
pub fn plain(width: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .force_no_tty()
        .set_truncation_indicator("…")
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table
}

/// A cell whose content stands to the right, as numbers do.
#[must_use]
pub fn right(content: String) -> Cell {
    Cell::new_owned(content).set_alignment(CellAlignment::Right)
}

/// The beginning of `text` with every run of white space and control characters as one space; more
/// than `width` columns of it if there are more, so that a table knows to shorten it.
#[must_use]
pub fn one_line(text: &str, width: usize) -> String {
    let mut line = String::new();
    let mut shown = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if shown > width {
            break;
        }
        if shown > 0 {
            line.push(' ');
            shown += 1;
        }
        // Few characters that are shown take no column of their own; those may shorten a line early.
        for character in word.chars().take(width.saturating_add(1)) {
            line.push(character);
            shown += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use sluice_proto::rerank::v1::RerankResult;

    use super::*;

    fn response(results: &[(u32, &str, f32)]) -> RerankResponse {
        let result = |&(index, id, score): &(u32, &str, f32)| RerankResult {
            index,
            id: id.into(),
            score,
            ..RerankResult::default()
        };
        RerankResponse { results: results.iter().map(result).collect(), ..RerankResponse::default() }
    }

    #[test]
    fn a_ranking() {
        let answer = response(&[(1, "flea", 12.5), (0, "market", -0.031_3)]);
        let texts = ["The market opens at nine.", "Fleas live for\n up to\ta year."];
        let expected = "\
┌───┬─────────┬────────┬──────────────────────────────┐
│ # ┆   score ┆ id     ┆ text                         │
╞═══╪═════════╪════════╪══════════════════════════════╡
│ 1 ┆ 12.5000 ┆ flea   ┆ Fleas live for up to a year. │
│ 2 ┆ -0.0313 ┆ market ┆ The market opens at nine.    │
└───┴─────────┴────────┴──────────────────────────────┘";
        let found = ranking(&answer, &texts, 100);
        assert_eq!(found, expected, "{found}");
    }

    /// The cells of every line, without the padding that column widths add.
    fn trimmed(table: &str) -> Vec<Vec<String>> {
        let cells = |line: &str| line.split(['│', '┆']).map(|cell| cell.trim().to_owned()).collect();
        table.lines().filter(|line| line.starts_with('│')).map(cells).collect()
    }

    #[test]
    fn long_and_hostile_texts_stay_on_their_line() {
        let long = "word ".repeat(100_000);
        let wide = "漢字".repeat(200);
        let hostile = "\u{1b}[2Jcleared\u{7}\r\nand more\u{9b}31m";
        let one_word = "x".repeat(300_000);
        let texts = [long.as_str(), &wide, hostile, &one_word, ""];
        let answer = response(&[(0, &"i".repeat(512), 1.0), (1, "", 0.5), (2, "", 0.4), (3, "", 0.3), (4, "", 0.2)]);
        for (width, shortened) in [(40, 5), (80, 4), (200, 4)] {
            let table = ranking(&answer, &texts, width);
            assert_eq!(table.lines().count(), 4 + texts.len(), "{table}");
            for line in table.lines() {
                // A wide character takes two columns.
                let columns: usize = line.chars().map(|c| 1 + usize::from(matches!(c, '漢' | '字'))).sum();
                assert!(columns <= width, "{columns} > {width}: {line}");
            }
            assert!(!table.contains(|c: char| c.is_control() && c != '\n'), "{table:?}");
            assert_eq!(table.matches('…').count(), shortened, "both ids and texts are shortened: {table}");
        }
    }

    #[test]
    fn ids_and_texts_may_be_missing() {
        let mut answer = response(&[(9, "", 1.0), (0, "", f32::NAN)]);
        answer.results[1].text = Some("from the answer".into());
        let rows = trimmed(&ranking(&answer, &["from the request"], 80));
        assert_eq!(rows[0], ["", "#", "score", "text", ""]);
        assert_eq!(rows[1], ["", "1", "1.0000", "", ""]);
        assert_eq!(rows[2], ["", "2", "NaN", "from the answer", ""]);
        assert_eq!(trimmed(&ranking(&response(&[]), &[""; 0], 80)).len(), 1);
    }

    #[test]
    fn sources_are_told_where_they_are_not_the_texts() {
        let mut answer = response(&[(1, "b", 0.5), (0, "a", f32::NEG_INFINITY)]);
        answer.results[0].set_source(DocumentSource::Stored);
        answer.results[1].set_source(DocumentSource::NoneMissing);
        answer.results[1].unscored = true;
        let expected = "\
┌───┬──────────┬────┬──────────────┐
│ # ┆    score ┆ id ┆ source       │
╞═══╪══════════╪════╪══════════════╡
│ 1 ┆   0.5000 ┆ b  ┆ stored       │
│ 2 ┆ unscored ┆ a  ┆ none_missing │
└───┴──────────┴────┴──────────────┘";
        let found = ranking(&answer, &["", ""], 100);
        assert_eq!(found, expected, "{found}");
        let rows = trimmed(&ranking(&answer, &["", "its text"], 100));
        assert_eq!(rows[1], ["", "1", "0.5000", "b", "stored", "its text", ""]);
    }

    #[test]
    fn stages_are_told_where_there_are_several() {
        let mut answer = response(&[(1, "b", 0.5), (0, "a", 12.5), (2, "c", f32::NEG_INFINITY)]);
        for (result, stage) in answer.results.iter_mut().zip([2, 1, 0]) {
            result.stage = stage;
        }
        answer.results[2].set_source(DocumentSource::NoneBudget);
        answer.results[2].unscored = true;
        let rows = trimmed(&ranking(&answer, &["", "", ""], 100));
        assert_eq!(rows[0], ["", "#", "score", "stage", "id", "source", ""]);
        assert_eq!(rows[1], ["", "1", "0.5000", "2", "b", "unspecified", ""]);
        assert_eq!(rows[3], ["", "3", "unscored", "0", "c", "none_budget", ""]);
    }

    #[test]
    fn a_terminal_without_width_is_no_panic() {
        let answer = response(&[(0, "id", 1.0)]);
        for width in [0, 1, 5, 20, usize::MAX] {
            assert!(ranking(&answer, &["some text"], width).contains("1.0000"), "{width}");
        }
    }
}
