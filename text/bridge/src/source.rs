//! Prepares a template's source for minijinja: line ends as Jinja2 reads them, expressions with Python's
//! operators (syntax.rs), `{% generation %}` blocks as call blocks, which is what transformers' extension
//! makes of them, loops that refuse to go over None or a number, as Python's do, and a bound on what is
//! stored in namespaces, without which a template could nest values until the stack overflows.

use crate::syntax::{string_end, OpenMacro, OpenMacros, Reader, Unread};

/// What a `{% generation %}` block calls; the template cannot name it by accident.
pub const GENERATION: &str = "__weft_generation";

/// The filter around what a loop goes over.
pub const ITERABLE: &str = "__weft_iterable";

/// The filter around what is stored in a namespace.
pub const STORABLE: &str = "__weft_storable";

#[derive(Default)]
pub struct Prepared {
    pub source: String,
    pub marks_generation: bool,
    /// What the first part that could not be read lacks; it stands in `source` as it is.
    pub unread: Option<String>,
}

/// Rewrites `source`. Comments, raw blocks and strings are left as they are.
pub fn prepare(source: &str) -> Prepared {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let none = OpenMacros::new();
    let mut walk = Walk::new(&none);
    walk.go(&source);
    if walk.found.is_empty() {
        return walk.prepared;
    }
    let found = walk.found;
    let mut again = Walk::new(&found);
    again.go(&source);
    again.prepared
}

/// One pass over a template's source.
struct Walk<'a> {
    prepared: Prepared,
    /// The macros that take varargs or kwargs, of an earlier pass.
    macros: &'a OpenMacros,
    /// Those that this pass has found.
    found: OpenMacros,
    /// The macros that the place is in: names and parameters.
    inside: Vec<(String, Vec<String>)>,
    line: usize,
}

impl<'a> Walk<'a> {
    fn new(macros: &'a OpenMacros) -> Self {
        Walk {
            prepared: Prepared::default(),
            macros,
            found: OpenMacros::new(),
            inside: Vec::new(),
            line: 1,
        }
    }

