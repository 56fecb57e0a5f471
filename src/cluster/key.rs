//! The secret that a control program keeps over restarts: it signs the tokens of `local` attempts and derives the key of each
//! attempt's termination message. Nothing of it is in the ledger.

use crate::record::{hexadecimal, wire::AttemptId};
use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::{hmac, rand::SecureRandom as _};
use serde::{Deserialize, Serialize};
use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

const AUDIENCE: &str = "sendo";
const ISSUER: &str = "sendo-local";
const KEY_BYTES: usize = 32;

/// The secret.
pub struct Key {
    secret: [u8; KEY_BYTES],
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    #[serde(flatten)]
    pub id: AttemptId,
    /// The place's UID: a Pod's, or the UUID that stands for one.
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    /// Seconds since 1970.
    exp: u64,
    #[serde(flatten)]
    bearer: Bearer,
}

impl Key {
    /// Reads the key from its file, or makes both.
    pub fn load_or_create(file: &Path) -> anyhow::Result<Self> {
        match fs::read(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(file),
            read => Self::of(read, file),
        }
    }

    /// Reads the key from a file that somebody else has made (`head -c 32 /dev/urandom`): several control programs share it.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        Self::of(fs::read(file), file)
    }

    fn of(read: std::io::Result<Vec<u8>>, file: &Path) -> anyhow::Result<Self> {
        let bytes = read.with_context(|| format!("read {}", file.display()))?;
        let secret = bytes.as_slice().try_into().ok().with_context(|| {
            format!("{} does not hold {KEY_BYTES} bytes; without it running attempts are not believed", file.display())
        })?;
        Ok(Self { secret })
    }

    /// Tells keys apart, and nothing of the key.
    pub fn fingerprint(&self) -> String {
        hexadecimal(&self.derive("fingerprint"))
    }

    fn create(file: &Path) -> anyhow::Result<Self> {
        let mut secret = [0; KEY_BYTES];
        ring::rand::SystemRandom::new().fill(&mut secret).ok().context("read random bytes from the kernel")?;
        // By way of a rename: a key that is half written would lock out every attempt signed with it.
        let half = file.with_extension("new");
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half);
        let written = opened.and_then(|mut opened| {
            opened.write_all(&secret)?;
            opened.sync_all()
        });
        written.and_then(|()| fs::rename(&half, file)).with_context(|| format!("write {}", file.display()))?;
        Ok(Self { secret })
    }

    /// A token for the attempt's supervisor, good until `expires` (seconds since 1970).
    pub fn token(&self, bearer: Bearer, expires: u64) -> anyhow::Result<String> {
        let claims = Claims { iss: ISSUER.into(), aud: AUDIENCE.into(), exp: expires, bearer };
        let key = EncodingKey::from_secret(&self.derive("token"));
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).context("sign a token")
    }

    /// Whom the token speaks for, if it is one of ours and still good.
    pub fn vouch(&self, token: &str) -> Option<Bearer> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&[ISSUER]);
        let key = DecodingKey::from_secret(&self.derive("token"));
        Some(jsonwebtoken::decode::<Claims>(token, &key, &rules).ok()?.claims.bearer)
    }

    /// The key of the attempt's termination message; hexadecimal.
    pub fn of_attempt(&self, id: &AttemptId, nonce: &str) -> String {
        hexadecimal(&self.derive_for_attempt(id, nonce))
    }

    /// Whether `tag` is the attempt's signature of `story`.
    pub fn signed(&self, id: &AttemptId, nonce: &str, story: &[u8], tag: &str) -> bool {
        let key = self.derive_for_attempt(id, nonce);
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), story);
        // Compared as hexadecimal texts under a key of this moment, so that time tells nothing.
        let blind = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        hmac::verify(&blind, tag.as_bytes(), hmac::sign(&blind, hexadecimal(expected.as_ref()).as_bytes()).as_ref())
            .is_ok()
    }

    fn derive_for_attempt(&self, id: &AttemptId, nonce: &str) -> Vec<u8> {
        self.derive(&format!("termination\n{}\n{}\n{nonce}", id.job, id.attempt))
    }

    fn derive(&self, purpose: &str) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), purpose.as_bytes()).as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer() -> Bearer {
        Bearer { id: AttemptId { job: "a".into(), attempt: 1 }, uid: "u".into() }
    }

    const LATER: u64 = 4_000_000_000;

    #[test]
    fn a_token_holds_over_a_restart_and_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let token = Key::load_or_create(&file).unwrap().token(bearer(), LATER).unwrap();
        assert_eq!(Key::load_or_create(&file).unwrap().vouch(&token), Some(bearer()));
        assert_eq!(Key::load_or_create(&folder.path().join("other")).unwrap().vouch(&token), None);
    }

    #[test]
    fn an_expired_or_altered_token_speaks_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::load_or_create(&folder.path().join("key")).unwrap();
        assert_eq!(key.vouch(&key.token(bearer(), 1_000_000_000).unwrap()), None);
        let token = key.token(bearer(), LATER).unwrap();
        let (head, tail) = token.split_at(token.len() / 2);
        assert_eq!(key.vouch(&format!("{head}x{tail}")), None);
        assert_eq!(key.vouch(""), None);
    }

    #[test]
    fn a_short_key_file_is_an_error_and_not_a_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "short").unwrap();
        assert!(Key::load_or_create(&file).is_err());
    }
}
