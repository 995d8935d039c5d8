//! `$filter` of the lists: `OData` on `name` alone - `contains(name,'x')`, `eq`, `ne`, `and`, `or`, `not`.

use gridwire_core::api_error::{ApiError, ErrorCode};

use crate::limits::{NAME_FILTER_BYTES_MAX, NAME_FILTER_DEPTH_MAX};

/// A condition on a resource's name. Names compare without regard to case, as everywhere in ARM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NameFilter {
    Contains(String),
    Equals(String),
    Not(Box<NameFilter>),
    And(Box<NameFilter>, Box<NameFilter>),
    Or(Box<NameFilter>, Box<NameFilter>),
}

impl NameFilter {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        if text.len() > NAME_FILTER_BYTES_MAX {
            return Err(refusal(&format!("it is longer than {NAME_FILTER_BYTES_MAX} bytes")));
        }
        let mut parser = Parser { rest: text, depth: 0 };
        let filter = parser.any_of()?;
        if parser.peek().is_empty() { Ok(filter) } else { Err(parser.unexpected("the end")) }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.matches_lower(&name.to_ascii_lowercase())
    }

    fn matches_lower(&self, name: &str) -> bool {
        match self {
            Self::Contains(part) => name.contains(part.as_str()),
            Self::Equals(whole) => name == whole,
            Self::Not(inner) => !inner.matches_lower(name),
            Self::And(left, right) => left.matches_lower(name) && right.matches_lower(name),
            Self::Or(left, right) => left.matches_lower(name) || right.matches_lower(name),
        }
    }
}

fn refusal(problem: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidRequest,
        format!(
            "The query parameter `$filter` is not valid: {problem}. It may test `name` with `contains`, `eq`, `ne`, `and`, `or` and `not`."
        ),
    )
}

struct Parser<'a> {
    rest: &'a str,
    /// Of brackets and `not`s that are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn any_of(&mut self) -> Result<NameFilter, ApiError> {
        let mut left = self.all_of()?;
        while self.word("or") {
            left = NameFilter::Or(Box::new(left), Box::new(self.all_of()?));
        }
        Ok(left)
    }

    fn all_of(&mut self) -> Result<NameFilter, ApiError> {
        let mut left = self.one()?;
        while self.word("and") {
            left = NameFilter::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<NameFilter, ApiError> {
        self.depth += 1;
        if self.depth > NAME_FILTER_DEPTH_MAX {
            return Err(refusal("it is nested too deeply"));
        }
        let filter = if self.word("not") {
            NameFilter::Not(Box::new(self.one()?))
        } else if self.symbol('(') {
            let inner = self.any_of()?;
            self.expect(')')?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<NameFilter, ApiError> {
        if self.word("contains") {
            self.expect('(')?;
            self.name()?;
            self.expect(',')?;
            let part = self.literal()?;
            self.expect(')')?;
            return Ok(NameFilter::Contains(part));
        }
        self.name()?;
        if self.word("eq") {
            Ok(NameFilter::Equals(self.literal()?))
        } else if self.word("ne") {
            Ok(NameFilter::Not(Box::new(NameFilter::Equals(self.literal()?))))
        } else {
            Err(self.unexpected("`eq` or `ne`"))
        }
    }

    fn name(&mut self) -> Result<(), ApiError> {
        if self.word("name") { Ok(()) } else { Err(self.unexpected("`name`")) }
    }

    /// A quoted text; a quote in it is doubled.
    fn literal(&mut self) -> Result<String, ApiError> {
        self.expect('\'')?;
        let mut text = String::new();
        loop {
            let Some((part, rest)) = self.rest.split_once('\'') else {
                return Err(self.unexpected("a closing quote"));
            };
            text.push_str(part);
            self.rest = rest;
            match rest.strip_prefix('\'') {
                None => return Ok(text.to_ascii_lowercase()),
                Some(rest) => {
                    text.push('\'');
                    self.rest = rest;
                }
            }
        }
    }

    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn symbol(&mut self, symbol: char) -> bool {
        match self.peek().strip_prefix(symbol) {
            None => false,
            Some(rest) => {
                self.rest = rest;
                true
            }
        }
    }

    fn expect(&mut self, symbol: char) -> Result<(), ApiError> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.unexpected(&format!("`{symbol}`"))) }
    }

    /// Takes `word` if it comes next as a whole word, in any case.
    fn word(&mut self, word: &str) -> bool {
        let rest = self.peek();
        let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        if !rest[..length].eq_ignore_ascii_case(word) {
            return false;
        }
        self.rest = &rest[length..];
        true
    }

    fn unexpected(&mut self, wanted: &str) -> ApiError {
        let found: String = self.peek().chars().take(20).filter(|c| !c.is_control()).collect();
        refusal(&format!("{wanted} was expected at `{found}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, name: &str, expected: bool) {
        let filter = NameFilter::parse(filter).unwrap();
        assert_eq!(filter.matches(name), expected, "{filter:?} on {name}");
    }

    #[test]
    fn names_are_compared_without_regard_to_case() {
        check("contains(name,'RDE')", "Orders", true);
        check("namE eq 'orders'", "Orders", true);
        check("name ne 'orders'", "Orders", false);
        check("NAME EQ 'it''s'", "It's", true);
    }

    #[test]
    fn and_binds_more_tightly_than_or_and_brackets_more_than_both() {
        check("name eq 'a' or name eq 'b' and name eq 'c'", "a", true);
        check("(name eq 'a' or name eq 'b') and name eq 'c'", "a", false);
        check("not contains(name, 'a') and name ne 'b'", "c", true);
        check("not (name eq 'a' or name eq 'c')", "c", false);
        check("not(name eq 'a')", "a", false);
    }

    #[test]
    fn anything_else_is_refused() {
        let deep = format!("{}name eq 'a'{}", "(".repeat(40), ")".repeat(40));
        let long = format!("name eq '{}'", "a".repeat(3000));
        for text in [
            "",
            "name",
            "name eq",
            "name eq a",
            "name eq 'a",
            "name eq 'a' and",
            "location eq 'a'",
            "contains('a',name)",
            "name eq 'a')",
            "(name eq 'a'",
            "startswith(name,'a')",
            "name lt 'a'",
            "name eq 'a' name eq 'b'",
            deep.as_str(),
            long.as_str(),
        ] {
            assert_eq!(NameFilter::parse(text).unwrap_err().code, ErrorCode::InvalidRequest, "{text}");
        }
    }
}
