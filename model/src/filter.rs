//! The filter language of list calls (containerd's contract).
//!
//! A request holds a list of filters, any of which may match; a filter is a comma-separated list of selectors, all of
//! which must match; a selector is a field path, alone (the field is present) or with an operator and a value.

use crate::error::{Classify, Kind};

/// The longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 64 * 1024;

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filters: parse error at byte {at} of {filter:?}: {expected}")]
pub struct FilterError {
    /// The filter.
    pub filter: String,
    /// Where reading stopped.
    pub at: usize,
    /// What was expected there.
    pub expected: String,
}

impl Classify for FilterError {
    fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Something that has fields to match.
pub trait Fields {
    /// The value of the field at `path`, `None` if the object has no such field or the field is empty.
    ///
    /// For `labels` and `annotations` the implementation joins the rest of the path with dots ([`label_key`]).
    fn field(&self, path: &[String]) -> Option<String>;
}

/// The key a path below `labels` or `annotations` means: its parts joined with dots.
pub fn label_key(rest: &[String]) -> String {
    rest.join(".")
}

/// Looks up a path below `labels` in `labels`.
pub fn label_field(labels: &crate::Labels, rest: &[String]) -> Option<String> {
    labels.get(&label_key(rest)).cloned()
}

/// A list of filters, ready to match.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    any: Vec<Vec<Selector>>,
    everything: bool,
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex_lite::Regex),
}

impl Filters {
    /// Reads the filters of a request. No filter, or an empty one, matches everything.
    ///
    /// # Errors
    /// [`FilterError`] for the first filter that cannot be read.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        let mut any = Vec::with_capacity(filters.len());
        let mut everything = filters.is_empty();
        for filter in filters {
            let filter = filter.as_ref();
            if filter.trim().is_empty() {
                everything = true;
                continue;
            }
            any.push(Parser { filter, at: 0 }.selectors()?);
        }
        Ok(Self { any, everything })
    }

    /// Whether every object matches, so that no field needs to be looked up.
    pub fn matches_everything(&self) -> bool {
        self.everything
    }

    /// Whether `object` matches.
    pub fn matches(&self, object: &impl Fields) -> bool {
        self.everything || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(object)))
    }
}

impl Selector {
    fn matches(&self, object: &impl Fields) -> bool {
        let value = object.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(wanted) => value.as_ref() != Some(wanted),
            Test::Matches(pattern) => value.is_some_and(|value| pattern.is_match(&value)),
        }
    }
}

