//! Python's operators on the values of templates: what syntax.rs writes calls for.

use crate::filters::percent;
use crate::python::{float_of, is_tuple, str_of, type_name, PyTuple, PyView};
use crate::range::PyRange;
use crate::syntax::{CALC, COMPARE, CONCAT, SLICE, TUPLE};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::cmp::Ordering;

/// A text or list that is repeated has no more bytes or items than this.
const MOST_REPEATED: usize = 100_000_000;
/// Values are compared to this depth.
const MAX_DEPTH: usize = 100;

pub fn install(env: &mut Environment<'static>) {
    env.add_function(TUPLE, |items: Rest<Value>| PyTuple::value(items.0));
    env.add_function(CALC, calculate);
    env.add_function(COMPARE, compare_chain);
    env.add_function(CONCAT, |items: Rest<Value>| -> String {
        items.iter().map(str_of).collect()
    });
    env.add_function(SLICE, slice);
    for (sign, names) in [
        ("==", &["eq", "equalto", "=="][..]),
        ("!=", &["ne", "!="]),
        ("<", &["lt", "lessthan", "<"]),
        ("<=", &["le", "<="]),
        (">", &["gt", "greaterthan", ">"]),
        (">=", &["ge", ">="]),
        ("in", &["in"]),
    ] {
        for name in names {
            env.add_test(*name, move |a: &Value, b: &Value| compare(a, sign, b));
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// A list, which a tuple, a range or the view of a dict is not.
fn is_list(value: &Value) -> bool {
    value.kind() == ValueKind::Seq && !is_tuple(value) && !is_range(value)
}

fn is_range(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.is::<PyRange>())
}

/// A whole number; truth values are 0 and 1.
fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => Some(float_of(value)),
        _ => None,
    }
}

fn items_of(value: &Value) -> Vec<Value> {
    value.try_iter().into_iter().flatten().collect()
}

/// Python's `a == b`.
pub fn equal(a: &Value, b: &Value) -> bool {
    equal_at(a, b, 0)
}

fn equal_at(a: &Value, b: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return a == b;
    }
    let same_items = |a: &Value, b: &Value| {
        let (a, b) = (items_of(a), items_of(b));
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| equal_at(a, b, depth + 1))
    };
    match (a.kind(), b.kind()) {
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => true,
        (ValueKind::String, ValueKind::String) => a.as_str() == b.as_str(),
        (ValueKind::Seq, ValueKind::Seq) => {
            is_tuple(a) == is_tuple(b) && is_range(a) == is_range(b) && same_items(a, b)
        }
        (ValueKind::Map, ValueKind::Map) => equal_maps(a, b, depth),
        _ => match (PyView::set_of(a), PyView::set_of(b)) {
            (Some(a), Some(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|item| b.iter().any(|other| equal_at(item, other, depth + 1)))
            }
            // Functions and the like are themselves; what gives items one by one equals nothing else.
            _ => a.kind() == b.kind() && a.kind() != ValueKind::Iterable && a == b,
        },
    }
}

fn equal_maps(a: &Value, b: &Value, depth: usize) -> bool {
    let (Some(a), Some(other)) = (a.as_object(), b.as_object()) else {
        return false;
    };
    if a.enumerator_len() != other.enumerator_len() {
        return false;
    }
    let mut pairs = a.try_iter_pairs().into_iter().flatten();
    pairs.all(|(key, item)| {
        let found = other.get_value(&key);
        found.is_some_and(|found| equal_at(&item, &found, depth + 1))
    })
}

/// Python's order of two values; nothing where one is not a number. `sign` is for the message.
pub fn order(a: &Value, b: &Value, sign: &str) -> Result<Option<Ordering>, Error> {
    order_at(a, b, sign, 0)
}

fn order_at(a: &Value, b: &Value, sign: &str, depth: usize) -> Result<Option<Ordering>, Error> {
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a.partial_cmp(&b));
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    let both = |test: fn(&Value) -> bool| test(a) && test(b);
    if depth > MAX_DEPTH || !(both(is_list) || both(is_tuple)) {
        return Err(invalid(format!(
            "'{sign}' not supported between instances of '{}' and '{}'",
            type_name(a),
            type_name(b)
        )));
    }
    let (a, b) = (items_of(a), items_of(b));
    match a.iter().zip(&b).find(|(a, b)| !equal(a, b)) {
        Some((a, b)) => order_at(a, b, sign, depth + 1),
        None => Ok(Some(a.len().cmp(&b.len()))),
    }
}

