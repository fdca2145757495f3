//! Prepares a template's source for minijinja: line ends as Jinja2 reads them, `{% generation %}`
//! blocks as call blocks, which is what transformers' extension makes of them, loops that refuse to
//! go over None or a number, as Python's do, `[::-1]`, which the crate cannot do to an empty list, and
//! a bound on what is stored in namespaces, without which a template could nest values until the
//! stack overflows.

use crate::literals;

/// What a `{% generation %}` block calls; the template cannot name it by accident.
pub const GENERATION: &str = "__weft_generation";

/// The filter around what a loop goes over.
pub const ITERABLE: &str = "__weft_iterable";

/// The filter that `[::-1]` becomes.
pub const REVERSED: &str = "__weft_reversed";

/// The filter around what is stored in a namespace.
pub const STORABLE: &str = "__weft_storable";

pub struct Prepared {
    pub source: String,
    pub marks_generation: bool,
}

/// Rewrites `source`. Comments, raw blocks and strings are left as they are.
pub fn prepare(source: &str) -> Prepared {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + 64);
    let mut marks_generation = false;
    let mut rest = source.as_str();
    while let Some(at) = find_opening(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            "{{" => {
                let length = expression_length(rest, "}}");
                out.push_str(&literals::rewrite(&reverse_slices(&rest[..length])));
                rest = &rest[length..];
                continue;
            }
            _ => {
                let length = expression_length(rest, "%}");
                match block_name(&rest[..length]) {
                    "raw" => raw_length(rest, length),
                    "generation" => {
                        marks_generation = true;
                        out.push_str(&rest[..length].replacen(
                            "generation",
                            &format!("call {GENERATION}()"),
                            1,
                        ));
                        rest = &rest[length..];
                        continue;
                    }
                    "endgeneration" => {
                        out.push_str(&rest[..length].replacen("endgeneration", "endcall", 1));
                        rest = &rest[length..];
                        continue;
                    }
                    _ => {
                        let block = literals::rewrite(&reverse_slices(&rest[..length]));
                        let guarded = guard_loop(&block).or_else(|| guard_set(&block));
                        out.push_str(&guarded.unwrap_or(block));
                        rest = &rest[length..];
                        continue;
                    }
                }
            }
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Prepared {
        source: out,
        marks_generation,
    }
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

/// `{% for x in y if z %}` as `{% for x in (y)|__weft_iterable if z %}`; nothing for other blocks.
fn guard_loop(block: &str) -> Option<String> {
    let words = outer_words(block);
    let word = |index: usize| words.get(index).map(|range| &block[range.clone()]);
    if word(0) != Some("for") {
        return None;
    }
    let at = (1..words.len()).find(|&index| word(index) == Some("in"))?;
    let begin = words[at].end;
    let end = (at + 1..words.len())
        .find(|&index| matches!(word(index), Some("if" | "recursive")))
        .map_or_else(|| content_end(block), |index| Some(words[index].start))?;
    let items = block.get(begin..end)?;
    Some(format!(
        "{} ({})|{ITERABLE} {}",
        &block[..begin],
        items,
        &block[end..]
    ))
}

/// `{% set a.b = c %}` as `{% set a.b = (c)|__weft_storable %}`; nothing for other blocks.
fn guard_set(block: &str) -> Option<String> {
    let words = outer_words(block);
    if block.get(words.first()?.clone()) != Some("set") {
        return None;
    }
    let equals = block.find('=')?;
    let target = &block[..equals];
    if !target.contains('.') || target.contains('|') {
        return None;
    }
    let end = content_end(block)?;
    let value = block.get(equals + 1..end)?;
    Some(format!("{target}= ({value})|{STORABLE} {}", &block[end..]))
}

/// Where a block's closing delimiter begins.
fn content_end(block: &str) -> Option<usize> {
    Some(block.strip_suffix("%}")?.trim_end_matches(['-', '+']).len())
}

/// `x[::-1]` as `x|__weft_reversed`, where nothing follows that a filter cannot take.
fn reverse_slices(block: &str) -> String {
    let bytes = block.as_bytes();
    let mut out = String::with_capacity(block.len());
    let mut copied = 0;
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            b'[' => {
                let end = bytes[at..].iter().position(|&byte| byte == b']');
                let end = end.map_or(bytes.len(), |length| at + length + 1);
                let slice: Vec<u8> = bytes[at..end]
                    .iter()
                    .copied()
                    .filter(|byte| !byte.is_ascii_whitespace())
                    .collect();
                let next = block
                    .get(end..)
                    .and_then(|rest| rest.trim_start().chars().next());
                if slice == b"[::-1]" && !matches!(next, Some('[' | '.' | '(')) {
                    out.push_str(&block[copied..at]);
                    out.push('|');
                    out.push_str(REVERSED);
                    copied = end;
                    at = end;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&block[copied..]);
    out
}

/// The names of a block that stand outside strings and brackets.
fn outer_words(block: &str) -> Vec<std::ops::Range<usize>> {
    let bytes = block.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let mut words = Vec::new();
    let mut depth = 0usize;
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            byte if is_word(byte) => {
                let begin = at;
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                if depth == 0 {
                    words.push(begin..at);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    words
}

/// Where the string that begins at `at` closes.
pub fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}
