//! Text from outside, made fit to be looked at: what a reader would not see, or would see in another order than it is
//! written, is spelled out.
//!
//! Markup is not dealt with here: the templates escape whatever they are given.

use std::fmt;

/// A text in which nothing is invisible. Templates take names, users and values in this form only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown(String);

impl Shown {
    /// For one line: line breaks and tabs are spelled out too.
    pub(crate) fn line(text: &str) -> Self {
        Self::but_for(text, "")
    }

    /// For a block of text that keeps its lines and its tabs.
    pub(crate) fn block(text: &str) -> Self {
        Self::but_for(text, "\n\t")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn but_for(text: &str, kept: &str) -> Self {
        if !text.contains(is_deceptive) {
            return Self(text.to_owned());
        }
        let mut shown = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if is_deceptive(c) && !kept.contains(c) {
                shown.extend(c.escape_unicode());
            } else {
                shown.push(c);
            }
        }
        Self(shown)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Controls, and what Unicode means to format text with: bidirectional overrides and isolates, joiners, separators of
/// lines, spaces of no width, tags.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_invisible_or_turns_the_order_is_spelled_out() {
        for (text, shown) in [
            ("al\u{202e}ecila", r"al\u{202e}ecila"),
            ("a\u{200b}b\u{feff}", r"a\u{200b}b\u{feff}"),
            ("esc \u{1b}[31m", r"esc \u{1b}[31m"),
            ("two\nlines\t", r"two\u{a}lines\u{9}"),
            ("Zoë שלום 日本 👍🏽 \u{2400}", "Zoë שלום 日本 👍🏽 \u{2400}"),
            ("<script>&", "<script>&"),
        ] {
            assert_eq!(Shown::line(text).to_string(), shown);
        }
    }

    #[test]
    fn a_block_keeps_its_lines() {
        assert_eq!(Shown::block("a\n\tb\r\n").to_string(), "a\n\tb\\u{d}\n");
    }
}