/// Python's `item in container`.
fn contains(item: &Value, container: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => match item.as_str() {
            Some(part) => Ok(container.as_str().unwrap_or_default().contains(part)),
            None => Err(invalid(format!(
                "'in <string>' requires string as left operand, not {}",
                type_name(item)
            ))),
        },
        ValueKind::Map => {
            if is_list(item) || item.kind() == ValueKind::Map {
                return Err(invalid(format!("unhashable type: '{}'", type_name(item))));
            }
            let object = container.as_object();
            Ok(object.is_some_and(|object| object.get_value(item).is_some()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            Ok(container.try_iter()?.any(|other| equal(item, &other)))
        }
        _ => Err(invalid(format!(
            "argument of type '{}' is not iterable",
            type_name(container)
        ))),
    }
}

fn compare(a: &Value, sign: &str, b: &Value) -> Result<bool, Error> {
    let ordered = |test: fn(Ordering) -> bool| Ok(order(a, b, sign)?.is_some_and(test));
    match sign {
        "==" => Ok(equal(a, b)),
        "!=" => Ok(!equal(a, b)),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "in" => contains(a, b),
        "not in" => Ok(!contains(a, b)?),
        _ => Err(invalid(format!("'{sign}' is no comparison"))),
    }
}

/// `a < b < c` as (a, "<", b, "<", c).
fn compare_chain(parts: Rest<Value>) -> Result<bool, Error> {
    for step in parts.windows(3).step_by(2) {
        let [a, sign, b] = step else { continue };
        if !compare(a, sign.as_str().unwrap_or_default(), b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `a + b - c` as (a, "+", b, "-", c), `-a` as ("negative", a).
fn calculate(state: &State, parts: Rest<Value>) -> Result<Value, Error> {
    if let [sign, value] = parts.as_slice() {
        return signed(sign.as_str().unwrap_or_default(), value);
    }
    let mut steps = parts.iter();
    let mut total = steps.next().cloned().unwrap_or_default();
    while let (Some(sign), Some(next)) = (steps.next(), steps.next()) {
        total = binary(state, &total, sign.as_str().unwrap_or_default(), next)?;
    }
    Ok(total)
}

fn signed(sign: &str, value: &Value) -> Result<Value, Error> {
    let negative = sign == "negative";
    if let Some(number) = whole(value) {
        let result = if negative {
            number.checked_neg()
        } else {
            Some(number)
        };
        return result.map(Value::from).ok_or_else(too_large);
    }
    match number(value) {
        Some(number) => Ok(Value::from(if negative { -number } else { number })),
        None => Err(invalid(format!(
            "bad operand type for unary {}: '{}'",
            if negative { '-' } else { '+' },
            type_name(value)
        ))),
    }
}

fn too_large() -> Error {
    invalid("a whole number of more than 127 bits, which weft does not compute with".to_string())
}

fn unsupported(a: &Value, sign: &str, b: &Value) -> Error {
    invalid(format!(
        "unsupported operand type(s) for {sign}: '{}' and '{}'",
        type_name(a),
        type_name(b)
    ))
}

fn binary(state: &State, a: &Value, sign: &str, b: &Value) -> Result<Value, Error> {
    if sign == "%" && a.kind() == ValueKind::String {
        return percent(state, a, b.clone());
    }
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return whole_numbers(a, sign, b);
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return numbers(a, sign, b).map(Value::from);
    }
    match sign {
        "+" => joined(a, b).ok_or_else(|| unsupported(a, sign, b)),
        "*" => match (whole(a), whole(b)) {
            (_, Some(count)) => repeated(a, count),
            (Some(count), _) => repeated(b, count),
            _ => Ok(None),
        }?
        .ok_or_else(|| unsupported(a, sign, b)),
        _ => Err(unsupported(a, sign, b)),
    }
}

fn whole_numbers(a: i128, sign: &str, b: i128) -> Result<Value, Error> {
    let as_floats = |sign| numbers(a as f64, sign, b as f64).map(Value::from);
    let result = match sign {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" => return as_floats(sign),
        "**" if b < 0 => return as_floats(sign),
        "**" => match u32::try_from(b) {
            Ok(power) => a.checked_pow(power),
            Err(_) if matches!(a, 0 | 1) => Some(a),
            Err(_) => None,
        },
        _ if b == 0 => return Err(invalid("integer division or modulo by zero".to_string())),
        // Python rounds down.
        "//" => a
            .checked_div_euclid(b)
            .map(|down| down - i128::from(b < 0 && a.rem_euclid(b) != 0)),
        _ => a
            .checked_rem_euclid(b)
            .map(|rest| if b < 0 && rest != 0 { rest + b } else { rest }),
    };
    result.map(Value::from).ok_or_else(too_large)
}

fn numbers(a: f64, sign: &str, b: f64) -> Result<f64, Error> {
    let modulo = |a: f64, b: f64| {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
            rest + b
        } else {
            rest.abs().copysign(if rest == 0.0 { b } else { rest })
        }
    };
    Ok(match sign {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "**" if a < 0.0 && b.fract() != 0.0 => {
            return Err(invalid("a power that is a complex number".to_string()))
        }
        "**" if a == 0.0 && b < 0.0 => return Err(invalid("zero to a negative power".to_string())),
        "**" => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(invalid("a power that is too large".to_string()));
            }
            power
        }
        _ if b == 0.0 => return Err(invalid("division by zero".to_string())),
        "/" => a / b,
        "//" => {
            let whole = (a - modulo(a, b)) / b;
            let down = whole.floor();
            if whole - down > 0.5 {
                down + 1.0
            } else {
                down
            }
        }
        _ => modulo(a, b),
    })
}

