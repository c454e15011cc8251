//! Reads one line of a program's text from left to right.

/// What is left of a line. Every reader skips blanks first and returns a message if the text is another.
pub(super) struct Line<'a> {
    rest: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn new(text: &'a str) -> Line<'a> {
        Line { rest: text }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
    }

    /// What comes next, for a message.
    fn next_shown(&self) -> String {
        match self.rest.chars().take(20).collect::<String>() {
            shown if shown.is_empty() => "the end of the line".into(),
            shown => format!("{shown:?}"),
        }
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        if self.at_end() {
            Ok(())
        } else {
            Err(format!("expected the end of the line, not {}", self.next_shown()))
        }
    }

    /// Takes this mark if it is next.
    pub(super) fn take(&mut self, mark: char) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<(), String> {
        if self.take(mark) { Ok(()) } else { Err(format!("expected {mark:?}, not {}", self.next_shown())) }
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip_blanks();
        self.rest.chars().next()
    }

    /// A word of letters, digits, `_` and `.`.
    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.span(what, |c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    }

    /// Everything that can be part of a number or word: letters, digits, `_`, `.`, `+`, `-`.
    pub(super) fn scalar(&mut self, what: &str) -> Result<&'a str, String> {
        self.span(what, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'))
    }

    fn span(&mut self, what: &str, of: impl Fn(char) -> bool) -> Result<&'a str, String> {
        self.skip_blanks();
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(format!("expected {what}, not {}", self.next_shown()));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word)
    }

    /// A whole number in decimal digits.
    pub(super) fn integer(&mut self, what: &str) -> Result<u64, String> {
        self.skip_blanks();
        let digits = self.span(what, |c| c.is_ascii_digit())?;
        digits.parse().map_err(|_| format!("{digits} is too large for {what}"))
    }

    /// The number of a value: `%7`.
    pub(super) fn value(&mut self) -> Result<u64, String> {
        self.expect('%')?;
        self.integer("the number of a value")
    }

    /// A name in quotes.
    pub(super) fn quoted(&mut self) -> Result<String, String> {
        self.expect('"')?;
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(name);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => name.push(c),
                    Some((_, 'u')) => name.push(escape(&mut chars)?),
                    _ => return Err("a backslash in a name is followed by \", \\ or u{..}".into()),
                },
                c => name.push(c),
            }
        }
        Err("a name's closing quote is missing".into())
    }
}

fn escape(chars: &mut std::str::CharIndices<'_>) -> Result<char, String> {
    let digits: String =
        chars.by_ref().map(|(_, c)| c).skip_while(|&c| c == '{').take_while(|&c| c != '}').collect();
    u32::from_str_radix(&digits, 16)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| format!("\\u{{{digits}}} in a name is no character"))
}
