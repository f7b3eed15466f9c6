//! Text that every place where an entry goes can hold.

use std::borrow::Cow;

/// Stands for NUL, which PostgreSQL refuses in `text` and `jsonb` alike: U+2400, SYMBOL FOR NULL.
const NUL_SIGN: &str = "\u{2400}";

/// The same text with each NUL replaced by its sign, in both databases, so that they agree.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', NUL_SIGN)) } else { Cow::Borrowed(text) }
}

/// At most `max` characters, the cut marked by an ellipsis that counts as one of them.
pub fn shortened(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(max.saturating_sub(1)).chain(['…']).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_shown_and_nothing_else_is_touched() {
        assert_eq!(storable("a\0b"), "a\u{2400}b");
        assert!(matches!(storable("tab\tand é"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_text_is_cut_at_characters_and_says_so() {
        for (text, max, told) in [("éclair", 6, "éclair"), ("éclair", 4, "écl…"), ("", 0, "")] {
            assert_eq!(shortened(text, max), told);
        }
    }
}
