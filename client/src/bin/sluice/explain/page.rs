//! Text with heat, as lines of a terminal.

use std::{borrow::Cow, iter};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::heat::Stretch;

/// Lines of a document that are shown whole; of a longer one, what is around its chosen tokens.
const LINES_WHOLE_MAX: usize = 4;
/// Columns that are kept before and after a chosen token in a long text.
const CONTEXT_COLUMNS: usize = 28;
/// Foreground and background, of 256 colours, from little heat to most. Both are set, so that terminals with light and
/// with dark backgrounds show the same.
const RAMP: [(u8, u8); 5] = [(16, 228), (16, 221), (16, 214), (16, 208), (231, 160)];

/// How text is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Columns of a line.
    pub width: usize,
    /// Heat is a colour, or else a number in brackets.
    pub colour: bool,
    /// Nothing is left out, and line breaks are kept.
    pub full: bool,
    /// Heat of the strongest colour.
    pub hottest: f32,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    text: String,
    level: Option<usize>,
}

/// What a text is wrapped by.
enum Atom {
    Word(Vec<Piece>),
    Space,
    Break,
}

impl Page {
    /// The stretches as lines, wrapped between words.
    pub(crate) fn lines(&self, stretches: &[Stretch]) -> Vec<String> {
        let mut stretches = if self.full { legible(stretches) } else { folded(stretches) };
        let columns: usize = stretches.iter().map(|stretch| self.shown(stretch).width()).sum();
        if !self.full && columns > LINES_WHOLE_MAX.saturating_mul(self.width) {
            self.elide(&mut stretches);
        }
        let lines = wrap(self.atoms(&stretches), self.width.max(1));
        lines.iter().map(|line| line.iter().map(Piece::painted).collect()).collect()
    }

    /// What the colours, or the numbers, mean.
    pub(crate) fn legend(&self) -> String {
        let meaning = "the sum of the similarities of the query tokens that chose a document token";
        if !self.colour {
            return format!("[token heat]: heat is {meaning}");
        }
        let step = |level: usize| self.hottest * (level + 1) as f32 / RAMP.len() as f32;
        let swatch = |level| Piece { text: format!(" {:.2} ", step(level)), level: Some(level) }.painted();
        let swatches: String = (0..RAMP.len()).map(swatch).collect();
        format!("colour: {meaning}, up to {swatches}")
    }

    /// As much of unchosen stretches as is near a chosen token.
    fn elide(&self, stretches: &mut [Stretch]) {
        let last = stretches.len().saturating_sub(1);
        let nothing_chosen = stretches.iter().all(|stretch| stretch.heat.is_none());
        for (place, stretch) in stretches.iter_mut().enumerate().filter(|(_, stretch)| stretch.heat.is_none()) {
            let text = &stretch.text;
            let (head, tail) = match (place == 0, place == last) {
                _ if nothing_chosen => (beginning(text, LINES_WHOLE_MAX * self.width), ""),
                (first, last) => {
                    let head = if first { "" } else { beginning(text, CONTEXT_COLUMNS) };
                    (head, if last { "" } else { end(text, CONTEXT_COLUMNS) })
                }
            };
            if head.len() + tail.len() < text.len() {
                stretch.text =
                    if place == 0 && !nothing_chosen { format!("… {tail}") } else { format!("{head} … {tail}") };
            }
        }
    }

    fn shown<'a>(&self, stretch: &'a Stretch) -> Cow<'a, str> {
        match stretch.heat {
            Some(heat) if !self.colour => format!("[{} {heat:.2}]", stretch.text).into(),
            _ => (&stretch.text).into(),
        }
    }

    fn level(&self, heat: f32) -> Option<usize> {
        // NaN is no colour.
        (self.colour && heat > 0.0 && self.hottest > 0.0).then(|| {
            let steps = (heat / self.hottest * RAMP.len() as f32).ceil() as usize;
            steps.clamp(1, RAMP.len()) - 1
        })
    }

    fn atoms(&self, stretches: &[Stretch]) -> Vec<Atom> {
        let mut atoms = Vec::new();
        let mut word: Vec<Piece> = Vec::new();
        for stretch in stretches {
            if let Some(heat) = stretch.heat {
                word.push(Piece { text: self.shown(stretch).into_owned(), level: self.level(heat) });
                continue;
            }
            for character in stretch.text.chars() {
                let space = match character {
                    ' ' => Atom::Space,
                    '\n' => Atom::Break,
                    character => {
                        match word.last_mut() {
                            Some(Piece { text, level: None }) => text.push(character),
                            _ => word.push(Piece { text: character.into(), level: None }),
                        }
                        continue;
                    }
                };
                if !word.is_empty() {
                    atoms.push(Atom::Word(std::mem::take(&mut word)));
                }
                atoms.push(space);
            }
        }
        if !word.is_empty() {
            atoms.push(Atom::Word(word));
        }
        atoms
    }
}

impl Piece {
    fn painted(&self) -> String {
        match self.level {
            Some(level) => {
                let (foreground, background) = RAMP[level];
                format!("\u{1b}[38;5;{foreground};48;5;{background}m{}\u{1b}[0m", self.text)
            }
            None => self.text.clone(),
        }
    }
}

