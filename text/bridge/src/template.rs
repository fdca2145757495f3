//! Chat templates: minijinja set up as transformers sets up Jinja2.

use crate::json::to_value;
use crate::python::{float_of, float_repr, str_of};
use crate::source::{prepare, GENERATION};
use crate::{borrow_text, filters, guarded, methods, operators, WeftText};
use chrono::{NaiveDate, NaiveTime};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;

/// The variable that holds the mark around generated text (weft_template_render).
const MARK: &str = "__weft_mark";
const NAME: &str = "chat";

pub struct WeftTemplate {
    env: Environment<'static>,
    marks_generation: bool,
}

/// What `raise_exception` carries: the template's own words.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}
impl std::error::Error for Raised {}

struct Failure {
    message: String,
    raised: bool,
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let text = str_of(message);
    Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Raised(text)))
}

/// The format without the signs of a time zone, of which Python's naive times print nothing.
fn without_zone(format: &str) -> String {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(sign) = rest.next() {
        let next = if sign == '%' { rest.next() } else { None };
        match next {
            Some('z' | 'Z') => {}
            Some(next) => out.extend([sign, next]),
            None => out.push(sign),
        }
    }
    out
}

fn strftime(date: NaiveDate, format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let time = date.and_time(NaiveTime::MIN);
    write!(out, "{}", time.format(&without_zone(format))).map_err(|_| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know the format '{format}'"),
        )
    })?;
    Ok(out)
}

/// The call block that stands for {% generation %}.
fn generation(state: &State, kwargs: Kwargs) -> Result<Value, Error> {
    let caller: Value = kwargs.get("caller")?;
    let text = str_of(&caller.call(state, &[])?);
    let mark = state
        .lookup(MARK)
        .map_or(String::new(), |mark| str_of(&mark));
    Ok(Value::from(format!("{mark}{text}{mark}")))
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, state, value| {
        // {% autoescape true %}; templates begin without.
        if state.auto_escape() == AutoEscape::Html && !value.is_safe() {
            return out
                .write_str(&filters::escaped(&str_of(value)))
                .map_err(Error::from);
        }
        match value.kind() {
            ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
            ValueKind::Number if !value.is_integer() => out.write_str(&float_repr(float_of(value))),
            _ => out.write_str(&str_of(value)),
        }
        .map_err(Error::from)
    });
    env.remove_global("debug");
    env.add_function("raise_exception", raise_exception);
    env.add_function(GENERATION, generation);
    filters::install(&mut env);
    operators::install(&mut env);
    env
}

/// "line N: what", with the causes that say more.
fn describe(error: &Error) -> Failure {
    let mut innermost = error;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(text)) = current.downcast_ref::<Raised>() {
            return Failure {
                message: text.clone(),
                raised: true,
            };
        }
        if let Some(inner) = current.downcast_ref::<Error>() {
            innermost = inner;
        }
        cause = current.source();
    }
    let mut message = String::new();
    if let Some(line) = innermost.line() {
        let _ = write!(message, "line {line}: ");
    }
    let _ = match innermost.detail() {
        Some(detail) => write!(message, "{}: {detail}", innermost.kind()),
        None => write!(message, "{}", innermost.kind()),
    };
    Failure {
        message,
        raised: false,
    }
}

fn compile(source: &str) -> Result<WeftTemplate, String> {
    let prepared = prepare(source);
    let mut env = environment();
    env.add_template_owned(NAME, prepared.source)
        .map_err(|error| describe(&error).message)?;
    // The crate reads some things that Jinja2 does not; nothing is rendered past our own reading.
    if let Some(message) = prepared.unread {
        return Err(message);
    }
    Ok(WeftTemplate {
        env,
        marks_generation: prepared.marks_generation,
    })
}

fn render(
    template: &WeftTemplate,
    variables: &str,
    mark: &str,
    date: &str,
    fuel: u64,
) -> Result<String, Failure> {
    let plain = |message: String| Failure {
        message,
        raised: false,
    };
    let mut variables: serde_json::Value = serde_json::from_str(variables)
        .map_err(|error| plain(format!("the variables are no JSON: {error}")))?;
    match variables.as_object_mut() {
        Some(entries) => entries.insert(MARK.to_string(), mark.into()),
        None => return Err(plain("the variables are no JSON object".to_string())),
    };
    let date: NaiveDate = date
        .parse()
        .map_err(|_| plain(format!("'{date}' is no day such as 2026-11-29")))?;
    let mut env = template.env.clone();
    env.add_function("strftime_now", move |format: &str| strftime(date, format));
    env.set_fuel(Some(fuel));
    let rendered = env
        .get_template(NAME)
        .and_then(|compiled| compiled.render(to_value(&variables)));
    rendered.map_err(|error| describe(&error))
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_template_new(
    source: *const u8,
    size: usize,
    error: *mut WeftText,
) -> *mut WeftTemplate {
    guarded(error, || compile(borrow_text(source, size)?))
        .map_or(std::ptr::null_mut(), |template| {
            Box::into_raw(Box::new(template))
        })
}

/// # Safety
/// `template` came from `weft_template_new` and was not freed before, or is null.
#[no_mangle]
pub unsafe extern "C" fn weft_template_free(template: *mut WeftTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_template_marks_generation(template: *const WeftTemplate) -> bool {
    (*template).marks_generation
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_template_render(
    template: *const WeftTemplate,
    variables: *const u8,
    variables_size: usize,
    mark: *const u8,
    mark_size: usize,
    date: *const u8,
    date_size: usize,
    fuel: u64,
    out: *mut WeftText,
    raised: *mut bool,
    error: *mut WeftText,
) -> bool {
    *raised = false;
    guarded(error, || {
        let variables = borrow_text(variables, variables_size)?;
        let mark = borrow_text(mark, mark_size)?;
        let date = borrow_text(date, date_size)?;
        let text = render(&*template, variables, mark, date, fuel).map_err(|failure| {
            *raised = failure.raised;
            failure.message
        })?;
        *out = WeftText::new(text);
        Ok(())
    })
    .is_some()
}
