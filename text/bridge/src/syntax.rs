//! Reads Jinja2's expressions and writes them for minijinja, with calls where its operators are not
//! Python's: tuples, `+ - * / // % **`, `~`, comparisons, `in`, slices, and the calls of macros that
//! take `varargs` or `kwargs`. The grammar is that of Jinja2's parser, so that what is written needs no
//! further parentheses.

use std::collections::HashMap;

/// The functions that are called instead of operators.
pub const TUPLE: &str = "__weft_tuple";
pub const CALC: &str = "__weft_calc";
pub const COMPARE: &str = "__weft_compare";
pub const CONCAT: &str = "__weft_concat";
pub const SLICE: &str = "__weft_slice";

/// A macro that takes what it does not name.
#[derive(Clone, Default)]
pub struct OpenMacro {
    pub parameters: Vec<String>,
    pub takes_varargs: bool,
    pub takes_kwargs: bool,
}

pub type OpenMacros = HashMap<String, OpenMacro>;

/// What could not be read; the message says more where it is a construct of Jinja2's.
#[derive(Debug)]
pub struct Unread(pub String);

pub type Read = Result<String, Unread>;

pub fn unread<T>() -> Result<T, Unread> {
    Err(Unread("this cannot be read as Jinja".to_string()))
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where the string that begins at `at` closes.
pub fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

#[derive(Clone)]
pub struct Reader<'a> {
    pub text: &'a str,
    pub at: usize,
    pub depth: usize,
    pub macros: &'a OpenMacros,
    /// `varargs` and `kwargs`, where they are read as variables.
    pub names: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str, macros: &'a OpenMacros) -> Self {
        Reader {
            text,
            at: 0,
            depth: 0,
            macros,
            names: Vec::new(),
        }
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    pub fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// Leaves the rest unread.
    pub fn skip_all(&mut self) {
        self.at = self.text.len();
    }

    /// The word at this place, which is not passed.
    pub fn peek_word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let length = rest.bytes().take_while(|&byte| is_word(byte)).count();
        &rest[..length]
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    /// A name, such as a variable's.
    pub fn name(&mut self) -> Read {
        let word = self.peek_word();
        if word.is_empty() || word.as_bytes()[0].is_ascii_digit() {
            return unread();
        }
        self.at += word.len();
        Ok(word.to_string())
    }

    /// The first of `signs` that stands here; longer ones have to come first.
    pub fn take_sign(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        self.skip_space();
        let sign = signs.iter().find(|sign| self.rest().starts_with(**sign))?;
        self.at += sign.len();
        Some(sign)
    }

    pub fn take(&mut self, sign: &'static str) -> bool {
        self.take_sign(&[sign]).is_some()
    }

    pub fn expect(&mut self, sign: &'static str) -> Result<(), Unread> {
        if self.take(sign) {
            Ok(())
        } else {
            unread()
        }
    }

    /// `=`, and not `==`.
    pub fn take_assign(&mut self) -> bool {
        self.skip_space();
        let found = self.rest().starts_with('=') && !self.rest().starts_with("==");
        self.at += usize::from(found);
        found
    }

    /// The parameters of a macro or a call block, after their parenthesis: their names, and what is
    /// written, with what is added to them.
    pub fn parameters(&mut self, added: &OpenMacro) -> Result<(Vec<String>, String), Unread> {
        let mut names = Vec::new();
        let mut all = Vec::new();
        while !self.take(")") {
            let name = self.name()?;
            names.push(name.clone());
            if self.take_assign() {
                all.push(format!("{name}={}", self.expression()?));
            } else {
                all.push(name);
            }
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        if added.takes_varargs {
            all.push(format!("varargs={TUPLE}()"));
        }
        if added.takes_kwargs {
            all.push("kwargs={}".to_string());
        }
        Ok((names, all.join(", ")))
    }

    /// One name that is given a value, or several in parentheses, as they are written.
    pub fn target(&mut self) -> Read {
        self.skip_space();
        let begin = self.at;
        if self.take("(") {
            self.targets()?;
            self.expect(")")?;
        } else {
            self.dotted_name()?;
        }
        Ok(self.text[begin..self.at].to_string())
    }

    /// The names that a loop or `set` gives values to, as they are written.
    pub fn targets(&mut self) -> Read {
        let begin = self.at;
        loop {
            self.target()?;
            if !self.take(",") {
                break;
            }
            let next = self.rest().trim_start().bytes().next().unwrap_or(b'=');
            if next != b'(' && !is_word(next) {
                break;
            }
        }
        Ok(self.text[begin..self.at].trim().to_string())
    }
}
