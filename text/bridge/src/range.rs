//! Python's range.

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, Value};
use std::fmt;
use std::sync::Arc;

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Python's range, which prints as it is called.
#[derive(Debug)]
pub struct PyRange {
    begin: i64,
    end: i64,
    step: i64,
    count: usize,
}

impl PyRange {
    fn new(begin: i64, end: i64, step: i64) -> Result<Self, Error> {
        const MOST: i128 = 100_000; // as transformers' sandbox
        if step == 0 {
            return Err(invalid("range() arg 3 must not be zero".to_string()));
        }
        let span = (i128::from(end) - i128::from(begin)) * i128::from(step.signum());
        let size = i128::from(step.unsigned_abs());
        let count = ((span + size - 1) / size).max(0);
        if count > MOST {
            return Err(invalid(format!(
                "range has too many elements (over {MOST})"
            )));
        }
        Ok(PyRange {
            begin,
            end,
            step,
            count: count as usize,
        })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The range of the places from `first` to `last` in steps, which are within this one.
    pub fn slice(&self, first: i64, last: i64, step: i64) -> Result<Value, Error> {
        let at = |place: i64| self.begin + place * self.step;
        PyRange::new(at(first), at(last), self.step * step).map(Value::from_object)
    }

    fn text(&self) -> String {
        match self.step {
            1 => format!("range({}, {})", self.begin, self.end),
            step => format!("range({}, {}, {step})", self.begin, self.end),
        }
    }
}

impl Object for PyRange {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let place = key.as_usize().filter(|&place| place < self.count)?;
        Some(Value::from(self.begin + place as i64 * self.step))
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.count)
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text())
    }
}

/// How a range prints; nothing for another value.
pub fn range_text(value: &Value) -> Option<String> {
    let object = value.as_object()?;
    Some(object.downcast_ref::<PyRange>()?.text())
}

pub fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (begin, end) = second.map_or((0, first), |end| (first, end));
    PyRange::new(begin, end, step.unwrap_or(1)).map(Value::from_object)
}
