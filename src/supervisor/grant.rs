//! From the ledger's grant to a transfer that can start: the configuration with its secrets in a private file, the cursor beside
//! it, and the arguments and variables that point there.

use super::{embulk::LINE_LIMIT, foreign, user::User};
use crate::record::{outcome::CursorMove, wire::Grant};
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Shorter values would black out ordinary words in the transfer's last lines.
const SHORTEST_SECRET: usize = 4;
/// A larger cursor is no cursor: the ledger refuses it too.
const CURSOR_LIMIT: u64 = 64 * 1024;

/// What the transfer needs beyond its command; the files go with it.
#[derive(Debug, Default)]
pub struct Prepared {
    pub arguments: Vec<OsString>,
    pub env: Vec<(String, OsString)>,
    /// Name and value; the values are blacked out wherever the transfer's lines are quoted.
    secrets: Vec<(String, String)>,
    /// Embulk writes its next cursor there, and the generation that it started from.
    diff: Option<(PathBuf, i64)>,
    folder: Option<PathBuf>,
    /// Whom the transfer runs as.
    owner: u32,
}

impl Prepared {
    /// Writes the private files. The folder is ours alone (0700), the files too (0600).
    ///
    /// `name` is the folder's: one that says nothing, for the transfer reads it among its arguments.
    pub fn new(
        grant: &Grant,
        name: &str,
        work_dir: &Path,
        secrets_dir: &Path,
        user: Option<User>,
    ) -> anyhow::Result<Self> {
        let owner = user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        let mut prepared = Self { owner, ..Self::default() };
        if let Some(bytes) = grant.memory_limit_bytes {
            prepared.env.push(("EMBULK_MEMORY_LIMIT".into(), bytes.to_string().into()));
        }
        let Some(config) = &grant.embulk_config else { return Ok(prepared) };
        let folder = work_dir.join(format!("sendo-{name}"));
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("create {}", folder.display()))?;
        prepared.folder = Some(folder.clone());
        // Half-made, it goes again: there may be a password in it.
        let made = prepared.fill(&folder, config, grant, secrets_dir).and_then(|()| hand_over(&folder, user));
        made.inspect_err(|_| prepared.clean_up())?;
        Ok(prepared)
    }

    fn fill(&mut self, folder: &Path, config: &Value, grant: &Grant, secrets_dir: &Path) -> anyhow::Result<()> {
        let rendered = render(config, &mut |name| {
            let value = secret(secrets_dir, name)?;
            self.secrets.push((name.to_owned(), value.clone()));
            Ok(value)
        })?;
        // JSON is YAML, and Embulk goes by the file's ending.
        let file = folder.join("config.yml");
        write_private(&file, &serde_json::to_vec(&rendered).context("render the configuration")?)?;
        self.arguments.push(file.into());
        if let Some(cursor) = &grant.cursor {
            let file = folder.join("diff.yml");
            // At the first run there is nothing to go on from, and Embulk expects no file.
            if !cursor.diff.is_empty() {
                write_private(&file, cursor.diff.as_bytes())?;
            }
            self.arguments.extend(["-c".into(), file.clone().into()]);
            self.diff = Some((file, cursor.generation));
        }
        Ok(())
    }

    /// The cursor's file, as Embulk left it.
    pub fn next_cursor(&self) -> anyhow::Result<Option<CursorMove>> {
        let Some((file, generation)) = &self.diff else { return Ok(None) };
        let diff = foreign::read(file, self.owner, CURSOR_LIMIT).context("read Embulk's config diff")?;
        let diff = String::from_utf8(diff).context("Embulk's config diff is no UTF-8")?;
        let told = |value: &str| value.len() >= SHORTEST_SECRET && diff.contains(value);
        if let Some((name, _)) = self.secrets.iter().find(|(_, value)| told(value)) {
            bail!(
                "Embulk's config diff holds the value of the secret `{name}`, and cursors are kept in plain text; \
                 do not refer to a secret where the cursor comes from"
            );
        }
        Ok(Some(CursorMove { from_generation: *generation, diff }))
    }

    /// The line without the job's secret values.
    pub fn redact(&self, line: &str) -> String {
        // A secret of several lines, such as a key, is written line by line; the longest first, or its rest would stay.
        let mut hidden: Vec<&str> = self.secrets.iter().flat_map(|(_, value)| value.lines()).collect();
        hidden.retain(|line| line.len() >= SHORTEST_SECRET);
        hidden.sort_by_key(|line| std::cmp::Reverse(line.len()));
        let line = hidden.iter().fold(line.to_owned(), |line, secret| line.replace(secret, "***"));
        // A line of that length was cut, perhaps in the middle of a secret.
        let cut = hidden.iter().filter(|_| line.len() >= LINE_LIMIT).filter_map(|secret| {
            let heads = secret.char_indices().map(|(at, _)| secret.get(..at).unwrap_or_default());
            heads.filter(|head| !head.is_empty() && line.ends_with(head)).map(str::len).max()
        });
        match cut.max() {
            Some(length) => format!("{}***", line.get(..line.len().saturating_sub(length)).unwrap_or_default()),
            None => line,
        }
    }

    /// Takes the private files away.
    pub fn clean_up(&self) {
        if let Some(folder) = &self.folder
            && let Err(why) = fs::remove_dir_all(folder)
        {
            tracing::warn!(folder = %folder.display(), %why, "private files stay behind");
        }
    }
}

