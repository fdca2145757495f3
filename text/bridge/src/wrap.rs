//! Jinja2's wordwrap: Python's textwrap for each line.

use crate::methods::{is_decimal, is_word, split_lines};
use crate::python::is_space;

pub struct Wrapping {
    pub width: usize,
    pub break_long_words: bool,
    pub break_on_hyphens: bool,
    pub separator: String,
}

pub fn wrap(text: &str, how: &Wrapping) -> String {
    let lines: Vec<String> = split_lines(text, false)
        .into_iter()
        .map(|line| {
            let chars: Vec<char> = line.chars().collect();
            wrap_line(&chars, how).join(&how.separator)
        })
        .collect();
    lines.join(&how.separator)
}

/// What textwrap takes as white space.
fn is_gap(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

fn is_letter(c: char) -> bool {
    is_word(c) && !is_decimal(c)
}

fn is_word_or_punctuation(c: char) -> bool {
    is_word(c) || "!\"'&.,?".contains(c)
}

/// Whether `test` holds for the character `back` places before `at`.
fn before(text: &[char], at: usize, back: usize, test: fn(char) -> bool) -> bool {
    at >= back && test(text[at - back])
}

/// The end of two or more hyphens at `at` that a word follows.
fn dash_end(text: &[char], at: usize) -> Option<usize> {
    let count = text[at..].iter().take_while(|&&c| c == '-').count();
    let end = at + count;
    (count >= 2 && text.get(end).is_some_and(|&c| is_word(c))).then_some(end)
}

/// Whether a word may be cut after the hyphen at `at`.
fn cuts_at_hyphen(text: &[char], at: usize) -> bool {
    let is_hyphen = |c: char| c == '-';
    if text[at] != '-' {
        return false;
    }
    let two_letters = before(text, at, 1, is_letter) && before(text, at, 2, is_letter);
    let compound = before(text, at, 1, is_letter)
        && before(text, at, 2, is_hyphen)
        && before(text, at, 3, is_letter);
    let next = at + 1 + usize::from(text.get(at + 2) == Some(&'-'));
    let letter = |at: usize| text.get(at).is_some_and(|&c| is_letter(c));
    (two_letters || compound) && letter(at + 1) && letter(next + 1)
}

/// The end of the piece that begins at `at`: white space, a dash between words, a word or a part of it.
fn chunk_end(text: &[char], at: usize, on_hyphens: bool) -> usize {
    let run = |gap: bool| {
        let length = text[at..].iter().take_while(|&&c| is_gap(c) == gap).count();
        at + length
    };
    if is_gap(text[at]) {
        return run(true);
    }
    let end = run(false);
    if !on_hyphens {
        return end;
    }
    if before(text, at, 1, is_word_or_punctuation) {
        if let Some(end) = dash_end(text, at) {
            return end;
        }
    }
    for place in at + 1..end {
        if cuts_at_hyphen(text, place) {
            return place + 1;
        }
        if before(text, place, 1, is_word_or_punctuation) && dash_end(text, place).is_some() {
            return place;
        }
    }
    end
}

fn chunks_of(text: &[char], on_hyphens: bool) -> Vec<&[char]> {
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = chunk_end(text, at, on_hyphens);
        chunks.push(&text[at..end]);
        at = end;
    }
    chunks
}

fn is_blank(chunk: &[char]) -> bool {
    chunk.iter().all(|&c| is_space(c))
}

/// How much of a word that is longer than a line is put into the room that is left.
fn part_of_long_word(chunk: &[char], room: usize, how: &Wrapping) -> usize {
    if !how.break_on_hyphens {
        return room;
    }
    let hyphen = chunk[..room].iter().rposition(|&c| c == '-');
    match hyphen {
        Some(at) if at > 0 && chunk[..at].iter().any(|&c| c != '-') => at + 1,
        _ => room,
    }
}

fn wrap_line(text: &[char], how: &Wrapping) -> Vec<String> {
    let mut chunks = chunks_of(text, how.break_on_hyphens);
    chunks.reverse();
    let mut lines: Vec<String> = Vec::new();
    while let Some(&first) = chunks.last() {
        let mut line: Vec<&[char]> = Vec::new();
        let mut length = 0;
        if is_blank(first) && !lines.is_empty() {
            chunks.pop();
        }
        while let Some(&chunk) = chunks.last() {
            if length + chunk.len() > how.width {
                break;
            }
            length += chunk.len();
            line.push(chunk);
            chunks.pop();
        }
        if let Some(&chunk) = chunks.last().filter(|chunk| chunk.len() > how.width) {
            if how.break_long_words {
                let end = part_of_long_word(chunk, how.width - length, how);
                line.push(&chunk[..end]);
                chunks.pop();
                chunks.push(&chunk[end..]);
            } else if line.is_empty() {
                line.push(chunk);
                chunks.pop();
            }
        }
        if line.last().is_some_and(|chunk| is_blank(chunk)) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line.concat().into_iter().collect());
        }
    }
    lines
}
