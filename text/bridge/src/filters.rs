//! Filters and tests where the crate's own differ from Jinja2's on Python values.

use crate::json::{dumps, Style};
use crate::methods::{capitalize, pairs_of, strip, Side};
use crate::ordering::{extreme, sort, sum};
use crate::python::{float_of, is_space, is_tuple, repr, str_of, PyDict, PyList, PyTuple, PyView};
use crate::range::range;
use crate::source::{ITERABLE, STORABLE};
use crate::wrap::{wrap, Wrapping};
use minijinja::value::{Kwargs, Object, Rest, ValueKind};
use minijinja::{filters, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::globals;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

pub fn install(env: &mut Environment<'static>) {
    env.add_filter(ITERABLE, iterable);
    env.add_filter(STORABLE, storable);
    env.add_function("cycler", cycler);
    env.add_function("range", range);
    env.add_filter("striptags", striptags);
    env.add_filter("filesizeformat", filesizeformat);
    env.add_function("joiner", globals::joiner);
    env.add_filter("tojson", tojson);
    env.add_filter("attr", attr);
    env.add_filter("dictsort", dictsort);
    env.add_filter("sum", sum);
    env.add_filter("center", center);
    env.add_filter("wordwrap", wordwrap);
    env.add_filter("random", random);
    env.add_filter("sort", sort);
    env.add_filter(
        "min",
        |state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs| {
            extreme(state, &value, &args, &kwargs, "min")
        },
    );
    env.add_filter(
        "max",
        |state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs| {
            extreme(state, &value, &args, &kwargs, "max")
        },
    );
    env.add_filter("urlencode", urlencode);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("forceescape", |value: &Value| {
        Value::from_safe_string(escaped(&str_of(value)))
    });
    env.add_filter("string", |value: &Value| str_of(value));
    env.add_filter("trim", trim);
    env.add_filter("upper", |value: &Value| str_of(value).to_uppercase());
    env.add_filter("lower", |value: &Value| str_of(value).to_lowercase());
    env.add_filter("capitalize", |value: &Value| capitalize(&str_of(value)));
    env.add_filter("title", title);
    env.add_filter("join", join);
    env.add_filter("replace", replace);
    env.add_filter("indent", indent);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("list", list);
    env.add_filter("first", first);
    env.add_filter("last", last);
    env.add_filter("items", items);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("round", round);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("wordcount", |value: &Value| {
        str_of(value)
            .split(is_space)
            .filter(|word| !word.is_empty())
            .count()
    });

    env.add_test("callable", is_callable);
    // Jinja2 asks for a length and items: so has a mapping, and the view of one has no items.
    env.add_test("sequence", |value: &Value| {
        is_iterable(value) && !PyView::is(value)
    });
    env.add_test("iterable", is_iterable);
    env.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    env.add_test("integer", |value: &Value| {
        value.kind() == ValueKind::Number && value.is_integer()
    });
    env.add_test("float", |value: &Value| {
        value.kind() == ValueKind::Number && !value.is_integer()
    });
}

/// Strings, lists, mappings; an undefined value too, which Jinja2 iterates as an empty one.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String
            | ValueKind::Seq
            | ValueKind::Iterable
            | ValueKind::Map
            | ValueKind::Undefined
    )
}

/// Functions and macros; a method is none, since the crate knows methods only when they are called.
fn is_callable(value: &Value) -> bool {
    let names = ["Macro", "BoxedFunction", "Joiner"];
    value
        .as_object()
        .is_some_and(|object| names.iter().any(|name| object.type_name().contains(name)))
}

/// Jinja2's cycler: `current` is what next() gives next.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }
    fn call_method(self: &Arc<Self>, _: &State, method: &str, _: &[Value]) -> Result<Value, Error> {
        let at = self.at.load(Ordering::Relaxed);
        match method {
            "next" => {
                self.at
                    .store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("at least one item has to be provided".to_string()));
    }
    Ok(Value::from_object(Cycler {
        items: items.0,
        at: AtomicUsize::new(0),
    }))
}