struct Parser<'a> {
    filter: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn selectors(mut self) -> Result<Vec<Selector>, FilterError> {
        if self.filter.len() > MAX_FILTER_BYTES {
            return Err(FilterError {
                filter: self.filter[..64.min(self.filter.len())].escape_debug().to_string(),
                at: MAX_FILTER_BYTES,
                expected: "a shorter filter".into(),
            });
        }
        let mut all = vec![self.selector()?];
        loop {
            self.skip_space();
            match self.peek() {
                None => return Ok(all),
                Some(',') => {
                    self.bump();
                    all.push(self.selector()?);
                }
                Some(_) => return Err(self.error("a comma or the end")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.field()?];
        self.skip_space();
        while self.peek() == Some('.') {
            self.bump();
            path.push(self.field()?);
            self.skip_space();
        }
        let rest = &self.filter[self.at..];
        let operator = ["==", "!=", "~="].into_iter().find(|operator| rest.starts_with(operator));
        let Some(operator) = operator else {
            return match self.peek() {
                None | Some(',') => Ok(Selector { path, test: Test::Present }),
                Some(_) => Err(self.error("an operator (==, != or ~=), a comma or the end")),
            };
        };
        self.at += operator.len();
        self.skip_space();
        let start = self.at;
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => {
                let pattern = regex_lite::Regex::new(&value);
                Test::Matches(pattern.map_err(|error| FilterError {
                    filter: self.filter.to_owned(),
                    at: start,
                    expected: format!("a regular expression: {error}"),
                })?)
            }
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let rest = &self.filter[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error("a field name"));
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }

    fn value(&mut self, pattern: bool) -> Result<String, FilterError> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(quote @ ('/' | '|')) if pattern => self.raw(quote),
            Some('/' | '|') => Err(self.error("a value; one that begins with / or | must be quoted")),
            _ => {
                let rest = &self.filter[self.at..];
                let end = rest.find(|c: char| c == ',' || c.is_whitespace() || c.is_control()).unwrap_or(rest.len());
                if end == 0 {
                    return Err(self.error("a value"));
                }
                self.at += end;
                Ok(rest[..end].to_owned())
            }
        }
    }

    /// A string between two `quote`s, in which only the quote itself may be escaped.
    fn raw(&mut self, quote: char) -> Result<String, FilterError> {
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None => return Err(self.error("the closing quote")),
                Some(c) if c == quote => return Ok(text),
                Some('\\') if self.peek() == Some(quote) => {
                    self.bump();
                    text.push(quote);
                }
                Some(c) => text.push(c),
            }
        }
    }

    /// A double-quoted string with Go's escapes.
    fn quoted(&mut self) -> Result<String, FilterError> {
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None => return Err(self.error("the closing quote")),
                Some('"') => return Ok(text),
                Some('\\') => {
                    let escaped = self.escape()?;
                    text.push(escaped);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, FilterError> {
        Ok(match self.bump() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('x') => self.code(2, 16)?,
            Some('u') => self.code(4, 16)?,
            Some('U') => self.code(8, 16)?,
            Some(digit @ '0'..='7') => {
                self.at -= digit.len_utf8();
                self.code(3, 8)?
            }
            Some(c @ ('\\' | '"' | '\'')) => c,
            _ => return Err(self.error("an escape")),
        })
    }

    fn code(&mut self, digits: usize, radix: u32) -> Result<char, FilterError> {
        let text = self.filter.get(self.at..self.at + digits).ok_or_else(|| self.error("more digits"))?;
        let code = u32::from_str_radix(text, radix).map_err(|_| self.error("digits"))?;
        self.at += digits;
        char::from_u32(code).ok_or_else(|| self.error("a character's number"))
    }

    fn peek(&self) -> Option<char> {
        self.filter[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.bump();
        }
    }

    fn error(&self, expected: &str) -> FilterError {
        FilterError { filter: self.filter.to_owned(), at: self.at, expected: format!("expected {expected}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Event;

    impl Fields for Event {
        fn field(&self, path: &[String]) -> Option<String> {
            match path[0].as_str() {
                "namespace" => Some("moby".into()),
                "topic" => Some("/tasks/exit".into()),
                "labels" => (label_key(&path[1..]) == "containerd.io/gc.root").then(|| "1".into()),
                _ => None,
            }
        }
    }

    fn matches(filter: &str) -> Option<bool> {
        Filters::parse(&[filter]).ok().map(|filters| filters.matches(&Event))
    }

    #[test]
    fn filters_as_clients_send_them() {
        for (filter, answer) in [
            ("", Some(true)),
            ("namespace==moby,topic~=|^/tasks/|", Some(true)),
            ("namespace==moby,topic~=|^/images/|", Some(false)),
            (r#"labels."containerd.io/gc.root"==1"#, Some(true)),
            (r#"labels."containerd.io/gc.root""#, Some(true)),
            (r#"labels."other""#, Some(false)),
            (r#"topic=="/tasks/exit""#, Some(true)),
            ("topic==/tasks/exit", None),
            ("topic!=x", Some(true)),
            ("none!=x", Some(true)),
            ("none==x", Some(false)),
            (r#"topic~="ex.t""#, Some(true)),
            ("topic~=/\\/tasks/", Some(true)),
            (" namespace == moby , topic ", Some(true)),
            ("namespace=moby", None),
            ("namespace==", None),
            ("==x", None),
            ("namespace==moby,", None),
            (r#"topic=="\x2ftasks/exit""#, Some(true)),
            (r#"topic=="unclosed"#, None),
            ("topic~=(", None),
        ] {
            assert_eq!(matches(filter), answer, "{filter}");
        }
    }

    #[test]
    fn a_list_is_an_or() {
        let filters = Filters::parse(&["namespace==x", "namespace==moby"]).unwrap();
        assert!(filters.matches(&Event));
        assert!(Filters::parse::<&str>(&[]).unwrap().matches(&Event));
    }
}
