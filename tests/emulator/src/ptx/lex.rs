//! Tokens of PTX text.

use super::LoadError;

/// A piece of the text. Words hold opcodes with their modifiers, names, directives and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Punct(u8),
}

/// A token and its line, from 1.
pub type Lexeme<'a> = (Token<'a>, usize);

/// Splits `text`, comments dropped.
pub fn lex(text: &str) -> Result<Vec<Lexeme<'_>>, LoadError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' => at += 1,
            b'/' if bytes[at..].starts_with(b"//") => at = find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => {
                at = find(bytes, at + 2, b"*/").ok_or_else(|| LoadError::new(line, "a comment without an end"))? + 2;
                line += count_lines(&bytes[start..at]);
            }
            b'"' => {
                at = find(bytes, at + 1, b"\"").ok_or_else(|| LoadError::new(line, "a string without an end"))? + 1;
                tokens.push((Token::Text(&text[start + 1..at - 1]), line));
                line += count_lines(&bytes[start..at]);
            }
            byte if is_word(byte) => {
                while at < bytes.len() && (is_word(bytes[at]) || bytes[at..].starts_with(b"::")) {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
                tokens.push((Token::Word(&text[start..at]), line));
            }
            byte if byte.is_ascii_punctuation() => {
                tokens.push((Token::Punct(byte), line));
                at += 1;
            }
            byte => return Err(LoadError::new(line, format!("unexpected byte {byte:#04x}"))),
        }
    }
    Ok(tokens)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|offset| from + offset)
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