/// What we wrote belongs to whom the transfer runs as.
fn hand_over(folder: &Path, user: Option<User>) -> anyhow::Result<()> {
    let Some(user) = user else { return Ok(()) };
    let files = fs::read_dir(folder).context("list the private files")?;
    let files =
        files.map(|file| Ok(file?.path())).collect::<std::io::Result<Vec<_>>>().context("list the private files")?;
    for path in files.iter().map(PathBuf::as_path).chain([folder]) {
        let given = std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid));
        given.with_context(|| format!("give {} to user {}", path.display(), user.uid))?;
    }
    Ok(())
}

/// The configuration with each `${secret:NAME}` in a text replaced by its value.
fn render(config: &Value, secret: &mut impl FnMut(&str) -> anyhow::Result<String>) -> anyhow::Result<Value> {
    Ok(match config {
        Value::String(text) => Value::String(render_text(text, secret)?),
        Value::Array(items) => Value::Array(items.iter().map(|item| render(item, secret)).collect::<Result<_, _>>()?),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.clone(), render(value, secret)?)));
            Value::Object(fields.collect::<anyhow::Result<_>>()?)
        }
        other => other.clone(),
    })
}

fn render_text(text: &str, secret: &mut impl FnMut(&str) -> anyhow::Result<String>) -> anyhow::Result<String> {
    let mut rendered = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${secret:") {
        let (name, after) = behind.split_once('}').context("a ${secret:… in embulk.config has no closing }")?;
        rendered.push_str(before);
        rendered.push_str(&secret(name)?);
        rest = after;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

/// The value of a secret: its file less the line's end that editors leave.
fn secret(folder: &Path, name: &str) -> anyhow::Result<String> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        bail!("`{name}` is no name of a secret");
    }
    let file = folder.join(name);
    let value =
        fs::read_to_string(&file).with_context(|| format!("read the secret `{name}` from {}", file.display()))?;
    Ok(value.strip_suffix('\n').unwrap_or(&value).to_owned())
}

fn write_private(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened.and_then(|mut opened| opened.write_all(content)).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn grant() -> Grant {
        Grant {
            key: String::new(),
            lease_ms: None,
            report_every_ms: 1,
            memory_limit_bytes: Some(1 << 30),
            embulk_config: Some(serde_json::json!({"in": {"password": "a${secret:dwh}b${secret:dwh}", "port": 1}})),
            cursor: Some(crate::record::wire::Cursor { generation: 7, diff: "in: {last_record: [3]}".into() }),
        }
    }

    #[test]
    fn renders_secrets_into_files_that_only_we_can_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dwh"), "s3cret\n").unwrap();
        let prepared = Prepared::new(&grant(), "n", folder.path(), folder.path(), None).unwrap();
        let file = PathBuf::from(&prepared.arguments[0]);
        assert_eq!(fs::read_to_string(&file).unwrap(), r#"{"in":{"password":"as3cretbs3cret","port":1}}"#);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let cursor = CursorMove { from_generation: 7, diff: "in: {last_record: [3]}".into() };
        assert_eq!(prepared.next_cursor().unwrap(), Some(cursor));
        assert_eq!(prepared.redact("login as s3cret"), "login as ***");
        let cut = format!("{}s3cr", "x".repeat(LINE_LIMIT - 4));
        assert!(prepared.redact(&cut).ends_with("x***") && prepared.redact("login as s3cr").ends_with("s3cr"));
        fs::write(file.with_file_name("diff.yml"), "in: {last_path: /data/s3cret/x}").unwrap();
        let error = prepared.next_cursor().unwrap_err().to_string();
        assert!(error.contains("`dwh`") && !error.contains("s3cret"), "{error}");
        prepared.clean_up();
        assert!(!file.exists());
    }

    #[test]
    fn a_missing_secret_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Prepared::new(&grant(), "n", folder.path(), folder.path(), None).unwrap_err());
        assert!(error.contains("`dwh`") && error.contains("No such file"), "{error}");
    }
}
