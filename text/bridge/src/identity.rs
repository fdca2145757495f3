//! What of a tokenizer decides the ids of a text, in one form: two tokenizer.json files that give the
//! same ids by the same rules have the same identity, however they are written.
//!
//! Left out is what no id depends on: the decoder, truncation and padding (switched off), flags of
//! offsets, how a rule is nested, and tokens that no text can become. The post-processor is left to the
//! caller, who sees what it puts around a text.

use crate::tokenizer::WeftTokenizer;
use crate::{guarded, WeftText};
use serde_json::{json, Map, Value};
use std::collections::HashSet;

/// The steps of a normalizer or pre-tokenizer, without the sequences that they are nested in and
/// without flags that bear on offsets only.
fn steps(rule: &Value, items: &str, out: &mut Vec<Value>) {
    match rule {
        Value::Null => {}
        Value::Object(map) if map.contains_key(items) => {
            for part in map[items].as_array().into_iter().flatten() {
                steps(part, items, out);
            }
        }
        Value::Object(map) => {
            let mut step = map.clone();
            step.remove("trim_offsets");
            out.push(sorted(&Value::Object(step)));
        }
        other => out.push(other.clone()),
    }
}

/// The value with the keys of its objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Both parts of a merge, which is written as a pair or as one text.
fn parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

/// "[PAD17]" with id 17: what converters put where the embedding has a row and the tokenizer no token.
fn is_padding(token: &str, id: u64) -> bool {
    token
        .strip_prefix("[PAD")
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|digits| digits == id.to_string())
}

/// A BPE model: tokens by id, merges in order, and the flags that matter for them.
fn bpe(model: &Value, byte_level: bool, added: &HashSet<&str>) -> Value {
    let mut tokens: Vec<(u64, &str)> = model
        .get("vocab")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(token, id)| (id.as_u64().unwrap_or_default(), token.as_str()))
        .collect();
    tokens.sort_unstable();
    let known: HashSet<&str> = tokens.iter().map(|(_, token)| *token).collect();
    // Where every byte has a token, no text is unknown.
    let whole = if byte_level {
        tokens
            .iter()
            .filter(|(_, token)| token.chars().count() == 1)
            .count()
            >= 256
    } else {
        flag(model, "byte_fallback")
            && (0..256).all(|byte| known.contains(format!("<0x{byte:02X}>").as_str()))
    };
    let unknown = text_of(model, "unk_token");
    let unknown = if whole { "" } else { unknown };
    let kept: Vec<Value> = tokens
        .iter()
        .filter(|(id, token)| {
            (!added.contains(token) || *token == unknown) && !is_padding(token, *id)
        })
        .map(|(id, token)| json!([id, token]))
        .collect();
    let merges: Vec<Value> = model
        .get("merges")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|merge| parts(merge).map_or(merge.clone(), |(a, b)| json!([a, b])))
        .collect();
    json!({
        "type": "BPE",
        "tokens": kept,
        "merges": merges,
        "unknown": unknown,
        "fuse_unknown": !unknown.is_empty() && flag(model, "fuse_unk"),
        "byte_fallback": flag(model, "byte_fallback"),
        "ignore_merges": flag(model, "ignore_merges"),
        "prefix": text_of(model, "continuing_subword_prefix"),
        "suffix": text_of(model, "end_of_word_suffix"),
        "dropout": model.get("dropout").cloned().unwrap_or(Value::Null),
    })
}

/// Whether text matches a token alike before and after these normalizers.
fn leaves_alone(normalizers: &[Value], content: &str) -> bool {
    normalizers
        .iter()
        .all(|step| text_of(step, "type") == "NFC" && content.is_ascii())
}

pub fn identity(file: &Value) -> String {
    let mut normalizers = Vec::new();
    steps(&file["normalizer"], "normalizers", &mut normalizers);
    let mut splits = Vec::new();
    steps(&file["pre_tokenizer"], "pretokenizers", &mut splits);
    let entries: Vec<&Value> = file["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let added: HashSet<&str> = entries
        .iter()
        .map(|entry| text_of(entry, "content"))
        .collect();
    let tokens: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let content = text_of(entry, "content");
            json!({
                "id": entry["id"],
                "content": content,
                "special": flag(entry, "special"),
                "lstrip": flag(entry, "lstrip"),
                "rstrip": flag(entry, "rstrip"),
                "single_word": flag(entry, "single_word"),
                "normalized": flag(entry, "normalized") && !leaves_alone(&normalizers, content),
            })
        })
        .collect();
    let byte_level = splits
        .iter()
        .any(|step| text_of(step, "type") == "ByteLevel");
    let model = &file["model"];
    let model = if text_of(model, "type") == "BPE" {
        bpe(model, byte_level, &added)
    } else {
        sorted(model)
    };
    json!({
        "added": tokens,
        "model": model,
        "normalizers": normalizers,
        "splits": splits,
    })
    .to_string()
}

/// # Safety
/// Pointers are as weft_bridge.h says.
#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_identity(
    tokenizer: *const WeftTokenizer,
    out: *mut WeftText,
    error: *mut WeftText,
) -> bool {
    guarded(error, || {
        let text = (*tokenizer).to_json()?;
        let file: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        *out = WeftText::new(identity(&file));
        Ok(())
    })
    .is_some()
}
