//! Filters that order items or add them up, and refuse what Python cannot compare.

use crate::filters::{argument, iterate};
use crate::operators::{order, plus};
use crate::python::str_of;
use minijinja::value::{Kwargs, Rest};
use minijinja::{filters, Error, State, Value};

/// What is added up from `start` on: numbers, or lists.
pub fn sum(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let attribute = argument(&args, &kwargs, 0, "attribute").filter(|name| !name.is_none());
    let mut total = argument(&args, &kwargs, 1, "start").unwrap_or(Value::from(0));
    for item in iterate(value)? {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        total = plus(&total, &item)?;
    }
    Ok(total)
}

/// What a filter orders items by: an attribute of theirs, texts without their case.
fn sort_key(item: &Value, attribute: Option<&Value>, case_sensitive: bool) -> Result<Value, Error> {
    let mut key = item.clone();
    if let Some(path) = attribute {
        for name in str_of(path).split('.') {
            key = match name.parse::<usize>() {
                Ok(place) => key.get_item(&Value::from(place))?,
                Err(_) => key.get_attr(name)?,
            };
        }
    }
    Ok(match key.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => key,
    })
}

/// An error where Python cannot order what a filter orders.
fn require_order(
    value: &Value,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<(), Error> {
    if attribute.is_some_and(|name| str_of(name).contains(',')) {
        return Ok(()); // several attributes: the crate's own comparison
    }
    let mut keys = Vec::new();
    for item in iterate(value)? {
        keys.push(sort_key(&item, attribute, case_sensitive)?);
    }
    for pair in keys.windows(2) {
        order(&pair[0], &pair[1], "<")?;
    }
    Ok(())
}

pub fn sort(
    state: &State,
    value: Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let mut given: Vec<(&'static str, Value)> = Vec::new();
    for (index, name) in ["reverse", "case_sensitive", "attribute"]
        .into_iter()
        .enumerate()
    {
        if let Some(value) = argument(&args, &kwargs, index, name) {
            given.push((name, value));
        }
    }
    let option = |name: &str| {
        given
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, value)| value)
    };
    let attribute = option("attribute").filter(|name| !name.is_none());
    let case_sensitive = option("case_sensitive").is_some_and(|flag| flag.is_true());
    require_order(&value, attribute, case_sensitive)?;
    filters::sort(state, value, Kwargs::from_iter(given))
}

/// The first of the smallest or largest items; texts are compared without their case.
pub fn extreme(
    _: &State,
    value: &Value,
    args: &[Value],
    kwargs: &Kwargs,
    which: &str,
) -> Result<Value, Error> {
    let case_sensitive = argument(args, kwargs, 0, "case_sensitive").is_some_and(|v| v.is_true());
    let attribute = argument(args, kwargs, 1, "attribute").filter(|name| !name.is_none());
    let mut best: Option<(Value, Value)> = None;
    for item in iterate(value)? {
        let key = sort_key(&item, attribute.as_ref(), case_sensitive)?;
        let is_better = match (&best, which) {
            (None, _) => true,
            (Some((best, _)), "min") => order(&key, best, "<")?.is_some_and(|o| o.is_lt()),
            (Some((best, _)), _) => order(&key, best, ">")?.is_some_and(|o| o.is_gt()),
        };
        if is_better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}
