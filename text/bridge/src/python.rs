//! Values as Python prints them: what Jinja's output, `|string`, `~` and `|join` show.

use crate::range::range_text;
use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::Value;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

/// Containers nested deeper than this print as "...": a namespace may hold itself.
const MAX_DEPTH: usize = 100;

/// A dict of the variables: keeps its order and prints as Python's.
#[derive(Debug)]
pub struct PyDict(pub IndexMap<String, Value>);

impl Object for PyDict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).cloned()
    }
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.get(key).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|key| Value::from(key.as_str())).collect())
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// A list or a tuple of the variables: prints as Python's, a tuple in parentheses.
#[derive(Debug)]
pub struct PySequence<const TUPLE: bool>(Vec<Value>);

pub type PyList = PySequence<false>;
pub type PyTuple = PySequence<true>;

impl<const TUPLE: bool> PySequence<TUPLE> {
    pub fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self(items))
    }
}

impl<const TUPLE: bool> Object for PySequence<TUPLE> {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// What a dict's keys(), values() and items() give: they print with their name and have no items.
#[derive(Debug)]
pub struct PyView {
    name: &'static str,
    items: Vec<Value>,
}

impl PyView {
    pub fn value(name: &'static str, items: Vec<Value>) -> Value {
        Value::from_object(PyView { name, items })
    }

    pub fn is(value: &Value) -> bool {
        value.downcast_object_ref::<PyView>().is_some()
    }

    /// The items of a view that is a set: keys and pairs, but not values.
    pub fn set_of(value: &Value) -> Option<&[Value]> {
        let view = value.downcast_object_ref::<PyView>()?;
        (view.name != "dict_values").then_some(&view.items)
    }
}

impl Object for PyView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }
    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::UNDEFINED) // otherwise the crate counts the items
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// The name of a value's type in Python's messages.
pub fn type_name(value: &Value) -> &'static str {
    if let Some(view) = value.downcast_object_ref::<PyView>() {
        return view.name;
    }
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Seq if is_tuple(value) => "tuple",
        ValueKind::Seq if range_text(value).is_some() => "range",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        ValueKind::Iterable => "generator",
        _ => "object",
    }
}

pub fn is_tuple(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.is::<PyTuple>())
}

/// Python's `str(value)`; nothing for an undefined value, as Jinja.
pub fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// Python's `repr(value)`.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(&mut out, value, 0);
    out
}

fn write_repr(out: &mut String, value: &Value, depth: usize) {
    if depth > MAX_DEPTH {
        out.push_str("...");
        return;
    }
    match value.kind() {
        ValueKind::String => write_str_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => out.push_str(&float_repr(float_of(value))),
        ValueKind::Seq | ValueKind::Iterable if range_text(value).is_some() => {
            out.push_str(&range_text(value).unwrap_or_default());
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = match value.downcast_object_ref::<PyView>() {
                Some(view) => {
                    out.push_str(view.name);
                    ("([", "])")
                }
                None if is_tuple(value) => ("(", ")"),
                None => ("[", "]"),
            };
            out.push_str(open);
            let mut count = 0;
            for item in value.try_iter().into_iter().flatten() {
                if count > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item, depth + 1);
                count += 1;
            }
            if count == 1 && open == "(" {
                out.push(',');
            }
            out.push_str(close);
        }
        ValueKind::Map => {
            out.push('{');
            let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
            for (index, (key, item)) in pairs.into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &key, depth + 1);
                out.push_str(": ");
                write_repr(out, &item, depth + 1);
            }
            out.push('}');
        }
        // True, None, integers; functions and macros as the library shows them.
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// The number as f64; 0 when it is none.
pub fn float_of(value: &Value) -> f64 {
    f64::try_from(value.clone()).unwrap_or(0.0)
}

/// Python's `repr(float)`: the shortest digits that read back, with an exponent from 1e16 up and
/// below 1e-4.
pub fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

fn write_str_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's str.isprintable for one character, but for characters that Unicode has not assigned.
fn is_printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    if c.is_control() || c.is_whitespace() {
        return false;
    }
    !matches!(c as u32,
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e
        | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff
        | 0xfeff | 0xfff0..=0xfffb | 0xfffe..=0xffff | 0x110bd | 0x110cd | 0x13430..=0x1343f
        | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe007f | 0xf0000..=0x10ffff)
}

/// What Python's str methods take as white space (str.isspace).
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
