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

/// Whether `text` under `key` looks like a secret that somebody wrote out. What stands for a secret is taken out first.
pub fn looks_secret(key: &str, text: &str) -> bool {
    let rest = without_references(text);
    // `Bearer ${secret:api}` is a reference and a word.
    let rest_is_secret = !matches!(rest.trim(), "" | "Bearer" | "Basic" | "Token");
    (is_secret_key(key) && rest_is_secret) || is_private_key(text) || is_access_key(text) || has_password(&rest)
}

fn without_references(text: &str) -> String {
    let mut parts = text.split("${secret:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once('}').map_or("", |(_, after)| after))
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

/// A password in a URL's authority, in a query, or in a flag: `//bob:hunter2@db`, `?user=u&password=hunter2`, `--password=hunter2`.
fn has_password(text: &str) -> bool {
    let in_authority = text.split_once("://").is_some_and(|(_, behind)| {
        let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        user.split_once(':').is_some_and(|(_, password)| !password.is_empty())
    });
    let assigned = |part: &str| {
        part.split_once('=')
            .is_some_and(|(name, value)| !value.is_empty() && is_secret_key(name.trim_start_matches('-')))
    };
    in_authority || text.split(['?', '&', ';', ' ', ',']).any(assigned)
}
