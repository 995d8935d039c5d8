//! The framing of a chunked body: where it ends, and where it stops being one.

/// More digits than any length has.
const SIZE_DIGITS_MAX: u8 = 16;

/// A chunked body, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    at: At,
    size: u64,
    digits: u8,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size,
    /// Blanks after the size.
    AfterSize,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEndLineFeed,
    /// The beginning of a line after the last chunk.
    Trailer,
    InTrailer,
    TrailerEnd,
    End,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Ended,
    /// The byte after those taken cannot stand there.
    Broken,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { at: At::Size, size: 0, digits: 0 }
    }
}

impl Chunks {
    /// Reads on; the answer is how many of the bytes belong to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, Progress) {
        let mut at = 0;
        while at < bytes.len() {
            if let At::Data = self.at {
                let taken = (bytes.len() - at).min(usize::try_from(self.size).unwrap_or(usize::MAX));
                self.size -= taken as u64;
                at += taken;
                if self.size == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            let Some(next) = self.step(bytes[at]) else { return (at, Progress::Broken) };
            at += 1;
            self.at = next;
            if let At::Over = next {
                return (at, Progress::Ended);
            }
        }
        (at, Progress::More)
    }

    /// What follows a byte that is not data; `None` when it cannot stand here.
    fn step(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                At::Size
            }
            (At::Size | At::AfterSize, b' ' | b'\t') if self.digits > 0 => At::AfterSize,
            (At::Size | At::AfterSize, b';') if self.digits > 0 => At::Extension,
            (At::Size | At::AfterSize | At::Extension, b'\r') if self.digits > 0 => At::SizeEnd,
            (At::Extension, byte) if byte != b'\n' => At::Extension,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.size == 0 { At::Trailer } else { At::Data }
            }
            (At::DataEnd, b'\r') => At::DataEndLineFeed,
            (At::DataEndLineFeed, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::End,
            (At::InTrailer, b'\r') => At::TrailerEnd,
            (At::Trailer | At::InTrailer, byte) if byte != b'\n' => At::InTrailer,
            (At::TrailerEnd, b'\n') => At::Trailer,
            (At::End, b'\n') => At::Over,
            _ => return None,
        })
    }
}