/// The text without tags and comments, white space as single spaces, entities as their characters.
fn striptags(value: &Value) -> String {
    let mut text = str_of(value);
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut at = 0;
        while let Some(begin) = text[at..].find(open).map(|found| at + found) {
            let Some(end) = text[begin..].find(close).map(|found| begin + found) else {
                break;
            };
            text.replace_range(begin..end + close.len(), "");
            at = begin;
        }
    }
    let words: Vec<&str> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    // A sign that opens no tag stays; what is left to do are entities.
    minijinja_contrib::filters::striptags(words.join(" ").replace('<', "&lt;"))
}

fn filesizeformat(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let binary = argument(&args, &kwargs, 0, "binary").is_some_and(|flag| flag.is_true());
    let bytes = float_of(&float(
        value,
        Rest(vec![]),
        Kwargs::from_iter::<[(&str, Value); 0]>([]),
    ));
    let (base, names) = if binary {
        (
            1024.0,
            ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"],
        )
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if bytes == 1.0 {
        return Ok("1 Byte".to_string());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let mut unit = base;
    for name in names {
        unit *= base;
        if bytes < unit || name.starts_with('Y') {
            return Ok(format!("{:.1} {name}", base * bytes / unit));
        }
    }
    Ok(String::new())
}

/// The text with HTML's signs as markupsafe writes them.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(c),
        }
    }
    out
}

fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    Value::from_safe_string(escaped(&str_of(value)))
}

/// Python's `text % value`: a tuple holds several values.
pub fn percent(state: &State, text: &Value, value: Value) -> Result<Value, Error> {
    let mut values: Vec<Value> = if is_tuple(&value) {
        value.try_iter()?.collect()
    } else {
        vec![value.clone()]
    };
    // The crate's own formatting has no %r.
    let mut plain = String::new();
    let mut conversions = 0;
    let mut signs = text.as_str().unwrap_or_default().chars();
    while let Some(sign) = signs.next() {
        plain.push(sign);
        if sign != '%' {
            continue;
        }
        let kind = loop {
            match signs.next() {
                Some(part) if "#0- +.123456789".contains(part) => plain.push(part),
                other => break other,
            }
        };
        let Some(kind) = kind else { break };
        if kind == 'r' {
            if let Some(value) = values.get_mut(conversions) {
                *value = Value::from(repr(value));
            }
        }
        plain.push(if kind == 'r' { 's' } else { kind });
        if matches!(kind, 'd' | 'i') {
            if let Some(value) = values.get_mut(conversions) {
                if value.is_number() && !value.is_integer() {
                    *value = Value::from(float_of(value).trunc() as i64);
                }
            }
        }
        conversions += usize::from(kind != '%');
    }
    // What is no tuple may stay over where it could be asked for its items, as Python has it.
    let may_stay = matches!(value.kind(), ValueKind::Seq | ValueKind::Map) && !is_tuple(&value);
    if values.len() > conversions && !may_stay {
        return Err(invalid(
            "not all arguments converted during string formatting".to_string(),
        ));
    }
    filters::format(state, &Value::from(plain), Rest(values))
}

/// An attribute and never an item: a dict has none that a template may see.
fn attr(value: &Value, name: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::String | ValueKind::Number => {
            let space = value
                .as_object()
                .is_some_and(|object| object.type_name().ends_with("::Namespace"));
            if space {
                value.get_item(name)
            } else {
                Ok(Value::UNDEFINED)
            }
        }
        _ => value.get_item(name),
    }
}

