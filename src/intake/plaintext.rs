//! Secrets where they must not be: in plain text in a configuration. And references to them where they belong.

use serde_json::Value;

/// A key that ends like this holds a secret.
const SECRET_KEYS: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secret_key",
    "secret_access_key",
    "client_secret",
    "token",
    "access_token",
    "refresh_token",
    "auth_token",
    "api_key",
    "apikey",
    "private_key",
    "credential",
    "credentials",
];

/// Calls `see(path, key, text)` for every text in the value; an array's texts have the array's key.
pub fn walk(path: &str, value: &Value, see: &mut impl FnMut(&str, &str, &str)) {
    fn inner(path: &str, key: &str, value: &Value, see: &mut impl FnMut(&str, &str, &str)) {
        match value {
            Value::String(text) => see(path, key, text),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| inner(&format!("{path}[{index}]"), key, item, see))
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| inner(&format!("{path}.{name}"), name, value, see))
            }
            Value::Number(number) if is_secret_key(key) => see(path, key, &number.to_string()),
            _ => {}
        }
    }
    inner(path, "", value, see);
}

/// Whether `text` under `key` looks like a secret that somebody wrote out.
pub fn looks_secret(key: &str, text: &str) -> bool {
    let is_reference = text.contains("${secret:");
    !is_reference
        && ((is_secret_key(key) && !text.is_empty())
            || is_private_key(text)
            || is_access_key(text)
            || has_password_in_url(text))
}

/// The names in the `${secret:NAME}`s of a text.
pub fn references(text: &str) -> Result<Vec<&str>, String> {
    let mut rest = text;
    let mut names = vec![];
    while let Some((_, behind)) = rest.split_once("${secret:") {
        let Some((name, after)) = behind.split_once('}') else {
            return Err("a ${secret:… has no closing }".into());
        };
        names.push(name);
        rest = after;
    }
    Ok(names)
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_KEYS.iter().any(|secret| key == *secret || key.ends_with(&format!("_{secret}")))
}

fn is_private_key(text: &str) -> bool {
    text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----")
}

/// An AWS access key id: AKIA or ASIA, and sixteen capitals or digits.
fn is_access_key(text: &str) -> bool {
    let tail = text.strip_prefix("AKIA").or_else(|| text.strip_prefix("ASIA"));
    tail.is_some_and(|tail| {
        tail.len() == 16 && tail.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    })
}

fn has_password_in_url(text: &str) -> bool {
    let Some((_, behind)) = text.split_once("://") else { return false };
    let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
}
