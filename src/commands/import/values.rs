//! One JSON value after the other out of a stream, however they are laid out: a line each, over many lines, one behind the
//! other without anything between, or as the elements of a list. Only one is in memory at a time.

use std::io::{self, Read};

/// A longer value is refused; a line of the API server's log has some kilobytes.
pub const VALUE_BYTES_MAX: usize = 32 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("reading")]
    Read(#[from] io::Error),
    #[error("line {line}: a value of more than {} MiB", VALUE_BYTES_MAX / 1024 / 1024)]
    TooLong { line: u64 },
    #[error("line {line}: what is there is no JSON object")]
    NoObject { line: u64 },
    #[error("line {line}: the file ends within a value")]
    CutShort { line: u64 },
}

pub struct Values<R> {
    from: R,
    buffer: Vec<u8>,
    /// Of the buffer: what was looked at, and where the value begins.
    at: usize,
    line: u64,
}

impl<R: Read> Values<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), at: 0, line: 1 }
    }

    /// The next object and the line on which it begins.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>, Broken> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let Some(start) = self.start()? else { return Ok(None) };
        let line = self.line;
        let end = self.end(start, line)?;
        self.at = end;
        Ok(Some((line, self.buffer.get(start..end).unwrap_or_default())))
    }

    /// Skips what may lie between values: space, the brackets and commas of a list, and the time that CloudWatch's export
    /// puts before each.
    fn start(&mut self) -> Result<Option<usize>, Broken> {
        let mut at = 0;
        loop {
            let Some(byte) = self.byte(at)? else { return Ok(None) };
            match byte {
                b'{' => return Ok(Some(at)),
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' | b'[' | b']' | b',' | b'0'..=b'9' | b'-' | b':' | b'.' | b'T' | b'Z' => {}
                _ => return Err(Broken::NoObject { line: self.line }),
            }
            at += 1;
            if at == READ_BYTES {
                self.buffer.drain(..at);
                at = 0;
            }
        }
    }

    fn end(&mut self, start: usize, line: u64) -> Result<usize, Broken> {
        let (mut at, mut depth, mut in_text, mut escaped) = (start, 0_u64, false, false);
        loop {
            if at - start > VALUE_BYTES_MAX {
                return Err(Broken::TooLong { line });
            }
            let Some(byte) = self.byte(at)? else { return Err(Broken::CutShort { line }) };
            at += 1;
            match byte {
                b'\n' => self.line += 1,
                _ if escaped => escaped = false,
                b'\\' if in_text => escaped = true,
                b'"' => in_text = !in_text,
                b'{' if !in_text => depth += 1,
                b'}' if !in_text => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(at);
                    }
                }
                _ => {}
            }
        }
    }

    fn byte(&mut self, at: usize) -> Result<Option<u8>, Broken> {
        if at == self.buffer.len() {
            self.buffer.reserve(READ_BYTES);
            (&mut self.from).take(READ_BYTES as u64).read_to_end(&mut self.buffer)?;
        }
        Ok(self.buffer.get(at).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Result<Vec<(u64, String)>, String> {
        let mut values = Values::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some((line, value)) = values.next().map_err(|broken| broken.to_string())? {
            all.push((line, String::from_utf8_lossy(value).into_owned()));
        }
        Ok(all)
    }

    #[test]
    fn values_are_found_however_they_are_laid_out() {
        let of = |values: &[(u64, &str)]| Ok(values.iter().map(|(line, value)| (*line, (*value).to_owned())).collect());
        let cases = [
            ("", &[][..]),
            ("{}\n\n{\"a\":1}\n", &[(1, "{}"), (3, "{\"a\":1}")]),
            ("{}{}", &[(1, "{}"), (1, "{}")]),
            ("[{\n},\n{\"}\":\"{\\\"\"}]", &[(1, "{\n}"), (3, "{\"}\":\"{\\\"\"}")]),
            ("2024-01-01T00:00:00.000Z {\"a\":{}}\n", &[(1, "{\"a\":{}}")]),
        ];
        for (text, expected) in cases {
            assert_eq!(values(text), of(expected), "{text}");
        }
        assert_eq!(values("{}\n{\"a\":"), Err("line 2: the file ends within a value".to_owned()));
        assert_eq!(values("{}\nnonsense"), Err("line 2: what is there is no JSON object".to_owned()));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(VALUE_BYTES_MAX));
        assert_eq!(values(&long), Err("line 1: a value of more than 32 MiB".to_owned()));
    }
}
