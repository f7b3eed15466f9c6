//! Text that every place where an entry goes can hold.

use std::borrow::Cow;
use std::error::Error;

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

/// An error with its causes, on one line: each error says only what it adds, so that this is where they are joined.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_outermost_first() {
        #[derive(Debug, thiserror::Error)]
        #[error("writing a batch")]
        struct Outer(#[source] std::fmt::Error);

        assert_eq!(with_causes(&Outer(std::fmt::Error)), format!("writing a batch: {}", std::fmt::Error));
        assert_eq!(with_causes(&std::fmt::Error), std::fmt::Error.to_string());
    }

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
