//! A condition as tokens. RocketMQ: the token definitions of `SelectorParser.jj`; of several that fit the longest is
//! taken, so `12abc` is a number and a name, and `007` three numbers.

use std::borrow::Cow;

use super::body::{BodyPath, BodyStep};
use super::error::{FilterError, FilterProblem};

/// The property name that is a path into the body when a `.` or `[` follows.
const BODY: &str = "body";

#[derive(Clone, PartialEq, Debug)]
pub enum Token<'a> {
    And,
    Or,
    Not,
    Is,
    In,
    Between,
    Contains,
    StartsWith,
    EndsWith,
    True,
    False,
    Null,
    /// Digits, without the `L` that may end them.
    Decimal(&'a str),
    Float(&'a str),
    /// Without its quotes.
    Text(Cow<'a, str>),
    Name(&'a str),
    Body(BodyPath),
    Equal,
    Unlike,
    Greater,
    AtLeast,
    Less,
    AtMost,
    Open,
    Comma,
    Close,
    Plus,
    Minus,
    End,
}

const KEYWORDS: [(&str, Token<'static>); 12] = [
    ("AND", Token::And),
    ("OR", Token::Or),
    ("NOT", Token::Not),
    ("IS", Token::Is),
    ("IN", Token::In),
    ("BETWEEN", Token::Between),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
];

/// A token and where it stands, bytes.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    pub token: Token<'a>,
    pub at: usize,
    pub end: usize,
}

/// Hands out the tokens of `source` one by one.
pub struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(source: &'a str) -> Self {
        Self { source, at: 0 }
    }

    /// Whether a comment begins at `at` that nothing but the end of the source ends. Java wants an end of line behind
    /// a comment, and takes this for two minus signs; behind a condition it leaves them unread.
    pub fn is_last_comment(&self, at: usize) -> bool {
        self.source[at..].starts_with("--")
    }

    /// An error at a byte of the source.
    pub fn error(&self, at: usize, problem: FilterProblem) -> FilterError {
        FilterError { column: self.source[..at].chars().count() + 1, problem }
    }

    pub fn next(&mut self) -> Result<Placed<'a>, FilterError> {
        self.skip_blanks_and_comments()?;
        let at = self.at;
        let rest = &self.source[at..];
        let Some(first) = rest.bytes().next() else { return Ok(Placed { token: Token::End, at, end: at }) };
        let (token, len) = match first {
            b'0'..=b'9' | b'.' => self.number(rest)?,
            b'\'' => self.text(at)?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => self.word(rest)?,
            _ => self.sign(rest)?,
        };
        self.at = at + len;
        Ok(Placed { token, at, end: self.at })
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), FilterError> {
        loop {
            let rest = &self.source[self.at..];
            if rest.starts_with([' ', '\t', '\n', '\r', '\x0C']) {
                self.at += 1;
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let len = comment.find("*/");
                let len = len.ok_or_else(|| self.error(self.at, FilterProblem::OpenComment))?;
                self.at += len + "/**/".len();
            } else if rest.starts_with("--")
                && let Some(end) = rest.find(['\n', '\r'])
            {
                self.at += end + 1;
            } else {
                return Ok(());
            }
        }
    }

    fn number(&self, rest: &'a str) -> Result<(Token<'a>, usize), FilterError> {
        let whole = digits(rest);
        let mut float = 0;
        if rest[whole..].starts_with('.') {
            let fraction = digits(&rest[whole + 1..]);
            if whole + fraction > 0 {
                float = whole + 1 + fraction;
                float += exponent(&rest[float..]);
            }
        } else if exponent(&rest[whole..]) > 0 {
            float = whole + exponent(&rest[whole..]);
        }
        if float > 0 {
            return Ok((Token::Float(&rest[..float]), float));
        }
        if whole == 0 {
            return Err(self.error(self.at, FilterProblem::UnknownCharacter { found: '.' }));
        }
        if rest.starts_with('0') {
            return Ok((Token::Decimal("0"), 1));
        }
        let suffix = usize::from(rest[whole..].starts_with(['l', 'L']));
        Ok((Token::Decimal(&rest[..whole]), whole + suffix))
    }

    fn text(&self, at: usize) -> Result<(Token<'a>, usize), FilterError> {
        let len = quoted_len(&self.source[at..]).ok_or_else(|| self.error(at, FilterProblem::OpenText))?;
        Ok((Token::Text(unquoted(&self.source[at..at + len])), len))
    }

    fn word(&self, rest: &'a str) -> Result<(Token<'a>, usize), FilterError> {
        let len = word_len(rest);
        let word = &rest[..len];
        if word == BODY && rest[len..].starts_with(['.', '[']) {
            let (path, path_len) = self.body_path(self.at + len)?;
            return Ok((Token::Body(path), len + path_len));
        }
        let keyword = KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
        Ok((keyword.map_or(Token::Name(word), |(_, token)| token.clone()), len))
    }

    /// The steps that begin at `begin`, and how many bytes they take.
    fn body_path(&self, begin: usize) -> Result<(BodyPath, usize), FilterError> {
        let mut steps = Vec::new();
        let mut at = begin;
        loop {
            let rest = &self.source[at..];
            let wrong = |from: usize| self.error(from, FilterProblem::BodyStep);
            if let Some(name) = rest.strip_prefix('.') {
                let len = word_len(name);
                if len == 0 || name.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(wrong(at + 1));
                }
                steps.push(BodyStep::Name(name[..len].into()));
                at += 1 + len;
            } else if let Some(index) = rest.strip_prefix('[') {
                let (step, len) = match quoted_len(index) {
                    Some(len) => (BodyStep::Name(unquoted(&index[..len]).into()), len),
                    None => {
                        let len = digits(index);
                        (BodyStep::Index(index[..len].parse().map_err(|_| wrong(at + 1))?), len)
                    }
                };
                if !index[len..].starts_with(']') {
                    return Err(wrong(at + 1 + len));
                }
                steps.push(step);
                at += len + 2;
            } else {
                return Ok((BodyPath::new(steps), at - begin));
            }
        }
    }

    fn sign(&self, rest: &'a str) -> Result<(Token<'a>, usize), FilterError> {
        let signs = [
            ("<>", Token::Unlike),
            (">=", Token::AtLeast),
            ("<=", Token::AtMost),
            ("=", Token::Equal),
            (">", Token::Greater),
            ("<", Token::Less),
            ("(", Token::Open),
            (",", Token::Comma),
            (")", Token::Close),
            ("+", Token::Plus),
            ("-", Token::Minus),
        ];
        let found = signs.into_iter().find(|(sign, _)| rest.starts_with(sign));
        found.map(|(sign, token)| (token, sign.len())).ok_or_else(|| {
            let found = rest.chars().next().unwrap_or_default();
            self.error(self.at, FilterProblem::UnknownCharacter { found })
        })
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Length of `E10`, `e-3` at the beginning of `text`; 0 if there is none.
fn exponent(text: &str) -> usize {
    let Some(power) = text.strip_prefix(['e', 'E']) else { return 0 };
    let unsigned = power.strip_prefix(['+', '-']).unwrap_or(power);
    match digits(unsigned) {
        0 => 0,
        count => text.len() - unsigned.len() + count,
    }
}

fn word_len(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')).count()
}

/// Length of the text in quotes at the beginning of `text`, quotes included. Two quotes within stand for one.
fn quoted_len(text: &str) -> Option<usize> {
    let mut at = 1 + text.strip_prefix('\'')?.find('\'')?;
    while text[at + 1..].starts_with('\'') {
        match text[at + 2..].find('\'') {
            Some(next) => at += 2 + next,
            // The longest that is closed.
            None => break,
        }
    }
    Some(at + 1)
}

fn unquoted(quoted: &str) -> Cow<'_, str> {
    let inner = &quoted[1..quoted.len() - 1];
    if inner.contains('\'') { inner.replace("''", "'").into() } else { inner.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(source);
        let next = || lexer.next().unwrap().token;
        std::iter::repeat_with(next).take_while(|token| *token != Token::End).collect()
    }

    fn error(source: &str) -> FilterError {
        let mut lexer = Lexer::new(source);
        loop {
            match lexer.next() {
                Ok(Placed { token: Token::End, .. }) => panic!("{source} has no error"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    #[test]
    fn the_longest_token_is_taken() {
        use Token::*;
        assert_eq!(tokens("12abc"), [Decimal("12"), Name("abc")]);
        assert_eq!(tokens("007"), [Decimal("0"), Decimal("0"), Decimal("7")]);
        assert_eq!(tokens("00.5"), [Float("00.5")]);
        assert_eq!(tokens("12L 12LL 0L"), [Decimal("12"), Decimal("12"), Name("L"), Decimal("0"), Name("L")]);
        assert_eq!(
            tokens("5. .5 5E10 5.e-3 5E"),
            [Float("5."), Float(".5"), Float("5E10"), Float("5.e-3"), Decimal("5"), Name("E")]
        );
        assert_eq!(tokens("a<>b<=c"), [Name("a"), Unlike, Name("b"), AtMost, Name("c")]);
        assert_eq!(tokens("not NOTE iN_"), [Not, Name("NOTE"), Name("iN_")]);
    }

    #[test]
    fn quotes_within_texts_are_doubled() {
        let texts = ["", "it's", "'", "a--b"].map(|text| Token::Text(text.into()));
        assert_eq!(tokens("'' 'it''s' '''' 'a--b'"), texts);
        // The longest text that is closed is taken first, as in Java.
        assert_eq!(error("a = 'it''s").column, 9);
        assert_eq!(error("a = 'x' = 'y").column, 11);
    }

    #[test]
    fn comments_are_passed() {
        assert_eq!(tokens("a /* b * / ** */ c"), [Token::Name("a"), Token::Name("c")]);
        assert_eq!(tokens("a -- b\nc"), [Token::Name("a"), Token::Name("c")]);
        assert_eq!(tokens("a --"), [Token::Name("a"), Token::Minus, Token::Minus]);
        assert_eq!(error("a /* b *").problem, FilterProblem::OpenComment);
    }

    #[test]
    fn paths_into_the_body_are_one_token() {
        let path = |steps: &[BodyStep]| Token::Body(BodyPath::new(steps.to_vec()));
        let name = |name: &str| BodyStep::Name(name.into());
        assert_eq!(tokens("body.a"), [path(&[name("a")])]);
        let found = tokens("body.items[0]['order-id'].n = 1");
        assert_eq!(found[0], path(&[name("items"), BodyStep::Index(0), name("order-id"), name("n")]));
        assert_eq!(found.len(), 3);
        assert_eq!(tokens("body = 1")[0], Token::Name("body"));
        for (source, column) in
            [("body.", 6), ("body.5", 6), ("body[x]", 6), ("body[1", 7), ("body.a['x'", 11)]
        {
            assert_eq!(error(source), FilterError { column, problem: FilterProblem::BodyStep }, "{source}");
        }
    }

    #[test]
    fn errors_say_the_column_in_characters() {
        assert_eq!(error("é = \"x\"").column, 1);
        assert_eq!(error("a = 'é' ! b").column, 9);
        assert!(error("a ! b").to_string().contains("<>"));
    }
}