/// Fills lines with words; one that is longer than a line is cut.
fn wrap(atoms: Vec<Atom>, width: usize) -> Vec<Vec<Piece>> {
    let mut lines = vec![Vec::new()];
    let (mut used, mut spaces) = (0, 0);
    for atom in atoms {
        let word = match atom {
            Atom::Space => {
                spaces += 1;
                continue;
            }
            Atom::Break => {
                lines.push(Vec::new());
                (used, spaces) = (0, 0);
                continue;
            }
            Atom::Word(word) => word,
        };
        let columns: usize = word.iter().map(|piece| piece.text.width()).sum();
        if used > 0 && used + spaces + columns > width {
            lines.push(Vec::new());
            (used, spaces) = (0, 0);
        }
        let gap = Piece { text: " ".repeat(spaces.min(width)), level: None };
        for piece in iter::once(gap).chain(word) {
            used = append(&mut lines, piece, used, width);
        }
        spaces = 0;
    }
    lines
}

/// Adds a piece to the last line, and to further ones if it has to be; says how full the last one is then.
fn append(lines: &mut Vec<Vec<Piece>>, piece: Piece, mut used: usize, width: usize) -> usize {
    let mut part = String::new();
    let end = |part: &mut String, lines: &mut Vec<Vec<Piece>>| {
        if let Some(line) = lines.last_mut().filter(|_| !part.is_empty()) {
            line.push(Piece { text: std::mem::take(part), level: piece.level });
        }
    };
    for character in piece.text.chars() {
        let columns = character.width().unwrap_or(0);
        if used > 0 && used + columns > width {
            end(&mut part, lines);
            lines.push(Vec::new());
            used = 0;
        }
        part.push(character);
        used += columns;
    }
    end(&mut part, lines);
    used
}

/// With every run of white space and control characters as one space, and none at the ends of a chosen token: a
/// tokenizer may count the space before a word to it.
fn folded(stretches: &[Stretch]) -> Vec<Stretch> {
    let mut folded: Vec<Stretch> = Vec::with_capacity(stretches.len());
    // None is shown at the beginning.
    let mut after_space = true;
    for stretch in stretches {
        let mut text = fold(&stretch.text);
        if after_space && text.starts_with(' ') {
            text.remove(0);
        }
        after_space = text.ends_with(' ') || text.is_empty() && after_space;
        split_spaces(&mut folded, text, stretch);
    }
    folded
}

/// Every character of its own, control characters as spaces.
fn legible(stretches: &[Stretch]) -> Vec<Stretch> {
    let mut legible = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let character = |c: char| if c != '\n' && (c.is_control() || c.is_whitespace()) { ' ' } else { c };
        let text = stretch.text.chars().filter(|c| *c != '\r').map(character).collect();
        split_spaces(&mut legible, text, stretch);
    }
    legible
}

/// Adds the stretch with another text: spaces around a chosen token are not chosen.
fn split_spaces(stretches: &mut Vec<Stretch>, text: String, stretch: &Stretch) {
    let mut push = |text: &str, heat| {
        if !text.is_empty() {
            stretches.push(Stretch { text: text.to_owned(), heat });
        }
    };
    if stretch.heat.is_none() {
        return push(&text, None);
    }
    let token = text.trim();
    let start = text.len() - text.trim_start().len();
    push(&text[..start], None);
    // A token of white space alone still has its heat.
    push(if token.is_empty() { "␣" } else { token }, stretch.heat);
    push(&text[start + token.len()..], None);
}

/// Every run of white space and control characters as one space.
pub(crate) fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            c if !c.is_whitespace() && !c.is_control() => folded.push(c),
            _ if folded.ends_with(' ') => {}
            _ => folded.push(' '),
        }
    }
    folded
}

/// The first words that fit into so many columns; of a longer word, its beginning.
pub(crate) fn beginning(text: &str, columns: usize) -> &str {
    let cut = cut(text.char_indices().map(|(place, c)| (place, place + c.len_utf8(), c)), columns);
    let Some(end) = cut else { return text };
    let whole = &text[..end];
    if text[end..].starts_with(' ') { whole } else { whole.rfind(' ').map_or(whole, |space| &whole[..space]) }
}

/// The last words that fit into so many columns; of a longer word, its end.
pub(crate) fn end(text: &str, columns: usize) -> &str {
    let cut = cut(text.char_indices().rev().map(|(place, c)| (place + c.len_utf8(), place, c)), columns);
    let Some(start) = cut else { return text };
    let whole = &text[start..];
    if text[..start].ends_with(' ') { whole } else { whole.find(' ').map_or(whole, |space| &whole[space + 1..]) }
}

