//! The grammar of Jinja2's expressions, read by syntax.rs's Reader.

use crate::syntax::{
    is_word, string_end, unread, OpenMacro, Read, Reader, Unread, CALC, COMPARE, CONCAT, SLICE,
    TUPLE,
};

/// Parentheses and operators nested deeper than this are not read; minijinja's own limit is lower.
const MAX_DEPTH: usize = 200;

/// Words that end an operand.
const KEYWORDS: [&str; 7] = ["and", "or", "not", "if", "else", "in", "is"];

/// The arguments of a call, written for minijinja.
#[derive(Default)]
struct Arguments {
    positional: Vec<String>,
    named: Vec<(String, String)>,
    /// `*a` and `**a`, in their order among the positional ones and after the named ones.
    has_splat: bool,
    splats: Vec<String>,
}

impl Arguments {
    fn text(&self) -> String {
        let named = self
            .named
            .iter()
            .map(|(name, item)| format!("{name}={item}"));
        let all: Vec<String> = self
            .positional
            .iter()
            .cloned()
            .chain(named)
            .chain(self.splats.iter().cloned())
            .collect();
        all.join(", ")
    }
}

impl Reader<'_> {
    /// One expression, or several with commas between, which are a tuple.
    pub fn tuple_or_expression(&mut self, with_condition: bool) -> Read {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            items.push(if with_condition {
                self.expression()?
            } else {
                self.or()?
            });
            if !self.take(",") {
                break;
            }
            is_tuple = true;
            if self.is_at_end() || matches!(self.peek_word(), "if" | "recursive") {
                break;
            }
        }
        Ok(if is_tuple {
            format!("{TUPLE}({})", items.join(", "))
        } else {
            items.remove(0)
        })
    }

    pub fn expression(&mut self) -> Read {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unread("it is nested too deeply".to_string()));
        }
        let mut text = self.or()?;
        while self.take_word("if") {
            let condition = self.or()?;
            text = format!("{text} if {condition}");
            if self.take_word("else") {
                text = format!("{text} else {}", self.expression()?);
            }
        }
        self.depth -= 1;
        Ok(text)
    }

    fn or(&mut self) -> Read {
        let mut text = self.and()?;
        while self.take_word("or") {
            text.push_str(" or ");
            text.push_str(&self.and()?);
        }
        Ok(text)
    }

    fn and(&mut self) -> Read {
        let mut text = self.not()?;
        while self.take_word("and") {
            text.push_str(" and ");
            text.push_str(&self.not()?);
        }
        Ok(text)
    }

    fn not(&mut self) -> Read {
        let mut count = 0;
        while self.take_word("not") {
            count += 1;
        }
        Ok("not ".repeat(count) + &self.comparison()?)
    }

    fn comparison_sign(&mut self) -> Option<&'static str> {
        if let Some(sign) = self.take_sign(&["==", "!=", "<=", ">=", "<", ">"]) {
            return Some(sign);
        }
        let before = self.at;
        if self.take_word("in") {
            return Some("in");
        }
        if self.take_word("not") && self.take_word("in") {
            return Some("not in");
        }
        self.at = before;
        None
    }

    fn comparison(&mut self) -> Read {
        let first = self.sum()?;
        self.chain(COMPARE, first, Self::comparison_sign, Self::sum)
    }

    fn sum(&mut self) -> Read {
        let first = self.concat()?;
        let sign = |reader: &mut Self| reader.take_sign(&["+", "-"]);
        self.chain(CALC, first, sign, Self::concat)
    }

    fn concat(&mut self) -> Read {
        let mut items = vec![self.product()?];
        while self.take("~") {
            items.push(self.product()?);
        }
        Ok(match items.len() {
            1 => items.remove(0),
            _ => format!("{CONCAT}({})", items.join(", ")),
        })
    }

    fn product(&mut self) -> Read {
        let first = self.power()?;
        let sign = |reader: &mut Self| {
            reader.skip_space();
            if reader.rest().starts_with("**") {
                return None;
            }
            reader.take_sign(&["//", "*", "/", "%"])
        };
        self.chain(CALC, first, sign, Self::power)
    }

    fn power(&mut self) -> Read {
        let first = self.unary()?;
        self.chain(CALC, first, |reader| reader.take_sign(&["**"]), Self::unary)
    }

    /// `a + b - c` as CALL(a, "+", b, "-", c).
    fn chain(
        &mut self,
        call: &str,
        first: String,
        sign: impl Fn(&mut Self) -> Option<&'static str>,
        operand: impl Fn(&mut Self) -> Read,
    ) -> Read {
        let mut parts = vec![first];
        while let Some(sign) = sign(self) {
            parts.push(format!("\"{sign}\""));
            parts.push(operand(self)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => format!("{call}({})", parts.join(", ")),
        })
    }

    fn unary(&mut self) -> Read {
        let operand = self.signed_operand()?;
        self.filters_and_tests(operand)
    }

    fn signed_operand(&mut self) -> Read {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unread("it is nested too deeply".to_string()));
        }
        let text = match self.take_sign(&["-", "+"]) {
            Some(sign) => {
                let operand = self.signed_operand()?;
                let is_plain = operand.bytes().all(|byte| is_word(byte) || byte == b'.');
                let is_number = is_plain && operand.as_bytes()[0].is_ascii_digit();
                match sign {
                    "-" if is_number => format!("-{operand}"),
                    "-" => format!("{CALC}(\"negative\", {operand})"),
                    _ => format!("{CALC}(\"positive\", {operand})"),
                }
            }
            None => self.primary()?,
        };
        self.depth -= 1;
        Ok(text)
    }

    /// What stands alone, with the items, attributes and calls that are asked of it.
    fn primary(&mut self) -> Read {
        self.skip_space();
        let Some(&byte) = self.rest().as_bytes().first() else {
            return unread();
        };
        let text = match byte {
            b'"' | b'\'' => self.strings()?,
            b'0'..=b'9' => self.number(),
            b'(' => self.parentheses()?,
            b'[' => {
                self.at += 1;
                format!("[{}]", self.items("]")?.join(", "))
            }
            b'{' => self.dict()?,
            byte if is_word(byte) => return self.variable(),
            _ => return unread(),
        };
        self.postfix(text)
    }

    fn variable(&mut self) -> Read {
        if KEYWORDS.contains(&self.peek_word()) {
            return unread();
        }
        let name = self.name()?;
        for open in ["varargs", "kwargs"] {
            if name == open {
                self.names.push(open);
            }
        }
        self.skip_space();
        let found = self.macros.get(&name).cloned();
        let text = match found {
            Some(called) if self.rest().starts_with('(') => {
                self.at += 1;
                let arguments = self.arguments()?;
                format!("{name}({})", open_call(&name, &called, arguments)?)
            }
            _ => name,
        };
        self.postfix(text)
    }

    fn strings(&mut self) -> Read {
        let mut texts = Vec::new();
        while let Some(&quote @ (b'"' | b'\'')) = self.rest().as_bytes().first() {
            let end = string_end(self.text.as_bytes(), self.at, quote) + 1;
            let Some(text) = self.text.get(self.at..end) else {
                return unread();
            };
            texts.push(text);
            self.at = end;
            self.skip_space();
        }
        Ok(texts.join(" "))
    }

    fn number(&mut self) -> String {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        let word = |mut at: usize| {
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
            at
        };
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut end = word(begin);
        if bytes.get(end) == Some(&b'.') && digit(end + 1) {
            end = word(end + 1);
        }
        // 1e-5; not 0x1e-5.
        let prefixed = bytes[begin] == b'0' && matches!(bytes.get(begin + 1), Some(b'x' | b'X'));
        let signed = matches!(bytes.get(end), Some(b'-' | b'+')) && digit(end + 1);
        if !prefixed && matches!(bytes[end - 1], b'e' | b'E') && signed {
            end = word(end + 1);
        }
        self.at = end;
        self.text[begin..end].to_string()
    }

    fn parentheses(&mut self) -> Read {
        self.at += 1;
        if self.take(")") {
            return Ok(format!("{TUPLE}()"));
        }
        let first = self.expression()?;
        if self.take(")") {
            return Ok(format!("({first})"));
        }
        self.expect(",")?;
        let mut items = vec![first];
        items.extend(self.items(")")?);
        Ok(format!("{TUPLE}({})", items.join(", ")))
    }

    /// Expressions up to and with `close`.
    fn items(&mut self, close: &'static str) -> Result<Vec<String>, Unread> {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn dict(&mut self) -> Read {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            items.push(format!("{key}: {}", self.expression()?));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(format!("{{{}}}", items.join(", ")))
    }

    fn postfix(&mut self, mut text: String) -> Read {
        let mut subscripts = 0; // each may become a call around what was read
        loop {
            self.skip_space();
            match self.rest().as_bytes().first() {
                Some(b'.') => {
                    self.at += 1;
                    let name = self.peek_word();
                    if name.is_empty() {
                        return unread();
                    }
                    self.at += name.len();
                    text.push('.');
                    text.push_str(name);
                }
                Some(b'[') => {
                    self.at += 1;
                    subscripts += 1;
                    if subscripts > MAX_DEPTH {
                        return Err(Unread("it is nested too deeply".to_string()));
                    }
                    text = self.subscript(text)?;
                }
                Some(b'(') => {
                    self.at += 1;
                    text.push_str(&format!("({})", self.arguments()?.text()));
                }
                _ => return Ok(text),
            }
        }
    }

    fn subscript(&mut self, of: String) -> Read {
        let mut bounds: Vec<String> = Vec::new();
        let mut part = None;
        loop {
            if self.take(":") {
                bounds.push(part.take().unwrap_or_else(|| "none".to_string()));
            } else if self.take("]") {
                break;
            } else if part.is_none() {
                part = Some(self.expression()?);
            } else if bounds.is_empty() && self.take(",") {
                let mut items: Vec<String> = part.into_iter().collect();
                items.extend(self.items("]")?);
                return Ok(format!("{of}[{TUPLE}({})]", items.join(", ")));
            } else {
                return unread();
            }
        }
        if bounds.is_empty() {
            return part.map_or_else(unread, |index| Ok(format!("{of}[{index}]")));
        }
        bounds.push(part.unwrap_or_else(|| "none".to_string()));
        if bounds.len() > 3 {
            return unread();
        }
        Ok(format!("{SLICE}({of}, {})", bounds.join(", ")))
    }

    /// The arguments of a call whose parenthesis is passed, up to and with the closing one.
    fn arguments(&mut self) -> Result<Arguments, Unread> {
        let mut all = Arguments::default();
        while !self.take(")") {
            if let Some(splat) = self.take_sign(&["**", "*"]) {
                let item = format!("{splat}{}", self.expression()?);
                all.has_splat = true;
                if splat == "*" {
                    all.positional.push(item);
                } else {
                    all.splats.push(item);
                }
            } else {
                let before = self.at;
                let name = self.name();
                if name.is_ok() && self.take_assign() {
                    all.named.push((name?, self.expression()?));
                } else {
                    self.at = before;
                    all.positional.push(self.expression()?);
                }
            }
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(all)
    }

    /// `name` or `name.name`.
    pub fn dotted_name(&mut self) -> Read {
        let mut name = self.name()?;
        while self.rest().starts_with('.') {
            self.at += 1;
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn filters_and_tests(&mut self, mut text: String) -> Read {
        loop {
            if self.take("|") {
                text.push('|');
                text.push_str(&self.filter()?);
            } else if self.take_word("is") {
                let negation = if self.take_word("not") { "not " } else { "" };
                let name = self.dotted_name()?;
                text.push_str(&format!(" is {negation}{name}{}", self.test_arguments()?));
            } else {
                return Ok(text);
            }
        }
    }

    /// A filter's name and arguments.
    fn filter(&mut self) -> Read {
        let name = self.dotted_name()?;
        self.skip_space();
        if !self.rest().starts_with('(') {
            return Ok(name);
        }
        self.at += 1;
        Ok(format!("{name}({})", self.arguments()?.text()))
    }

    /// `a|b(c)`, as the filters of a block, from the first name on.
    pub fn filters(&mut self) -> Read {
        let mut text = self.filter()?;
        while self.take("|") {
            text = format!("{text}|{}", self.filter()?);
        }
        Ok(text)
    }

    fn test_arguments(&mut self) -> Read {
        self.skip_space();
        let Some(&next) = self.rest().as_bytes().first() else {
            return Ok(String::new());
        };
        if next == b'(' {
            self.at += 1;
            return Ok(format!("({})", self.arguments()?.text()));
        }
        let word = self.peek_word();
        let begins_value = is_word(next) || matches!(next, b'"' | b'\'' | b'[' | b'{');
        if !begins_value || KEYWORDS.contains(&word) {
            return Ok(String::new());
        }
        Ok(format!("({})", self.primary()?))
    }
}

/// The arguments of a call of a macro that takes more than it names.
fn open_call(name: &str, called: &OpenMacro, mut arguments: Arguments) -> Read {
    if arguments.has_splat {
        return Err(Unread(format!(
            "'{name}' takes varargs or kwargs and is called with * or **, which weft does not \
             render; give the arguments one by one"
        )));
    }
    let known = called.parameters.len();
    if called.takes_varargs && arguments.positional.len() > known {
        let more = arguments.positional.split_off(known).join(", ");
        arguments
            .named
            .push(("varargs".to_string(), format!("{TUPLE}({more})")));
    }
    if called.takes_kwargs {
        let own = |name: &String| {
            called.parameters.contains(name) || name == "caller" || name == "varargs"
        };
        let (named, more): (Vec<_>, Vec<_>) =
            arguments.named.into_iter().partition(|(name, _)| own(name));
        arguments.named = named;
        let items: Vec<String> = more
            .iter()
            .map(|(name, item)| format!("\"{name}\": {item}"))
            .collect();
        arguments
            .named
            .push(("kwargs".to_string(), format!("{{{}}}", items.join(", "))));
    }
    Ok(arguments.text())
}
