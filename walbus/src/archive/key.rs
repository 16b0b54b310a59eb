//! The keys that objects are encrypted with.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::envelope::{KeyId, sha256};

/// A key of 32 bytes. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    secret: [u8; 32],
    id: KeyId,
}

/// A file's content that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it holds {found} bytes that are no key: expected 32 random bytes, or the same as 64 hexadecimal digits or in base64; \
     make one with: openssl rand -hex 32"
)]
pub struct KeyError {
    /// The content's length.
    pub found: usize,
}

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&sha256(&secret).0[..8]);
        Self { secret, id: KeyId(id) }
    }

    /// The key in a file: 32 bytes as they are, or 64 hexadecimal digits, or base64; white space around a text does not matter.
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn parse(content: &[u8]) -> Result<Self, KeyError> {
        let error = || KeyError { found: content.len() };
        if let Ok(secret) = <[u8; 32]>::try_from(content) {
            return Ok(Self::new(secret));
        }
        let text = std::str::from_utf8(content).map_err(|_| error())?.trim();
        let bytes = if text.len() == 64 { unhex(text) } else { STANDARD.decode(text).ok() };
        bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(Self::new).ok_or_else(error)
    }

    /// What an object's header names it by.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(super) const fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The keys that are at hand: the first one encrypts, all of them decrypt. Where there is one, what is not encrypted is not believed: anyone
/// could have made it.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
    allows_plain: bool,
}

impl Keys {
    /// These keys.
    #[must_use]
    pub const fn new(keys: Vec<Key>) -> Self {
        Self { keys, allows_plain: false }
    }

    /// No key: nothing is encrypted.
    #[must_use]
    pub const fn none() -> Self {
        Self::new(Vec::new())
    }

    /// The same, that take what is not encrypted as well: for an archive that was begun without a key.
    #[must_use]
    pub fn allowing_plain(self, allows_plain: bool) -> Self {
        Self { allows_plain, ..self }
    }

    /// Whether what is not encrypted is taken.
    #[must_use]
    pub const fn take_plain(&self) -> bool {
        self.keys.is_empty() || self.allows_plain
    }

    /// The key that objects are encrypted with; `None` where they are not.
    #[must_use]
    pub fn sealing(&self) -> Option<&Key> {
        self.keys.first()
    }

    /// The key of this id.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl fmt::Display for Keys {
    /// Their ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keys.is_empty() {
            return f.write_str("none");
        }
        for (number, key) in self.keys.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{}", key.id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_each_of_its_spellings() {
        let secret: [u8; 32] = std::array::from_fn(|at| at as u8 * 7);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        for content in [secret.to_vec(), hex.clone().into_bytes(), format!("{}\n", hex.to_uppercase()).into_bytes(), {
            format!(" {}\r\n", STANDARD.encode(secret)).into_bytes()
        }] {
            assert_eq!(Key::parse(&content).unwrap(), Key::new(secret));
        }
        assert_eq!(format!("{:?}", Key::new(secret)), format!("Key({})", Key::new(secret).id()), "the secret is not shown");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for content in [&b""[..], b"short", &[0xFF; 31], &[0xFF; 33], &[b'g'; 64], &[b'A'; 45]] {
            assert_eq!(Key::parse(content), Err(KeyError { found: content.len() }));
        }
    }

    #[test]
    fn the_first_key_encrypts_and_all_are_found() {
        let (old, new) = (Key::new([1; 32]), Key::new([2; 32]));
        let keys = Keys::new(vec![new.clone(), old.clone()]);
        assert_eq!(keys.sealing(), Some(&new));
        assert_eq!(keys.find(old.id()), Some(&old));
        assert_eq!(keys.find(Key::new([3; 32]).id()), None);
        assert_eq!(keys.to_string(), format!("{}, {}", new.id(), old.id()));
    }
}
