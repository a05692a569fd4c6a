//! The phrases that are hard to read, and the search for them. Other rules of style are left to review.

use super::prose::{Token, TokenKind};

/// Words in a row that prose avoids.
pub struct Phrase {
    /// In lower case; `|` stands between words of which any one will do.
    words: &'static str,
    instead: &'static str,
}

impl Phrase {
    pub const fn new(words: &'static str, instead: &'static str) -> Self {
        Self { words, instead }
    }
}

/// Old words, idioms, and passives that hide who acts. The list leaves out what is right as often as not: "whose" is
/// right for people.
pub const LIST: [Phrase; 29] = [
    Phrase::new("whom", "name the one who is meant"),
    Phrase::new("whoever|whomever", "name who does it"),
    Phrase::new("nobody", "no peer, no caller, none"),
    Phrase::new("anybody|everybody|somebody", "name who it is"),
    Phrase::new("anew", "again"),
    Phrase::new("lest", "so that .. not"),
    Phrase::new("hence", "so"),
    Phrase::new("therein|thereof", "in it, of it"),
    Phrase::new("at the most", "at most"),
    Phrase::new("at the least", "at least"),
    Phrase::new("let|lets|letting go of", "release, drop"),
    Phrase::new("come to nothing|rest", "fail, stop"),
    Phrase::new("came|comes to", "is, reaches"),
    Phrase::new("so many|long|often", "at most n; while"),
    Phrase::new("that which", "what"),
    Phrase::new("hang|hangs on", "depends on"),
    Phrase::new("rest|rests on", "depends on"),
    Phrase::new("of its|one's own", "its own; separate"),
    Phrase::new("is|are|be|was|were told", "gets, receives"),
    Phrase::new("told|tells of", "gets, says"),
    Phrase::new("is|are to be", "must be"),
    Phrase::new("any more", "no longer"),
    Phrase::new("as it were", "leave it out"),
    Phrase::new("goes without", "has no"),
    Phrase::new("the way out", "the fix"),
    Phrase::new("what becomes|became|came|comes", "the outcome"),
    Phrase::new("what has become", "the outcome"),
    Phrase::new("what is said", "name what is said"),
    Phrase::new("what there is", "all, or name it"),
];

/// A phrase in a text.
pub struct Found {
    pub line: usize,
    /// The phrase as the text has it.
    pub text: String,
    pub instead: &'static str,
}

/// The phrases of `list` in `tokens`; of two that overlap, the one that starts first, then the longer one.
pub fn find(tokens: &[Token], list: &[Phrase]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while let Some(first) = rest.first() {
        let matches = list.iter().filter_map(|phrase| Some((starting(rest, phrase)?, phrase)));
        let length = match matches.max_by_key(|(words, _)| words.len()) {
            Some((words, phrase)) => {
                found.push(Found { line: first.line, text: words.join(" "), instead: phrase.instead });
                words.len()
            }
            None => 1,
        };
        rest = &rest[length..];
    }
    found
}

/// The words of `phrase`, if `tokens` start with it.
fn starting<'a>(tokens: &'a [Token], phrase: &Phrase) -> Option<Vec<&'a str>> {
    let mut words = Vec::new();
    for (at, wanted) in phrase.words.split(' ').enumerate() {
        let TokenKind::Word(word) = &tokens.get(at)?.kind else { return None };
        if !wanted.split('|').any(|one| one == word) {
            return None;
        }
        words.push(word.as_str());
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::super::prose::tokens;
    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        let found = find(&tokens((1..).zip(text.lines())), &LIST);
        found.into_iter().map(|one| (one.line, one.text)).collect()
    }

    #[test]
    fn every_phrase_of_the_list_is_found_in_each_of_its_forms() {
        for Phrase { words, .. } in &LIST {
            let mut forms = vec![String::new()];
            for word in words.split(' ') {
                forms = word
                    .split('|')
                    .flat_map(|one| forms.iter().map(move |form| format!("{form} {one}").trim().to_owned()))
                    .collect();
            }
            for form in forms {
                assert_eq!(texts(&format!("We {form} here.")), [(1, form)]);
            }
        }
    }

    /// A text; the phrases in it.
    #[test]
    fn a_phrase_is_whole_words_of_one_part_of_a_sentence() {
        let rows: [(&str, &[(usize, &str)]); 9] = [
            ("It starts Anew.", &[(1, "anew")]),
            ("It hangs\non that.", &[(1, "hangs on")]),
            ("as many as there are *so* many", &[(1, "so many")]),
            ("It is told of others: nobody.", &[(1, "is told"), (1, "nobody")]),
            ("What it is. Told so, it is, told", &[]),
            ("renewed, thence, wholesome", &[]),
            ("is `not` told", &[]),
            ("asking-anew-while-alone", &[]),
            ("`anew` [b](anew.md)\n\n    anew\n\n```\nanew\n```", &[]),
        ];
        for (text, expected) in rows {
            let expected: Vec<_> = expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
            assert_eq!(texts(text), expected, "{text}");
        }
    }
}
