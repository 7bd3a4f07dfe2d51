//! The language of the `filter` parameter, as clients of LXD and Incus write it:
//!
//! ```text
//! status eq Running and not type eq container       clauses, turned round by `not`, joined by `and` and `or`
//! name eq ^web.*                                    texts match whole, case ignored, as a regular expression
//! config.user.role ne 'data base'                   a path through the object's JSON; values may be quoted
//! snapshots.size gt 10                              eq, ne, lt, le, gt, ge; the last four compare numbers
//! status=running and type=container                 `=` and `!=` without blanks mean `eq` and `ne`
//! ```
//!
//! `and` and `or` bind alike, as in LXD: `a or b and c` is `(a or b) and c`. Everything here comes from outside, so a
//! filter's length and its number of clauses are bounded, and regular expressions run in linear time.

use regex_lite::{Regex, RegexBuilder};
use serde::Serialize;
use serde_json::Value;

/// Bytes of the longest filter.
const MAX_LENGTH: usize = 8 << 10;
/// The most clauses in a filter.
const MAX_CLAUSES: usize = 64;
/// The most steps in a path, which bounds the ways that a path with dots in a key can be read.
const MAX_STEPS: usize = 12;
/// Bytes that a compiled regular expression may take.
const MAX_REGEX: usize = 256 << 10;

/// Why a filter can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than any client has reason to send.
    #[error("the filter is {0} bytes long and may have {MAX_LENGTH}")]
    TooLong(usize),
    /// More clauses than any client has reason to send.
    #[error("the filter has more than {MAX_CLAUSES} clauses")]
    TooManyClauses,
    /// A path that is too deep.
    #[error("the field {0:?} of the filter has more than {MAX_STEPS} steps")]
    TooDeep(String),
    /// A quotation mark without its partner.
    #[error("the filter has a quoted value that doesn't end")]
    OpenQuote,
    /// Ended within a clause.
    #[error("the filter ends after {0:?}, where {1} is expected")]
    Incomplete(String, &'static str),
    /// Something that isn't an operator in the place of one.
    #[error("{0:?} in the filter is no operator: eq, ne, lt, le, gt and ge are")]
    Operator(String),
    /// Clauses that aren't joined.
    #[error("{0:?} in the filter must be `and` or `or`")]
    Connective(String),
    /// A value that isn't a regular expression.
    #[error("{value:?} in the filter is no regular expression: {reason}")]
    Regex {
        /// The value.
        value: String,
        /// What the parser says.
        reason: String,
    },
    /// A comparison with something that has no order.
    #[error("{0:?} in the filter is compared as a number and is none")]
    Number(String),
}

/// How a field is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Equal; texts match as a regular expression.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

impl Operator {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            _ if word.eq_ignore_ascii_case("eq") => Self::Eq,
            _ if word.eq_ignore_ascii_case("ne") => Self::Ne,
            _ if word.eq_ignore_ascii_case("lt") => Self::Lt,
            _ if word.eq_ignore_ascii_case("le") => Self::Le,
            _ if word.eq_ignore_ascii_case("gt") => Self::Gt,
            _ if word.eq_ignore_ascii_case("ge") => Self::Ge,
            _ => return None,
        })
    }
}

/// How a clause is joined to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connective {
    /// Both.
    And,
    /// Either.
    Or,
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Clause {
    /// How it is joined to the clauses before; the first by [`Connective::And`].
    pub connective: Connective,
    /// Whether it is turned round.
    pub not: bool,
    /// The path, with dots.
    pub field: String,
    /// How to compare.
    pub operator: Operator,
    /// What with.
    pub value: String,
    pattern: Option<Regex>,
    number: Option<f64>,
}

impl PartialEq for Clause {
    fn eq(&self, other: &Self) -> bool {
        // The pattern and the number follow from the value.
        (self.connective, self.not, &self.field, self.operator, &self.value)
            == (other.connective, other.not, &other.field, other.operator, &other.value)
    }
}

/// A parsed filter. An empty one lets everything through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The clauses in their order.
    pub clauses: Vec<Clause>,
}