    fn go(&mut self, source: &str) {
        let mut rest = source;
        while let Some(at) = find_opening(rest) {
            self.copy(&rest[..at]);
            rest = &rest[at..];
            let length = match &rest[..2] {
                "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
                "{{" => expression_length(rest, "}}"),
                _ => expression_length(rest, "%}"),
            };
            if rest.starts_with("{%") && block_name(&rest[..length]) == "raw" {
                let length = raw_length(rest, length);
                self.copy(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            if rest.starts_with("{#") {
                self.copy(&rest[..length]);
            } else {
                self.rewrite(&rest[..length]);
            }
            rest = &rest[length..];
        }
        self.copy(rest);
    }

    fn copy(&mut self, text: &str) {
        self.prepared.source.push_str(text);
        self.line += text.matches('\n').count();
    }

    /// One `{{ }}` or `{% %}`. It takes as many lines as before.
    fn rewrite(&mut self, block: &str) {
        let Some((open, inner, close)) = parts_of(block) else {
            self.copy(block); // it does not end: minijinja says so
            return;
        };
        let mut reader = Reader::new(inner, self.macros);
        let read = if open.starts_with("{{") {
            reader.tuple_or_expression(true).map(Some)
        } else {
            self.statement(&mut reader)
        };
        let is_whole = reader.is_at_end();
        for name in std::mem::take(&mut reader.names) {
            self.note_open(name);
        }
        match read {
            Ok(Some(text)) if is_whole => {
                let lines = block.matches('\n').count();
                let text = format!("{open} {text} {}{close}", "\n".repeat(lines));
                self.prepared.source.push_str(&text);
                self.line += lines;
            }
            Ok(None) => self.copy(block),
            failed => {
                let message = match failed {
                    Err(Unread(message)) => message,
                    Ok(_) => "this cannot be read as Jinja".to_string(),
                };
                let line = self.line;
                self.prepared
                    .unread
                    .get_or_insert(format!("line {line}: {message}: {}", block.trim()));
                self.copy(block);
            }
        }
    }

    /// `varargs` or `kwargs` is read: the macro around takes more arguments than it names.
    fn note_open(&mut self, name: &str) {
        let Some((of, parameters)) = self.inside.last() else {
            return;
        };
        if parameters.iter().any(|parameter| parameter == name) {
            return;
        }
        let entry = self.found.entry(of.clone()).or_insert_with(|| OpenMacro {
            parameters: parameters.clone(),
            ..OpenMacro::default()
        });
        entry.takes_varargs |= name == "varargs";
        entry.takes_kwargs |= name == "kwargs";
    }

    /// A statement written for minijinja; nothing where it has to stay as it is.
    fn statement(&mut self, reader: &mut Reader) -> Result<Option<String>, Unread> {
        let word = reader.peek_word().to_string();
        if matches!(word.as_str(), "endmacro" | "endgeneration" | "else" | "") {
            if word == "endmacro" {
                self.inside.pop();
            }
            reader.take_word(&word);
            return Ok((word == "endgeneration").then(|| "endcall".to_string()));
        }
        let before = reader.clone();
        reader.take_word(&word);
        Ok(Some(match word.as_str() {
            "generation" if reader.is_at_end() => {
                self.prepared.marks_generation = true;
                format!("call {GENERATION}()")
            }
            "for" => loop_of(reader)?,
            "if" | "elif" | "autoescape" => format!("{word} {}", reader.tuple_or_expression(true)?),
            "set" => assignment(reader)?,
            "with" => with(reader)?,
            "filter" => format!("filter {}", reader.filters()?),
            "macro" => self.macro_of(reader)?,
            "call" => call(reader)?,
            _ => {
                *reader = before;
                reader.skip_all();
                return Ok(None);
            }
        }))
    }

    fn macro_of(&mut self, reader: &mut Reader) -> Result<String, Unread> {
        let name = reader.name()?;
        reader.expect("(")?;
        let added = self.macros.get(&name).cloned().unwrap_or_default();
        let (names, text) = reader.parameters(&added)?;
        self.inside.push((name.clone(), names));
        Ok(format!("macro {name}({text})"))
    }
}

/// `for x in y if z` as `for x in (y)|__weft_iterable if z`.
fn loop_of(reader: &mut Reader) -> Result<String, Unread> {
    let targets = reader.targets()?;
    if !reader.take_word("in") {
        return Err(Unread("a loop has no 'in'".to_string()));
    }
    let items = reader.tuple_or_expression(false)?;
    let mut text = format!("for {targets} in ({items})|{ITERABLE}");
    if reader.take_word("if") {
        text = format!("{text} if {}", reader.expression()?);
    }
    if reader.take_word("recursive") {
        text.push_str(" recursive");
    }
    Ok(text)
}

/// `set a.b = c` as `set a.b = (c)|__weft_storable`.
fn assignment(reader: &mut Reader) -> Result<String, Unread> {
    let targets = reader.targets()?;
    if reader.take_assign() {
        let value = reader.tuple_or_expression(true)?;
        return Ok(if targets.contains('.') {
            format!("set {targets} = ({value})|{STORABLE}")
        } else {
            format!("set {targets} = {value}")
        });
    }
    if reader.take("|") {
        return Ok(format!("set {targets} | {}", reader.filters()?));
    }
    Ok(format!("set {targets}"))
}

fn with(reader: &mut Reader) -> Result<String, Unread> {
    let mut parts = Vec::new();
    while !reader.is_at_end() {
        let name = reader.target()?;
        if !reader.take_assign() {
            return Err(Unread("a variable of 'with' has no value".to_string()));
        }
        parts.push(format!("{name} = {}", reader.expression()?));
        if !reader.take(",") {
            break;
        }
    }
    Ok(format!("with {}", parts.join(", ")))
}

fn call(reader: &mut Reader) -> Result<String, Unread> {
    let parameters = if reader.take("(") {
        format!("({})", reader.parameters(&OpenMacro::default())?.1)
    } else {
        String::new()
    };
    Ok(format!("call{parameters} {}", reader.expression()?))
}

/// "{%-", what is between, "-%}"; nothing for a block that does not end.
fn parts_of(block: &str) -> Option<(&str, &str, &str)> {
    let closing = if block.starts_with("{{") { "}}" } else { "%}" };
    let is_sign = |byte: Option<&u8>| matches!(byte, Some(b'-' | b'+'));
    let begin = 2 + usize::from(is_sign(block.as_bytes().get(2)));
    let content = block.strip_suffix(closing).filter(|text| text.len() >= 2)?;
    let signed = content.len() > begin && is_sign(content.as_bytes().last());
    let end = content.len() - usize::from(signed);
    Some((&block[..begin], block.get(begin..end)?, &block[end..]))
}

fn find_opening(text: &str) -> Option<usize> {
    text.as_bytes()
        .windows(2)
        .position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
}

/// Bytes up to and with the closing delimiter, which counts only outside strings and brackets.
/// All of `text` when there is none.
fn expression_length(text: &str, closing: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 2;
    let mut depth = 0usize;
    while at < bytes.len() {
        if depth == 0 && bytes[at..].starts_with(closing.as_bytes()) {
            return at + 2;
        }
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// "generation" of "{%- generation -%}"; empty when more than a name is in the block.
fn block_name(block: &str) -> &str {
    block
        .trim_start_matches("{%")
        .trim_end_matches("%}")
        .trim_start_matches(['-', '+'])
        .trim_end_matches(['-', '+'])
        .trim()
}

/// Bytes of a raw block up to and with its endraw; `begin` is the length of its opening.
fn raw_length(text: &str, begin: usize) -> usize {
    let mut at = begin;
    while let Some(next) = text[at..].find("{%") {
        let opening = at + next;
        let Some(end) = text[opening..].find("%}") else {
            break;
        };
        if block_name(&text[opening..opening + end + 2]) == "endraw" {
            return opening + end + 2;
        }
        at = opening + 2;
    }
    text.len()
}
