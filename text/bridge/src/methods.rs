//! Methods of Python's str and list. What is not here falls through to minijinja-contrib's pycompat.

use crate::operators::equal;
use crate::python::{is_space, str_of, PyTuple, PyView};
use crate::unicode_tables as tables;
use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use regex_syntax::hir::{ClassUnicode, HirKind};
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    Left,
    Right,
    Both,
}

pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => str_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        ValueKind::Map if method == "copy" && args.is_empty() => Some(value.clone()),
        ValueKind::Map if args.is_empty() => view_of(value, method),
        _ => None,
    };
    match found {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn str_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if let Some(answer) = question(text, method) {
        let () = from_args(args)?;
        return Ok(Some(Value::from(answer)));
    }
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let side = match method {
                "strip" => Side::Both,
                "lstrip" => Side::Left,
                _ => Side::Right,
            };
            Value::from(strip(text, chars, side))
        }
        "split" | "rsplit" => {
            let (args, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
            split(text, method == "rsplit", &args, &kwargs)?
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            list_of(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args)?,
        "startswith" | "endswith" => {
            let (affix, begin, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = &text[range(text, begin, end)];
            Value::from(has_affix(part, affix, method == "endswith")?)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let from_right = method == "rpartition";
            let at = if from_right {
                text.rfind(separator)
            } else {
                text.find(separator)
            };
            match at {
                Some(at) => tuple_of([&text[..at], separator, &text[at + separator.len()..]]),
                None if from_right => tuple_of(["", "", text]),
                None => tuple_of([text, "", ""]),
            }
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let parts: Vec<String> = items.try_iter()?.map(|item| str_of(&item)).collect();
            Value::from(parts.join(text))
        }
        "capitalize" => {
            let () = from_args(args)?;
            Value::from(capitalize(text))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(fold(text))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "swapcase" => {
            let () = from_args(args)?;
            Value::from(swap_case(text))
        }
        "expandtabs" => {
            let (args, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
            let width = argument(&args, &kwargs, 0, "tabsize");
            Value::from(expand_tabs(text, width.map_or(Ok(8), i64::try_from)?)?)
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(text, method, args)?,
        "encode" | "translate" | "maketrans" | "format_map" => {
            return Err(invalid(&format!(
                "the method '{method}' of a text is not rendered by weft; use replace, or take it \
                 out of the template"
            )))
        }
        _ => return Ok(None),
    }))
}

/// The methods that ask something about every character; false for the empty string.
fn question(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Some(match method {
        "isspace" => all(is_space),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isalpha" => all(is_letter),
        "isalnum" => all(|c| is_letter(c) || is_decimal(c) || is_digit(c) || is_numeric(c)),
        "isascii" => text.is_ascii(),
        "islower" => {
            let other = |c: char| c.is_uppercase() || is_title(c);
            text.chars().any(is_cased) && !text.chars().any(other)
        }
        "isupper" => {
            let other = |c: char| c.is_lowercase() || is_title(c);
            text.chars().any(is_cased) && !text.chars().any(other)
        }
        _ => return None,
    })
}

fn within(ranges: &[(u32, u32)], c: char) -> bool {
    let code = c as u32;
    ranges
        .binary_search_by(|&(first, last)| {
            if last < code {
                std::cmp::Ordering::Less
            } else if first > code {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Equal
            }
        })
        .is_ok()
}

/// Whether a character is of a general category.
fn is_of(class: &'static OnceLock<Vec<(u32, u32)>>, category: &str, c: char) -> bool {
    let ranges = class.get_or_init(|| {
        let hir = regex_syntax::parse(&format!("\\p{{{category}}}"));
        match hir.as_ref().map(|hir| hir.kind()) {
            Ok(HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => ranges_of(class),
            _ => Vec::new(),
        }
    });
    within(ranges, c)
}

fn ranges_of(class: &ClassUnicode) -> Vec<(u32, u32)> {
    class
        .iter()
        .map(|range| (range.start() as u32, range.end() as u32))
        .collect()
}

pub fn is_decimal(c: char) -> bool {
    static DECIMAL: OnceLock<Vec<(u32, u32)>> = OnceLock::new();
    is_of(&DECIMAL, "Nd", c)
}

fn is_digit(c: char) -> bool {
    is_decimal(c) || within(tables::DIGITS, c)
}

fn is_numeric(c: char) -> bool {
    c.is_numeric() || within(tables::NUMBERS, c)
}

fn is_letter(c: char) -> bool {
    static LETTER: OnceLock<Vec<(u32, u32)>> = OnceLock::new();
    is_of(&LETTER, "L", c)
}

/// What Python's \w takes: letters, digits, numbers and the underscore.
pub fn is_word(c: char) -> bool {
    c == '_' || is_letter(c) || is_decimal(c) || is_digit(c) || is_numeric(c)
}

fn is_title(c: char) -> bool {
    within(tables::TITLE_CASE, c)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// What a table makes of a character; nothing where it has no entry.
fn mapped(shifts: &[(u32, u32, i32)], texts: &[(u32, &str)], c: char) -> Option<String> {
    let code = c as u32;
    if let Some(&(_, text)) = texts.iter().find(|&&(of, _)| of == code) {
        return Some(text.to_string());
    }
    let &(_, _, shift) = shifts
        .iter()
        .find(|&&(first, last, _)| (first..=last).contains(&code))?;
    char::from_u32(code.checked_add_signed(shift)?).map(String::from)
}

fn title_of(c: char) -> String {
    mapped(tables::TITLE_SHIFTS, tables::TITLE_TEXTS, c)
        .unwrap_or_else(|| c.to_uppercase().collect())
}

fn fold(text: &str) -> String {
    text.chars()
        .map(|c| {
            mapped(tables::FOLD_SHIFTS, tables::FOLD_TEXTS, c)
                .unwrap_or_else(|| c.to_lowercase().collect())
        })
        .collect()
}

fn swap_case(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_uppercase() {
                c.to_lowercase().collect::<String>()
            } else if c.is_lowercase() {
                c.to_uppercase().collect()
            } else {
                c.to_string()
            }
        })
        .collect()
}

fn expand_tabs(text: &str, width: i64) -> Result<String, Error> {
    if width > 1000 {
        return Err(invalid("expandtabs: a width over 1000"));
    }
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if width > 0 => {
                let spaces = width - column % width;
                out.push_str(&" ".repeat(spaces as usize));
                column += spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            _ => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(out)
}

/// The pairs of a dict, as tuples.
pub fn pairs_of(value: &Value) -> Option<Vec<Value>> {
    let object = value.as_object()?;
    let pairs = object.try_iter_pairs()?;
    Some(
        pairs
            .map(|(key, item)| PyTuple::value(vec![key, item]))
            .collect(),
    )
}

/// dict.items(), dict.keys() and dict.values().
fn view_of(value: &Value, method: &str) -> Option<Value> {
    let pairs = || value.as_object()?.try_iter_pairs();
    Some(match method {
        "items" => PyView::value("dict_items", pairs_of(value)?),
        "keys" => PyView::value("dict_keys", pairs()?.map(|(key, _)| key).collect()),
        "values" => PyView::value("dict_values", pairs()?.map(|(_, item)| item).collect()),
        _ => return None,
    })
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "count" => {
            let (what,): (&Value,) = from_args(args)?;
            Some(Value::from(
                value.try_iter()?.filter(|item| equal(item, what)).count(),
            ))
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| equal(&item, what)) {
                Some(at) => Some(Value::from(at)),
                None => return Err(invalid("list.index: the value is not in the list")),
            }
        }
        "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    })
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

fn list_of<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    Value::from(items.into_iter().map(Value::from).collect::<Vec<Value>>())
}

fn tuple_of<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    PyTuple::value(items.into_iter().map(Value::from).collect())
}

/// str.strip, lstrip, rstrip: of white space, or of any of `chars`.
pub fn strip<'a>(text: &'a str, chars: Option<&str>, side: Side) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if side == Side::Right {
        text
    } else {
        text.trim_start_matches(goes)
    };
    if side == Side::Left {
        text
    } else {
        text.trim_end_matches(goes)
    }
}

pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => title_of(first) + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// str.title: a word begins after anything that is not a cased letter.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&title_of(c));
        }
        inside = is_cased(c);
    }
    out
}

/// str.splitlines, with all of Python's line boundaries.
pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut begin = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let is_end = matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !is_end {
            continue;
        }
        let mut next = at + c.len_utf8();
        if c == '\r' && chars.peek().is_some_and(|&(_, c)| c == '\n') {
            chars.next();
            next += 1;
        }
        lines.push(&text[begin..if keep_ends { next } else { at }]);
        begin = next;
    }
    if begin < text.len() {
        lines.push(&text[begin..]);
    }
    lines
}

/// The argument at `index`, or by `name`.
fn argument(args: &[Value], kwargs: &Kwargs, index: usize, name: &str) -> Option<Value> {
    args.get(index)
        .cloned()
        .or_else(|| kwargs.get::<Value>(name).ok())
        .filter(|value| !value.is_undefined() && !value.is_none())
}

fn split(text: &str, from_right: bool, args: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    let most = match argument(args, kwargs, 1, "maxsplit") {
        Some(most) => usize::try_from(i64::try_from(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let pieces: Vec<&str> = match argument(args, kwargs, 0, "sep") {
        None => split_space(text, from_right, most),
        Some(separator) => {
            let separator = separator
                .as_str()
                .ok_or_else(|| invalid("split wants a string"))?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let count = most.saturating_add(1);
            if from_right {
                let mut pieces: Vec<&str> = text.rsplitn(count, separator).collect();
                pieces.reverse();
                pieces
            } else {
                text.splitn(count, separator).collect()
            }
        }
    };
    Ok(list_of(pieces))
}

/// str.split without a separator: runs of white space separate, none at the ends.
fn split_space(text: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = strip(
        text,
        None,
        if from_right { Side::Right } else { Side::Left },
    );
    while !rest.is_empty() {
        let at = if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let (Some(at), true) = (at, pieces.len() < most) else {
            // The last piece keeps its inner white space; its far end has none unless it is the rest.
            pieces.push(rest);
            break;
        };
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        if from_right {
            pieces.push(&rest[at + width..]);
            rest = strip(&rest[..at], None, Side::Right);
        } else {
            pieces.push(&rest[..at]);
            rest = strip(&rest[at + width..], None, Side::Left);
        }
    }
    if from_right {
        pieces.reverse();
    }
    pieces
}

/// Bytes of `text` between two character positions given as Python's slices are.
fn range(text: &str, begin: Option<i64>, end: Option<i64>) -> std::ops::Range<usize> {
    if begin.is_none() && end.is_none() {
        return 0..text.len();
    }
    let count = text.chars().count() as i64;
    let place = |at: i64| {
        if at < 0 {
            (at + count).max(0)
        } else {
            at.min(count)
        }
    };
    let byte = |at: i64| {
        text.char_indices()
            .nth(at as usize)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let first = byte(place(begin.unwrap_or(0)));
    let last = byte(place(end.unwrap_or(count)));
    first..last.max(first)
}

/// find, rfind, index, rindex (positions in characters) and count.
fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, begin, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let within = range(text, begin, end);
    let part = &text[within.clone()];
    if method == "count" {
        return Ok(Value::from(part.matches(what).count()));
    }
    let found = if method.starts_with('r') {
        part.rfind(what)
    } else {
        part.find(what)
    };
    match found {
        Some(at) => Ok(Value::from(text[..within.start + at].chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("substring not found")),
    }
}

fn has_affix(text: &str, affix: &Value, at_end: bool) -> Result<bool, Error> {
    let test = |affix: &str| {
        if at_end {
            text.ends_with(affix)
        } else {
            text.starts_with(affix)
        }
    };
    if let Some(affix) = affix.as_str() {
        return Ok(test(affix));
    }
    if !matches!(affix.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(invalid(
            "startswith and endswith want a string or a tuple of strings",
        ));
    }
    Ok(affix
        .try_iter()?
        .any(|affix| affix.as_str().is_some_and(test)))
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = if method == "zfill" {
        "0"
    } else {
        fill.unwrap_or(" ")
    };
    if width > 100_000 || fill.chars().count() != 1 {
        return Err(invalid(
            "a width over 100000, or a fill that is not one character",
        ));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = match method {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) if method == "zfill" => (&text[..1], digits),
        _ => ("", text),
    };
    Ok(Value::from(format!(
        "{sign}{}{digits}{}",
        fill.repeat(left),
        fill.repeat(missing - left)
    )))
}
