//! Tokens to a condition. RocketMQ: the grammar of `SelectorParser.jj`, and the checks that its expressions make
//! when they are put together.
//!
//! ```text
//! or         = and ("OR" and)*
//! and        = equality ("AND" equality)*
//! equality   = comparison ("=" comparison | "<>" comparison | "IS" ["NOT"] "NULL")*
//! comparison = unary ((">" | ">=" | "<" | "<=") unary
//!              | ["NOT"] ("CONTAINS" | "STARTSWITH" | "ENDSWITH") text
//!              | ["NOT"] "BETWEEN" unary "AND" unary
//!              | ["NOT"] "IN" "(" text ("," text)* ")")*
//! unary      = ("+" | "-" | "NOT") unary | primary
//! primary    = literal | property | "(" or ")"
//! ```
//!
//! `NOT` binds more tightly than anything: `NOT a = 1` is `(NOT a) = 1`.

use super::body::BodyPath;
use super::condition::{Comparison, Condition, Operand, Place};
use super::error::{FilterError, FilterProblem};
use super::lexer::{Lexer, Placed, Token};
use super::value::Value;

/// How deep parts of a condition may lie in each other. Parsing and evaluation use the stack.
pub const MAX_DEPTH: usize = 100;

/// How many fields of a body a condition may ask for: each is compared with every name in it.
pub const MAX_FIELDS: usize = 32;

/// What a source is compiled to.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    pub condition: Condition,
    /// What [`Operand::Body`] counts in; each once.
    pub body_paths: Vec<BodyPath>,
}

/// Compiles `source`, which may look into bodies `max_steps` deep.
pub fn parse(source: &str, max_steps: usize) -> Result<Parsed, FilterError> {
    let mut lexer = Lexer::new(source);
    let next = lexer.next()?;
    let mut parser = Parser { source, lexer, next, depth: 0, max_steps, body_paths: Vec::new() };
    let condition = parser.or()?;
    let condition = parser.as_condition(condition)?;
    let at = parser.next.at;
    match parser.next.token {
        Token::End => {}
        Token::Minus if parser.lexer.is_last_comment(at) => {}
        _ => {
            let found = parser.found();
            return Err(parser.lexer.error(at, FilterProblem::TrailingText { found }));
        }
    }
    Ok(Parsed { condition, body_paths: parser.body_paths })
}

struct Parser<'a> {
    source: &'a str,
    lexer: Lexer<'a>,
    next: Placed<'a>,
    depth: usize,
    max_steps: usize,
    body_paths: Vec<BodyPath>,
}

