//! A JSON object, written member by member.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Writes `{"name":value,…}` to the end of a buffer.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        string(value, self.out);
    }

    /// A value that is JSON already.
    pub(super) fn json(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.extend_from_slice(value.as_bytes());
    }

    pub(super) fn number(&mut self, name: &str, value: u32) {
        self.json(name, &value.to_string());
    }

    pub(super) fn base64(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        let start = self.out.len();
        // Four characters for every three bytes begun, padding included.
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        STANDARD.encode_slice(bytes, &mut self.out[start..]).expect("the room was made to measure");
        self.out.push(b'"');
    }

    /// An object inside this one; ends by [`Object::end`].
    pub(super) fn object(&mut self, name: &str) -> Object<'_> {
        self.name(name);
        Object::begin(self.out)
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        string(name, self.out);
        self.out.push(b':');
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Nearly every attribute stands for itself. No early end: the loop goes over many bytes at once.
    let escaped = |byte| u8::from(byte < b' ') | u8::from(byte == b'"') | u8::from(byte == b'\\');
    if text.bytes().fold(0, |any, byte| any | escaped(byte)) == 0 {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_written_as_json_whatever_it_holds() {
        let every = (0..=0x100).filter_map(char::from_u32).map(|letter| format!("a{letter}z"));
        for text in every.chain([String::new(), "plain".repeat(20), format!("{}\"", "plain".repeat(20))]) {
            let mut out = Vec::new();
            string(&text, &mut out);
            assert_eq!(out, serde_json::to_vec(&text).unwrap(), "{text:?}");
        }
    }
}
