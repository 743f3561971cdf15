//! How a secret is held in memory and read from its file: wiped when dropped, never shown by `Debug`.
//!
//! Owns no idea of what the secret is for, nor when a file is worth reading again.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// The longest secret that is taken: an app secret is a few dozen bytes, and a larger file is a wrong path.
pub const MAX_SECRET_BYTES: usize = 8 * 1024;

/// A text that is wiped when dropped and that no `Debug` or `Display` shows.
///
/// It is deliberately neither `Clone` nor `PartialEq`: a copy is made where it is meant, with [`Secret::new`].
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a text as a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads a secret from a file, without the line's end that an editor or `echo` left there.
    ///
    /// # Errors
    /// If the file can't be read, is empty, is no UTF-8 text or holds more than [`MAX_SECRET_BYTES`].
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        // Two bytes more, for the line's end that does not count.
        let bytes = read_bounded(path, MAX_SECRET_BYTES + 2)?.ok_or(SecretFileError::TooLong)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText)?;
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        match text.len() {
            0 => Err(SecretFileError::Empty),
            length if length > MAX_SECRET_BYTES => Err(SecretFileError::TooLong),
            _ => Ok(Self::new(text.to_owned())),
        }
    }

    /// The plain text, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a file gives no secret. No message holds anything of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file is missing or can't be read.
    #[error("can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Nothing but, perhaps, one line's end.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_SECRET_BYTES`].
    #[error("holds more than 8 KiB")]
    TooLong,
    /// The login sends the secret inside JSON, which is UTF-8.
    #[error("is not UTF-8 text")]
    NotText,
}

/// Reads a file of at most `limit` bytes into memory that is wiped when dropped; `None` if it is longer.
///
/// # Errors
/// If the file can't be opened or read.
pub fn read_bounded(path: &Path, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    // Room from the start, so that no growing buffer leaves an unwiped copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 64));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(content: &[u8]) -> Result<Secret, SecretFileError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        Secret::read(file.path())
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "[redacted] Some(\n    [redacted],\n)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn one_line_end_is_dropped() {
        for content in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            assert_eq!(read(content.as_bytes()).unwrap().expose(), "hunter2");
        }
        assert_eq!(read(b"a\n\n").unwrap().expose(), "a\n");
        assert_eq!(read(b" a \n").unwrap().expose(), " a ");
    }

    #[test]
    fn what_is_no_secret() {
        assert!(matches!(read(b""), Err(SecretFileError::Empty)));
        assert!(matches!(read(b"\r\n"), Err(SecretFileError::Empty)));
        assert!(matches!(read(b"\xff\xfe"), Err(SecretFileError::NotText)));
        assert!(matches!(read(&[b'a'; MAX_SECRET_BYTES + 1]), Err(SecretFileError::TooLong)));
        assert!(matches!(read(&[b'a'; 3 * MAX_SECRET_BYTES]), Err(SecretFileError::TooLong)));
        // What is too long is not looked at any further.
        assert!(matches!(read(&[0xff; MAX_SECRET_BYTES + 3]), Err(SecretFileError::TooLong)));
        assert!(matches!(Secret::read(Path::new("/no/such")), Err(SecretFileError::Unreadable(_))));
        let mut longest = vec![b'a'; 8192];
        longest.extend(b"\r\n");
        assert_eq!(read(&longest).unwrap().expose().len(), 8192);
    }

    #[test]
    fn a_file_is_read_into_one_piece_of_memory_little_larger_than_allowed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'a'; 100]).unwrap();
        let bytes = read_bounded(file.path(), 100).unwrap().unwrap();
        assert!((101..=200).contains(&bytes.capacity()), "{}", bytes.capacity());
        assert!(read_bounded(file.path(), 99).unwrap().is_none());
    }
}