impl Filter {
    /// Reads a filter; blank text is the empty filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(FilterError::TooLong(text.len()));
        }
        let mut words = tokens(text)?.into_iter();
        let mut clauses: Vec<Clause> = Vec::new();
        let mut next = words.next();
        while let Some(first) = next {
            if clauses.len() == MAX_CLAUSES {
                return Err(FilterError::TooManyClauses);
            }
            let (connective, first) = if clauses.is_empty() {
                (Connective::And, first)
            } else {
                let connective = connective(&first)?;
                (
                    connective,
                    words.next().ok_or(FilterError::Incomplete(first.text, "a clause"))?,
                )
            };
            let (clause, after) = clause(connective, first, &mut words)?;
            clauses.push(clause);
            next = after;
        }
        Ok(Self { clauses })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Whether an object passes, by its JSON.
    pub fn matches(&self, object: &Value) -> bool {
        self.clauses
            .iter()
            .fold(true, |so_far, clause| match clause.connective {
                Connective::And => so_far && clause.matches(object),
                Connective::Or => so_far || clause.matches(object),
            })
    }

    /// Keeps the objects that pass. Costs nothing when the filter is empty.
    pub fn retain<T: Serialize>(&self, objects: &mut Vec<T>) -> Result<(), serde_json::Error> {
        if self.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        objects.retain(|object| match serde_json::to_value(object) {
            Ok(value) => self.matches(&value),
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        failure.map_or(Ok(()), Err)
    }
}

impl Clause {
    fn new(connective: Connective, not: bool, field: String, op: Operator, value: String) -> Result<Self, FilterError> {
        if field.split('.').count() > MAX_STEPS {
            return Err(FilterError::TooDeep(field));
        }
        let number = value.parse::<f64>().ok();
        let pattern = match op {
            Operator::Eq | Operator::Ne => Some(pattern(&value)?),
            _ if number.is_none() => return Err(FilterError::Number(value)),
            _ => None,
        };
        Ok(Self {
            connective,
            not,
            field,
            operator: op,
            value,
            pattern,
            number,
        })
    }

    fn matches(&self, object: &Value) -> bool {
        let found = lookup(object, &self.field);
        let result = match self.operator {
            Operator::Eq => self.equals(found),
            Operator::Ne => !self.equals(found),
            Operator::Lt => self.compares(found, std::cmp::Ordering::is_lt),
            Operator::Le => self.compares(found, std::cmp::Ordering::is_le),
            Operator::Gt => self.compares(found, std::cmp::Ordering::is_gt),
            Operator::Ge => self.compares(found, std::cmp::Ordering::is_ge),
        };
        result != self.not
    }

    fn equals(&self, found: Option<&Value>) -> bool {
        match found {
            Some(Value::String(text)) => self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(text)),
            Some(Value::Bool(truth)) => self.value.eq_ignore_ascii_case(if *truth { "true" } else { "false" }),
            Some(Value::Number(number)) => self.number.is_some() && number.as_f64() == self.number,
            Some(Value::Array(items)) => items.iter().any(|item| self.equals(Some(item))),
            // A key that isn't there equals nothing but the empty text.
            Some(Value::Null) | None => self.value.is_empty(),
            Some(Value::Object(_)) => false,
        }
    }

    fn compares(&self, found: Option<&Value>, test: fn(std::cmp::Ordering) -> bool) -> bool {
        let number = match found {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        match (number, self.number) {
            (Some(found), Some(value)) => found.partial_cmp(&value).is_some_and(test),
            _ => false,
        }
    }
}

/// A value as a regular expression: of the whole text, unless it says itself where it is to stand.
fn pattern(value: &str) -> Result<Regex, FilterError> {
    let anchored = value.contains('^') || value.contains('$');
    let text = if anchored {
        value.to_owned()
    } else {
        format!("^(?:{value})$")
    };
    RegexBuilder::new(&text)
        .case_insensitive(true)
        .size_limit(MAX_REGEX)
        .build()
        .map_err(|error| FilterError::Regex {
            value: value.to_owned(),
            reason: error.to_string(),
        })
}

/// Follows a path. Keys of configuration have dots themselves, so the longest key comes first.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let Value::Object(map) = value else { return None };
    if let Some(found) = map.get(path) {
        return Some(found);
    }
    path.rmatch_indices('.')
        .find_map(|(at, _)| lookup(map.get(&path[..at])?, &path[at + 1..]))
}

/// A word of a filter.
#[derive(Debug)]
struct Token {
    text: String,
    /// A quoted word is a value, whatever it says.
    quoted: bool,
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '\'' | '"') {
            let (inside, after) = rest[1..].split_once(first).ok_or(FilterError::OpenQuote)?;
            out.push(Token {
                text: inside.to_owned(),
                quoted: true,
            });
            rest = after.trim_start();
        } else {
            let (word, after) = bare_word(rest)?;
            out.push(Token {
                text: word,
                quoted: false,
            });
            rest = after.trim_start();
        }
    }
    Ok(out)
}

/// A word up to the next blank; the value of `key='a b'` may be quoted within it.
fn bare_word(text: &str) -> Result<(String, &str), FilterError> {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let word = &text[..end];
    let quote = word.find('=').and_then(|at| {
        word[at + 1..]
            .chars()
            .next()
            .filter(|c| "'\"".contains(*c))
            .map(|c| (at, c))
    });
    match quote {
        Some((at, mark)) => {
            let (inside, after) = text[at + 2..].split_once(mark).ok_or(FilterError::OpenQuote)?;
            Ok((format!("{}={inside}", &text[..at]), after))
        }
        None => Ok((word.to_owned(), &text[end..])),
    }
}

fn connective(token: &Token) -> Result<Connective, FilterError> {
    if !token.quoted && token.text.eq_ignore_ascii_case("and") {
        Ok(Connective::And)
    } else if !token.quoted && token.text.eq_ignore_ascii_case("or") {
        Ok(Connective::Or)
    } else {
        Err(FilterError::Connective(token.text.clone()))
    }
}