/// An operand and where it begins, bytes.
struct At {
    operand: Operand,
    at: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Placed<'a>, FilterError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// Passes `token` if it comes next.
    fn pass(&mut self, token: &Token<'_>) -> Result<bool, FilterError> {
        let is_next = self.next.token == *token;
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, token: &Token<'_>, expected: &'static str) -> Result<(), FilterError> {
        if self.pass(token)? { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        let found = self.found();
        self.lexer.error(self.next.at, FilterProblem::Unexpected { expected, found })
    }

    /// The next token as it is written.
    fn found(&self) -> String {
        match self.next.token {
            Token::End => "the end".to_owned(),
            _ => format!("{:?}", &self.source[self.next.at..self.next.end]),
        }
    }

    fn deeper(&mut self) -> Result<(), FilterError> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(self.lexer.error(self.next.at, FilterProblem::TooDeep)),
            false => Ok(()),
        }
    }

    fn or(&mut self) -> Result<At, FilterError> {
        self.chain(Token::Or, Self::and, Condition::Any)
    }

    fn and(&mut self) -> Result<At, FilterError> {
        self.chain(Token::And, Self::equality, Condition::All)
    }

    /// One `part`, or several with `link` between them, which are conditions then.
    fn chain(
        &mut self,
        link: Token<'static>,
        part: fn(&mut Self) -> Result<At, FilterError>,
        all: fn(Vec<Condition>) -> Condition,
    ) -> Result<At, FilterError> {
        let first = part(self)?;
        if self.next.token != link {
            return Ok(first);
        }
        let at = first.at;
        let mut conditions = vec![self.as_condition(first)?];
        while self.pass(&link)? {
            let next = part(self)?;
            conditions.push(self.as_condition(next)?);
        }
        Ok(condition_at(at, all(conditions)))
    }

    fn equality(&mut self) -> Result<At, FilterError> {
        let depth = self.depth;
        let mut left = self.comparison()?;
        loop {
            let (at, is_equal) = (left.at, self.next.token == Token::Equal);
            let condition = if is_equal || self.next.token == Token::Unlike {
                self.advance()?;
                let right = self.comparison()?;
                let equal = self.equal(left, right, if is_equal { "=" } else { "<>" })?;
                if is_equal { equal } else { Condition::Not(equal.into()) }
            } else if self.pass(&Token::Is)? {
                let negated = self.pass(&Token::Not)?;
                self.expect(&Token::Null, "NULL")?;
                let is_null = Condition::IsNull(left.operand);
                if negated { Condition::Not(is_null.into()) } else { is_null }
            } else {
                self.depth = depth;
                return Ok(left);
            };
            left = condition_at(at, condition);
            self.deeper()?;
        }
    }

    fn equal(&self, left: At, right: At, operator: &'static str) -> Result<Condition, FilterError> {
        for side in [&left, &right] {
            if is_null_literal(&side.operand) {
                return Err(self.not_comparable(side, operator));
            }
        }
        if is_literal(&left.operand) && matches!(right.operand, Operand::Constant(_)) {
            return Err(self.not_comparable(&left, "a number or a text"));
        }
        Ok(Condition::Equal(left.operand, right.operand))
    }

    fn comparison(&mut self) -> Result<At, FilterError> {
        let depth = self.depth;
        let mut left = self.unary()?;
        loop {
            let at = left.at;
            let condition = match self.next.token {
                Token::Greater => self.size(left, Comparison::Greater, ">")?,
                Token::AtLeast => self.size(left, Comparison::AtLeast, ">=")?,
                Token::Less => self.size(left, Comparison::Less, "<")?,
                Token::AtMost => self.size(left, Comparison::AtMost, "<=")?,
                Token::Not => {
                    self.advance()?;
                    match self.test(left, true)? {
                        Ok(test) => test,
                        Err(_) => {
                            let words = "BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH behind NOT";
                            return Err(self.unexpected(words));
                        }
                    }
                }
                _ => match self.test(left, false)? {
                    Ok(test) => test,
                    Err(left) => {
                        self.depth = depth;
                        return Ok(left);
                    }
                },
            };
            left = condition_at(at, condition);
            self.deeper()?;
        }
    }

    fn size(
        &mut self,
        left: At,
        comparison: Comparison,
        sign: &'static str,
    ) -> Result<Condition, FilterError> {
        self.advance()?;
        let right = self.unary()?;
        self.check_has_size(&left, sign)?;
        self.check_has_size(&right, sign)?;
        Ok(Condition::Size(left.operand, comparison, right.operand))
    }

    /// What may stand behind `NOT`; gives `left` back where the next word begins no such test.
    fn test(&mut self, left: At, negated: bool) -> Result<Result<Condition, At>, FilterError> {
        let place = match self.next.token {
            Token::Between => return self.between(left, negated).map(Ok),
            Token::In => return self.within(left, negated).map(Ok),
            Token::Contains => Place::Anywhere,
            Token::StartsWith => Place::Start,
            Token::EndsWith => Place::End,
            _ => return Ok(Err(left)),
        };
        self.advance()?;
        let part = self.text()?;
        Ok(Ok(Condition::Part { operand: left.operand, negated, place, part }))
    }

    fn between(&mut self, left: At, negated: bool) -> Result<Condition, FilterError> {
        self.advance()?;
        let low = self.unary()?;
        self.expect(&Token::And, "AND between the bounds of BETWEEN")?;
        let high = self.unary()?;
        for side in [&left, &low, &high] {
            self.check_has_size(side, "BETWEEN")?;
        }
        if !negated
            && let (Operand::Constant(from), Operand::Constant(to)) = (&low.operand, &high.operand)
            && to.compare(from).is_ok_and(|order| order.is_lt())
        {
            let problem = FilterProblem::ReversedBounds { low: number(from), high: number(to) };
            return Err(self.lexer.error(low.at, problem));
        }
        Ok(Condition::Between { operand: left.operand, negated, low: low.operand, high: high.operand })
    }

    fn within(&mut self, left: At, negated: bool) -> Result<Condition, FilterError> {
        self.advance()?;
        self.expect(&Token::Open, "( behind IN")?;
        let mut texts = vec![self.text()?];
        while self.pass(&Token::Comma)? {
            texts.push(self.text()?);
        }
        self.expect(&Token::Close, "a comma or ) in the list of IN")?;
        if !matches!(left.operand, Operand::Property(_) | Operand::Body(_)) {
            let operand = name_of(&left.operand);
            return Err(self.lexer.error(left.at, FilterProblem::InOfNoProperty { operand }));
        }
        Ok(Condition::In { operand: left.operand, negated, texts: texts.into() })
    }

    fn text(&mut self) -> Result<Box<str>, FilterError> {
        match &self.next.token {
            Token::Text(text) => {
                let text = text.as_ref().into();
                self.advance()?;
                Ok(text)
            }
            _ => Err(self.unexpected("a text in single quotes")),
        }
    }

    fn unary(&mut self) -> Result<At, FilterError> {
        self.deeper()?;
        let at = self.next.at;
        let operand = match self.next.token {
            Token::Plus => {
                self.advance()?;
                self.unary()?.operand
            }
            Token::Minus => {
                self.advance()?;
                Operand::Negated(self.unary()?.operand.into())
            }
            Token::Not => {
                self.advance()?;
                let negated = self.unary()?;
                Operand::Condition(Condition::Not(self.as_condition(negated)?.into()).into())
            }
            _ => self.primary()?,
        };
        self.depth -= 1;
        Ok(At { operand, at })
    }

    fn primary(&mut self) -> Result<Operand, FilterError> {
        let literal = |truth| Operand::Condition(Condition::Literal(truth).into());
        let operand = match &self.next.token {
            Token::Text(text) => Operand::Constant(Value::Text(text.clone().into_owned().into())),
            Token::Decimal(digits) => Operand::Constant(self.whole(digits)?),
            Token::Float(digits) => Operand::Constant(self.float(digits)?),
            Token::True => literal(Some(true)),
            Token::False => literal(Some(false)),
            Token::Null => literal(None),
            Token::Name(name) => Operand::Property((*name).into()),
            Token::Body(path) => self.body(path.clone())?,
            Token::Open => {
                self.advance()?;
                let inner = self.or()?.operand;
                self.expect(&Token::Close, "AND, OR or )")?;
                return Ok(inner);
            }
            _ => return Err(self.unexpected("a property, a number, a text in single quotes, or (")),
        };
        self.advance()?;
        Ok(operand)
    }

    fn whole(&self, digits: &str) -> Result<Value<'static>, FilterError> {
        let too_large = || FilterProblem::NumberTooLarge {
            number: digits.to_owned(),
            limit: "9223372036854775807, the largest whole number",
        };
        digits.parse().map(Value::whole).map_err(|_| self.lexer.error(self.next.at, too_large()))
    }

    /// Java takes no zero with a point in it, since it checks against the smallest number above zero.
    fn float(&self, digits: &str) -> Result<Value<'static>, FilterError> {
        let value: f64 = digits.parse().unwrap_or(0.0);
        let limit = match value {
            _ if value == f64::INFINITY => "1.7976931348623157E308, the largest number",
            _ if value == 0.0 => "4.9E-324, the smallest number with a fraction; zero is written 0",
            _ => return Ok(Value::Double(value)),
        };
        let number = digits.to_owned();
        Err(self.lexer.error(self.next.at, FilterProblem::NumberTooLarge { number, limit }))
    }

    fn body(&mut self, path: BodyPath) -> Result<Operand, FilterError> {
        let (steps, max_steps) = (path.steps(), self.max_steps);
        if steps > max_steps {
            return Err(self.lexer.error(self.next.at, FilterProblem::BodyTooDeep { steps, max_steps }));
        }
        if let Some(known) = self.body_paths.iter().position(|known| *known == path) {
            return Ok(Operand::Body(known));
        }
        if self.body_paths.len() == MAX_FIELDS {
            return Err(self.lexer.error(self.next.at, FilterProblem::TooManyFields));
        }
        self.body_paths.push(path);
        Ok(Operand::Body(self.body_paths.len() - 1))
    }

    fn as_condition(&self, At { operand, at }: At) -> Result<Condition, FilterError> {
        match operand {
            Operand::Condition(condition) => Ok(*condition),
            Operand::Property(_) | Operand::Body(_) => Ok(Condition::Alone(operand)),
            Operand::Constant(_) | Operand::Negated(_) => {
                let problem = FilterProblem::NotACondition { operand: name_of(&operand) };
                Err(self.lexer.error(at, problem))
            }
        }
    }

    fn check_has_size(&self, side: &At, operator: &'static str) -> Result<(), FilterError> {
        match side.operand {
            Operand::Constant(Value::Text(_)) | Operand::Condition(_) => {
                Err(self.not_comparable(side, operator))
            }
            _ => Ok(()),
        }
    }

    fn not_comparable(&self, side: &At, operator: &'static str) -> FilterError {
        let operand = name_of(&side.operand);
        self.lexer.error(side.at, FilterProblem::NotComparable { operand, operator })
    }
}

fn condition_at(at: usize, condition: Condition) -> At {
    At { operand: Operand::Condition(condition.into()), at }
}

fn is_literal(operand: &Operand) -> bool {
    matches!(operand, Operand::Condition(condition) if matches!(**condition, Condition::Literal(_)))
}

fn is_null_literal(operand: &Operand) -> bool {
    matches!(operand, Operand::Condition(condition) if **condition == Condition::Literal(None))
}

/// What an operand is to people.
fn name_of(operand: &Operand) -> &'static str {
    match operand {
        Operand::Constant(Value::Text(_)) => "a text",
        Operand::Constant(_) => "a number",
        Operand::Property(_) => "a property",
        Operand::Body(_) => "a field of the body",
        Operand::Negated(_) => "a value with a minus sign",
        Operand::Condition(condition) => match **condition {
            Condition::Literal(Some(_)) => "TRUE or FALSE",
            Condition::Literal(None) => "NULL",
            _ => "a condition",
        },
    }
}

fn number(value: &Value<'_>) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Long(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        _ => String::new(),
    }
}
