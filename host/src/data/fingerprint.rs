//! Telling whether a data file is still the one a run was started with.

use super::DataError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

const SAMPLE: u64 = 1 << 20;

/// A data file's size and the SHA-256 of its first and last MiB: enough to notice another file
/// or an edited one at resume without reading 10 GB. An edit in the middle of a large file that
/// keeps its size is not noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Of the chat template that makes text of its rows, if any is a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl Fingerprint {
    pub fn of(path: &Path) -> Result<Fingerprint, DataError> {
        Self::read(path).map_err(|source| DataError::Io { action: "read", path: path.into(), source })
    }

    fn read(path: &Path) -> std::io::Result<Fingerprint> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut sample = vec![];
        (&mut file).take(SAMPLE).read_to_end(&mut sample)?;
        file.seek(SeekFrom::Start(bytes.saturating_sub(SAMPLE)))?;
        file.take(SAMPLE).read_to_end(&mut sample)?;
        let sha256 = Sha256::digest(&sample).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Fingerprint { bytes, sha256, template: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_at_either_end_or_of_the_length_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let mut content = vec![b'a'; 3 << 20];
        let of = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Fingerprint::of(&path).unwrap()
        };
        let first = of(&content);
        assert_eq!(first, of(&content));
        assert_eq!((first.bytes, first.sha256.len()), (3 << 20, 64));
        content[0] = b'b';
        assert_ne!(first, of(&content));
        content[0] = b'a';
        *content.last_mut().unwrap() = b'b';
        assert_ne!(first, of(&content));
        *content.last_mut().unwrap() = b'a';
        content.push(b'a');
        assert_ne!(first, of(&content));
        assert!(Fingerprint::of(Path::new("absent.txt")).unwrap_err().to_string().contains("absent.txt"));
    }
}