fn dictsort(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |index, name| argument(&args, &kwargs, index, name);
    let mut given: Vec<(&'static str, Value)> = Vec::new();
    for (index, name) in ["case_sensitive", "by", "reverse"].into_iter().enumerate() {
        if let Some(value) = option(index, name) {
            given.push((name, value));
        }
    }
    let sorted = filters::dictsort(value, Kwargs::from_iter(given))?;
    let pairs = sorted
        .try_iter()?
        .map(|pair| Ok(PyTuple::value(pair.try_iter()?.collect())))
        .collect::<Result<Vec<Value>, Error>>()?;
    Ok(Value::from(pairs))
}

/// Python's textwrap; `newline_sequence` is that of Jinja2's default.
fn wordwrap(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |index, name| argument(&args, &kwargs, index, name);
    let flag = |value: Option<Value>| value.is_none_or(|value| value.is_true());
    let width = option(0, "width").map_or(Ok(79), |width| i64::try_from(width))?;
    let Some(width) = usize::try_from(width).ok().filter(|&width| width > 0) else {
        return Err(invalid(format!(
            "wordwrap: invalid width {width} (must be > 0)"
        )));
    };
    let separator = option(2, "wrapstring").filter(|text| !text.is_none());
    Ok(wrap(
        &str_of(value),
        &Wrapping {
            width,
            break_long_words: flag(option(1, "break_long_words")),
            break_on_hyphens: flag(option(3, "break_on_hyphens")),
            separator: separator.map_or("\n".to_string(), |text| str_of(&text)),
        },
    ))
}

/// Rows of tokens have to be the same whenever they are made.
fn random(_: &Value) -> Result<Value, Error> {
    Err(invalid(
        "the filter 'random' gives another text each time, and rows have to be the same in every \
         run; take the filter out of the template"
            .to_string(),
    ))
}

fn center(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let width = match argument(&args, &kwargs, 0, "width") {
        Some(width) => usize::try_from(width)?,
        None => 80,
    };
    if width > 100_000 {
        return Err(invalid(format!("center: a width of {width} is too wide")));
    }
    let text = str_of(value);
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    Ok(format!(
        "{}{text}{}",
        " ".repeat(left),
        " ".repeat(missing - left)
    ))
}

/// Bytes of a text as a URL holds them; `/` stays, as in urllib's quote.
fn quoted(text: &str, keep_slash: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else if byte == b' ' && !keep_slash {
            out.push('+');
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let pairs = match value.kind() {
        ValueKind::Map => pairs_of(value).unwrap_or_default(),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        _ => return Ok(quoted(&str_of(value), true)),
    };
    let mut parts = Vec::new();
    for pair in pairs {
        let pair: Vec<Value> = pair.try_iter()?.collect();
        let [key, item] = pair.as_slice() else {
            return Err(invalid("urlencode wants pairs".to_string()));
        };
        parts.push(format!(
            "{}={}",
            quoted(&str_of(key), false),
            quoted(&str_of(item), false)
        ));
    }
    Ok(parts.join("&"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// What a loop goes over; minijinja would take None as empty.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain => Err(invalid(
            format!("a value of type {} is not iterable", value.kind()),
        )),
        _ => Ok(value),
    }
}

/// What a namespace may hold: no namespace (it could hold itself), and nothing nested without end.
fn storable(value: Value) -> Result<Value, Error> {
    check_depth(&value, 0)?;
    Ok(value)
}

fn check_depth(value: &Value, depth: usize) -> Result<(), Error> {
    const MAX_DEPTH: usize = 100;
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    if object.is::<PyDict>() || object.is::<PyList>() {
        return Ok(()); // the variables of the rendering, which are bounded
    }
    if object.type_name().ends_with("::Namespace") || depth > MAX_DEPTH {
        return Err(invalid(
            "a namespace cannot hold a namespace, or values nested over 100 deep".to_string(),
        ));
    }
    if value.kind() == ValueKind::Map {
        for (_, item) in object.try_iter_pairs().into_iter().flatten() {
            check_depth(&item, depth + 1)?;
        }
    } else if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        for item in object.try_iter().into_iter().flatten() {
            check_depth(&item, depth + 1)?;
        }
    }
    Ok(())
}

