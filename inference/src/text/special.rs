//! What a tokenizer puts around texts, found by looking at what it does.

use tokenizers::{Encoding, Token, Tokenizer};

use super::InvalidTokenizer;

/// Special tokens around one text and around two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialTokens {
    /// Before and after a text.
    pub(super) single: [Vec<u32>; 2],
    /// Before, between and after two texts.
    pub(super) pair: [Vec<u32>; 3],
    /// How many of the tokens between the texts have type 0, if the second text has type 1.
    pub(super) second_segment: Option<usize>,
}

/// Ids that no vocabulary has: they mark where the texts end up.
const FIRST: u32 = u32::MAX - 1;
const SECOND: u32 = u32::MAX;

/// Lets the tokenizer's post-processor put special tokens around two markers.
pub(super) fn probe(tokenizer: &Tokenizer) -> Result<SpecialTokens, InvalidTokenizer> {
    let (ids, types) = process(tokenizer, None)?;
    let single = match parts(&ids, &[FIRST]).as_deref() {
        Some([before, after]) if types.iter().all(|&kind| kind == 0) => [before.clone(), after.clone()],
        _ => return Err(unreadable("a text", &ids, &types)),
    };
    let (ids, types) = process(tokenizer, Some(SECOND))?;
    let pair = match parts(&ids, &[FIRST, SECOND]).as_deref() {
        Some([before, between, after]) => [before.clone(), between.clone(), after.clone()],
        _ => return Err(unreadable("a pair", &ids, &types)),
    };
    let first = pair[0].len();
    let zeros = types.iter().take_while(|&&kind| kind == 0).count();
    let second_segment = if zeros == types.len() {
        None
    } else if (first + 1..=first + 1 + pair[1].len()).contains(&zeros) && types[zeros..].iter().all(|&kind| kind == 1) {
        Some(zeros - first - 1)
    } else {
        return Err(unreadable("a pair", &ids, &types));
    };
    Ok(SpecialTokens { single, pair, second_segment })
}

/// Ids and types of one marker or two, special tokens around them.
fn process(tokenizer: &Tokenizer, second: Option<u32>) -> Result<(Vec<u32>, Vec<u32>), InvalidTokenizer> {
    let marker = |id, kind| Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], kind);
    let encoding = tokenizer
        .post_process(marker(FIRST, 0), second.map(|id| marker(id, 1)), true)
        .map_err(|error| InvalidTokenizer(format!("cannot add special tokens: {error}")))?;
    Ok((encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec()))
}

/// What is before, between and after the markers, each of which must be there once and in order.
fn parts(ids: &[u32], markers: &[u32]) -> Option<Vec<Vec<u32>>> {
    let found: Vec<u32> = ids.iter().copied().filter(|id| [FIRST, SECOND].contains(id)).collect();
    (found == markers).then(|| ids.split(|id| markers.contains(id)).map(<[u32]>::to_vec).collect())
}

fn unreadable(what: &str, ids: &[u32], types: &[u32]) -> InvalidTokenizer {
    InvalidTokenizer(format!(
        "lays {what} out as {ids:?} with types {types:?} ({FIRST} and {SECOND} stand for the texts); \
         expected each text once, in order, the first with type 0 and the second with type 0 or 1"
    ))
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        models::wordlevel::WordLevel,
        processors::{PostProcessorWrapper, bert::BertProcessing, template::TemplateProcessing},
    };

    use super::*;

    fn with(processor: Option<PostProcessorWrapper>) -> Tokenizer {
        let mut tokenizer = Tokenizer::new(WordLevel::default());
        tokenizer.with_post_processor(processor);
        tokenizer
    }

    fn template(single: &str, pair: &str) -> Tokenizer {
        let template = TemplateProcessing::builder()
            .try_single(single)
            .unwrap()
            .try_pair(pair)
            .unwrap()
            .special_tokens(vec![("<s>", 5), ("</s>", 6)])
            .build()
            .unwrap();
        with(Some(template.into()))
    }

    #[test]
    fn every_layout_of_two_segments_is_read() {
        let bert = BertProcessing::new(("[SEP]".into(), 102), ("[CLS]".into(), 101));
        let cases = [
            (with(None), [vec![], vec![]], [vec![], vec![], vec![]], Some(0)),
            (with(Some(bert.into())), [vec![101], vec![102]], [vec![101], vec![102], vec![102]], Some(1)),
            (
                template("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
                [vec![5], vec![6]],
                [vec![5], vec![6, 6], vec![6]],
                None,
            ),
            (
                template("<s> $A", "<s> $A </s>:0 </s>:1 $B:1 </s>:1"),
                [vec![5], vec![]],
                [vec![5], vec![6, 6], vec![6]],
                Some(1),
            ),
        ];
        for (tokenizer, single, pair, second_segment) in cases {
            assert_eq!(probe(&tokenizer), Ok(SpecialTokens { single, pair, second_segment }));
        }
    }

    #[test]
    fn other_layouts_are_refused() {
        for (single, pair) in [
            ("<s> $A </s>", "$B </s> $A"),
            ("<s> $A </s>", "$A </s>:1 $B:0"),
            ("<s> $A </s>", "<s>:1 $A:1 $B:1"),
            ("<s> $A </s>", "$A $B:1 </s>:0"),
            ("<s> $A:1 </s>", "$A $B:1"),
        ] {
            let error = probe(&template(single, pair)).unwrap_err();
            assert!(error.to_string().contains("expected each text once"), "{single} {pair}: {error}");
        }
    }
}