/// Texts, lists or tuples one after another.
fn joined(a: &Value, b: &Value) -> Option<Value> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Some(Value::from(format!("{a}{b}")));
    }
    let items = || items_of(a).into_iter().chain(items_of(b)).collect();
    if is_tuple(a) && is_tuple(b) {
        return Some(PyTuple::value(items()));
    }
    (is_list(a) && is_list(b)).then(|| Value::from(items()))
}

/// The sum of two values, as `|sum` adds them up.
pub fn plus(a: &Value, b: &Value) -> Result<Value, Error> {
    match (whole(a), whole(b), number(a), number(b)) {
        (Some(a), Some(b), _, _) => whole_numbers(a, "+", b),
        (_, _, Some(a), Some(b)) => Ok(Value::from(a + b)),
        _ if a.as_str().is_some() => Err(unsupported(a, "+", b)), // sum() takes no texts
        _ => joined(a, b).ok_or_else(|| unsupported(a, "+", b)),
    }
}

/// A text, list or tuple so many times; nothing for another value.
fn repeated(value: &Value, count: i128) -> Result<Option<Value>, Error> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let length = value
        .as_str()
        .map_or_else(|| value.len(), |text| Some(text.len()));
    if length.unwrap_or(0).saturating_mul(count) > MOST_REPEATED {
        return Err(invalid(format!(
            "a repetition of more than {MOST_REPEATED} bytes or items"
        )));
    }
    if let Some(text) = value.as_str() {
        return Ok(Some(Value::from(text.repeat(count))));
    }
    if !is_list(value) && !is_tuple(value) {
        return Ok(None);
    }
    let items = items_of(value);
    let all: Vec<Value> = (0..count).flat_map(|_| items.clone()).collect();
    Ok(Some(if is_tuple(value) {
        PyTuple::value(all)
    } else {
        Value::from(all)
    }))
}

/// Where a slice of `count` items begins and ends, as Python's slice.indices() gives it.
fn indices(count: i128, begin: Option<i128>, end: Option<i128>, step: i128) -> (i128, i128) {
    let (low, high) = if step > 0 {
        (0, count)
    } else {
        (-1, count - 1)
    };
    let bound = |bound: Option<i128>, otherwise: i128| match bound {
        Some(at) if at < 0 => at.saturating_add(count).max(low),
        Some(at) => at.min(high),
        None => otherwise,
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    (bound(begin, first), bound(end, last))
}

/// `value[begin:end:step]` of what Python has slices of.
fn slice(value: &Value, begin: &Value, end: &Value, step: Option<&Value>) -> Result<Value, Error> {
    if value.as_str().is_none() && value.kind() != ValueKind::Seq {
        let name = type_name(value);
        return Err(invalid(format!("'{name}' object is not subscriptable")));
    }
    let bounds = [begin, end, step.unwrap_or(&Value::from(()))].map(|bound| {
        let bound = bound.clone();
        if bound.is_none() {
            Some(None)
        } else {
            whole(&bound).map(Some)
        }
    });
    let [Some(begin), Some(end), Some(step)] = bounds else {
        return Err(invalid(
            "slice indices must be integers or none".to_string(),
        ));
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("slice step cannot be zero".to_string()));
    }
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        let picked: String = picked(&chars, begin, end, step).into_iter().collect();
        return Ok(Value::from(picked));
    }
    if let Some(range) = value.downcast_object_ref::<PyRange>() {
        let (first, last) = indices(range.count() as i128, begin, end, step);
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        return range.slice(first as i64, last as i64, step);
    }
    let items = picked(&items_of(value), begin, end, step);
    Ok(if is_tuple(value) {
        PyTuple::value(items)
    } else {
        Value::from(items)
    })
}

fn picked<T: Clone>(items: &[T], begin: Option<i128>, end: Option<i128>, step: i128) -> Vec<T> {
    let (mut at, end) = indices(items.len() as i128, begin, end, step);
    let mut picked = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        picked.push(items[at as usize].clone());
        at += step;
    }
    picked
}