/// Before which character, of these with their near and far ends, more than so many columns are used.
fn cut(characters: impl Iterator<Item = (usize, usize, char)>, columns: usize) -> Option<usize> {
    let mut used = 0;
    for (near, _, character) in characters {
        used += character.width().unwrap_or(0);
        if used > columns {
            return Some(near);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(parts: &[(&str, f32)]) -> Vec<Stretch> {
        let stretch = |&(text, heat): &(&str, f32)| Stretch { text: text.into(), heat: (heat != 0.0).then_some(heat) };
        parts.iter().map(stretch).collect()
    }

    const PAGE: Page = Page { width: 24, colour: false, full: false, hottest: 2.0 };

    #[test]
    fn lines_are_wrapped_between_words() {
        type Case<'a> = (&'a [(&'a str, f32)], &'a [&'a str]);
        let cases: [Case; 8] = [
            (&[("The ", 0.0), ("fl", 1.25), ("eas  of\n the cat", 0.0)], &["The [fl 1.25]eas of the", "cat"]),
            (&[("  ", 0.0), ("[CLS]", 1.0), (" a b ", 0.0)], &["[[CLS] 1.00] a b"]),
            (&[("a", 0.0), (" the ", -0.5), ("b", 0.0)], &["a [the -0.50] b"]),
            (&[("a ", 0.0), ("\n", 1.0), ("b", 0.0)], &["a [␣ 1.00]b"]),
            (&[("word ", 0.0), ("nineteen letters in", 1.0)], &["word", "[nineteen letters in 1.0", "0]"]),
            (&[("漢字漢字漢字漢字漢字漢字漢字", 0.0)], &["漢字漢字漢字漢字漢字漢字", "漢字"]),
            (&[("\u{1b}[2Jclear\u{7}ed", 0.0)], &["[2Jclear ed"]),
            (&[], &[""]),
        ];
        for (parts, expected) in cases {
            assert_eq!(PAGE.lines(&stretches(parts)), expected, "{parts:?}");
        }
        for width in [0, 1, 2] {
            assert!(Page { width, ..PAGE }.lines(&stretches(&[("a long 漢字", 0.0), ("x", 1.0)])).len() > 3, "{width}");
        }
    }

    #[test]
    fn nothing_is_left_out_of_a_full_page() {
        let page = Page { full: true, ..PAGE };
        let text = "first\r\n\n  second\tline \u{1b}[2J ".to_owned() + &"word ".repeat(30);
        let lines = page.lines(&stretches(&[(&text, 0.0), ("x", 1.0)]));
        assert_eq!(lines[..3], ["first", "", "  second line  [2J word"]);
        assert_eq!(lines.join(" ").matches("word").count(), 30);
    }

    #[test]
    fn long_texts_show_what_is_around_chosen_tokens() {
        let long = "lorem ipsum dolor sit amet ".repeat(9);
        let lines = PAGE.lines(&stretches(&[
            (&long, 0.0),
            ("one", 1.0),
            (&format!(" {long}"), 0.0),
            ("two", 2.0),
            (&long, 0.0),
        ]));
        let expected = [
            "… lorem ipsum dolor sit",
            "amet [one 1.00] lorem",
            "ipsum dolor sit amet …",
            "lorem ipsum dolor sit",
            "amet [two 2.00]lorem",
            "ipsum dolor sit amet …",
        ];
        assert_eq!(lines, expected);
        let lines = PAGE.lines(&stretches(&[(&long, 0.0)]));
        assert!(lines.len() <= LINES_WHOLE_MAX + 1 && lines.concat().ends_with("ipsum …"), "{lines:?}");
    }

    #[test]
    fn heat_is_one_of_five_colours() {
        let page = Page { colour: true, ..PAGE };
        let parts = [("a", 0.1), (" b ", 0.0), ("c", 2.0), ("d", 9.0), ("e", -1.0), ("f", f32::NAN)];
        let expected = "\u{1b}[38;5;16;48;5;228ma\u{1b}[0m b \u{1b}[38;5;231;48;5;160mc\u{1b}[0m\u{1b}[38;5;231;48;5;160md\u{1b}[0mef";
        assert_eq!(page.lines(&stretches(&parts)), [expected]);
        let levels = [0.01, 0.4, 0.41, 0.8, 1.2, 1.21, 1.7].map(|heat| page.level(heat).unwrap());
        assert_eq!(levels, [0, 0, 1, 1, 2, 3, 4]);
        assert_eq!(Page { hottest: 0.0, ..page }.level(1.0), None);
        assert!(page.legend().contains("\u{1b}[38;5;16;48;5;208m 1.60 \u{1b}[0m"));
        assert!(!PAGE.legend().contains('\u{1b}'));
    }

    #[test]
    fn parts_of_texts() {
        let text = "one two three";
        for (columns, first, last) in [
            (13, text, text),
            (12, "one two", "two three"),
            (7, "one two", "three"),
            (6, "one", "three"),
            (2, "on", "ee"),
            (0, "", ""),
        ] {
            assert_eq!((beginning(text, columns), end(text, columns)), (first, last), "{columns}");
        }
        assert_eq!((beginning("漢字漢", 5), end("漢字漢", 5)), ("漢字", "字漢"));
        assert_eq!(fold(" a\t\n\u{1b}b  c "), " a b c ");
    }
}
