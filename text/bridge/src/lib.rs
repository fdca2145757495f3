//! The `tokenizers` and `minijinja` crates, and what Unicode says of characters, behind the C interface of weft_bridge.h.
//!
//! This file holds what all parts share: text and errors across the boundary. No panic leaves it.

mod expression;
mod filters;
mod identity;
mod json;
mod methods;
mod operators;
mod ordering;
mod python;
mod range;
mod source;
mod syntax;
mod template;
mod tokenizer;
mod unicode;
mod unicode_tables;
mod wrap;

use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside `guarded`, which reports panics itself.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Panics inside `guarded` become errors of the caller; nothing about them is printed.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.with(Cell::get) {
                before(panic);
            }
        }));
    });
}

/// UTF-8 text given to the caller, who frees it with `weft_text_free`.
#[repr(C)]
pub struct WeftText {
    data: *mut u8,
    size: usize,
}

impl WeftText {
    pub fn new(text: String) -> WeftText {
        let bytes = text.into_bytes().into_boxed_slice();
        let size = bytes.len();
        WeftText {
            data: Box::into_raw(bytes) as *mut u8,
            size,
        }
    }
}

/// # Safety
/// `text` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_text_free(text: WeftText) {
    if !text.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
            text.data, text.size,
        )));
    }
}

/// The caller's bytes as text.
///
/// # Safety
/// `data` points to `size` readable bytes that stay unchanged during the call, or `size` is 0.
pub unsafe fn borrow_text<'a>(data: *const u8, size: usize) -> Result<&'a str, String> {
    std::str::from_utf8(borrow_slice(data, size)).map_err(|_| "text is not valid UTF-8".to_string())
}

/// # Safety
/// As `borrow_text`, for `size` elements.
pub unsafe fn borrow_slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// Runs `work`; an error or a panic becomes text in `error` and `None`.
///
/// # Safety
/// `error` points to a WeftText that may be overwritten.
pub unsafe fn guarded<T>(
    error: *mut WeftText,
    work: impl FnOnce() -> Result<T, String>,
) -> Option<T> {
    silence_guarded_panics();
    GUARDED.with(|flag| flag.set(true));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.with(|flag| flag.set(false));
    let message = match outcome {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(message)) => message,
        Err(panic) => format!("internal failure: {}", panic_text(panic.as_ref())),
    };
    if !error.is_null() {
        *error = WeftText::new(message);
    }
    None
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "panic"
    }
}