fn trim(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> String {
    let chars = argument(&args, &kwargs, 0, "chars").map(|chars| str_of(&chars));
    strip(&str_of(value), chars.as_deref(), Side::Both).to_string()
}

/// The argument at `index`, or by `name`; as in a Python call.
pub fn argument(args: &[Value], kwargs: &Kwargs, index: usize, name: &str) -> Option<Value> {
    args.get(index)
        .cloned()
        .or_else(|| kwargs.get::<Value>(name).ok())
        .filter(|value| !value.is_undefined())
}

fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |index, name| argument(&args, &kwargs, index, name);
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = match option(1, "indent") {
        Some(indent) if indent.kind() == ValueKind::String => Some(str_of(&indent)),
        Some(indent) if indent.is_number() => {
            let width = usize::try_from(indent).unwrap_or(0);
            if width > 1000 {
                return Err(invalid(format!("tojson: an indent of {width} is too wide")));
            }
            Some(" ".repeat(width))
        }
        _ => None,
    };
    let mut style = Style {
        ensure_ascii: is_set(option(0, "ensure_ascii")),
        item_separator: if indent.is_some() { "," } else { ", " }.to_string(),
        key_separator: ": ".to_string(),
        indent,
        sort_keys: is_set(option(3, "sort_keys")),
    };
    if let Some(separators) = option(2, "separators").filter(|value| !value.is_none()) {
        let pair: Vec<Value> = separators.try_iter()?.collect();
        let [item, key] = pair.as_slice() else {
            return Err(invalid("tojson: separators wants two strings".to_string()));
        };
        style.item_separator = str_of(item);
        style.key_separator = str_of(key);
    }
    dumps(value, &style).map(Value::from)
}

/// Jinja's title: words begin after white space and ( [ { < -.
fn title(value: &Value) -> String {
    let mut out = String::new();
    let mut begins = true;
    for c in str_of(value).chars() {
        if is_space(c) || "-({[<".contains(c) {
            begins = true;
            out.push(c);
        } else if begins {
            begins = false;
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn join(value: &Value, separator: Option<&Value>, kwargs: Kwargs) -> Result<String, Error> {
    let separator = separator
        .cloned()
        .or_else(|| kwargs.get("d").ok())
        .map_or(String::new(), |value| str_of(&value));
    let attribute = kwargs.get::<Value>("attribute").ok();
    let mut parts = Vec::new();
    for item in iterate(value)? {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        parts.push(str_of(&item));
    }
    Ok(parts.join(&separator))
}

fn replace(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |index, name| argument(&args, &kwargs, index, name);
    let (Some(old), Some(new)) = (option(0, "old"), option(1, "new")) else {
        return Err(invalid("replace wants an old and a new text".to_string()));
    };
    let (text, old, new) = (str_of(value), str_of(&old), str_of(&new));
    let count = option(2, "count").filter(|count| !count.is_none());
    Ok(match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(&old, &new, count),
        None => text.replace(&old, &new),
    })
}

fn indent(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |index, name| argument(&args, &kwargs, index, name);
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let prefix = match option(0, "width") {
        Some(width) if width.kind() == ValueKind::String => str_of(&width),
        Some(width) => {
            let width = usize::try_from(width)?;
            if width > 1000 {
                return Err(invalid(format!("indent: a width of {width} is too wide")));
            }
            " ".repeat(width)
        }
        None => "    ".to_string(),
    };
    let blank = is_set(option(2, "blank"));
    let text = str_of(value) + "\n";
    let lines = crate::methods::split_lines(&text, false);
    let mut out = String::new();
    if is_set(option(1, "first")) {
        out.push_str(&prefix);
    }
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&prefix);
            }
        }
        out.push_str(line);
    }
    Ok(out)
}

