//! Comparing strings without regard to case, and without regard to anybody's language.

use std::borrow::Cow;

/// Brings `text` to the form in which equal means equal but for case: each character by itself becomes its
/// lower case. Ordinal, as the contract's section 2 asks: no accents are folded, no locale is consulted, and a
/// character whose lower case is more than one character stays as it is, so that folding a part of a string
/// gives that part of the folded string.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(fold_char).collect())
}

fn fold_char(char: char) -> char {
    let mut lower = char.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(single), None) => single,
        _ => char,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, b: &str, same: bool) {
        assert_eq!(fold(a) == fold(b), same, "{a} and {b}");
    }

    #[test]
    fn case_is_ignored_and_nothing_else() {
        check("Order.Created", "oRDER.cREATED", true);
        check("GRÜN", "grün", true);
        check("ΟΔΟΣ", "οδοσ", true);
        check("grun", "grün", false);
        check("straße", "strasse", false);
        check("İ", "i", false);
        check("", "", true);
    }
}
