//! Filters and tests where the crate's own differ from Jinja2's on Python values.

use crate::json::{dumps, Style};
use crate::methods::{capitalize, strip, Side};
use crate::python::{float_of, is_space, str_of, PyDict, PyList};
use crate::source::{ITERABLE, REVERSED, STORABLE};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

pub fn install(env: &mut Environment<'static>) {
    env.add_filter(ITERABLE, iterable);
    env.add_filter(REVERSED, reversed);
    env.add_filter(STORABLE, storable);
    env.add_filter("tojson", tojson);
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

    env.add_test("sequence", is_iterable); // Jinja2 asks for a length and items: so has a mapping
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

/// `value[::-1]`.
fn reversed(value: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(invalid(format!(
            "a value of type {} has no slices",
            value.kind()
        )));
    }
    let mut items: Vec<Value> = value.try_iter()?.collect();
    items.reverse();
    Ok(Value::from(items))
}

fn trim(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> String {
    let chars = argument(&args, &kwargs, 0, "chars").map(|chars| str_of(&chars));
    strip(&str_of(value), chars.as_deref(), Side::Both).to_string()
}

/// The argument at `index`, or by `name`; as in a Python call.
fn argument(args: &[Value], kwargs: &Kwargs, index: usize, name: &str) -> Option<Value> {
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
fn iterate(value: &Value) -> Result<Vec<Value>, Error> {
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
            .map(|(key, item)| Value::from(vec![key, item]))
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
            let base = base.filter(|base| (2..=36).contains(base)).unwrap_or(10);
            match (i128::from_str_radix(&text, base), text.parse::<f64>()) {
                (Ok(number), _) => Value::from(number),
                (_, Ok(number)) if number.is_finite() => Value::from(number as i128),
                _ => otherwise(),
            }
        }
        _ => otherwise(),
    }
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
