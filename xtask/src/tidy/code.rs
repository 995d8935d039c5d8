//! Rust source without what is not code, so that a rule about code is not met by a sentence about it.

/// The source with every comment, string and character literal blanked out. Lines and columns stay.
pub(super) fn without_text(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + text_length(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if end == at {
            kept.push(bytes[at]);
            at += 1;
        } else {
            kept.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { byte } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Code before the tests at the foot of the file.
pub(super) fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|&(at, marker)| {
        let rest = code[at + marker.len()..].trim_start();
        rest.starts_with("mod tests {") || rest.starts_with("pub(crate) mod tests {")
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

/// How many bytes the comment or literal takes that `rest` begins with; 0 when it begins with neither.
fn text_length(rest: &[u8], before: Option<u8>) -> usize {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_length(rest),
        [b'"', ..] => quoted_length(rest, b'"'),
        [b'r', ..] if !in_word => raw_string_length(rest, 1),
        [b'b', b'r', ..] if !in_word => raw_string_length(rest, 2),
        // A character, not a lifetime: escaped, or closed after one character.
        [b'\'', b'\\', ..] => quoted_length(rest, b'\''),
        [b'\'', first, ..] => {
            let character = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if rest.get(1 + character) == Some(&b'\'') { character + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let begin = prefix + hashes;
    if rest.get(begin) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let closing = rest[begin + 1..].windows(end.len()).position(|window| window == end);
    closing.map_or(rest.len(), |at| begin + 1 + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str) {
        let found = without_text(source);
        assert_eq!(found.len(), source.len(), "{source}");
        let words: Vec<_> = found.split_whitespace().collect();
        assert_eq!(words.join(" "), code, "{source}");
    }

    #[test]
    fn comments_are_not_code() {
        check("a // tokio\nb", "a b");
        check("//! tokio\nb", "b");
        check("a /* x /* tokio */ y */ b", "a b");
        check("a /* never closed", "a");
    }

    #[test]
    fn literals_are_not_code() {
        check(r#"f("to\"kio // x", b)"#, "f( , b)");
        check(r##"f(r#"a "tokio" b"#, b"x", br"y", c)"##, "f( , b , , c)");
        check(r"m('\'', '/', 'ä', '\u{1F600}', x)", "m( , , , , x)");
        check("let var\"never closed", "let var");
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        check("fn f<'a, 'b>(x: &'a str, y: &'b str)", "fn f<'a, 'b>(x: &'a str, y: &'b str)");
        check("r#type + bar", "r#type + bar");
        check("a / b", "a / b");
    }

    #[test]
    fn lines_stay_where_they_are() {
        assert_eq!(without_text("/* a\nb */ c \"d\ne\"").lines().count(), 3);
    }

    #[test]
    fn tests_at_the_foot_are_left_out() {
        let code = "a\n#[cfg(test)]\nuse b;\nc\n#[cfg(test)]\nmod tests {\n  d\n}\n";
        assert_eq!(without_tests(code), "a\n#[cfg(test)]\nuse b;\nc\n");
        assert_eq!(without_tests("a\n"), "a\n");
    }
}
