//! tokenizer.json: encode, decode and vocabulary.

use crate::{borrow_slice, borrow_text, guarded, WeftText};
use std::collections::HashSet;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

pub struct WeftTokenizer {
    inner: Tokenizer,
    special: HashSet<u32>,
    size: u32,
}

impl WeftTokenizer {
    /// The tokenizer with everything that was added, as a tokenizer.json.
    pub fn to_json(&self) -> Result<String, String> {
        self.inner
            .to_string(false)
            .map_err(|error| error.to_string())
    }
}

/// Token ids given to the caller, who frees them with `weft_encoding_free`.
#[repr(C)]
pub struct WeftEncoding {
    pub ids: *mut u32,
    pub offsets: *mut u32,
    pub size: usize,
}

pub fn give(values: Vec<u32>) -> *mut u32 {
    Box::into_raw(values.into_boxed_slice()) as *mut u32
}

/// # Safety
/// `encoding` came from `weft_tokenizer_encode` and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_encoding_free(encoding: WeftEncoding) {
    for (data, size) in [
        (encoding.ids, encoding.size),
        (encoding.offsets, 2 * encoding.size),
    ] {
        if !data.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
                data, size,
            )));
        }
    }
}

/// One entry of the `added_tokens` argument.
fn added_token(entry: &serde_json::Value) -> Result<AddedToken, String> {
    let content = entry
        .get("content")
        .and_then(|content| content.as_str())
        .ok_or("an added token has no \"content\"")?;
    let flag = |name: &str, otherwise: bool| {
        entry
            .get(name)
            .and_then(|value| value.as_bool())
            .unwrap_or(otherwise)
    };
    let special = flag("special", false);
    Ok(AddedToken::from(content.to_string(), special)
        .normalized(flag("normalized", !special))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .single_word(flag("single_word", false)))
}

fn load(json: &str, added_tokens: &str) -> Result<WeftTokenizer, String> {
    let mut inner = Tokenizer::from_bytes(json.as_bytes()).map_err(|error| error.to_string())?;
    inner
        .with_truncation(None)
        .map_err(|error| error.to_string())?;
    inner.with_padding(None);
    let entries: Vec<serde_json::Value> =
        serde_json::from_str(added_tokens).map_err(|error| error.to_string())?;
    let known: HashSet<String> = inner
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    let mut missing = Vec::new();
    for entry in &entries {
        let token = added_token(entry)?;
        let replaces = entry.get("replaces").and_then(|flag| flag.as_bool()) == Some(true);
        if replaces || !known.contains(&token.content) {
            missing.push(token);
        }
    }
    inner
        .add_tokens(missing)
        .map_err(|error| error.to_string())?;
    let special = inner
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special)
        .map(|(id, _)| id)
        .collect();
    let largest = inner.get_vocab(true).into_values().max();
    Ok(WeftTokenizer {
        size: largest.map_or(0, |id| id.saturating_add(1)),
        special,
        inner,
    })
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_new(
    json: *const u8,
    json_size: usize,
    added_tokens: *const u8,
    added_tokens_size: usize,
    error: *mut WeftText,
) -> *mut WeftTokenizer {
    guarded(error, || {
        load(
            borrow_text(json, json_size)?,
            borrow_text(added_tokens, added_tokens_size)?,
        )
    })
    .map_or(std::ptr::null_mut(), |tokenizer| {
        Box::into_raw(Box::new(tokenizer))
    })
}

/// # Safety
/// `tokenizer` came from `weft_tokenizer_new` and was not freed before, or is null.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_free(tokenizer: *mut WeftTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_encode(
    tokenizer: *const WeftTokenizer,
    text: *const u8,
    size: usize,
    add_special: bool,
    with_offsets: bool,
    out: *mut WeftEncoding,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        let text = borrow_text(text, size)?;
        let inner = &(*tokenizer).inner;
        let encoding = if with_offsets {
            inner.encode(text, add_special)
        } else {
            inner.encode_fast(text, add_special)
        }
        .map_err(|error| error.to_string())?;
        let ids = encoding.get_ids().to_vec();
        let size = ids.len();
        let offsets = if with_offsets {
            give(
                encoding
                    .get_offsets()
                    .iter()
                    .flat_map(|&(begin, end)| [begin as u32, end as u32])
                    .collect(),
            )
        } else {
            std::ptr::null_mut()
        };
        *out = WeftEncoding {
            ids: give(ids),
            offsets,
            size,
        };
        Ok(())
    })
    .is_some()
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_decode(
    tokenizer: *const WeftTokenizer,
    ids: *const u32,
    count: usize,
    skip_special: bool,
    out: *mut WeftText,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        let text = (*tokenizer)
            .inner
            .decode(borrow_slice(ids, count), skip_special)
            .map_err(|error| error.to_string())?;
        *out = WeftText::new(text);
        Ok(())
    })
    .is_some()
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_token_to_id(
    tokenizer: *const WeftTokenizer,
    token: *const u8,
    size: usize,
    id: *mut u32,
) -> bool {
    let found = guarded(std::ptr::null_mut(), || {
        Ok((*tokenizer).inner.token_to_id(borrow_text(token, size)?))
    });
    match found.flatten() {
        Some(value) => {
            *id = value;
            true
        }
        None => false,
    }
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_id_to_token(
    tokenizer: *const WeftTokenizer,
    id: u32,
    token: *mut WeftText,
) -> bool {
    match guarded(std::ptr::null_mut(), || {
        Ok((*tokenizer).inner.id_to_token(id))
    })
    .flatten()
    {
        Some(value) => {
            *token = WeftText::new(value);
            true
        }
        None => false,
    }
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_size(tokenizer: *const WeftTokenizer) -> u32 {
    (*tokenizer).size
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_is_special(
    tokenizer: *const WeftTokenizer,
    id: u32,
) -> bool {
    (*tokenizer).special.contains(&id)
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_model_type(tokenizer: *const WeftTokenizer) -> WeftText {
    let name = match (*tokenizer).inner.get_model() {
        ModelWrapper::BPE(_) => "BPE",
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::WordLevel(_) => "WordLevel",
        ModelWrapper::Unigram(_) => "Unigram",
    };
    WeftText::new(name.to_string())
}
