//! Rewrites what minijinja's syntax has no value for: tuples, which it reads as lists, and the `%` of a
//! string literal, which it knows for numbers only.

use crate::source::string_end;

/// The function that `(a, b)` becomes a call of.
pub const TUPLE: &str = "__weft_tuple";

/// The filter that `"..." % x` becomes.
pub const PERCENT: &str = "__weft_percent";

/// Words after which a parenthesis begins a value. After other words it begins arguments.
const OPERATORS: [&str; 8] = ["in", "and", "or", "not", "if", "else", "elif", "is"];

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The word that ends before `end`, white space aside, and the byte before it when there is none.
fn before(text: &[u8], end: usize) -> (&[u8], u8) {
    let mut last = end;
    while last > 0 && text[last - 1].is_ascii_whitespace() {
        last -= 1;
    }
    let mut first = last;
    while first > 0 && is_word(text[first - 1]) {
        first -= 1;
    }
    let byte = if last > 0 { text[last - 1] } else { 0 };
    (&text[first..last], byte)
}

/// Where the bracket that opens at `at` closes; nothing when it does not.
fn bracket_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut place = at;
    while place < bytes.len() {
        match bytes[place] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(place);
                }
            }
            quote @ (b'"' | b'\'') => place = string_end(bytes, place, quote),
            _ => {}
        }
        place += 1;
    }
    None
}

/// Whether there is a comma between the brackets that is in no further one.
fn has_comma(bytes: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            b',' if depth == 0 => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

/// Whether a parenthesis at `at` begins a value: not a call's arguments, not a loop's or set's names.
fn begins_value(bytes: &[u8], at: usize) -> bool {
    let (word, byte) = before(bytes, at);
    if word.is_empty() {
        return !matches!(byte, b')' | b']' | b'}' | b'"' | b'\'');
    }
    OPERATORS.iter().any(|operator| operator.as_bytes() == word)
}

/// `(a, b)` as `__weft_tuple(a, b)`, from `begin` on.
fn tuples(block: &str, begin: usize) -> String {
    let bytes = block.as_bytes();
    let mut out = String::with_capacity(block.len());
    let mut copied = 0;
    let mut at = begin;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            b'(' if begins_value(bytes, at) => {
                if let Some(end) = bracket_end(bytes, at) {
                    let inside = &block[at + 1..end];
                    if inside.trim().is_empty() || has_comma(inside.as_bytes()) {
                        out.push_str(&block[copied..at]);
                        out.push_str(TUPLE);
                        copied = at;
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&block[copied..]);
    out
}

/// Where the operand that begins at `at` ends: a literal, a name or brackets, with what is asked of it.
fn operand_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote) + 1,
        b'(' | b'[' | b'{' => at = bracket_end(bytes, at)? + 1,
        byte if is_word(byte) => {
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
        }
        _ => return None,
    }
    loop {
        match bytes.get(at) {
            Some(b'(' | b'[') => at = bracket_end(bytes, at)? + 1,
            Some(b'.' | b'|') if bytes.get(at + 1).is_some_and(|&next| is_word(next)) => {
                at += 1;
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            _ => return Some(at.min(bytes.len())),
        }
    }
}

/// `"..." % x` as `"..."|__weft_percent(x)`.
fn percents(block: &str) -> String {
    let bytes = block.as_bytes();
    let mut out = String::with_capacity(block.len());
    let mut copied = 0;
    let mut at = 2;
    while at < bytes.len() {
        if let quote @ (b'"' | b'\'') = bytes[at] {
            at = string_end(bytes, at, quote);
            let skip = |mut place: usize| {
                while place < bytes.len() && bytes[place].is_ascii_whitespace() {
                    place += 1;
                }
                place
            };
            let sign = skip((at + 1).min(bytes.len()));
            if bytes.get(sign) == Some(&b'%') && bytes.get(sign + 1) != Some(&b'}') {
                let operand = skip(sign + 1);
                if let Some(end) = operand_end(bytes, operand) {
                    out.push_str(&block[copied..=at]);
                    out.push_str(&format!("|{PERCENT}({})", &block[operand..end]));
                    copied = end;
                    at = end;
                    continue;
                }
            }
        }
        at += 1;
    }
    out.push_str(&block[copied..]);
    out
}

/// The block with both rewritten. The names of a loop, of a macro's parameters' list and of what is set
/// are left as they are.
pub fn rewrite(block: &str) -> String {
    let bytes = block.as_bytes();
    let mut begin = 2;
    if block.starts_with("{%") {
        while begin < bytes.len() && !is_word(bytes[begin]) {
            begin += 1;
        }
        let name_end = (begin..bytes.len())
            .find(|&at| !is_word(bytes[at]))
            .unwrap_or(bytes.len());
        let after = |sign: &str| block[name_end..].find(sign).map(|at| name_end + at);
        begin = match &block[begin..name_end] {
            "for" => after(" in ").unwrap_or(name_end),
            "set" | "with" => after("=").unwrap_or(name_end),
            "call" | "macro" => after("(").map_or(name_end, |at| at + 1),
            _ => name_end,
        };
    }
    percents(&tuples(block, begin))
}