/// Reads one clause, and the word after it.
fn clause(
    connective: Connective,
    first: Token,
    words: &mut impl Iterator<Item = Token>,
) -> Result<(Clause, Option<Token>), FilterError> {
    let not = !first.quoted && first.text.eq_ignore_ascii_case("not");
    let field = if not {
        words.next().ok_or(FilterError::Incomplete(first.text, "a field"))?
    } else {
        first
    };
    let after = words.next();
    if let Some(operator) = after
        .as_ref()
        .filter(|token| !token.quoted)
        .and_then(|token| Operator::parse(&token.text))
    {
        let word = after.map(|token| token.text).unwrap_or_default();
        let value = words.next().ok_or(FilterError::Incomplete(word, "a value"))?;
        return Ok((
            Clause::new(connective, not, field.text, operator, value.text)?,
            words.next(),
        ));
    }
    match field.text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let (name, operator) = name
                .strip_suffix('!')
                .map_or((name, Operator::Eq), |name| (name, Operator::Ne));
            Ok((
                Clause::new(connective, not, name.to_owned(), operator, value.to_owned())?,
                after,
            ))
        }
        _ => Err(match after {
            Some(token) => FilterError::Operator(token.text),
            None => FilterError::Incomplete(field.text, "an operator"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance() -> Value {
        json!({
            "name": "web1",
            "status": "Running",
            "ephemeral": false,
            "profiles": ["default", "lan"],
            "config": {"user.role": "data base", "limits.cpu": "4"},
            "devices": {"eth0": {"nictype": "bridged"}},
            "state": {"pid": 812},
        })
    }

    fn check(filter: &str, expected: bool) {
        assert_eq!(
            Filter::parse(filter).unwrap().matches(&instance()),
            expected,
            "{filter}"
        );
    }

    #[test]
    fn clauses_match() {
        check("", true);
        check("  ", true);
        check("name eq web1", true);
        check("name eq web", false);
        check("name eq WEB.", true);
        check("name eq ^web($|.*)", true);
        check("name eq ^b", false);
        check("name ne web2", true);
        check("not name eq web1", false);
        check("ephemeral eq false", true);
        check("state.pid eq 812", true);
        check("state.pid gt 800 and state.pid lt 900", true);
        check("config.limits.cpu ge 4", true);
        check("config.user.role eq 'data base'", true);
        check("config.user.role=\"data base\" and name=web1", true);
        check("status=running and type=container", false);
        check("status!=running", false);
        check("devices.eth0.nictype eq bridged", true);
        check("profiles eq lan", true);
        check("profiles ne lan", false);
        check("config.user.none eq x", false);
        check("config.user.none ne x", true);
        check("config.user.none eq ''", true);
    }

    #[test]
    fn connectives_bind_from_left_to_right() {
        check("name eq x or name eq web1 and status eq stopped", false);
        check("name eq x and name eq y or status eq running", true);
    }

    #[test]
    fn a_quoted_word_is_a_value() {
        check("name eq 'and' or name eq web1", true);
        assert_eq!(
            Filter::parse("name 'eq' x").unwrap_err(),
            FilterError::Operator("eq".into())
        );
    }

    #[test]
    fn what_is_no_filter_says_why() {
        let parse = |text: &str| Filter::parse(text).unwrap_err();
        assert_eq!(parse("name"), FilterError::Incomplete("name".into(), "an operator"));
        assert_eq!(parse("name eq"), FilterError::Incomplete("eq".into(), "a value"));
        assert_eq!(parse("not"), FilterError::Incomplete("not".into(), "a field"));
        assert_eq!(parse("name eq a or"), FilterError::Incomplete("or".into(), "a clause"));
        assert_eq!(parse("name is a"), FilterError::Operator("is".into()));
        assert_eq!(parse("name eq a name eq b"), FilterError::Connective("name".into()));
        assert_eq!(parse("name eq 'a"), FilterError::OpenQuote);
        assert_eq!(parse("name gt b"), FilterError::Number("b".into()));
        assert_eq!(parse(&"x".repeat(MAX_LENGTH + 1)), FilterError::TooLong(MAX_LENGTH + 1));
        assert_eq!(
            parse(&format!("{} eq 1", "a.".repeat(MAX_STEPS))),
            FilterError::TooDeep("a.".repeat(MAX_STEPS))
        );
        assert!(matches!(parse("name eq ("), FilterError::Regex { .. }));
        let many = vec!["a=b"; MAX_CLAUSES + 1].join(" and ");
        assert_eq!(parse(&many), FilterError::TooManyClauses);
    }

    #[test]
    fn hostile_expressions_are_bounded() {
        assert!(matches!(
            Filter::parse("name eq (((a{99}){99}){99}){99}"),
            Err(FilterError::Regex { .. })
        ));
        let slow = Filter::parse("name eq (a|a)*(a|aa)+$").unwrap();
        assert!(!slow.matches(&json!({ "name": format!("{}b", "a".repeat(4096)) })));
        let deep = format!("{} eq 1", ["a"; MAX_STEPS].join("."));
        assert!(
            !Filter::parse(&deep)
                .unwrap()
                .matches(&json!({"a": {"a": {"a": {"a.a": {"a": {}}}}}}))
        );
    }
}
