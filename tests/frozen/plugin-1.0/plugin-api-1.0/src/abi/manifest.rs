//! The manifest: what a plugin says about itself as data.
//!
//! It is a JSON object in UTF-8, NUL-terminated, in a static that the library exports under the name
//! [`SYMBOL`]. It has at least the keys `name`, `version`, `api`, `vendor`, `license` and `description`, all
//! strings; readers ignore others. `name` is what `--backend` takes: lower-case letters, digits and `-`.

/// The symbol under which the manifest is exported (with the platform's own prefix, where it has one).
pub const SYMBOL: &str = "finetune_plugin_manifest";
/// The longest manifest that is read, in bytes, its NUL included.
pub const MAX_BYTES: usize = 64 << 10;

/// What goes into a manifest besides the version of the interface.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// The back end's name: lower-case letters, digits and `-`.
    pub name: &'static str,
    /// The plugin's own version.
    pub version: &'static str,
    /// Who made it.
    pub vendor: &'static str,
    /// Its licence, as an SPDX expression.
    pub license: &'static str,
    /// What it drives, in a sentence.
    pub description: &'static str,
}

impl Fields {
    const fn pairs(&self) -> [(&'static str, &'static str); 6] {
        [
            ("name", self.name),
            ("version", self.version),
            ("api", super::API_VERSION),
            ("vendor", self.vendor),
            ("license", self.license),
            ("description", self.description),
        ]
    }
}

/// The length of [`bytes`] in bytes, its NUL included.
pub const fn length(fields: &Fields) -> usize {
    write::<0>(fields).1
}

/// The manifest as it is exported; `N` is [`length`]. Made at compile time: a name that is none is a compile
/// error.
pub const fn bytes<const N: usize>(fields: &Fields) -> [u8; N] {
    assert!(is_name(fields.name), "a plugin's name is made of lower-case letters, digits and '-'");
    assert!(!fields.version.is_empty(), "a plugin has a version");
    let (bytes, length) = write::<N>(fields);
    assert!(length == N && N <= MAX_BYTES, "the manifest is too long");
    bytes
}

/// Whether a back end may be called that.
pub const fn is_name(name: &str) -> bool {
    let name = name.as_bytes();
    let mut i = 0;
    while i < name.len() {
        if !matches!(name[i], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        i += 1;
    }
    !name.is_empty() && name.len() <= 64
}

/// Writes what fits into `N` bytes and counts all.
const fn write<const N: usize>(fields: &Fields) -> ([u8; N], usize) {
    let mut to = Sink { bytes: [0; N], at: 0 };
    let pairs = fields.pairs();
    let mut i = 0;
    while i < pairs.len() {
        to = to.byte(if i == 0 { b'{' } else { b',' });
        to = to.string(pairs[i].0).byte(b':').string(pairs[i].1);
        i += 1;
    }
    let to = to.byte(b'}').byte(0);
    (to.bytes, to.at)
}

#[derive(Clone, Copy)]
struct Sink<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Sink<N> {
    const fn byte(mut self, byte: u8) -> Self {
        if self.at < N {
            self.bytes[self.at] = byte;
        }
        self.at += 1;
        self
    }

    const fn string(mut self, text: &str) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self = self.byte(b'"');
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            self = match text[i] {
                b @ (b'"' | b'\\') => self.byte(b'\\').byte(b),
                b if b < 0x20 => {
                    let (high, low) = (HEX[(b >> 4) as usize], HEX[(b & 15) as usize]);
                    self.byte(b'\\').byte(b'u').byte(b'0').byte(b'0').byte(high).byte(low)
                }
                b => self.byte(b),
            };
            i += 1;
        }
        self.byte(b'"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = Fields {
        name: "two-4",
        version: "0.1.0",
        vendor: "a \"quoted\" back\\slash",
        license: "MIT",
        description: "line one\nlíne two\t\u{1}",
    };
    static MANIFEST: [u8; length(&FIELDS)] = bytes(&FIELDS);

    /// The manifest is assembled by hand at compile time; a JSON reader must see what was put in.
    #[test]
    fn it_reads_back_as_json_whatever_the_fields_hold() {
        let (nul, json) = MANIFEST.split_last().unwrap();
        assert_eq!(*nul, 0);
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        for (key, value) in FIELDS.pairs() {
            assert_eq!(json[key], value, "{key}");
        }
        assert_eq!(json["api"], "1.0.0");
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "Cpu", "a b", "a/b", "é", "a:0", "a_b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("candle-cpu"));
    }
}