/// The items; none for an undefined value, characters of a string, keys of a mapping.
pub fn iterate(value: &Value) -> Result<Vec<Value>, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().map(Value::from).collect()),
        None => Ok(value.try_iter()?.collect()),
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value
        .len()
        .ok_or_else(|| invalid(format!("a value of type {} has no length", value.kind())))
}

fn list(value: &Value) -> Result<Value, Error> {
    Ok(Value::from(iterate(value)?))
}

fn first(value: &Value) -> Result<Value, Error> {
    Ok(iterate(value)?.into_iter().next().unwrap_or_default())
}

fn last(value: &Value) -> Result<Value, Error> {
    Ok(iterate(value)?.pop().unwrap_or_default())
}

fn items(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    match value.as_object().and_then(|object| object.try_iter_pairs()) {
        Some(pairs) if value.kind() == ValueKind::Map => Ok(pairs
            .map(|(key, item)| PyTuple::value(vec![key, item]))
            .collect()),
        _ => Err(invalid(
            "Can only get item pairs from a mapping.".to_string(),
        )),
    }
}

fn int(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Value {
    let otherwise = || argument(&args, &kwargs, 0, "default").unwrap_or(Value::from(0));
    let base = argument(&args, &kwargs, 1, "base").and_then(|base| u32::try_from(base).ok());
    match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => {
            let number = float_of(value).trunc();
            if number.is_finite() {
                Value::from(number as i128)
            } else {
                otherwise()
            }
        }
        ValueKind::String => {
            let text = str_of(value).trim_matches(is_space).replace('_', "");
            match (whole_number(&text, base.unwrap_or(10)), text.parse::<f64>()) {
                (Some(number), _) => Value::from(number),
                (_, Ok(number)) if number.is_finite() => Value::from(number as i128),
                _ => otherwise(),
            }
        }
        _ => otherwise(),
    }
}

/// Python's int(text, base): a sign, a prefix that fits the base (any for base 0), digits.
fn whole_number(text: &str, base: u32) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .filter(|&(_, of)| base == of || base == 0)
        .find_map(|(prefix, of)| lower.strip_prefix(prefix).map(|rest| (rest, of)))
        .unwrap_or((&lower, if base == 0 { 10 } else { base }));
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(digits, base)
        .ok()
        .map(|number| sign * number)
}

fn float(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Value {
    let otherwise = || argument(&args, &kwargs, 0, "default").unwrap_or(Value::from(0.0));
    match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => Value::from(float_of(value)),
        ValueKind::String => match str_of(value).trim_matches(is_space).parse::<f64>() {
            Ok(number) => Value::from(number),
            Err(_) => otherwise(),
        },
        _ => otherwise(),
    }
}

/// Python's round: to the nearest decimal of the exact binary value; ties go to even.
fn round(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    if !value.is_number() {
        return Err(invalid(format!(
            "cannot round a value of type {}",
            value.kind()
        )));
    }
    let method = argument(&args, &kwargs, 1, "method").map_or(String::new(), |name| str_of(&name));
    if value.is_integer() && !matches!(method.as_str(), "ceil" | "floor") {
        return Ok(value.clone());
    }
    let number = float_of(value);
    let precision = match argument(&args, &kwargs, 0, "precision") {
        Some(precision) => i32::try_from(precision)?.clamp(-300, 300),
        None => 0,
    };
    let scale = 10f64.powi(precision);
    Ok(Value::from(match method.as_str() {
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        _ if precision >= 0 => format!("{number:.*}", precision as usize)
            .parse()
            .unwrap_or(number),
        _ => (number * scale).round() / scale,
    }))
}

fn default(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Value {
    let falsy_too = argument(&args, &kwargs, 1, "boolean").is_some_and(|flag| flag.is_true());
    if value.is_undefined() || (falsy_too && !value.is_true()) {
        args.first()
            .cloned()
            .or_else(|| kwargs.get("default_value").ok())
            .unwrap_or_else(|| Value::from(""))
    } else {
        value.clone()
    }
}
