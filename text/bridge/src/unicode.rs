//! What Unicode says about characters: case, normal form, general categories.

use crate::tokenizer::{give, WeftEncoding};
use crate::{borrow_text, guarded, WeftText};
use regex_syntax::hir::{Class, HirKind};
use unicode_normalization_alignments::UnicodeNormalization;

/// # Safety
/// `text` is `size` readable bytes; `out` and `error` may be overwritten.
#[no_mangle]
pub unsafe extern "C" fn weft_unicode_lower(
    text: *const u8,
    size: usize,
    out: *mut WeftText,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        *out = WeftText::new(borrow_text(text, size)?.to_lowercase());
        Ok(())
    })
    .is_some()
}

/// # Safety
/// As `weft_unicode_lower`.
#[no_mangle]
pub unsafe extern "C" fn weft_unicode_nfc(
    text: *const u8,
    size: usize,
    out: *mut WeftText,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        let composed = borrow_text(text, size)?.nfc().map(|(c, _)| c).collect();
        *out = WeftText::new(composed);
        Ok(())
    })
    .is_some()
}

/// # Safety
/// As `weft_unicode_lower`.
#[no_mangle]
pub unsafe extern "C" fn weft_unicode_ranges(
    category: *const u8,
    size: usize,
    out: *mut WeftEncoding,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        let category = borrow_text(category, size)?;
        let hir = regex_syntax::parse(&format!("\\p{{{category}}}"))
            .map_err(|_| format!("Unicode has no category '{category}'"))?;
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
            return Err(format!("'{category}' is no category"));
        };
        let bounds: Vec<u32> = class
            .iter()
            .flat_map(|range| [range.start() as u32, range.end() as u32])
            .collect();
        let size = bounds.len();
        *out = WeftEncoding {
            ids: give(bounds),
            offsets: std::ptr::null_mut(),
            size,
        };
        Ok(())
    })
    .is_some()
}
