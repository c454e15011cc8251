//! Places where a long text may be cut without changing its tokens.

/// The first place at or after byte `from` between a word and a space that another word follows.
///
/// The pre-tokenizers in use all split there, and no merge reaches across it: a cut leaves the
/// tokens on both sides as they are. The place is the byte of the space.
pub(super) fn word_border(text: &str, from: usize) -> Option<usize> {
    border(text, from, |c| c == ' ')
}

/// Like [`word_border`], with any one whitespace character (a line end) between the words.
pub(super) fn line_border(text: &str, from: usize) -> Option<usize> {
    border(text, from, char::is_whitespace)
}

fn border(text: &str, from: usize, between: impl Fn(char) -> bool) -> Option<usize> {
    let from = ceil(text, from)?;
    let mut before = text[..from].chars().next_back();
    let mut rest = text[from..].char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let after = rest.peek().map(|&(_, c)| c);
        if between(c) && before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
        {
            return Some(from + at);
        }
        before = Some(c);
    }
    None
}

/// The first char boundary at or after `at`, or `None` past the end of the text.
fn ceil(text: &str, at: usize) -> Option<usize> {
    (at..=text.len()).find(|&at| text.is_char_boundary(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_lies_between_two_words_only() {
        assert_eq!(word_border("one two", 0), Some(3));
        assert_eq!(word_border("one two three", 4), Some(7));
        assert_eq!(word_border("one. two", 0), None, "punctuation may take the space's side");
        assert_eq!(word_border("one  two", 0), None, "runs of spaces are split by other rules");
        assert_eq!(word_border("one ", 0), None);
        assert_eq!(word_border("one\ntwo", 0), None);
        assert_eq!(line_border("one\ntwo", 0), Some(3));
        assert_eq!(word_border("", 0), None);
        assert_eq!(word_border("one two", 100), None);
    }

    #[test]
    fn a_border_is_found_from_the_middle_of_a_character() {
        assert_eq!(word_border("\u{e9}t\u{e9} \u{e0}", 1), Some(5));
    }
}
