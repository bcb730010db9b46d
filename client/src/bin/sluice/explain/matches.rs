//! For each query token, the document token that it chose.

use comfy_table::{Attribute, Cell, Row};
use sluice_client::{ExplainedDocument, Token, table};

use super::{
    heat::{Located, is_special},
    page::{beginning, end, fold},
};

/// Columns of the text before a chosen token, and of the text behind it.
const CONTEXT_COLUMNS: usize = 20;

/// A table of query token, chosen document token, that token in its text, and their similarity, in the query's order.
/// With `colour`, special tokens of the query are dim. Where nothing is known of the text, there is no column for it.
pub(crate) fn overview(
    query: &[Token],
    document: &ExplainedDocument,
    located: &Located,
    width: usize,
    colour: bool,
) -> String {
    let mut overview = table::plain(width);
    if colour {
        overview.enforce_styling();
    }
    let header = ["query token", "chosen", "in its text"].into_iter().take(if located.named { 3 } else { 2 });
    overview.set_header(header.map(Cell::new).chain([table::right("similarity".into())]));
    for (token, found) in query.iter().zip(&document.matches) {
        let position = found.document_token as usize;
        let chosen = document.tokens.get(position).map(|token| token.text.as_str()).filter(|text| !text.is_empty());
        let chosen = chosen.map_or_else(|| format!("#{position}"), |text| table::one_line(text, width));
        let similarity = format!("{:.4}", found.similarity);
        let mut cells = vec![Cell::new_owned(table::one_line(&token.text, width)), Cell::new_owned(chosen)];
        cells.extend(located.named.then(|| Cell::new_owned(context(located, position))));
        cells.push(table::right(similarity));
        if colour && is_special(token) {
            cells = cells.into_iter().map(|cell| cell.add_attribute(Attribute::Dim)).collect();
        }
        let mut row = Row::from(cells);
        row.max_height(1);
        overview.add_row(row);
    }
    overview.to_string()
}

/// A token in brackets with a few words around it; empty for one that has no place in the text.
fn context(located: &Located, position: usize) -> String {
    let Some(Some(place)) = located.places.get(position) else { return String::new() };
    let (before, token, after) =
        (fold(&located.text[..place.start]), fold(&located.text[place.clone()]), fold(&located.text[place.end..]));
    let (head, tail) = (end(&before, CONTEXT_COLUMNS), beginning(&after, CONTEXT_COLUMNS));
    let cut = |cut: bool| if cut { "…" } else { "" };
    let (left, right) = (cut(head.len() < before.len()), cut(tail.len() < after.trim_end().len()));
    format!("{left}{}[{token}]{}{right}", head.trim_start(), tail.trim_end())
}

#[cfg(test)]
mod tests {
    use sluice_client::TokenMatch;

    use super::*;

    fn token(text: &str, byte_start: u32, byte_end: u32) -> Token {
        Token { text: text.into(), byte_start, byte_end }
    }

    #[test]
    fn a_token_in_its_text() {
        let cases = [
            ("fleas live", 0..2, "[fl]eas live"),
            ("fleas live", 6..10, "fleas [live]"),
            ("  a\n\tb  c  ", 5..6, "a [b] c"),
            (
                "a very long text has a word in its middle and goes on",
                23..27,
                "…long text has a [word] in its middle and…",
            ),
            ("漢字漢字", 3..6, "漢[字]漢字"),
        ];
        for (text, place, expected) in cases {
            let located = Located { text: text.into(), places: vec![None, Some(place)], named: true };
            assert_eq!(context(&located, 1), expected);
            assert_eq!((context(&located, 0), context(&located, 9)), (String::new(), String::new()));
        }
    }

    #[test]
    fn a_table_in_the_querys_order() {
        let query = [token("[CLS]", 0, 0), token("flea", 0, 4), token("##s", 4, 5)];
        let found = |document_token, similarity| TokenMatch { document_token, similarity };
        let document = ExplainedDocument {
            tokens: vec![token("[CLS]", 0, 0), token("the", 0, 3), token("flea", 4, 8)],
            matches: vec![found(0, 0.5), found(2, 0.987_7), found(7, -0.25)],
            ..ExplainedDocument::default()
        };
        let located = Located::new(&document, Some("The Flea"));
        let expected = "\
┌─────────────┬────────┬─────────────┬────────────┐
│ query token ┆ chosen ┆ in its text ┆ similarity │
╞═════════════╪════════╪═════════════╪════════════╡
│ [CLS]       ┆ [CLS]  ┆             ┆     0.5000 │
│ flea        ┆ flea   ┆ The [Flea]  ┆     0.9877 │
│ ##s         ┆ #7     ┆             ┆    -0.2500 │
└─────────────┴────────┴─────────────┴────────────┘";
        let plain = overview(&query, &document, &located, 80, false);
        assert_eq!(plain, expected, "{plain}");
        let dim = overview(&query, &document, &located, 80, true);
        let lines: Vec<_> = dim.lines().map(|line| line.contains("\u{1b}[2m")).collect();
        assert_eq!(lines, [false, false, false, true, false, false, false], "{dim}");
    }
}
